"""Loaders of CLEVR's release, the paper's h5 and DeepMind's TFRecords, on small files written here in those formats."""

import builtins
import functools
import gzip
import json
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from srnlib.data import clevr, clevr_files, clevr_release
from srnlib.data.clevr_geometry import boxes, hits, project, read
from srnlib.data.clevr_release import fit_camera
from srnlib.data.clevr_render import masks, render
from srnlib.data.clevr_scenes import sample
from srnlib.runs import Run
from srnlib.tasks.clevr import scenes

# --- CLEVR_v1.0: pictures of 480 x 320 and their scenes; neither masks nor cameras. ---


def as_released(scene, number):
    """One of our scenes as CLEVR's file would have it, and without what that leaves out."""
    place = np.array(scene["camera"])
    scene = {k: v for k, v in scene.items() if k not in ("camera", "lamps")}
    things = []
    for thing in scene["objects"]:
        x, y, depth = project(np.array([thing["3d_coords"]]), place, 480 / 320)[0]
        turned = np.radians(thing["rotation"]) + 40 * np.pi  # the release's are radians from 0 to 360
        things.append(thing | {"pixel_coords": [round(480 * x), round(320 * y), depth], "rotation": turned})
    name = f"CLEVR_val_{number:06d}.png"
    return scene | {"objects": things, "image_index": number, "image_filename": name, "split": "val"}


@pytest.fixture
def release(tmp_path):
    """A folder like CLEVR_v1.0 with three scenes, and our scenes that they were made of."""
    ours = [sample(9, i) for i in range(3)]
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "scenes").mkdir()
    scenes = [as_released(scene, i) for i, scene in enumerate(ours)]
    for i, scene in enumerate(scenes):
        picture = np.full((320, 480, 3), 100, np.uint8)
        picture[:, :240] = (200, 30 * i, 50)
        Image.fromarray(picture).save(tmp_path / "images" / "val" / scene["image_filename"])
    text = json.dumps({"info": {"split": "val", "license": "CC BY 4.0"}, "scenes": scenes})
    (tmp_path / "scenes" / "CLEVR_val_scenes.json").write_text(text)
    return tmp_path, ours


def test_release_gets_masks_by_a_fitted_camera(release):
    path, ours = release
    data = clevr_release.load(path, "val", size=64)
    assert len(data) == 3 and data.counts.tolist() == [len(s["objects"]) for s in ours]
    for i, scene in enumerate(ours):
        assert np.abs(np.array(data.scenes[i]["camera"]) - scene["camera"]).max() < 2e-2
        turns = [[thing["rotation"] for thing in s["objects"]] for s in (data.scenes[i], scene)]
        assert turns[0] == pytest.approx(turns[1])  # degrees, as all our scenes
        again = render(data.scenes[i], 64)
        assert np.array_equal(again.visible, data.visible(i)[: len(again.visible)])
        assert all(map(np.array_equal, masks(data.scenes[i], 64), (again.visible, again.full)))
        visible, full = hits(read(scene)[0], np.array(scene["camera"]), 64, 1.5)
        for found, true in ((data.visible()[i], visible), (data.full()[i], full)):
            wrong = (found[: len(true)] != true).sum() / true.sum()
            assert wrong < 0.02 and not found[len(true) :].any()
        assert (data.boxes[i] == boxes(data.full()[i])).all()
        left = data.images[i][:, 30, 20]
        assert left.tolist() == [200, 30 * i, 50] and data.images[i][:, 30, 50].tolist() == [100] * 3
    assert ((data.foregrounds() > 0).any(1) == (data.ids > 0)).all()
    assert len(clevr_release.load(path, "val", 1, size=16)) == 1


