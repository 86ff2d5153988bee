"""Files that appear whole or not at all: checkpoints, records, cached data. Knows nothing of what they hold."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader, at any moment and after any crash, finds the old content or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # of this writer alone; any name that fits still fits
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a dictionary as readable JSON, atomically. NaN and infinity are refused."""
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
