"""What noisy batch statistics cost: the decoder of Circles alone, told where one circle is, learns to draw it.

Noisy: batch normalisation as usual. Frozen: it keeps its statistics from a sixth of the steps on (`freeze_norm`).
Printed: squared error of a new image, as it is used (in eval mode), for batches of 16 and 64 images.

Run: python benchmarks/frozen_norm.py
"""

from __future__ import annotations

import dataclasses
import math
import time

import torch
from torch import Tensor

from srnlib.data.circles import generate
from srnlib.loop import keep_statistics, learning_rate, new_optimizer
from srnlib.models.image import SetDecoder, superimpose, unpatch
from srnlib.tasks import Settings

TRAINED = 20_000  # of the images; the others are tested on


def element(circles: Tensor) -> Tensor:
    """An element `[n, 1, 10]` that says all of a circle `[n, 4]` (x, y, radius, colour), smoothly."""
    x, y, r, colour = ((circles - torch.tensor([32, 32, 6, 1.5])) / torch.tensor([32, 32, 5, 0.5])).unbind(1)
    waves = [f(k * math.pi * t) for t in (x, y) for f, k in ((torch.sin, 1), (torch.cos, 1), (torch.sin, 2))]
    return torch.stack([x, y, r, colour, *waves], dim=1).unsqueeze(1)


def learn(images: Tensor, circles: Tensor, settings: Settings) -> tuple[float, float]:
    """The error on images that were not trained on, and CPU seconds."""
    torch.manual_seed(0)
    decoder = SetDecoder(4, 10).to(memory_format=torch.channels_last)
    optimizer, began = new_optimizer(decoder, settings), time.process_time()

    def error(at: Tensor) -> Tensor:
        image = unpatch(superimpose(decoder(element(circles[at])))).sum(dim=1)
        return (image - images[at].float() / 255).square().flatten(1).sum(dim=1).mean()

    for step in range(settings.steps):
        if step >= settings.freeze_norm * settings.steps:
            keep_statistics(decoder)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.zero_grad()
        error(torch.randint(TRAINED, (settings.batch_size,))).backward()
        optimizer.step()
    seconds = time.process_time() - began
    with torch.no_grad():
        decoder.eval()
        return error(torch.arange(TRAINED, len(images))).item(), seconds


def main() -> None:
    torch.set_num_threads(1)
    images, circles, _ = generate(TRAINED + 1000, 0, count=1, max_circles=1)
    images, circles = torch.from_numpy(images), torch.from_numpy(circles[:, 0]).float()
    print("batch     noisy    frozen   ratio   CPU seconds each")
    for batch in (16, 64):
        recipe = Settings(steps=1500, batch_size=batch, lr=3e-3, warmup=0.05, cooldown=0.95)
        (noisy, _), (frozen, seconds) = (
            learn(images, circles, dataclasses.replace(recipe, freeze_norm=freeze)) for freeze in (1.0, 1 / 6)
        )
        print(f"{batch:5d}  {noisy:8.1f}  {frozen:8.1f}  {noisy / frozen:6.1f}   {seconds:8.0f}")


if __name__ == "__main__":
    main()
