"""The CLEVR release that a reader may own, with masks made by our tracer (Johnson et al. 2017; paper: appendix C).

CLEVR_v1.0 (https://cs.stanford.edu/people/jcjohns/clevr, licence CC BY 4.0) holds pictures and scenes but no masks, and
does not say where the camera stood. It aims at the origin, so three numbers are to be found; each object gives three:
the two of its `pixel_coords` in whole pixels, and its depth to many digits.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from tqdm import tqdm

from srnlib.data._hash import integer
from srnlib.data.clevr import Clevr, tell_fewer
from srnlib.data.clevr_geometry import CAMERA, LAMPS, boxes, numbers, project
from srnlib.data.clevr_render import masks
from srnlib.data.clevr_scenes import HEIGHT, MAX_OBJECTS, WIDTH

SIZE = (480, 320)  # of its pictures
FAR = 1.5  # pixels by which an object's centre may miss its place
HELP = "Unpack CLEVR_v1.0.zip of https://cs.stanford.edu/people/jcjohns/clevr and give its folder CLEVR_v1.0"


def load(path: str | Path, split: str = "train", n: int | None = None, *, size: int = 128, progress=False) -> Clevr:
    """Reads CLEVR_v1.0 and adds masks, silhouettes and boxes; 3:2 pictures are squashed into squares, as in the paper.

    The scenes it returns hold the `camera` that was found, the lamps at their mean places, and each `rotation` in
    degrees, 0 to 360, as `srnlib.data.clevr_render` reads it. The files' numbers are radians: CLEVR's generator gives
    360 * random() to Blender, which reads radians (https://github.com/facebookresearch/clevr-dataset-gen/issues/5).

    Args:
        path: The folder that has `images` and `scenes`.
        split: `train` or `val`; of `test` CLEVR gives no scenes.
        n: Number of scenes, the first ones; None for all.
        size: S, side of the pictures.
        progress: Show a bar.

    Raises:
        FileNotFoundError: If the folder or a file in it is missing.
        ImportError: Without Pillow.
        ValueError: If a file is damaged or is not of CLEVR, or the camera does not fit; the message names the file.
    """
    path, n, size = Path(path), None if n is None else integer("n", n, 0), integer("size", size, 1)
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val' ('test' has no scenes), got {split!r}")
    source = path / "scenes" / f"CLEVR_{split}_scenes.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist. {HELP}")
    scenes = read_scenes(source)
    tell_fewer(source, len(scenes), n, "scenes")
    scenes = scenes[:n]
    images = np.zeros((len(scenes), 3, size, size), np.uint8)
    for image, scene in zip(images, tqdm(scenes, unit="image", disable=not progress), strict=True):
        image[:] = read_picture(path / "images" / split / scene["image_filename"], size)
    return with_masks(images, scenes, size, source)


def read_scenes(source: Path) -> list[dict]:
    """The scenes of a file of CLEVR, each with the `width` and `height` of its picture."""
    try:
        scenes = json.loads(source.read_bytes())["scenes"]
        if not scenes:
            raise ValueError("it holds no scenes")
        nameless = [i for i, scene in enumerate(scenes) if not isinstance(scene.get("image_filename"), str)]
        if nameless:
            raise ValueError(f"scene {nameless[0]} lacks its image_filename")
        return [scene | {"width": SIZE[0], "height": SIZE[1]} for scene in scenes]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{source} is damaged, or no file of CLEVR's scenes ({error}). {HELP}") from error


def read_picture(source: Path, size: int) -> NDArray[np.uint8]:
    """A picture file of CLEVR as `[3, size, size]`."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("CLEVR's pictures need Pillow: pip install pillow") from None
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist. {HELP}")
    try:
        with Image.open(source) as picture:
            if picture.size != SIZE:
                raise ValueError(f"it has {picture.size[0]} x {picture.size[1]} pixels, CLEVR's have 480 x 320")
            small = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError) as error:  # Pillow's errors of a file cut short or of another kind are OSErrors
        raise ValueError(f"{source} is damaged, or no picture of CLEVR ({error}): unpack the archive again") from error
    return np.asarray(small).transpose(2, 0, 1)


def with_masks(images: NDArray[np.uint8], scenes: list[dict], size: int, source: Path) -> Clevr:
    """The images with all that can be computed from their scenes, which are the release's: `rotation` in radians.

    Raises: ValueError, naming `source` and the scene.
    """
    n = len(images)
    ids, covers = np.zeros((n, size, size), np.uint8), np.zeros((n, size, size), np.uint16)
    corners, found = np.zeros((n, MAX_OBJECTS, 4), np.int64), []
    lamps = {name: list(lamp[0]) for name, lamp in LAMPS.items()}
    for i, scene in enumerate(scenes):
        try:
            camera = fit_camera(scene)
            things = [
                thing | {"rotation": float(np.degrees(numbers("rotation", thing.get("rotation"))) % 360)}
                for thing in scene["objects"]
            ]
            scene = scene | {"lamps": lamps, "camera": camera, "objects": things}
            visible, full = masks(scene, size)
        except ValueError as error:
            raise ValueError(f"scene {i} of {source} is not one of CLEVR's: {error}. {HELP}") from error
        number = np.arange(len(full))[:, None, None]
        ids[i], covers[i] = (visible * (number + 1)).sum(0), (full << number).sum(0)
        corners[i, : len(full)] = boxes(full)
        found.append(scene)
    counts = np.array([len(scene["objects"]) for scene in found], np.int64)
    return Clevr(images, ids, covers, corners, counts, found)


def fit_camera(scene: dict) -> list[float]:
    """The place of a scene's camera, from where its objects are in space and in the picture.

    `pixel_coords` speak of a picture of `width` x `height` pixels if the scene says so, else of 320 x 240.

    Raises:
        ValueError: If no place near CLEVR's explains where the objects appear, there are too many objects, or they are
            no dictionaries with three finite numbers as `3d_coords` and as `pixel_coords`.
    """
    things, size = scene.get("objects"), (scene.get("width", WIDTH), scene.get("height", HEIGHT))
    if not isinstance(things, list) or not all(isinstance(thing, dict) for thing in things):
        raise ValueError("its `objects` are not a list of dictionaries")
    if not 1 <= len(things) <= MAX_OBJECTS:
        raise ValueError(f"it has {len(things)} objects; CLEVR's have 1 to {MAX_OBJECTS}")
    points, seen = (
        np.array([numbers(key, thing.get(key), 3) for thing in things]) for key in ("3d_coords", "pixel_coords")
    )
    weight = np.array([1.0, 1.0, 1e3])  # depths are exact, places are rounded to pixels

    def miss(place: NDArray) -> NDArray:
        return project(points, place, size[0] / size[1]) * [*size, 1] - seen

    fit = least_squares(lambda place: (weight * miss(place)).ravel(), CAMERA, x_scale=0.5, xtol=1e-12, ftol=1e-12)
    worst = np.abs(miss(fit.x)[:, :2]).max()
    if not (worst <= FAR and np.abs(fit.x - CAMERA).max() <= 1):
        raise ValueError(f"no camera fits: its objects' centres are up to {worst:.1f} pixels from their `pixel_coords`")
    return fit.x.tolist()
