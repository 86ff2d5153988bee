"""Data generators and loaders, one module each, imported when first asked for."""

from srnlib._lazy import submodules

__getattr__ = submodules(__name__)
