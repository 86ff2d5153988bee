"""The CLEVR data set: scenes of `clevr_scenes`, drawn by `clevr_render` (paper: appendix C; Johnson et al. 2017).

Scene i is a function of the seed and i: a longer data set begins with the shorter, and `size` changes no scene.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from tqdm import tqdm

from srnlib.data._hash import integer
from srnlib.data.cache import cached
from srnlib.data.clevr_render import Rendering, render
from srnlib.data.clevr_scenes import MAX_OBJECTS, sample

VERSION = 1  # of the data; raise it when `generate` returns something else


@dataclass(frozen=True, eq=False)
class Clevr:
    """n pictures of S x S pixels, equal to others if all attributes are. M = MAX_OBJECTS.

    Rows after a scene's last object are empty.

    Attributes:
        images: uint8 `[n, 3, S, S]`.
        ids: uint8 `[n, S, S]`, what each pixel's centre sees: 0 the floor, k + 1 object k.
        covers: uint16 `[n, S, S]`, a bit for each object that lies behind the pixel's centre, seen or hidden.
        boxes: int64 `[n, M, 4]`, (left, top, right, bottom) of the whole objects, right and bottom one past the end.
        counts: int64 `[n]`.
        scenes: One dictionary each in CLEVR's JSON schema, `rotation` in degrees, and the places of camera and lamps.
        stored: uint8 `[n, 3, S, S]`, what a file holds as `foregrounds`, with soft edges; None: they follow from `ids`.
    """

    images: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    covers: NDArray[np.uint16]
    boxes: NDArray[np.int64]
    counts: NDArray[np.int64]
    scenes: list[dict]
    stored: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Clevr):
            return NotImplemented
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    def part(self, rows: slice) -> Clevr:
        """Some of the images, with all that belongs to them."""
        whole = {field.name: getattr(self, field.name) for field in fields(self)}
        return Clevr(**{name: None if values is None else values[rows] for name, values in whole.items()})

    def foregrounds(self, rows: int | slice | NDArray = slice(None)) -> NDArray[np.uint8]:
        """The images `rows` without their background: `[..., 3, S, S]`, 0 where the floor is seen."""
        if self.stored is not None:
            return self.stored[rows]
        return self.images[rows] * (self.ids[rows] > 0)[..., None, :, :]

    def visible(self, rows: int | slice | NDArray = slice(None)) -> NDArray[np.bool_]:
        """What is seen of each object of the images `rows`: `[..., M, S, S]`."""
        return self.ids[rows][..., None, :, :] == np.arange(1, MAX_OBJECTS + 1, dtype=np.uint8)[:, None, None]

    def full(self, rows: int | slice | NDArray = slice(None)) -> NDArray[np.bool_]:
        """Each object's silhouette as if it stood alone, for the images `rows`: `[..., M, S, S]`."""
        number = np.arange(MAX_OBJECTS, dtype=np.uint16)[:, None, None]
        return (self.covers[rows][..., None, :, :] >> number & 1).astype(bool)


def generate(n: int, seed: int, *, size: int = 128, workers: int = 1, progress: bool = False) -> Clevr:
    """Draws `n` CLEVR scenes (paper: appendix C). The 4:3 picture is squashed into a square, as in the paper.

    Three to ten objects (uniform) on the floor; shape, size, colour, material and rotation are uniform and independent.
    A place is drawn until the object stands clear of all others, and the scene starts afresh with the same number of
    objects after 50 misses, or if an object shows too little of itself. So crowded scenes lean to small objects,
    as in the original.

    Args:
        n: Number of scenes.
        seed: Any integer >= 0.
        size: S, side of the pictures in pixels.
        workers: Processes to share the work; the result does not depend on it.
        progress: Show a bar.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of range.
    """
    return _unpack(_arrays(**_checked(n, seed, size), workers=workers, progress=progress))


def load(n: int, seed: int, folder: str | Path, *, size: int = 128, workers: int = 1, progress: bool = False) -> Clevr:
    """As `generate`, kept in `folder` and read from there the next time.

    Raises: As `generate` and `srnlib.data.cache.cached`.
    """
    make = partial(_arrays, workers=workers, progress=progress)
    return _unpack(cached(folder, "clevr", make, version=VERSION, **_checked(n, seed, size)))


def tell_fewer(source: Path, found: int, asked: int | None, what: str = "images") -> None:
    """For a loader: warns its caller if a file holds less than was asked for; None asks for all."""
    if asked is not None and found < asked:
        warnings.warn(f"{source} holds {found} {what}, not the {asked} asked for", stacklevel=3)


def _checked(n: int, seed: int, size: int) -> dict[str, int]:
    return {"n": integer("n", n, 0), "seed": integer("seed", seed, 0), "size": integer("size", size, 1)}


def _arrays(n: int, seed: int, size: int, workers: int, progress: bool) -> dict[str, NDArray]:
    """The attributes of a `Clevr`, the scenes as the bytes of a JSON list."""
    images = np.zeros((n, 3, size, size), np.uint8)
    ids, covers = np.zeros((n, size, size), np.uint8), np.zeros((n, size, size), np.uint16)
    boxes = np.zeros((n, MAX_OBJECTS, 4), np.int64)
    scenes = []
    share = Parallel(integer("workers", workers, 1), batch_size=16, return_as="generator")
    drawn = share(delayed(_draw)(seed, size, i) for i in range(n))
    for i, (scene, picture) in enumerate(tqdm(drawn, total=n, unit="image", disable=not progress)):
        scenes.append(scene)
        number = np.arange(len(picture.full))[:, None, None]
        images[i], boxes[i, : len(number)] = picture.image, picture.boxes
        ids[i] = (picture.visible * (number + 1)).sum(0)
        covers[i] = (picture.full << number).sum(0)
    text = np.frombuffer(json.dumps(scenes).encode(), np.uint8)
    return {"images": images, "ids": ids, "covers": covers, "boxes": boxes, "scenes": text}


def _draw(seed: int, size: int, i: int) -> tuple[dict, Rendering]:
    scene = sample(seed, i)
    return scene, render(scene, size)


def _unpack(arrays: dict[str, NDArray]) -> Clevr:
    scenes = json.loads(arrays["scenes"].tobytes())
    return Clevr(**arrays | {"scenes": scenes, "counts": np.array([len(s["objects"]) for s in scenes], np.int64)})
