"""The CLUTRR release of the paper's experiment, and stories in its columns (paper: section 3.3).

The release `data_db9b8f04` (Sinha et al., EMNLP 2019) is not part of this project: its licence, CC BY-NC 4.0, forbids
commercial use. Its authors publish CLUTRR at https://github.com/facebookresearch/clutrr; this archive is also in
https://github.com/uclnlp/ctp as data/clutrr-emnlp/data_db9b8f04.zip. It holds stories of k = 2, 3, 4 facts for training
and k = 2 .. 10 for testing. Despite its aim, both patterns of its test file of k = 2 are in the training file.
"""

from __future__ import annotations

import ast
import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TextIO

from srnlib.data.clutrr_kinship import RELATIONS, SEXES, TARGETS
from srnlib.files import write_atomic

Fact = tuple[int, str, int]  # (a, relation, b): b is a's relation

COLUMNS = (
    *("", "id", "story", "query", "text_query", "target", "text_target", "clean_story", "proof_state", "f_comb"),
    *("task_name", "story_edges", "edge_types", "query_edge", "genders", "syn_story", "node_mapping", "task_split"),
)
ROWS = {"1.2,1.3,1.4_train.csv": 15083} | {
    f"1.{k}_test.csv": rows for k, rows in enumerate((38, 107, 77, 185, 105, 155, 135, 124, 122), 2)
}
ARCHIVE = "data_db9b8f04.zip"
HELP = (
    f"Get {ARCHIVE} (CLUTRR, licence CC BY-NC 4.0: not for commercial use) from "
    "https://github.com/uclnlp/ctp, folder data/clutrr-emnlp, and give the path of the zip or of its unpacked folder"
)
WRONG = AttributeError, IndexError, KeyError, SyntaxError, TypeError, ValueError  # what a senseless row raises


class Story(NamedTuple):
    """A story whose people are numbered from 0; sentences write them @0, @1 ...

    The numbers follow the chain of facts: permute them before a model sees them.
    """

    id: str
    split: str  # 'train' or 'test'
    k: int  # number of facts
    names: tuple[str, ...]
    sexes: tuple[str, ...]  # 'male' or 'female'
    sentences: tuple[str, ...]  # as told, out of order
    ordered: tuple[str, ...]  # in the order of the facts
    query: tuple[int, int]  # (a, b): what is b to a?
    target: str  # one of TARGETS
    answer: str  # a sentence that says so
    facts: tuple[Fact, ...]  # the chain from a to b
    proof: tuple[tuple[Fact, Fact, Fact], ...]  # (whole, first half, second half), the query first
    nodes: tuple[int, ...]  # the people's numbers in their family

    @property
    def pattern(self) -> tuple[str, ...]:
        """The relations along the chain."""
        return tuple(relation for _, relation, _ in self.facts)


def load(path: str | Path) -> dict[str, list[Story]]:
    """Reads the whole release, from its zip, from the folder it unpacks to, or from a folder that holds one of them.

    In the zip, too, the files may be in a folder.

    Returns:
        'train': 15,083 stories, 'test': 1,048 stories.

    Raises:
        FileNotFoundError: If the path, or a file in it, is missing.
        ValueError: If it is not the release or is damaged; the message names the file.
    """
    path, first = Path(path), next(iter(ROWS))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {HELP}")
    if (path / ARCHIVE).is_file() and not (path / first).is_file():
        path = path / ARCHIVE
    try:
        root = path if path.is_dir() else zipfile.Path(path)
        inner = [place for place in root.iterdir() if (place / first).is_file()]
        root = inner[0] if len(inner) == 1 and not (root / first).is_file() else root
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
        ValueError: If a story would not come back as it is: a sentence speaks of a person who has no name or holds the
            end of another one, a name holds a quote, comma or bracket, the split is neither 'train' nor 'test' ...
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i, story in enumerate(stories):
        row = _to_row(story)
        try:
            back = _from_row(dict(zip(COLUMNS[1:], map(str, row), strict=True)))
            wrong = [field for field in Story._fields if getattr(back, field) != getattr(story, field)]
            what = f"its {', '.join(wrong)} would be read back otherwise"
        except WRONG as error:
            wrong, what = True, f"it could not be read back ({type(error).__name__}: {error})"
        if wrong:
            raise ValueError(f"story {story.id} does not fit the release's columns: {what}. Change it or leave it out")
        writer.writerow((i, *row))
    write_atomic(Path(path), file.getvalue().encode())


