"""A device that is not there, to see what a GPU would refuse: tensors put on it are CPU tensors that say otherwise."""

from __future__ import annotations

import contextlib
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

DEVICE = torch.device("mps")  # what they say; it has neither doubles nor integer products
PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum", "linear")
PACKED = ("_pack_padded_sequence", "_pad_packed_sequence", "lstm")  # lengths and batch sizes stay on the CPU
MIXES = ("copy_", "__set__", "_has_compatible_shallow_copy_type", "to", *PACKED)


class PretendDevice(TorchFunctionMode):
    """Refuses to mix devices, CPU generators on this one, doubles, integer products and conversions to numpy."""

    def __init__(self):
        super().__init__()
        self.here, self.off = WeakIdKeyDictionary(), False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.off or func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        if func == Tensor.device.__get__:
            return DEVICE if args[0] in self.here else func(*args)
        name, leaves = func.__name__, tree_leaves((args, kwargs))
        places = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        places += [torch.device(leaf) for leaf in leaves if isinstance(leaf, str) and leaf in ("cpu", DEVICE.type)]
        if name == "cpu":
            places.append(torch.device("cpu"))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        mine = [t for t in tensors if t in self.here]
        if name == "numpy" and mine:
            raise TypeError(f"can't convert a tensor on {DEVICE} to numpy")
        others = [t for t in tensors if t not in self.here and t.dim()]
        if name in ("__getitem__", "__setitem__") and tensors[:1] == mine[:1]:
            others = [t for t in others if t.dtype.is_floating_point]  # indices may be on the CPU
        if mine and others and name not in MIXES:
            raise RuntimeError(f"{name} mixes tensors on {DEVICE} with tensors on the CPU")
        on = places[-1].type == DEVICE.type if places else bool(mine)
        if on and any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise RuntimeError(f"{name}: a generator of the CPU, a tensor on {DEVICE}")
        if mine and name in PRODUCTS and not all(t.dtype.is_floating_point for t in mine):
            raise RuntimeError(f"{name} of integers on {DEVICE}")
        found = func(*_as_cpu(args), **_as_cpu(kwargs))
        if func == Tensor.data.__set__ and args[1] in self.here:
            self.here[args[0]] = True
        if name == "_pack_padded_sequence":
            return self._placed(found[0], on, tensors), found[1]
        return tree_map(lambda out: self._placed(out, on, tensors) if isinstance(out, Tensor) else out, found)

    def _placed(self, out, on, tensors):
        if any(out is t for t in tensors) and on != (out in self.here):  # `to` gives back what is there already
            with torch._C.DisableTorchFunction():
                out = out.clone()
        if on:
            if out.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{DEVICE} has no doubles")
            self.here[out] = True
        return out


def _as_cpu(tree):
    """Every device in the arguments of a call replaced by the CPU."""
    named = (torch.device, str)

    def one(leaf):
        return "cpu" if isinstance(leaf, named) and str(leaf).partition(":")[0] == DEVICE.type else leaf

    return tree_map(one, tree)


@contextlib.contextmanager
def pretend_device():
    """Code inside may put tensors on `DEVICE`."""
    mode, grad, backward = PretendDevice(), torch.autograd.grad, Tensor.backward

    def without(call, *args, **kwargs):
        mode.off = True  # inside, gradients are on no device
        try:
            return call(*args, **kwargs)
        finally:
            mode.off = False

    def grad_here(outputs, inputs, *args, **kwargs):
        found = without(grad, outputs, inputs, *args, **kwargs)
        for slope, of in zip(found, inputs if isinstance(inputs, list | tuple) else [inputs], strict=True):
            if slope is not None and of in mode.here:
                mode.here[slope] = True
        return found

    def backward_here(*args, **kwargs):
        return without(backward, *args, **kwargs)

    with (
        mock.patch.object(torch.autograd, "grad", grad_here),
        mock.patch.object(Tensor, "backward", backward_here),
        mode,
    ):
        yield
