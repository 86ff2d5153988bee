"""The CLUTRR release of the paper's experiment, and files like its own (paper: section 3.3).

The release `data_db9b8f04` (Sinha et al., EMNLP 2019) is not part of this project: its licence, CC BY-NC 4.0, forbids
commercial use. Its authors publish CLUTRR at https://github.com/facebookresearch/clutrr; this archive is also in
https://github.com/uclnlp/ctp as data/clutrr-emnlp/data_db9b8f04.zip. It holds stories of k = 2, 3, 4 facts for training
and k = 2 .. 10 for testing. Despite its aim, both patterns of its test file of k = 2 are in the training file.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from srnlib.data.clutrr_columns import COLUMNS, Story, from_row, to_row
from srnlib.files import write_atomic

FIRST = "1.2,1.3,1.4_train.csv"
ROWS = {FIRST: 15083} | {
    f"1.{k}_test.csv": rows for k, rows in enumerate((38, 107, 77, 185, 105, 155, 135, 124, 122), 2)
}
ARCHIVE = "data_db9b8f04.zip"
HELP = (
    f"Get {ARCHIVE} (CLUTRR, licence CC BY-NC 4.0: not for commercial use) from "
    "https://github.com/uclnlp/ctp, folder data/clutrr-emnlp, and give the path of the zip or of its unpacked folder"
)


def load(path: str | Path) -> dict[str, list[Story]]:
    """Reads the whole release, from its zip, from the folder it unpacks to, or from a folder that holds one of them.

    In the zip, too, the files may be in a folder.

    Returns:
        'train': 15,083 stories, 'test': 1,048 stories.

    Raises:
        FileNotFoundError: If the path, or a file in it, is missing.
        ValueError: If it is not the release or is damaged; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {HELP}")
    path = packed(path)
    try:
        root = _unwrapped(path if path.is_dir() else zipfile.Path(path))
        missing = [name for name in ROWS if not (root / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{path} does not hold {', '.join(missing)}. {HELP}")
        stories: dict[str, list[Story]] = {"train": [], "test": []}
        for name, rows in ROWS.items():
            with (root / name).open("r", encoding="utf-8", newline="") as file:
                found = _read(file, str(root / name))
            if len(found) != rows:
                raise ValueError(f"{root / name} has {len(found)} stories instead of {rows}; is it cut off? {HELP}")
            split, ks = "train" if name.endswith("_train.csv") else "test", re.findall(r"1\.(\d+)", name)
            for s in found:
                if s.split != split or str(s.k) not in ks:
                    what = f"story {s.id} with k = {s.k} of {s.split!r}, which its name does not say"
                    raise ValueError(f"{root / name} holds {what}; is it another file renamed? {HELP}")
            stories[split] += found
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a zip file or is cut off or damaged ({error}). {HELP}") from None
    return stories


def packed(path: Path) -> Path:
    """The release's zip if `path` is a folder that holds it and not its files, else `path`."""
    return path / ARCHIVE if (path / ARCHIVE).is_file() and not (path / FIRST).is_file() else path


def read(path: str | Path) -> list[Story]:
    """Reads one CSV file in the release's columns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing or a row does not make sense; the message names the file and the story.
    """
    with open(path, encoding="utf-8", newline="") as file:
        return _read(file, str(path))


def write(stories: Iterable[Story], path: str | Path) -> None:
    """Writes stories as a CSV file in the release's columns; `read` gives them back. The file appears whole or not.

    Raises:
        ValueError: If a story would not come back as it is, see `srnlib.data.clutrr_columns.to_row`.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((i, *to_row(story)) for i, story in enumerate(stories))
    write_atomic(Path(path), file.getvalue().encode())


def _unwrapped(root: Path | zipfile.Path) -> Path | zipfile.Path:
    """The only folder in `root` that holds the release's files; `root` itself if it holds them, or if none does."""
    inner = [] if (root / FIRST).is_file() else [place for place in root.iterdir() if (place / FIRST).is_file()]
    return inner[0] if len(inner) == 1 else root


def _read(file: TextIO, name: str) -> list[Story]:
    try:
        reader = csv.DictReader(file, strict=True)
        missing = [column for column in COLUMNS[1:] if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{name} is not a CLUTRR file: it lacks the columns {', '.join(missing)}. {HELP}")
        stories = []
        for row in reader:
            try:
                stories.append(from_row(row))
            except ValueError as error:
                what = f"{name}, story {len(stories)}: {error}"
                raise ValueError(f"{what}; the file is cut off or not CLUTRR. {HELP}") from None
        return stories
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is cut off or not a CSV file ({error}). {HELP}") from None
