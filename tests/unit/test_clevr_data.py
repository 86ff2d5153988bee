"""The CLEVR generator: rays against closed forms, masks against marched rays, light against a sum by hand."""

import functools
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srnlib.data import clevr
from srnlib.data.clevr_geometry import ASPECT, BEVEL, HALF_WIDTH, boxes, enter, normal, project, rays, read
from srnlib.data.clevr_render import masks, render
from srnlib.data.clevr_scenes import sample

GOLDEN = Path(__file__).parent / "golden"
MISS = np.inf
HALF = {"cube": lambda r: r / np.sqrt(2), "sphere": lambda r: r, "cylinder": lambda r: r}
LAMP_POWER = {"key": (78.54, (1, 0.932, 0.817)), "fill": (18.0, (0.762, 0.818, 1)), "back": (39.27, (1, 1, 1))}
SUN = np.array([0.4145, -0.1946, 0.889])


def thing(shape="sphere", at=(0, 0), size="large", **changes):
    radius = HALF[shape]({"large": 0.7, "small": 0.35}[size])
    fixed = {"shape": shape, "size": size, "material": "rubber", "color": "red", "rotation": 0.0}
    return fixed | {"3d_coords": [*at, radius]} | changes


def scene_of(*things):
    lamps = {"key": [6.4, -2.9, 4.3], "fill": [-4.7, -4.0, 3.0], "back": [-1.2, 2.6, 5.8]}
    return {"camera": [7.5, -6.5, 5.3], "lamps": lamps, "objects": list(things)}


# Mean grey of 4x4 patches of the first picture of `data`.
PATCHES = [
    [103.2, 103.9, 102.5, 103.1],
    [104.9, 87.6, 94.4, 118.7],
    [123.5, 112.5, 143.0, 138.5],
    [129.1, 135.2, 167.0, 162.6],
]


@pytest.fixture(scope="module")
def data():
    return clevr.generate(4, 5, size=48)


@pytest.mark.parametrize(
    ("shape", "o", "d", "t"),
    [
        ("sphere", (-3, 0, 0), (1, 0, 0), 2),
        ("sphere", (-3, 0.6, 0), (2, 0, 0), 1.1),  # 3 - 0.8 at speed 2
        ("sphere", (-3, 0, 1.01), (1, 0, 0), MISS),
        ("sphere", (3, 0, 0), (1, 0, 0), MISS),  # behind
        ("sphere", (0, 0, 0), (1, 0, 0), MISS),  # inside: nothing is entered
        ("cube", (-3, 0.5, 0.5), (1, 0, 0), 2),
        ("cube", (-3, -3, 0), (1, 1, 0), 2),
        ("cube", (-3, 0, 0), (1, 0.6, 0), MISS),
        ("cube", (-3, 0, 1.01), (1, 0, 0), MISS),
        ("cube", (0, 0, 5), (0, 0, -1), 4),
        ("cylinder", (0.5, 0.5, 4), (0, 0, -1), 3),
        ("cylinder", (0.9, 0.9, 4), (0, 0, -1), MISS),  # inside of the square, outside of the circle
        ("cylinder", (-3, 0, 0.5), (1, 0, 0), 2),
        ("cylinder", (-3, 0, 1.5), (1, 0, 0), MISS),
        ("cylinder", (-2, 0, 2), (1, 0, -0.6), 5 / 3),  # through the lid at x = -1/3
        ("cylinder", (-2, 0, 2), (1, 0, -1.2), 1),  # through the side at z = 0.8
    ],
)
def test_rays_by_hand(shape, o, d, t):
    found = enter(shape, np.array(o, float), np.array(d, float))
    assert found == t or found == pytest.approx(t, abs=1e-12)


def surface(shape, n, random):
    """Points of a unit shape and the true normals there."""
    if shape == "sphere":
        p = random.normal(size=(n, 3))
        p /= np.linalg.norm(p, axis=1, keepdims=True)
        return p, p
    if shape == "cube":
        p, axis, side = random.uniform(-1, 1, (n, 3)), random.integers(3, size=n), random.choice([-1.0, 1.0], n)
        p[np.arange(n), axis] = side
        return p, np.eye(3)[axis] * side[:, None]
    angle, z = random.uniform(0, 2 * np.pi, n), random.uniform(-1, 1, n)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], 1)
    lid = random.random(n) < 0.5
    p = ring * np.where(lid, np.sqrt(random.random(n)), 1)[:, None]
    p[:, 2] = np.where(lid, np.sign(z), z)
    return p, np.where(lid[:, None], np.array([0, 0, 1]) * np.sign(z)[:, None], ring)