def _read(file: TextIO, name: str) -> list[Story]:
    try:
        reader = csv.DictReader(file, strict=True)
        missing = [column for column in COLUMNS[1:] if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{name} is not a CLUTRR file: it lacks the columns {', '.join(missing)}. {HELP}")
        stories = []
        for row in reader:
            try:
                stories.append(_from_row(row))
            except WRONG as error:
                what = f"{name}, story {len(stories)}: {type(error).__name__}: {error}"
                raise ValueError(f"{what}; the file is cut off or not CLUTRR. {HELP}") from None
        return stories
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is cut off or not a CSV file ({error}). {HELP}") from None


def _from_row(row: dict[str, str]) -> Story:
    """A row as a story; its lists are read by patterns, as `ast.literal_eval` would double the time."""
    names, sexes = zip(*(person.split(":") for person in row["genders"].split(",")), strict=True)
    number = {name: i for i, name in enumerate(names)}

    def numbered(text: str) -> str:
        return re.sub(r"\[([^\]]*)\]", lambda name: f"@{number[name[1]]}", text)

    edges = [tuple(map(int, pair)) for pair in re.findall(r"\((\d+), (\d+)\)", row["story_edges"])]
    types = re.findall(r"'([\w-]+)'", row["edge_types"])
    triples = re.findall(r"\('([^']*)', '([\w-]+)', '([^']*)'\)", row["proof_state"])
    facts = [(number[a], relation, number[b]) for a, relation, b in triples]
    a, b = re.findall(r"'([^']*)'", row["query"])
    story = Story(
        id=row["id"],
        split=row["task_split"],
        k=int(row["task_name"].removeprefix("task_1.")),
        names=names,
        sexes=sexes,
        sentences=_sentences(numbered(row["story"])),
        ordered=_sentences(numbered(row["clean_story"])),
        query=(number[a], number[b]),
        target=row["target"],
        answer=numbered("".join(ast.literal_eval(row["text_target"]))),
        facts=tuple((a, relation, b) for (a, b), relation in zip(edges, types, strict=True)),
        proof=tuple(zip(facts[::3], facts[1::3], facts[2::3], strict=True)),
        nodes=tuple(int(node) for node in re.findall(r"(\d+):", row["node_mapping"])),
    )
    _check(story)
    if row["f_comb"] != "-".join(story.pattern):
        raise ValueError(f"edge_types are {story.pattern}, f_comb is {row['f_comb']!r}")
    return story


def _check(story: Story) -> None:
    chain = [(a, b) for a, _, b in story.facts]
    for holds, what in (
        (story.split in ("train", "test"), "task_split is {0.split!r}"),
        (story.target in TARGETS, "target is {0.target!r}"),
        (set(story.sexes) <= set(SEXES), "genders are {0.sexes}"),
        (len(set(story.names)) == len(story.names), "genders name somebody twice: {0.names}"),
        (len(chain) == story.k, "story_edges or edge_types are not k = {0.k} facts but {0.facts}"),
        (len(story.proof) == story.k - 1, "proof_state has not k - 1 steps for k = {0.k} but {0.proof}"),
        (set(story.pattern) <= set(RELATIONS), "edge_types are {0.pattern}"),
        ({p for pair in chain for p in pair} <= {*range(len(story.names))}, "story_edges name nobody: {0.facts}"),
        (all(left[1] == right[0] for left, right in pairwise(chain)), "story_edges are no chain: {0.facts}"),
        ((chain[0][0], chain[-1][1]) == story.query, "story_edges do not lead along the query: {0.facts}"),
        (_proves(story), "proof_state does not end at the target {0.target!r}: {0.proof}"),
        (all(story.sentences) and all(story.ordered), "story or clean_story is empty"),
        (len(story.nodes) == len(story.names), "node_mapping does not fit genders: {0.nodes}"),
    ):
        if not holds:
            raise ValueError(what.format(story))


def _proves(story: Story) -> bool:
    """Whether the proof's first line is what the query asks and the target answers; k = 1 has no proof."""
    a, b = story.query
    return not story.proof or story.proof[0][0] == (a, story.target, b)


def _sentences(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"(?<=[.!?])\s+", text.strip()))


def _to_row(story: Story) -> Sequence[object]:
    """The cells of `COLUMNS` after the first."""

    def name(mark: re.Match[str]) -> str:
        if int(mark[1]) >= len(story.names):
            raise ValueError(f"story {story.id} speaks of {mark[0]}, but has {len(story.names)} people")
        return f"[{story.names[int(mark[1])]}]"

    def named(text: str) -> str:
        return re.sub(r"@(\d+)", name, text)

    def fact(a: int, relation: str, b: int) -> tuple[str, str, str]:
        return story.names[a], relation, story.names[b]

    a, b = story.query
    return (
        *(story.id, named(" ".join(story.sentences)), (story.names[a], story.names[b]), "", story.target),
        *([named(story.answer)] if story.answer else [], named(" ".join(story.ordered))),
        [{fact(*whole): [fact(*first), fact(*second)]} for whole, first, second in story.proof],
        *("-".join(story.pattern), f"task_1.{story.k}", [(a, b) for a, _, b in story.facts], list(story.pattern)),
        *(story.query, ",".join(f"{one}:{sex}" for one, sex in zip(story.names, story.sexes, strict=True)), ""),
        *({node: i for i, node in enumerate(story.nodes)}, story.split),
    )
