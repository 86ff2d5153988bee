"""Weights on disk: safetensors with a JSON side file, written whole or not at all, never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from srnlib.files import write_atomic, write_json

_KEY = "srnlib"  # of the metadata in a state file's header


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what is wrong with it and how to mend it."""


def save(module: nn.Module, path: str | Path, meta: dict[str, Any]) -> str:
    """Save a module's weights and buffers, and `meta` with their shapes and sha256 beside them.

    Args:
        module: Any module; its parameters must not share memory.
        path: `<stem>.safetensors`; the side file is `<stem>.json`.
        meta: JSON-able; the keys `sha256` and `shapes` are added.

    Returns:
        The sha256 of the weights file.
    """
    tensors = _plain(module.state_dict())
    content = safetensors.torch.save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    shapes = {name: list(t.shape) for name, t in tensors.items()}
    write_atomic(path, content)
    write_json(Path(path).with_suffix(".json"), {**meta, "sha256": digest, "shapes": shapes})
    return digest


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load tensors by name, and the side file's content.

    Raises:
        CheckpointError: If a file is missing, truncated, changed, or not one of ours.
    """
    path = Path(path)
    side = path.with_suffix(".json")
    for file in (path, side):
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {_MEND}")
    content = path.read_bytes()
    try:
        meta = json.loads(side.read_bytes())
        expected, shapes = meta["sha256"], meta["shapes"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{side} is not the side file of a checkpoint; {_MEND}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{path} is truncated, changed or foreign: {side.name} names another sha256; {_MEND}")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}); {_MEND}") from error
    if {name: list(t.shape) for name, t in tensors.items()} != shapes:
        raise CheckpointError(f"{path} does not hold the tensors that {side.name} lists; {_MEND}")
    return tensors, meta


_MEND = "restore both files together (git restore) or train again (python -m srnlib train ... --force)"


def load_into(module: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint into a module that has exactly its tensors; returns the side file's content.

    Raises:
        CheckpointError: As `load`, or if names or shapes differ from the module's.
    """
    tensors, meta = load(path)
    there = {name: list(t.shape) for name, t in tensors.items()}
    here = {name: list(t.shape) for name, t in module.state_dict().items()}
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if names:
        listed = ", ".join(f"{n} is {there.get(n, 'absent')}, needed {here.get(n, 'absent')}" for n in names[:3])
        raise CheckpointError(
            f"{path} belongs to another model or other settings: {listed} ({len(names)} differ); "
            "build the module with the settings in its side file"
        )
    module.load_state_dict(tensors)
    return meta


def save_state(path: str | Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Save tensors and `meta` as one file (a running training's state), atomically."""
    tensors, text = _plain(tensors), json.dumps(meta, allow_nan=False)
    header = {_KEY: text, "sha256": _digest(tensors, text)}
    write_atomic(path, safetensors.torch.save(tensors, metadata=header))


def load_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote.

    Raises:
        CheckpointError: If the file is truncated, changed or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            if _digest(tensors, header[_KEY]) != header["sha256"]:
                raise ValueError("its sha256 is another")
            return tensors, json.loads(header[_KEY])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        what = f"is no state of a training, or a damaged one ({error})"
        raise CheckpointError(f"{path} {what}: delete it, or start again with --force") from error


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """The sha256 of tensors in the order of their names, and of the text that goes with them."""
    content = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        t = tensors[name]
        content.update(f"{name} {t.dtype} {list(t.shape)}".encode())
        content.update(t.reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