@pytest.mark.parametrize("shape", ["cube", "sphere", "cylinder"])
def test_rays_enter_at_sampled_points_that_face_them(shape):
    random = np.random.default_rng(0)
    p, n = surface(shape, 2000, random)
    o = random.normal(size=(2000, 3))
    o *= (2 + random.random((2000, 1)) * 5) / np.linalg.norm(o, axis=1, keepdims=True)
    faces = ((o - p) * n).sum(1)
    t = enter(shape, o, p - o)
    assert np.abs(t[faces > 1e-3] - 1).max() < 1e-9
    assert (t[faces < -1e-3] < 1).all()  # a back is behind a front
    assert np.isinf(enter(shape, p + 1e-6 * n, n)).all()

    found = normal(shape, p)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert ((found * n).sum(1) > 0.5).all()
    outwards = np.abs(np.stack([np.hypot(p[:, 0], p[:, 1]), p[:, 2]], 1) if shape == "cylinder" else p)
    flat = (outwards > 1 - BEVEL).sum(1) == 1 if shape != "sphere" else np.ones(len(p), bool)
    assert flat.mean() > 0.7 and np.abs(found - n)[flat].max() < 1e-12


def test_camera():
    place = np.array([7.5, -6.5, 5.3])
    far = np.linalg.norm(place)
    assert project(np.zeros((1, 3)), place)[0] == pytest.approx([0.5, 0.5, far])
    right = np.array([6.5, 7.5, 0]) / np.hypot(6.5, 7.5)
    assert project(right[None] * far * HALF_WIDTH, place)[0] == pytest.approx([1, 0.5, far])
    up = np.cross(right, -place / far)
    assert up[2] > 0
    assert project(up[None] * far * HALF_WIDTH / ASPECT, place)[0] == pytest.approx([0.5, 0, far])
    row, column = np.random.default_rng(1).uniform(0, 32, (2, 50))
    hit = project(place + 3 * rays(place, 32, row, column), place)
    assert hit[:, :2] * 32 == pytest.approx(np.stack([column, row], 1))
    assert np.degrees(2 * np.arctan(HALF_WIDTH)) == pytest.approx(49.134)


def inside(item, p, grow):
    """Whether the points lie in an object of the scene, grown by a factor; by coordinates alone."""
    r = HALF[item["shape"]]({"large": 0.7, "small": 0.35}[item["size"]]) * grow
    x, y, z = np.moveaxis(p - item["3d_coords"], -1, 0)
    angle = np.radians(item["rotation"])
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if item["shape"] == "sphere":
        return x * x + y * y + z * z < r * r
    if item["shape"] == "cylinder":
        return (x * x + y * y < r * r) & (np.abs(z) < r)
    return np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z)) < r


def test_masks_against_marched_rays():
    size = 24
    scene = sample(0, 10)
    place = np.array(scene["camera"])
    assert len({item["shape"] for item in scene["objects"]}) == 3
    row, column = np.divmod(np.arange(size**2), size)
    steps = np.arange(4, 18, 0.02)
    p = place + steps[:, None] * rays(place, size, row + 0.5, column + 0.5)[:, None]
    first = []
    for grow in (0.98, 1.02):
        within = np.stack([inside(item, p, grow) for item in scene["objects"]])
        first.append(np.where(within.any(2), within.argmax(2), len(steps)).reshape(-1, size, size))
    small, large = first
    visible, full = masks(scene, size)
    assert (full | ~(small < len(steps))).all() and (~full | (large < len(steps))).all()
    floor = np.full((1, size, size), len(steps) - 1)
    seen = [np.concatenate([depth, floor]).argmin(0) for depth in first]
    sure = seen[0] == seen[1]
    assert sure.mean() > 0.9 and (visible.any(0)[sure] == (seen[0] < len(visible))[sure]).all()
    for k, mask in enumerate(visible):
        assert (mask == (seen[0] == k))[sure].all()
    assert (visible.sum(0) <= 1).all() and (full.any(0) == visible.any(0)).all() and (full >= visible).all()
    assert (full & ~visible).any()  # something is hidden