@pytest.mark.filterwarnings("ignore:.* holds 3 scenes, not the")  # the test has as many as there are
def test_the_task_shows_the_release(release):
    path, _ = release
    shutil.copytree(path / "images" / "val", path / "images" / "train")
    shutil.copy(path / "scenes" / "CLEVR_val_scenes.json", path / "scenes" / "CLEVR_train_scenes.json")
    sizes = {"train_images": 2, "val_images": 1, "test_images": 5}
    run = Run.of("clevr", "baseline", "smoke", source=str(path), **sizes)
    whole = clevr_release.load(path, "val", size=32)
    for split, rows in {"train": slice(2), "val": slice(1), "test": slice(1, 3)}.items():
        found, expected = scenes(run.settings, split), whole.part(rows)
        assert len(found) == len(expected) and found.scenes == expected.scenes and found.stored is None
        for name in ("images", "ids", "covers", "boxes", "counts"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert len(run.task.dataset(run.settings, 0)) == 2 and "seed" not in str(run.task.describe(run.settings, 0))
    module = run.task.build(run.model, run.settings).eval()
    with torch.no_grad():
        measured = run.task.evaluate(module, run.settings, torch.device("cpu"), "test")
    assert all(0 <= measured[name] <= 100 for name in run.task.rows)
    assert re.fullmatch(r"baseline-smoke\+source=[\w.+=-]+-seed0", run.stem)
    with pytest.raises(ValueError, match=r"no more than 3 scenes of 'val', all for validation: lower val_images"):
        scenes(Run.of("clevr", "srn", "smoke", source=str(path), val_images=3).settings, "test")


@pytest.mark.parametrize("i", range(8))
def test_camera_is_found_from_rounded_pixels(i):
    scene = sample(21, i)
    found = fit_camera(as_released(scene, i) | {"width": 480, "height": 320})
    assert np.abs(np.array(found) - scene["camera"]).max() < 0.03
    points = np.array([thing["3d_coords"] for thing in scene["objects"]])
    seen, true = (project(points, np.array(place), 1.5) * [480, 320, 1] for place in (found, scene["camera"]))
    assert np.abs(seen - true)[:, :2].max() < 1
    assert np.abs(np.array(fit_camera(scene)) - scene["camera"]).max() < 0.05  # as the generator gives it, 320 x 240


def test_release_that_is_not_there_or_not_whole_is_refused_by_name(release):
    path, _ = release
    source = path / "scenes" / "CLEVR_val_scenes.json"
    with pytest.raises(ValueError, match="'test' has no scenes"):
        clevr_release.load(path, "test")
    with pytest.raises(FileNotFoundError, match="CLEVR_train_scenes.json does not exist. Unpack CLEVR_v1.0.zip"):
        clevr_release.load(path, "train")
    picture = path / "images" / "val" / "CLEVR_val_000001.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="000001.png is damaged"):
        clevr_release.load(path, "val")
    Image.new("RGB", (320, 240)).save(picture)
    with pytest.raises(ValueError, match="320 x 240 pixels, CLEVR's have 480 x 320"):
        clevr_release.load(path, "val")
    picture.unlink()
    with pytest.raises(FileNotFoundError, match="000001.png does not exist"):
        clevr_release.load(path, "val")
    picture.write_bytes(whole)
    text = source.read_text()
    scenes = json.loads(text)
    scenes["scenes"][2]["objects"][0]["pixel_coords"][0] += 60
    source.write_text(json.dumps(scenes))
    with pytest.raises(ValueError, match=r"scene 2 of .*no camera fits"):
        clevr_release.load(path, "val")
    scenes["scenes"][0]["objects"] = []
    source.write_text(json.dumps(scenes))
    with pytest.raises(ValueError, match="scene 0 of .*has 0 objects.*Unpack CLEVR_v1.0.zip"):
        clevr_release.load(path, "val")
    del scenes["scenes"][1]["image_filename"]
    nameless = json.dumps(scenes)
    for content in ("", text[:-9], "[1]", '{"info": {}}', '{"scenes": []}', '{"scenes": [3]}', nameless):
        source.write_text(content)
        with pytest.raises(ValueError, match="CLEVR_val_scenes.json is damaged"):
            clevr_release.load(path, "val")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("3d_coords", None, "3d_coords must be three finite numbers, got None"),
        ("3d_coords", [1.0, float("nan"), 0.7], "3d_coords must be three finite numbers"),
        ("pixel_coords", [1, 2], "pixel_coords must be three finite numbers"),
        ("pixel_coords", 3, "pixel_coords must be three finite numbers, got 3"),
        ("rotation", "north", "rotation must be a finite number, got 'north'"),
        ("shape", "cone", "shape 'cone'; known are"),
        (None, 3, "its `objects` are not a list of dictionaries"),
        (None, [3], "its `objects` are not a list of dictionaries"),
    ],
)
def test_a_foreign_scene_is_refused_in_words_and_with_what_to_do(release, key, value, says):
    source = release[0] / "scenes" / "CLEVR_val_scenes.json"
    content = json.loads(source.read_text())
    if key:
        content["scenes"][1]["objects"][2][key] = value
    else:
        content["scenes"][1]["objects"] = value
    source.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"scene 1 of .*val_scenes.json is not one of CLEVR's: .*{says}.*Unpack CLEVR"):
        clevr_release.load(release[0], "val", size=8)


