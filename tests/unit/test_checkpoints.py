"""Weights on disk: what goes in comes out, and nothing else is let in."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from srnlib import checkpoints
from srnlib.checkpoints import CheckpointError


def module(width=3):
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width)).to(memory_format=torch.channels_last)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "circles" / "srn-smoke-seed0.safetensors"
    checkpoints.save(module(), path, {"config": {"lr": 0.1}, "step": 7})
    return path


def test_round_trip_is_exact(tmp_path):
    first, second, path = module(), module(), tmp_path / "a.safetensors"
    digest = checkpoints.save(first, path, {"step": 7})
    meta = checkpoints.load_into(second, path)
    assert all(torch.equal(t, second.state_dict()[name]) for name, t in first.state_dict().items())
    assert meta["step"] == 7 and meta["shapes"]["0.weight"] == [3, 2, 3, 3]
    assert meta["sha256"] == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(load_file(path)) == set(first.state_dict())  # by safetensors' own reader
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


@pytest.mark.parametrize("at", [0, 50, -1])
def test_a_changed_byte_is_refused(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"seed0\.safetensors is truncated, changed or foreign.*restore"):
        checkpoints.load(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"seed0\.safetensors is truncated"):
        checkpoints.load(path)


def test_a_foreign_file_with_a_fitting_side_file_is_refused(path):
    side = path.with_suffix(".json")
    path.write_bytes(b"not weights")
    side.write_text(json.dumps({"sha256": hashlib.sha256(b"not weights").hexdigest(), "shapes": {}}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoints.load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "{}", '{"sha256": 1}'])
def test_a_bad_side_file_is_refused(path, content):
    path.with_suffix(".json").write_text(content)
    with pytest.raises(CheckpointError, match=r"seed0\.json is not the side file"):
        checkpoints.load(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(path, suffix):
    path.with_suffix(suffix).unlink()
    with pytest.raises(CheckpointError, match=rf"seed0\{suffix} is missing.*srnlib train"):
        checkpoints.load(path)


@pytest.mark.parametrize("other", [module(4), nn.Conv2d(2, 3, 3)])
def test_another_model_is_refused_and_left_as_it_was(path, other):
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"belongs to another model or other settings: 0\.bias is \[3\], needed"):
        checkpoints.load_into(other, path)
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def broken(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(module(), path, {})
    assert path.read_bytes() == before
    monkeypatch.undo()
    checkpoints.load(path)


def test_state_round_trip_and_refusals(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = {"a": torch.randn(2, 3), "step": torch.tensor(3.0), "n": torch.tensor(5)}
    checkpoints.save_state(path, tensors, {"history": [0.1 + 0.2]})
    found, meta = checkpoints.load_state(path)
    assert meta == {"history": [0.1 + 0.2]} and all(torch.equal(t, found[name]) for name, t in tensors.items())
    whole = path.read_bytes()
    for at in (-3, len(whole) // 2, 40):  # a bit of a tensor, and of the header
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + (whole[at + 1 :] if at != -1 else b""))
        with pytest.raises(CheckpointError, match=r"state\.safetensors is no state of a training, or a damaged one"):
            checkpoints.load_state(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is no state"):
        checkpoints.load_state(path)
    checkpoints.save(module(), path, {})  # weights, but no state
    with pytest.raises(CheckpointError, match=r"state\.safetensors is no state"):
        checkpoints.load_state(path)


def test_json_with_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        checkpoints.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_side_file_that_lists_other_tensors_is_refused(path):
    side = path.with_suffix(".json")
    meta = json.loads(side.read_text())
    for shapes in ({}, meta["shapes"] | {"other.bias": [4]}):
        side.write_text(json.dumps(meta | {"shapes": shapes}))
        with pytest.raises(CheckpointError, match="does not hold the tensors that"):
            checkpoints.load(path)