def test_boxes_by_hand():
    mask = np.zeros((3, 6, 8), bool)
    mask[0, 2:4, 1:6] = mask[1, 5, 7] = True
    mask[0, 3, 3] = False
    assert boxes(mask).tolist() == [[1, 2, 6, 4], [7, 5, 8, 6], [0, 0, 0, 0]]


def test_light_of_the_bare_floor_and_of_a_shadow():
    def floor(at, lamps):
        light = np.full(3, 0.0509 + 0.45 / np.pi * SUN[2])
        for name in lamps:
            lamp = np.array(scene["lamps"][name])
            to = lamp - [*at, 0]
            far, (watts, tint) = np.linalg.norm(to), LAMP_POWER[name]
            light += watts / np.pi**2 * to[2] / far * (to @ lamp) / far / np.linalg.norm(lamp) / far**2 * np.array(tint)
        return 255 * (1.055 * (0.75 * light) ** (1 / 2.4) - 0.055)

    def pixel(at):
        x, y, _ = (project(np.array([[*at, 0.0]]), np.array(scene["camera"]))[0] * 256).astype(int)
        return image[:, y, x].astype(float)

    scene = scene_of(thing(size="small") | {"3d_coords": [0.0, 0.0, 1.2]})
    image = render(scene, 256).image
    assert np.abs(pixel((2.5, 2.5)) - floor((2.5, 2.5), LAMP_POWER)).max() < 2
    key = np.array(scene["lamps"]["key"])
    shade = -key[:2] * 1.2 / (key[2] - 1.2)  # where the line from the lamp through the sphere's middle ends
    dark, light = (floor(shade, lamps) for lamps in (("fill", "back"), LAMP_POWER))
    assert np.abs(pixel(shade) - dark).max() < 1.5 and (light - dark > 4).all()


def test_metal_mirrors_its_neighbour_and_rubber_does_not():
    def yellowness(material, *others):
        picture = render(scene_of(thing(material=material, color="gray"), *others), 64)
        red, _, blue = picture.image.astype(float)
        return np.where(picture.visible[0], red - blue, 0)

    neighbour = thing("cylinder", (1.7, 0.4), color="yellow")
    gain = {
        material: (yellowness(material, neighbour) - yellowness(material)).max() for material in ("metal", "rubber")
    }
    assert gain["metal"] > 20 and gain["rubber"] < gain["metal"] / 2


def test_scenes_keep_the_rules():
    for i in range(12):
        scene = sample(3, i)
        items = scene["objects"]
        centres = np.array([item["3d_coords"] for item in items])
        radii = np.array([HALF[item["shape"]]({"large": 0.7, "small": 0.35}[item["size"]]) for item in items])
        assert 3 <= len(items) <= 10 and (np.abs(centres[:, :2]) <= 3).all() and centres[:, 2] == pytest.approx(radii)
        assert np.abs(np.array(scene["camera"]) - (7.48113, -6.50764, 5.34367)).max() <= 0.5
        visible, full = masks(scene)
        assert (visible.sum((1, 2)) >= 43).all()
        for a in range(len(items)):
            x, y, depth = items[a]["pixel_coords"]
            assert full[a, int(y * 128 / 240), int(x * 128 / 320)] and 5 < depth < 18
            for b in range(len(items)):
                away = centres[b] - centres[a]
                assert a == b or np.hypot(*away[:2]) - radii[a] - radii[b] >= 0.25 - 1e-12
                for name, related in scene["relationships"].items():
                    along = away @ scene["directions"][name]
                    assert (b in related[a]) == (along > 0.2) and (a == b or abs(along) >= 0.4)
        left = np.array(items[0]["3d_coords"]) + scene["directions"]["left"]
        assert project(left[None], np.array(scene["camera"]))[0, 0] < items[0]["pixel_coords"][0] / 320


