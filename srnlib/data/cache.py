"""Arrays that take long to make, made once: a compressed file, and beside it how it was made and its sha256."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srnlib.files import write_atomic, write_json


def cached(
    folder: str | Path, name: str, make: Callable[..., dict[str, NDArray]], *, version: int, **settings: int | str
) -> dict[str, NDArray]:
    """The arrays `make(**settings)`, read from `folder` if they were made before.

    They are in `<name>-<settings>.npz`, for example `pong-n1000-seed1.npz`, and the side file `.json` of the same stem
    holds name, version, settings and the sha256 of the arrays' file. A stem of more than 150 characters is cut and ends
    in a hash. Both appear whole or not at all. Processes and threads that make the same arrays at the same time do not
    disturb each other.

    An older version is made afresh and replaced. So is a damaged file, with a warning. Where nothing can be written the
    arrays are returned all the same, with a warning.

    Args:
        folder: Made if it is not there.
        name: Letters, digits, `_`, `.` and `-`.
        make: Must return the same arrays for the same settings; arrays of objects are refused.
        version: Raise it when `make` changes.
        settings: The keyword arguments of `make`, integers or short strings of the characters of `name`.

    Raises:
        TypeError: If a setting is neither an integer nor a string, or an array holds objects.
        ValueError: If the name is no file name, or the file in its place was not written by this function.
    """
    wrong = [key for key, value in settings.items() if not isinstance(value, int | str)]
    if wrong:
        raise TypeError(f"settings must be int or str, got {wrong[0]} = {settings[wrong[0]]!r}")
    stem = "-".join([name, *(f"{key}{value}" for key, value in settings.items())])
    if not re.fullmatch(r"\w[\w.-]*", stem):
        raise ValueError(f"{stem!r} is no name for a cached file: use letters, digits, '_', '.' and '-'")
    if len(stem) > 150:  # most file systems end a name at 255 bytes
        stem = f"{stem[:100]}-{hashlib.sha256(stem.encode()).hexdigest()[:32]}"

    path, side = Path(folder) / f"{stem}.npz", Path(folder) / f"{stem}.json"
    making = {"name": name, "version": version, "settings": settings}
    if path.exists() or side.exists():
        known = _known(path, side)
        if path.exists() and known["making"] == making:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == known["sha256"]:
                with np.load(io.BytesIO(content)) as arrays:
                    return dict(arrays)
            warnings.warn(f"{path} is damaged (its sha256 is not that of {side.name}); made afresh", stacklevel=2)

    arrays = make(**settings)
    objects = [key for key, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise TypeError(f"array {objects[0]!r} holds Python objects; give it a plain dtype")
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    content = packed.getvalue()
    record = {"making": making, "sha256": hashlib.sha256(content).hexdigest()}
    try:
        write_json(side, record)  # first: arrays without it count as foreign
        write_atomic(path, content)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): the arrays will be made again next time", stacklevel=2)
    return arrays


def _known(path: Path, side: Path) -> dict:
    """What the side file says, or an error if the pair is not ours to replace."""
    try:
        known = json.loads(side.read_bytes())
        if isinstance(known, dict) and set(known) == {"making", "sha256"}:
            return known
    except (OSError, ValueError, TypeError):
        pass
    raise ValueError(
        f"{path} is the place of cached arrays, but {side.name} beside it does not describe them: move both away, "
        "or delete them if nobody needs them, and they are made afresh"
    )