# --- The paper's h5. ---


def write_h5(path, **changes):
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    images = random.random((3, 3, 8, 8)).astype(np.float32)
    mask = random.integers(0, 5, (3, 1, 8, 8)).astype(np.float32) / 4 * np.ones((1, 3, 1, 1), np.float32)  # soft edges
    content = {"images": images, "images_mask": mask, "images_foreground": images * mask}
    content = {name: np.rint(255 * values).astype(np.float32) / 255 for name, values in content.items()}  # of bytes
    content |= {"image_ids": np.array([4, 5, 9], np.int32)} | changes
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[name] = values
    return content


def test_h5_of_the_paper(tmp_path, monkeypatch):
    path = tmp_path / "test-images-foreground.h5"
    content = write_h5(path)
    data = clevr_files.load_h5(path)
    for found, name in ((data.images, "images"), (data.foregrounds(), "images_foreground")):
        assert found.dtype == np.uint8 and (found.astype(np.float32) / 255 == content[name]).all()
    assert (data.foregrounds(slice(1, 2)) == data.foregrounds()[1:2]).all()
    assert ((data.ids > 0) == content["images_foreground"].any(1)).all()
    assert set(np.unique(data.ids)) == {0, clevr_files.SOMETHING} and not data.visible().any() and not data.full().any()
    assert [s["image_index"] for s in data.scenes] == [4, 5, 9] and data.counts.tolist() == [0, 0, 0]
    assert clevr_files.load_h5(path, 2).images.shape == (2, 3, 8, 8)
    monkeypatch.setattr(clevr_files, "BLOCK", 2)
    assert clevr_files.load_h5(path) == data


def test_bad_h5_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match=r"a.h5 does not exist. Give a train- or test-images"):
        clevr_files.load_h5(path)
    grey, hole = np.full((2, 3, 3, 8, 8), 0.5, np.float32)
    hole[2, 1, 3, 3] = np.nan
    for changes, says in [
        ({"images_foreground": None, "image_ids": None}, "no dataset images_foreground, image_ids"),
        ({"images": None, "images/group": grey}, "no dataset images"),
        ({"image_ids": None, "image_ids/group": grey}, "no dataset image_ids"),
        ({"images": np.zeros((3, 8, 8, 3), np.float32)}, r"shape \(3, 8, 8, 3\)"),
        (dict.fromkeys(clevr_files.H5, grey[:0]), r"shape \(0, 3, 8, 8\), expected .* with no zero size"),
        ({"images": 400 * grey}, "images hold values from 200 to 200; expected 0 to 1"),
        ({"images": grey / 255}, "images reach only 0 of 255; were they divided by 255 twice"),
        ({"images": hole}, "images hold values from nan to nan"),
        ({"images_foreground": hole}, "images_foreground hold values from nan to nan"),
        ({"images_foreground": -grey}, "images_foreground hold values from -0.5"),
        ({"images_foreground": grey[:2]}, r"images_foreground are float32 \(2, 3, 8, 8\), expected floats \(3, 3"),
        ({"images": grey.astype(np.uint8)}, "images are uint8"),
        ({"image_ids": np.arange(2)}, r"image_ids are int64 \(2,\), expected integers \(3,\)"),
        ({"image_ids": np.arange(4)}, r"image_ids are int64 \(4,\)"),
        ({"image_ids": np.array([1, 2, np.nan])}, "image_ids are float64"),
    ]:
        write_h5(path, **changes)
        with pytest.raises(ValueError, match=f"a.h5 is damaged, or not one of the paper's files .*{says}"):
            clevr_files.load_h5(path)
    write_h5(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match="a.h5 is damaged"):
        clevr_files.load_h5(path)
    path.write_text("not h5")
    with pytest.raises(ValueError, match="a.h5 is damaged"):
        clevr_files.load_h5(path)

    real = builtins.__import__

    def without_h5py(name, *rest, **more):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ImportError, match="pip install h5py"):
        clevr_files.load_h5(path)