def test_json_round_trip_draws_the_same(data):
    for i, scene in enumerate(data.scenes):
        again = json.loads(json.dumps(scene))
        assert again == scene == sample(5, i)
        assert {"image_index", "image_filename", "split", "objects", "relationships", "directions"} < set(scene)
        assert set(scene["objects"][0]) == {
            *("shape", "size", "material", "color", "rotation", "3d_coords", "pixel_coords"),
        }
        picture = render(again, 48)
        assert np.array_equal(picture.image, data.images[i])
        assert np.array_equal(picture.foreground, data.foregrounds()[i])
        count = data.counts[i]
        assert np.array_equal(picture.visible, data.visible()[i, :count]) and not data.visible()[i, count:].any()
        assert np.array_equal(picture.full, data.full(np.array([i]))[0, :count]) and not data.full()[i, count:].any()
        assert np.array_equal(boxes(data.full()), data.boxes)
        assert ((picture.foreground > 0).any(0) == picture.visible.any(0)).all()


def test_same_scenes_everywhere(data):
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(value[key]) for key in sorted(value)}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return round(value * 10**6) if isinstance(value, float) else value

    digest = hashlib.sha256(json.dumps(plain(data.scenes)).encode()).hexdigest()
    assert digest == "6abc64e39fd38b8868a3fc143fdf64ea73e5621916838d6b69016c6a7b7827dd"
    patches = data.images[0].reshape(3, 4, 12, 4, 12).mean((0, 2, 4))
    assert np.abs(patches - np.array(PATCHES)).max() < 1  # the last bit may differ from machine to machine
    assert sample(6, 0)["objects"] != data.scenes[0]["objects"]


@pytest.mark.parametrize("i", range(4))
def test_golden_images(i):
    """Pictures kept in `golden/`: what was drawn when the data sets of the shipped results were."""
    picture = np.asarray(Image.open(GOLDEN / f"clevr_seed2020_{i}.png")).transpose(2, 0, 1)
    away = np.abs(render(sample(2020, i)).image.astype(int) - picture)
    assert (away > 1).mean() < 1e-3  # an outline may fall to the other side of a pixel on another machine


def test_a_longer_set_begins_with_the_shorter_and_processes_change_nothing(data):
    few = clevr.generate(2, 5, size=48, workers=2)
    for name in ("images", "ids", "covers", "boxes", "counts"):
        assert np.array_equal(getattr(few, name), getattr(data, name)[:2])
    assert few.scenes == data.scenes[:2] and len(few) == 2
    assert clevr.generate(0, 5).visible().shape == (0, 10, 128, 128)


def test_one_image_is_that_row_at_any_size(data):
    for whole in (data, clevr.generate(2, 5, size=10)):  # as many pixels as there are objects
        for of in (whole.visible, whole.full, whole.foregrounds):
            assert np.array_equal(of(1), of()[1]) and np.array_equal(of(np.array([1, 0])), of()[[1, 0]])


def test_data_sets_are_equal_if_all_they_hold_is(data):
    assert data == clevr.generate(4, 5, size=48) and data != data.part(slice(3)) and data != "data"
    assert data != clevr.generate(4, 6, size=48) and data != replace(data, stored=data.foregrounds())


def test_load_draws_once(data, tmp_path, monkeypatch):
    first = clevr.load(1, 5, tmp_path, size=48)
    monkeypatch.setattr(clevr, "_draw", None)
    again = clevr.load(np.int64(1), 5, tmp_path, size=48)
    for found in (first, again):
        assert np.array_equal(found.images, data.images[:1]) and found.scenes == data.scenes[:1]


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (dict(n=-1), ValueError, "n must be at least 0"),
        (dict(seed=-1), ValueError, "seed must be at least 0"),
        (dict(size=0), ValueError, "size must be at least 1"),
        (dict(workers=0), ValueError, "workers must be at least 1"),
        (dict(n=1.5), TypeError, "n must be an integer"),
        (dict(size="large"), TypeError, "size must be an integer"),
    ],
)
def test_bad_requests_say_what_is_wrong(request_, error, says, tmp_path):
    for make in (clevr.generate, functools.partial(clevr.load, folder=tmp_path)):
        with pytest.raises(error, match=says):
            make(**{"n": 1, "seed": 0} | request_)


