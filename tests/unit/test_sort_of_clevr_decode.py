"""Figure 4: the perceptual stage stays frozen, ink is painted, objects are counted."""

import dataclasses

import numpy as np
import pytest
import torch

from srnlib import loop, results
from srnlib.checkpoints import CheckpointError
from srnlib.data import sort_of_clevr as data
from srnlib.models.frozen_decoder import ink
from srnlib.models.image import patch, unpatch
from srnlib.runs import Run
from srnlib.tasks import TASKS
from srnlib.tasks.sort_of_clevr import pixels
from srnlib.tasks.sort_of_clevr_decode import count_objects
from srnlib.train import load_module

TASK = TASKS["sort_of_clevr_decode"]
SMOKE = TASK.settings("smoke", "srn")
CENTERS, SHAPES = data.scenes(6, 5)
IMAGES = data.render(CENTERS, SHAPES)


def test_true_images_have_each_object_once():
    assert (count_objects(IMAGES / 255) == 0).all()


def test_a_second_blue_object_and_a_lost_red_one_are_counted():
    image = np.full((3, 75, 75), 255, np.uint8)
    for colour, (x, y) in enumerate([(10, 10), (30, 10), (50, 10), (10, 30), (30, 30), (50, 30)]):
        image[:, y - 5 : y + 6, x - 5 : x + 6] = data.PALETTE[colour][:, None, None]
    copied, lost, faint = image.copy(), image.copy(), image.copy()
    copied[:, 55:66, 40:51] = data.PALETTE[2][:, None, None]
    lost[:, 5:16, 5:16] = 255
    faint[:, 60:65, 60:65] = data.PALETTE[2][:, None, None]  # 25 pixels are no object
    assert count_objects(np.stack([image, copied, lost, faint]) / 255).tolist() == [[0, 0], [1, 0], [0, 1], [0, 0]]


def test_ink_is_the_negative_with_an_empty_border():
    X = pixels(IMAGES)
    padded = ink(X)
    assert padded.shape == (6, 3, 80, 80)
    assert (padded[..., 75:, :] == 0).all() and (padded[..., 75:] == 0).all()
    torch.testing.assert_close(1 - padded[..., :75, :75], X)
    torch.testing.assert_close(unpatch(patch(padded)), padded)


def build(model="srn"):
    loop.seed_everything(0)
    return TASK.build(model, SMOKE)


def test_only_the_decoder_learns():
    module = build()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    loop.fit(TASK, module, SMOKE, 0, on=loop.accelerator("cpu"), show=False)
    changed = {name for name, t in module.state_dict().items() if not torch.equal(t, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert module.decoder.training and not module.perception.training


def test_both_models_train_as_many_parameters():
    sizes = [sum(p.numel() for p in build(m).parameters() if p.requires_grad) for m in TASK.models]
    assert sizes[0] == sizes[1] > 0


def test_cells_asked_for_are_those_of_the_whole_picture():
    module, X = build().eval(), pixels(IMAGES[:2])
    at = torch.tensor([[0, 7, 21], [399, 5, 5]])
    with torch.no_grad():
        whole, part = module(X), module(X, at)
    assert whole.image.shape == (2, 3, 75, 75)
    painted = torch.nn.functional.pad(whole.image, (0, 5, 0, 5))
    inside = [(0, slice(None)), (1, slice(1, None))]  # cell 399 is in the border
    for row, cells in inside:
        torch.testing.assert_close(part.image[row, cells], patch(painted)[row, at[row, cells]])
    torch.testing.assert_close(whole.elements.sum(dim=1), whole.image)


def test_sampled_loss_agrees_with_the_whole_loss_on_average():
    module, batch = build().eval(), TASK.dataset(SMOKE, 0)[:4]
    with torch.no_grad():
        whole = TASK.loss(module, batch, dataclasses.replace(SMOKE, cells=None), 0)[0]
        torch.manual_seed(0)
        sampled = torch.stack([TASK.loss(module, batch, SMOKE, 0)[0] for _ in range(300)])
        error = ink(1 - module(pixels(batch[0])).image) - ink(pixels(batch[0]))
    assert abs(sampled.mean() - whole) < 4 * sampled.std() / 300**0.5
    assert whole > error.square().flatten(1).sum(dim=1).mean() > 0  # the border counts as well


def test_evaluation_and_missing_source():
    scores = loop.evaluate_module(TASK, build(), SMOKE, torch.device("cpu"), "test")
    assert set(TASK.rows) <= scores.keys() and {"error.new", "error.blank"} <= scores.keys()
    blank = (255 - data.generate(4, 0)[0].astype(float)) / 255
    assert scores["error.blank"] == pytest.approx((blank**2).sum(axis=(1, 2, 3)).mean(), rel=1e-5)
    with pytest.raises(CheckpointError):
        TASK.build("srn", dataclasses.replace(SMOKE, source_profile="smoke", source_seed=77))


@pytest.mark.parametrize("record", results.load("sort_of_clevr_decode"), ids=lambda record: record["checkpoint"])
def test_shipped_decoders_are_of_the_shipped_models(record):
    """A model that is trained anew needs a decoder that is trained anew."""
    decoder = load_module(Run.of("sort_of_clevr_decode", record["model"], record["profile"], record["seed"]))
    config = record["config"]
    source = load_module(Run.of("sort_of_clevr", record["model"], config["source_profile"], config["source_seed"]))
    for name, tensor in decoder.perception.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