# --- DeepMind's TFRecords, encoded from the format's description. ---


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**arrays):
    """A serialised tf.train.Example with a list of one-byte strings a feature, and a list of floats."""
    features = field(1, field(1, b"visibility") + field(2, field(2, field(1, struct.pack("<11f", *range(11))))))
    for name, array in arrays.items():
        triples = np.full((array.size, 3), (0x0A, 1, 0), np.uint8)
        triples[:, 2] = array.ravel()
        features += field(1, field(1, name.encode()) + field(2, field(1, triples.tobytes())))
    return field(1, features)


def crc32c(data):
    """Byte by byte, the way of the textbook; it turns "123456789" into 0xE3069283."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
    return crc ^ 0xFFFFFFFF


def masked(crc):
    return (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def test_checksum_is_that_of_tensorflow():
    assert crc32c(b"123456789") == 0xE3069283
    assert clevr_files._checksum(b"123456789") == struct.pack("<I", masked(0xE3069283))
    assert clevr_files._checksum(struct.pack("<Q", 24)) == b"\xa3\x7fK\x22"  # all of TensorBoard's files begin so


def write_tfrecords(path, *records):
    stream = b""
    for record in records:
        head = struct.pack("<Q", len(record))
        stream += head + struct.pack("<I", masked(crc32c(head))) + record + b"data's sum is not read"[:4]
    path.write_bytes(gzip.compress(stream, 1))
    return stream


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (2, 240, 320, 3), np.uint8)
    owner = np.zeros((2, 240, 320), int)
    owner[0, 100:160, 40:100], owner[1, 20:60, 200:280], owner[1, 40:90, 240:300] = 1, 1, 2
    return images, 255 * (owner[:, None, :, :, None] == np.arange(11)[:, None, None, None]).astype(np.uint8)


def test_tfrecords_of_deepmind(tmp_path, pictures):
    path = tmp_path / "clevr.tfrecords"
    write_tfrecords(path, *(example(image=image, mask=mask) for image, mask in zip(*pictures, strict=True)))
    data = clevr_files.load_tfrecords(path, size=80)
    images, masks = pictures
    mean = images.reshape(2, 80, 3, 80, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2)  # 3 x 4 pixels become one
    assert np.abs(data.images - mean).max() <= 0.5 + 1e-9
    assert data.counts.tolist() == [1, 2] and len(data.scenes) == 2
    assert (data.visible()[:, :10] == (masks[:, 1:, 1::3, 2::4, 0] > 0)).all()
    assert (data.full() == data.visible()).all()
    assert data.boxes[0, 0].tolist() == [10, 33, 25, 53]  # 40..100 by 100..160 in steps of 4 and 3, at the centres
    nobody = np.insert(masks, 2, 0, axis=1)[1, :11]  # the second object is hidden
    write_tfrecords(path, example(image=images[1], mask=nobody), example(image=images[0], mask=masks[0]))
    gap = clevr_files.load_tfrecords(path, size=80)
    assert gap.counts.tolist() == [2, 1] and np.array_equal(gap.ids[::-1], data.ids)
    assert np.array_equal(gap.boxes[::-1], data.boxes)
    assert len(clevr_files.load_tfrecords(path, 1)) == 1 and clevr_files.load_tfrecords(path).images.shape[2] == 128


def test_shrinking_is_the_mean_over_areas(pictures):
    picture = pictures[0][0]
    fine = picture.repeat(8, axis=0).repeat(2, axis=1)  # 1920 x 640: 15 x 5 points a new pixel
    want = fine.reshape(128, 15, 128, 5, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(clevr_files._shrink(picture, 128) - want).max() <= 0.5 + 1e-6


def test_bad_tfrecords_are_refused_by_name(tmp_path, pictures):
    path = tmp_path / "b.tfrecords"
    with pytest.raises(FileNotFoundError, match="b.tfrecords does not exist. Get clevr_with_masks"):
        clevr_files.load_tfrecords(path)
    image, mask = pictures[0][0], pictures[1][0]
    good = example(image=image, mask=mask)
    stream = write_tfrecords(path, good)
    whole = path.read_bytes()
    for content, says in [
        (b"", "no records"),
        (gzip.compress(b""), "no records"),
        (whole[: len(whole) // 2], "."),
        (gzip.compress(stream[:-50], 1), "middle of a record"),
        (b"not gzip", "."),
        (gzip.compress(b"something else, longer than a head", 1), "not made of TFRecords"),
        (gzip.compress(stream[:5], 1), "not made of TFRecords"),
        (gzip.compress(stream[:9] + b"x" + stream[10:], 1), "not made of TFRecords"),  # the length's checksum
    ]:
        path.write_bytes(content)
        for n in (None, 0):
            with pytest.raises(ValueError, match=f"b.tfrecords is damaged, or another file .*{says}"):
                clevr_files.load_tfrecords(path, n)
    for record, says in [
        (example(image=image), "lacks the feature 'mask'"),
        (example(image=image[:100], mask=mask), r"'image' is not of \(240, 320, 3\) bytes"),
        (b"\x08\x01", "unexpected kind"),
        (good[:-1], "past its end"),
    ]:
        write_tfrecords(path, record)
        with pytest.raises(ValueError, match=says):
            clevr_files.load_tfrecords(path)


def test_bad_requests_do_not_blame_the_file(release, tmp_path, pictures):
    write_tfrecords(tmp_path / "d.tfrecords", example(image=pictures[0][0], mask=pictures[1][0]))
    write_h5(tmp_path / "d.h5")
    for load in (
        functools.partial(clevr_release.load, release[0], "val"),
        functools.partial(clevr_files.load_tfrecords, tmp_path / "d.tfrecords"),
        functools.partial(clevr_files.load_h5, tmp_path / "d.h5"),
    ):
        with pytest.raises(ValueError, match="^n must be at least 0, got -1"):
            load(n=-1)
        with pytest.raises(TypeError, match="^n must be an integer, got float 1.5"):
            load(n=1.5)
        assert len(load(n=0)) == 0
        with pytest.warns(UserWarning, match="holds [1-9].*, not the 99 asked for"):
            assert len(load(n=99)) == len(load())
        if load.func is not clevr_files.load_h5:
            with pytest.raises(ValueError, match="^size must be at least 1, got 0"):
                load(size=0)
            with pytest.raises(TypeError, match="^size must be an integer, got float 8.0"):
                load(size=8.0)


def test_all_loaders_give_what_the_generator_gives(release, tmp_path, pictures):
    write_tfrecords(tmp_path / "c.tfrecords", example(image=pictures[0][0], mask=pictures[1][0]))
    write_h5(tmp_path / "c.h5")
    loaded = [
        clevr_release.load(release[0], "val"),
        clevr_files.load_tfrecords(tmp_path / "c.tfrecords"),
        clevr_files.load_h5(tmp_path / "c.h5"),
    ]
    drawn = clevr.generate(1, 0, size=16)
    for data in loaded:
        for name in ("images", "ids", "covers", "boxes", "counts"):
            found, want = getattr(data, name), getattr(drawn, name)
            assert found.dtype == want.dtype and found.ndim == want.ndim and len(found) == len(data.scenes), name