def test_a_plain_script_may_share_the_work(tmp_path):
    """Without `if __name__ == "__main__"`, which Python's own pool of processes asks for."""
    script = tmp_path / "script.py"
    script.write_text("from srnlib.data.clevr import generate\nprint(len(generate(2, 0, size=8, workers=2)))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "2\n", done.stderr[-2000:]


def test_a_pixel_of_two_cubes_that_touch_sees_one_of_them():
    """The release's cubes stand apart by legal distances and may yet meet at a corner, with their tops in one plane."""
    cube = dict(size="large", rotation=45)
    left, right = (thing("cube", **cube) | {"3d_coords": [x, 0.0, 0.7 + 1e-8]} for x in (-0.83, 0.83))
    picture = render(scene_of(left, right, thing("sphere") | {"3d_coords": [3.0, 3.0, 0.7]}), 128)
    assert (picture.full[:2].all(0) & picture.visible.any(0)).any() and picture.visible.sum(0).max() == 1
    assert (picture.visible.any(0) == picture.full.any(0)).all() and (picture.visible <= picture.full).all()


@pytest.mark.parametrize("width, height", [(None, None), (4, 3), (480, 320)])
def test_a_camera_straight_above_sees_a_square_as_wide_as_the_scene_says(width, height):
    scene = scene_of(thing("cube", size="large", rotation=0)) | {"camera": [0.0, 0.0, 8.0]}
    picture = render(scene | ({"width": width, "height": height} if width else {}), 192)
    left, top, right, bottom = picture.boxes[0]
    aspect = width / height if width else 4 / 3
    assert picture.image.max() > 50 and bottom - top == pytest.approx(aspect * (right - left), abs=2)
    seen = (np.ptp(picture.image.astype(int), axis=0) > 60).any(1).sum()  # red rows: the picture is drawn so, too
    assert seen == pytest.approx(bottom - top, abs=2)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"height": -3}, {"width": "wide"}, {"height": None}])
def test_a_picture_has_a_size(wrong):
    for draw in (render, masks):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            draw(scene_of(thing()) | wrong, 8)


@pytest.mark.parametrize("size", [0.7, 0.35])
def test_cubes_of_the_release_stand_on_the_floor_at_full_size(size):
    """Its generator means to divide their size by the root of 2, and never does: their centres are at `size`."""
    name = {0.7: "large", 0.35: "small"}[size]
    ours, theirs = thing("cube", size=name), thing("cube", size=name) | {"3d_coords": [0.0, 0.0, size + 1e-8]}
    assert read(scene_of(ours))[0].radius.tolist() == [pytest.approx(size / 2**0.5)]
    assert read(scene_of(theirs))[0].radius.tolist() == [size]
    assert read(scene_of(thing("sphere", size=name)))[0].radius.tolist() == [size]


@pytest.mark.parametrize(
    ("scene", "says"),
    [
        ({"objects": [thing()]}, "lacks the key 'camera'"),
        (scene_of(), "no objects"),
        (scene_of(thing(shape="sphere") | {"shape": "cone"}), "shape 'cone'; known are cube, sphere, cylinder"),
        (scene_of(thing(color="pink")), "color 'pink'"),
        (scene_of(thing(material="wood")), "material 'wood'; known are rubber, metal"),
        (scene_of(thing() | {"size": "medium"}), "size 'medium'"),
        (scene_of({"shape": "cube"}), "lacks the key 'size'"),
        (scene_of(thing(rotation="north")), "rotation"),
        (scene_of(thing() | {"3d_coords": [0.0, 1.0]}), "3d_coords"),
        (scene_of(thing()) | {"camera": [1.0, float("nan"), 2.0]}, "camera"),
        (scene_of(thing()) | {"camera": [0.0, 0.0, 0.0]}, "above the floor, z > 0; camera do not"),
        (scene_of(thing()) | {"objects": None}, "no scene as"),
        (scene_of(thing()) | {"lamps": [1, 2]}, "no scene as"),
        ([], "no scene as"),
    ],
)
def test_bad_scenes_say_what_is_wrong(scene, says):
    with pytest.raises(ValueError, match=says):
        read(scene)
