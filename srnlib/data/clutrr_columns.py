"""A CLUTRR story, and how it stands in a row of the release's CSV files."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from srnlib.data.clutrr_kinship import RELATIONS, SEXES, TARGETS

Fact = tuple[int, str, int]  # (a, relation, b): b is a's relation

COLUMNS = (
    *("", "id", "story", "query", "text_query", "target", "text_target", "clean_story", "proof_state", "f_comb"),
    *("task_name", "story_edges", "edge_types", "query_edge", "genders", "syn_story", "node_mapping", "task_split"),
)


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


def from_row(row: dict[str, str]) -> Story:
    """The story of a row, by the names in `COLUMNS`.

    Raises:
        ValueError: If the row does not make sense.
    """
    try:
        return _from_row(row)
    except (AttributeError, IndexError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def to_row(story: Story) -> Sequence[object]:
    """The cells of `COLUMNS` after the first; `from_row` makes the same story of them.

    Raises:
        ValueError: If it would not: a sentence speaks of a person who has no name or holds the end of another one, a
            name holds a quote, comma or bracket, the split is neither 'train' nor 'test' ...
    """
    try:
        row = _to_row(story)
        back = from_row(dict(zip(COLUMNS[1:], map(str, row), strict=True)))
        if changed := [field for field in Story._fields if getattr(back, field) != getattr(story, field)]:
            raise ValueError(f"its {', '.join(changed)} would be read back otherwise")
    except (IndexError, TypeError, ValueError) as error:
        mend = "names without quotes, commas and brackets and each sentence by itself, or leave it out"
        raise ValueError(f"story {story.id} does not fit the release's columns ({error}): write {mend}") from None
    return row


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
