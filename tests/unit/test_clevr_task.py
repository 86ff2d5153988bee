"""What the CLEVR task adds: the model of appendix C and of the released code, its loss, its data, equal treatment."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from srnlib import loop
from srnlib.data import clevr as data
from srnlib.data.clevr_boxes import fill, published
from srnlib.data.clevr_geometry import boxes
from srnlib.models.image import patch, unpatch
from srnlib.tasks import TASKS, Settings
from srnlib.tasks.clevr import ClevrSettings, colored, evaluation_batches, scenes, tensors, weighted
from srnlib.tasks.painting import cross_entropy

TASK = TASKS["clevr"]


@pytest.fixture(autouse=True, scope="module")
def own_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRNLIB_DATA", str(tmp_path_factory.mktemp("data")))
        yield


def smoke(model="srn", **changes):
    settings = dataclasses.replace(TASK.settings("smoke", model), **changes)
    torch.manual_seed(0)
    return settings, TASK.build(model, settings).eval()


def test_paper_model_is_that_of_appendix_c():
    settings = TASK.settings("paper", "srn")
    module = TASK.build("srn", settings)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes["encoder.embed.weight"] == (512, 8192)  # "to produce a 512-dimensional image embedding"
    assert shapes["encoder.propose.weight"] == (10, 8192 // 16, 1)
    assert shapes["decoder.project.weight"] == (1024 * 8 * 8, 10)
    convolutions = [m for m in module.decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in convolutions] == [
        *((1024, 512, 2), (512, 256, 2), (256, 3, 4)),
    ]
    assert shapes["refiner.H_agg.left.weight"] == (512, 10) and shapes["refiner.H_agg.pool.weight"] == (512, 21)
    assert (settings.batch_size, settings.lr, settings.inner_lr, settings.inner_steps) == (32, 3e-4, 8.0, 10)
    assert settings.detach_init and settings.inner_momentum == 0.5 and settings.cells is None


def test_both_models_are_trained_alike_and_differ_by_the_refiner():
    srn, baseline = (dataclasses.asdict(TASK.settings("laptop", model)) for model in TASK.models)
    differ = {name for name in srn if srn[name] != baseline[name]}
    assert differ <= {"steps", "inner_lr"}  # for about the same core time; a baseline reads no inner rate
    parts = [set(smoke(model)[1].state_dict()) for model in TASK.models]
    assert parts[0] < parts[1]
    assert all(name.startswith(("refiner.", "encoder.embed.")) for name in parts[1] - parts[0])


def test_color_error_sees_colours_inside_objects_and_no_shade():
    generator = torch.Generator().manual_seed(0)
    target = patch(torch.rand(2, 3, 8, 8, generator=generator))
    shade = torch.rand(2, 4, 1, 16, generator=generator).expand(-1, -1, 3, -1).flatten(-2)  # the same in all channels
    torch.testing.assert_close(colored(target + shade, target), torch.zeros_like(target))
    p = patch(torch.rand(2, 3, 8, 8, generator=generator))
    red, green, blue = (p - target).unflatten(-1, (3, 16)).unbind(-2)
    between = (red - green).square() + (green - blue).square() + (blue - red).square()
    torch.testing.assert_close(colored(p, target).unflatten(-1, (3, 16)).sum(-2), between / 3)
    assert colored(p, torch.zeros_like(p)).abs().max() == 0  # nothing is there: the cross-entropy's business


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_color_weight_must_be_a_weight(weight):
    with pytest.raises(ValueError, match="color_weight must be finite and not negative"):
        dataclasses.replace(ClevrSettings.smoke(), color_weight=weight)


def test_black_weight_darkens_what_is_uncertain_and_nothing_else():
    p = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0.0, 0.5, 0.0, 1.0, 0.1, 0.0]).expand(4, 6)
    plain = cross_entropy(p, target)
    assert torch.equal(weighted(p, target, 1.0), plain)
    torch.testing.assert_close(weighted(p, target, 5.0), plain * (1 + 4 * (target == 0)))

    there, bright = 0.1, 0.4  # one value in ten is painted, 0.4 bright: with weight w, q v / (q + w (1 - q)) is best
    p = torch.linspace(0, 0.2, 20_001)
    for w in (1.0, 5.0):
        mean = there * weighted(p, torch.tensor(bright), w) + (1 - there) * weighted(p, torch.tensor(0.0), w)
        expected = there * bright / (there + w * (1 - there))
        assert abs(p[mean.argmin()] - expected) < 2e-4


def test_black_weight_is_that_of_the_loss():
    settings, module = smoke("baseline", cells=None)
    batch = TASK.dataset(settings, 0)[torch.arange(8)]
    X, Y = tensors(*batch)

    def loss(weight, step, **changes):
        changed = dataclasses.replace(settings, black_weight=weight, **changes)
        return TASK.loss(module, batch, changed, step)[0].item()

    black = (cross_entropy(module(X).image, Y) * (Y == 0)).sum().item() / Y.numel()
    assert loss(3.0, 0) - loss(1.0, 0) == pytest.approx(2 * black, rel=1e-3)
    few = {"few": 0.5, "few_size": 4}  # of 20 steps: the weight rises until the tenth
    extra = [loss(3.0, step, **few) - loss(1.0, step, **few) for step in (0, 5, 10)]
    assert extra[0] == 0 < extra[1] < extra[2] == pytest.approx(2 * black, rel=1e-3)
    with pytest.raises(ValueError, match="black_weight must be positive, got 0"):
        dataclasses.replace(settings, black_weight=0)


def test_color_weight_is_that_of_the_loss():
    settings, module = smoke("baseline", cells=None)
    batch = TASK.dataset(settings, 0)[torch.arange(8)]
    X, Y = tensors(*batch)
    plain, with_color = (
        TASK.loss(module, batch, dataclasses.replace(settings, color_weight=w), 0)[0].item() for w in (0.0, 50.0)
    )
    image = module(X).image
    off = (image - image.mean(1, True)) - (Y - Y.mean(1, True))
    assert with_color - plain == pytest.approx(50 * (off.square() * (Y > 0)).mean().item(), rel=1e-3)
    assert with_color > plain


def test_training_begins_with_half_of_the_elements_and_the_emptier_half_of_a_batch():
    settings, module = smoke("baseline", cells=None, few=0.5, few_size=2)
    images, ids = TASK.dataset(settings, 0)[torch.arange(8)]
    counts = [len(row.unique()) for row in ids]
    emptier = sorted(range(8), key=lambda i: counts[i])[:4]
    assert max(counts[i] for i in emptier) <= min(counts[i] for i in range(8) if i not in emptier)
    few = TASK.loss(module, (images, ids), settings, 0)[0]
    assert module(tensors(images, ids)[0]).S.shape[1] == 2
    module.active = None
    torch.testing.assert_close(few, few_loss(module, images[emptier], ids[emptier], 2))
    TASK.loss(module, (images, ids), settings, settings.steps - 1)
    assert module(tensors(images, ids)[0]).S.shape[1] == settings.set_size


def few_loss(module, images, ids, elements):
    """Cross-entropy of what the first `elements` elements paint."""
    X, Y = tensors(images, ids)
    S = module.encoder(X)[0][:, :elements]
    share = module.decoder(S).softmax(dim=1) * module.decoder(S).sigmoid()
    return nn.functional.binary_cross_entropy(unpatch(share.sum(dim=1)), Y)


def test_the_loss_is_the_cross_entropy_of_the_foreground():
    settings, module = smoke(cells=None)
    batch = TASK.dataset(settings, 0)[torch.arange(4)]
    X, Y = tensors(*batch)
    drawn = data.generate(4, 0, size=32)
    assert (255 * X).round().byte().numpy().tobytes() == drawn.images.tobytes()
    assert (255 * Y).round().byte().numpy().tobytes() == drawn.foregrounds().tobytes()
    with torch.no_grad():
        loss, logs = TASK.loss(module, batch, settings, 0)
        p = module(X).image.double().clamp(1e-9, 1 - 1e-9)
    want = -(Y * p.log() + (1 - Y) * (1 - p).log()).mean()
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    assert set(logs) == {"inner_first", "inner_last", "moved"}


def test_sampled_loss_agrees_with_the_whole_loss_on_average():
    settings, module = smoke("baseline")
    batch = TASK.dataset(settings, 0)[torch.arange(8)]
    with torch.no_grad():
        whole = TASK.loss(module, batch, dataclasses.replace(settings, cells=None), 0)[0]
        sampled = torch.stack([TASK.loss(module, batch, settings, 0)[0] for _ in range(300)])
    assert abs(sampled.mean() - whole) < 4 * sampled.std() / 300**0.5


def test_scenes_of_training_validation_and_test_differ_and_every_run_trains_on_the_same():
    settings, _ = smoke()
    sets = {split: scenes(settings, split) for split in ("train", "val", "test")}
    assert [len(s) for s in sets.values()] == [settings.train_images, settings.val_images, settings.test_images]
    seen = {scene["image_filename"] for s in sets.values() for scene in s.scenes}
    assert len(seen) == sum(map(len, sets.values()))
    assert all((TASK.dataset(settings, 0)[:2][i] == TASK.dataset(settings, 5)[:2][i]).all() for i in range(2))
    assert set(TASK.describe(settings, 0)) == {"generator", "size", "train", "val", "test"}


class Perfect(nn.Module):
    """Decodes what each object shows into an element of its own."""

    def __init__(self, batches):
        super().__init__()
        self.batches = iter(batches)

    def forward(self, X):
        images, _, _, _, visible = next(self.batches)
        elements = visible[:, :, None] * images[:, None].float() / 255
        S = torch.zeros(len(X), 10, 4)
        return type("Out", (), {"image": elements.sum(1), "elements": elements, "S": S, "S0": S, "trace": None})


def test_a_perfect_prediction_and_an_empty_one():
    settings, _ = smoke()
    found = TASK.evaluate(Perfect(evaluation_batches(settings, "test")), settings, torch.device("cpu"), "test")
    assert found["ari_fg"] == pytest.approx(100) and found["recon.mse"] == 0
    assert found["iou.overall"] > 95  # not 100: a true value below the threshold counts
    test = data.generate(settings.test_images, 2_000_000, size=32)
    formula, exact, seen = published(test.scenes, 32), fill(test.boxes, 32), fill(boxes(test.visible()), 32)
    best = []
    for b in range(len(test)):
        ious = [(seen[b, k] & exact[b, k]).sum() / (seen[b, k] | exact[b, k]).sum() for k in range(test.counts[b])]
        best.append(np.mean(ious))
    assert found["iou.object_real"] >= 100 * np.mean(best) - 3  # an object seen in two parts has two boxes
    assert set(TASK.rows) <= set(found)

    class Empty(nn.Module):
        def forward(self, X):
            S, blank = torch.zeros(len(X), 16, 4), torch.zeros(len(X), 16, 3, 32, 32)
            return type("Out", (), {"image": blank.sum(1), "elements": blank, "S": S, "S0": S, "trace": None})

    found = TASK.evaluate(Empty(), settings, torch.device("cpu"), "test")
    assert found["iou.object"] == pytest.approx(100 * (~formula.any((2, 3))).mean(), abs=1e-3)
    assert found["iou.object"] > 35 and found["iou.object_real"] < 1e-3 and found["iou.overall"] < 1e-3


@pytest.mark.parametrize("model", TASK.models)
def test_smoke_profile_trains_and_evaluates(model):
    settings, module = smoke(model, steps=4, eval_every=4)
    (row,) = loop.fit(TASK, module, settings, 0, on=loop.accelerator("cpu"), show=False)
    assert set(TASK.rows) <= set(row) and 0.1 < row["loss"] < 1.2
    assert ("moved" in row) == (model == "srn")
    assert isinstance(settings, ClevrSettings) and isinstance(settings, Settings)
