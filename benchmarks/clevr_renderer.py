"""CLEVR, CPU milliseconds an image of 128 x 128 pixels on one core: the renderer, and the same without its shortcut.

Shortcut: a ray that passes by an object's bounding sphere is not tested against the object. The plain way tests every
ray, of camera and lamps, against every object; it takes 2048 rays at a time, which is when it is fastest. The pictures
are asserted to be the same. Beside them what a data set costs (`generate`: scenes are drawn at random, rendered and
packed), and what the masks alone do. The best of three interleaved rounds of eight scenes.

Run: python benchmarks/clevr_renderer.py
"""

from __future__ import annotations

import time
from unittest.mock import patch

import numpy as np

from srnlib.data import clevr, clevr_geometry, clevr_render
from srnlib.data.clevr_scenes import sample

IMAGES, SIZE, ROUNDS, CHUNK = 8, 128, 3, 2048
_light = clevr_render._light


def every(o, d, centre, radius):
    """In place of `clevr_geometry.near`: no ray is left out."""
    return np.arange(len(d))


def in_chunks(objects, lamps, place, d):
    """In place of `clevr_render._light`: a part of the rays at a time."""
    return np.concatenate([_light(objects, lamps, place, d[at : at + CHUNK]) for at in range(0, len(d), CHUNK)])


def plain(scene: dict) -> clevr_render.Rendering:
    """`render`, every ray against every object."""
    near = [patch.object(module, "near", every) for module in (clevr_geometry, clevr_render)]
    with near[0], near[1], patch.object(clevr_render, "_light", in_chunks):
        return clevr_render.render(scene, SIZE)


def main() -> None:
    scenes = [sample(0, i) for i in range(IMAGES)]
    calls = {
        "render": lambda: [clevr_render.render(scene, SIZE) for scene in scenes],
        "every ray against every object": lambda: [plain(scene) for scene in scenes],
        "generate": lambda: clevr.generate(IMAGES, 0, size=SIZE),
        "masks only": lambda: [clevr_render.masks(scene, SIZE) for scene in scenes],
    }
    best, made = dict.fromkeys(calls, float("inf")), {}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            made[name] = call()
            best[name] = min(best[name], (time.process_time() - start) / IMAGES * 1000)
    for ours, other in zip(made["render"], made["every ray against every object"], strict=True):
        assert all(map(np.array_equal, ours, other)), "the pictures differ"
    for name, milliseconds in best.items():
        print(f"{name:32s}{milliseconds:7.1f} ms an image")
    print(f"{'ratio':32s}{best['every ray against every object'] / best['render']:7.1f}")


if __name__ == "__main__":
    main()
