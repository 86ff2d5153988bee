"""Kinship stories in the manner of CLUTRR, made by us: who is b to a, if the story only tells a chain of other facts?

A true fact about two people of a family is unfolded, rule by rule, into a chain of k facts over k + 1 people; each
becomes a sentence, and the sentences are shuffled. The reader must fold the chain up again. Where the order of folding
matters the release tells the same chain with either answer; such chains are left out here, so that every order which
leads to an answer leads to the same one, and it is true in the family.

Story i is a function of the seed, the split, k and i alone: the same on every machine, and a longer data set begins
with the shorter. A chain's relations are its pattern; a hash of the pattern, and nothing else, says if it is for
training or for testing. So no pattern is ever in both, whatever the seeds and sizes.

From here come also what belongs to any story, the release's too: `load` for the release, `read` and `write` for a file
in its columns (`clutrr_release`), the table `COMPOSE`, `TARGETS` and `answers` (`clutrr_kinship`), and `parse`
(`clutrr_text`), of generated sentences only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeVar

from srnlib.data._hash import integer
from srnlib.data.clutrr_columns import Fact, Story
from srnlib.data.clutrr_kinship import COMPOSE, COUPLES, KINSHIP, PAIRS, PEOPLE, SEXES, TARGETS, WAYS, WORDS, answers
from srnlib.data.clutrr_release import load, read, write
from srnlib.data.clutrr_text import NAMES, TEMPLATES, parse

__all__ = ["LENGTHS", "generate", "split_of"]
__all__ += ["COMPOSE", "TARGETS", "Fact", "Story", "answers", "load", "parse", "read", "write"]

Item = TypeVar("Item")

LENGTHS = range(2, 11)  # k, facts in a story
TEST_SHARE = 5  # one pattern in five is for testing
SALT = 2  # of the hash; the first for which training at k = 2 meets all 18 classes and tests about a fifth of the rules


def split_of(pattern: Iterable[str]) -> str:
    """'test' for one pattern in five, 'train' for the others, by a hash of its relations."""
    digest = sha256("-".join([str(SALT), *pattern]).encode()).digest()
    return "train" if int.from_bytes(digest[:8], "big") % TEST_SHARE else "test"


def generate(n: int, seed: int, *, k: int, split: str = "train") -> list[Story]:
    """Draws `n` stories of `k` facts each.

    The kind of the target is drawn evenly, then two people of that kind, then again and again a fact of the chain and
    a person through whom to unfold it. A chain that gets stuck, is of the other split, or does not fold to one single
    relation is drawn again from the start; so targets with more patterns are more frequent.

    Args:
        n: Number of stories.
        seed: Any integer >= 0.
        k: Facts, and sentences, in each story: 2 .. 10. At k = 2 training has 49 patterns, testing 13.
        split: 'train' or 'test'; their patterns are disjoint, see `split_of`.

    Returns:
        `n` stories. People are numbered along the chain, so the query is always (0, k): a model must not see these
        numbers without permuting them.

    Raises:
        TypeError: If `n`, `seed` or `k` is not an integer.
        ValueError: If an argument is out of range.
    """
    n, seed, k = (integer(name, value, 0) for name, value in (("n", n), ("seed", seed), ("k", k)))
    if k not in LENGTHS:
        raise ValueError(f"k must be {LENGTHS[0]} .. {LENGTHS[-1]}, got {k}")
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return [_story(f"generated-{seed}-{split}-{k}-{i}", k, split) for i in range(n)]


def _story(key: str, k: int, split: str) -> Story:
    rng = random.Random(key)  # of it only random() is used, which is the same in every version of Python
    while True:
        sexes = _sexes(rng)
        chain, steps = _unfold(rng, k)
        if not chain:
            continue
        target, *pattern = (WORDS[KINSHIP[a, b]][sexes[b]] for a, b in [(chain[0][0], chain[-1][1]), *chain])
        if split_of(pattern) == split and answers(tuple(pattern)) == {target}:
            break

    nodes = (chain[0][0], *(b for _, b in chain))
    number = {node: i for i, node in enumerate(nodes)}

    def fact(a: int, b: int) -> Fact:
        return number[a], WORDS[KINSHIP[a, b]][sexes[b]], number[b]

    def tell(a: int, b: int) -> str:
        told = _pick(rng, TEMPLATES[WORDS[KINSHIP[a, b]][sexes[b]], SEXES[sexes[a]]])
        return told.format(a=f"@{number[a]}", b=f"@{number[b]}")

    ordered = tuple(tell(a, b) for a, b in chain)
    pools = [_shuffle(rng, NAMES[sex]) for sex in SEXES]
    return Story(
        id=key,
        split=split,
        k=k,
        names=tuple(pools[sexes[node]].pop() for node in nodes),
        sexes=tuple(SEXES[sexes[node]] for node in nodes),
        sentences=tuple(_shuffle(rng, ordered)),
        ordered=ordered,
        query=(0, k),
        target=target,
        answer=tell(nodes[0], nodes[-1]),
        facts=tuple(fact(a, b) for a, b in chain),
        proof=tuple((fact(a, b), fact(a, c), fact(c, b)) for a, c, b in steps),
        nodes=nodes,
    )


def _sexes(rng: random.Random) -> list[int]:
    """0 or 1, male or female, for everybody in the family."""
    sexes = [int(2 * rng.random()) for _ in PEOPLE]
    for a, b in COUPLES:
        sexes[b] = 1 - sexes[a]
    return sexes


def _unfold(rng: random.Random, k: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """A chain of k pairs of people, none met twice, and the steps (a, c, b) that led to it; empty if it got stuck."""
    chain, steps = [_pick(rng, PAIRS[_pick(rng, list(PAIRS))])], []
    met = set(chain[0])
    while len(chain) < k:
        ways = [(at, c) for at, pair in enumerate(chain) for c in WAYS[pair] if c not in met]
        if not ways:
            return [], []
        at, c = _pick(rng, ways)
        a, b = chain[at]
        chain[at : at + 1] = [(a, c), (c, b)]
        steps.append((a, c, b))
        met.add(c)
    return chain, steps


def _pick(rng: random.Random, items: Sequence[Item]) -> Item:
    return items[int(rng.random() * len(items))]


def _shuffle(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda _: rng.random())
