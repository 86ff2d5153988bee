"""Data generators and loaders, one module each, imported when first asked for."""

import importlib


def __getattr__(name: str):
    """`srnlib.data.circles` and so on without a further import."""
    try:
        if not name.startswith("_"):
            return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
