"""Circles, the package's generator against one image at a time with OpenCV: `python benchmarks/circles_generator.py`.

Both place by the same rules and draw the paper's data (64 x 64, 0 to 10 circles of radius 1 to 11). Prints CPU
milliseconds an image on one core, the best of five interleaved rounds.
"""

import time

import cv2
import numpy as np

from srnlib.data.circles import RESTARTS, TRIES, generate

IMAGES, ROUNDS = 8192, 5


def place(rng: np.random.Generator, count: int, size: int, max_radius: int) -> list[tuple[int, int, int, int]]:
    """Circles (x, y, radius, colour) of one image, or fewer than `count` if one did not fit."""
    circles = []
    for _ in range(count):
        radius, colour = int(rng.integers(1, max_radius + 1)), int(rng.integers(1, 3))
        for _ in range(TRIES):
            x, y = (int(v) for v in rng.integers(radius, size - radius, 2))
            if all(c != colour or (x - u) ** 2 + (y - v) ** 2 > (radius + r + 1) ** 2 for u, v, r, c in circles):
                circles.append((x, y, radius, colour))
                break
        else:
            break
    return circles


def one_at_a_time(n: int, seed: int, size: int = 64, max_circles: int = 10, max_radius: int = 11) -> np.ndarray:
    """Images uint8 `[n, 3, size, size]`, drawn by `cv2.circle` into one colour plane after the other."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n, 3, size, size), np.uint8)
    for image in images:
        count = int(rng.integers(0, max_circles + 1))
        for _ in range(RESTARTS + 1):
            circles = place(rng, count, size, max_radius)
            if len(circles) == count:
                break
        for x, y, radius, colour in circles:
            cv2.circle(image[colour - 1], (x, y), radius, 255, thickness=-1)
    return images


def main() -> None:
    cv2.setNumThreads(1)
    best = {"srnlib": float("inf"), "OpenCV": float("inf")}
    for seed in range(ROUNDS):
        for name, make in (("srnlib", generate), ("OpenCV", one_at_a_time)):
            start = time.process_time()
            make(IMAGES, seed)
            best[name] = min(best[name], (time.process_time() - start) / IMAGES * 1000)
    for name, milliseconds in best.items():
        print(f"{name}  {milliseconds:.4f} ms an image")
    print(f"ratio   {best['OpenCV'] / best['srnlib']:.1f}")


if __name__ == "__main__":
    main()
