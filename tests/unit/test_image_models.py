"""The Circles models against appendix B.1, layer by layer, and the decoder's shortcuts against torch's own layers."""

import dataclasses

import pytest
import torch
from torch import nn

from srnlib import SetEncoder, SetRefiner
from srnlib.models.image import ImageEncoder, SetAutoencoder, SetDecoder, patch, superimpose, unpatch
from srnlib.tasks import TASKS


def paper_model(model):
    task = TASKS["circles"]
    return task.build(model, task.settings("paper", model))


def layers(module):
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    return [m for m in module.modules() if isinstance(m, kinds)]


def described(m):
    """(kind, parameters) and, of a convolution, (in, out, kernel, stride, padding, bias)."""
    if isinstance(m, nn.Linear):
        return ("Linear", m.in_features, m.out_features)
    if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
        return ("BatchNorm", m.num_features)
    shape = (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0])
    return (type(m).__name__, *shape, m.bias is not None)


def test_encoder_is_that_of_b1():
    assert [described(m) for m in layers(paper_model("srn").encoder)] == [
        ("Conv2d", 3, 64, 4, 2, 1, False),
        ("Conv2d", 64, 128, 4, 2, 1, False),
        ("BatchNorm", 128),
        ("Conv2d", 128, 256, 4, 2, 1, False),
        ("BatchNorm", 256),
        ("Conv2d", 256, 512, 4, 4, 1, False),
        ("BatchNorm", 512),
        ("Conv1d", 2048 // 16, 10, 1, 1, 0, True),
        ("Linear", 2048, 100),
    ]


def test_decoder_is_that_of_b1():
    assert [described(m) for m in layers(paper_model("srn").decoder)] == [
        ("Linear", 10, 1024 * 4 * 4),
        ("BatchNorm", 1024 * 4 * 4),
        ("ConvTranspose2d", 1024, 512, 4, 2, 1, False),
        ("BatchNorm", 512),
        ("ConvTranspose2d", 512, 256, 4, 2, 1, False),
        ("BatchNorm", 256),
        ("ConvTranspose2d", 256, 3, 4, 4, 0, False),
    ]


def test_set_encoder_is_that_of_b1():
    H_agg = paper_model("srn").refiner.H_agg
    assert [described(m) for m in layers(H_agg)] == [("Linear", 10, 512), ("Linear", 512, 512), ("Linear", 512, 100)]
    assert H_agg.pool.weight.shape == (100, 20 + 1)


def test_parameter_counts_of_the_paper_model():
    count = {m: sum(p.numel() for p in paper_model(m).parameters()) for m in ("baseline", "srn")}
    encoder = 3 * 64 * 16 + 64 * 128 * 16 + 128 * 256 * 16 + 256 * 512 * 16 + 2 * (128 + 256 + 512)
    encoder += 128 * 10 + 10
    decoder = 10 * 16384 + 16384 + 2 * 16384 + 1024 * 512 * 16 + 512 * 256 * 16 + 256 * 3 * 16 + 2 * (512 + 256)
    assert count["baseline"] == encoder + decoder
    refiner = (2048 * 100 + 100) + (10 * 512 + 512) + (512 * 512 + 512) + (512 * 100 + 100) + 100 * 21
    assert count["srn"] == count["baseline"] + refiner


def test_srn_and_baseline_share_everything_but_the_refiner():
    shapes = [{n: p.shape for n, p in paper_model(m).named_parameters()} for m in ("baseline", "srn")]
    extra = {n for n in shapes[1] if n not in shapes[0]}
    assert all(n.startswith(("refiner.", "encoder.embed.")) for n in extra)
    assert shapes[0] == {n: s for n, s in shapes[1].items() if n not in extra}


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_at_every_size(size):
    H_agg = SetEncoder(10, 20, hidden=16)
    model = SetAutoencoder(2, 4, 10, size, refiner=SetRefiner(H_agg, steps=2, inner_lr=0.1), embed_dim=20)
    out = model(torch.rand(3, 3, size, size))
    assert out.image.shape == (3, 3, size, size) and out.elements.shape == (3, 4, 3, size, size)
    assert out.S.shape == out.S0.shape == (3, 4, 10)
    torch.testing.assert_close(out.elements.sum(dim=1), out.image)
    assert out.image.min() >= 0 and out.image.max() <= 1
    assert SetAutoencoder(2, 4, 10, size)(torch.rand(3, 3, size, size)).trace is None


def test_painting_a_cell_is_the_transposed_convolution():
    decoder, S = SetDecoder(2, 10).double(), torch.randn(3, 5, 10, dtype=torch.float64)
    with torch.no_grad():
        code = decoder.project_norm(decoder.project(S.flatten(0, 1))).relu().unflatten(1, (-1, 4, 4))
        want = decoder.paint(decoder.grow(code)).unflatten(0, (3, 5))
        torch.testing.assert_close(unpatch(decoder(S)), want)


def test_patches_are_blocks_of_the_image():
    images = torch.rand(2, 3, 16, 16)
    patches = patch(images)
    assert patches.shape == (2, 16, 48)
    for cell in range(16):
        y, x = 4 * (cell // 4), 4 * (cell % 4)
        assert torch.equal(patches[:, cell], images[:, :, y : y + 4, x : x + 4].flatten(1))
    assert torch.equal(unpatch(patches), images)


def test_superimpose_is_equation_4():
    I = torch.randn(2, 4, 3, 5, 5)
    weight = I.exp() / I.exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(superimpose(I), weight / (1 + (-I).exp()))


def test_elements_are_decoded_alike_in_any_order():
    decoder, S, order = SetDecoder(2, 10).eval(), torch.randn(2, 5, 10), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(decoder(S)[:, order], decoder(S[:, order]))


@pytest.mark.parametrize(
    ("size", "set_size", "says"),
    [(48, 4, "size must be 32, 64 or 128, got 48$"), (64, 7, "^set_size 7 .* the 64 ="), (64, 0, "^set_size 0 must")],
)
def test_sizes_that_do_not_fit_are_refused(size, set_size, says):
    with pytest.raises(ValueError, match=says):
        ImageEncoder(2, set_size, 10, None, size)


def test_embed_scale_scales_z_alone():
    X = torch.rand(2, 3, 64, 64)
    encoder, small = ImageEncoder(2, 4, 3, 8).eval(), ImageEncoder(2, 4, 3, 8, embed_scale=1 / 16).eval()
    small.load_state_dict(encoder.state_dict())
    (S0, z), (other, scaled) = encoder(X), small(X)
    assert torch.equal(S0, other)
    torch.testing.assert_close(16 * scaled, z)


@pytest.mark.parametrize("name", ["circles", "clevr"])
def test_embed_scale_of_the_settings_reaches_the_encoder(name):
    settings = dataclasses.replace(TASKS[name].settings("smoke", "srn"), embed_scale=0.25)
    assert TASKS[name].build("srn", settings).encoder.embed_scale == 0.25


@pytest.mark.parametrize(
    "X", [torch.rand(2, 3, 60, 60), torch.rand(2, 1, 64, 64), torch.rand(3, 64, 64), torch.ones(2, 3, 64, 64).byte()]
)
def test_images_that_do_not_fit_are_refused(X):
    with pytest.raises(ValueError, match=r"images must be floats \[B, 3, 64, 64\]"):
        SetAutoencoder(2, 4, 3, 64).eval()(X)
