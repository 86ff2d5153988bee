"""Kinship: its words, the 16 rules by which it composes, and a family of three generations in which they are true.

A fact is a triple (a, relation, b) and says that b is a's relation: (Ann, son, Bob), Bob is Ann's son. The rules are
those of CLUTRR (Sinha et al. 2019). They do not always agree: wife-daughter-grandfather folds to father or, the other
way round, to father-in-law; see `answers`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

MALE, FEMALE = SEXES = ("male", "female")

# Kinds of kinship with their words by the sex of b; inv- is the converse, SO a significant other, un short for
# nephew or niece.
WORDS = {
    "child": ("son", "daughter"),
    "inv-child": ("father", "mother"),
    "sibling": ("brother", "sister"),
    "grand": ("grandson", "granddaughter"),
    "inv-grand": ("grandfather", "grandmother"),
    "un": ("nephew", "niece"),
    "inv-un": ("uncle", "aunt"),
    "in-law": ("son-in-law", "daughter-in-law"),
    "inv-in-law": ("father-in-law", "mother-in-law"),
    "SO": ("husband", "wife"),
}
RELATIONS = tuple(word for words in WORDS.values() for word in words)
TARGETS = RELATIONS[:-2]  # the 18 classes; nobody is asked for a husband or a wife

RULES = {
    ("child", "child"): "grand",
    ("child", "SO"): "in-law",
    ("child", "sibling"): "child",
    ("child", "inv-un"): "sibling",
    ("child", "inv-grand"): "inv-child",
    ("inv-child", "child"): "sibling",
    ("inv-child", "inv-child"): "inv-grand",
    ("inv-child", "sibling"): "inv-un",
    ("SO", "inv-child"): "inv-in-law",
    ("SO", "grand"): "grand",
    ("SO", "child"): "child",
    ("sibling", "sibling"): "sibling",
    ("sibling", "inv-grand"): "inv-grand",
    ("sibling", "child"): "un",
    ("sibling", "inv-child"): "inv-child",
    ("grand", "sibling"): "grand",
}
# The same in words, whose sex is that of the last person: (son, sister) -> daughter. Couples are a man and a woman.
COMPOSE = {
    (WORDS[first][i], WORDS[second][j]): WORDS[result][j]
    for (first, second), result in RULES.items()
    for i, j in product((0, 1), repeat=2)
    if second != "SO" or i != j
}

# The family: 0 and 1, their children 2 .. 5, the children's spouses 6 .. 9, the grandchildren 10 .. 25.
PEOPLE = range(26)
PARENTS = {2 + i: (0, 1) for i in range(4)} | {10 + i: (2 + i // 4, 6 + i // 4) for i in range(16)}
COUPLES = [(0, 1), *((2 + i, 6 + i) for i in range(4))]


def converse(kind: str) -> str:
    """The kind of kinship that a has for b if `kind` is what b has for a."""
    if kind in ("sibling", "SO"):
        return kind
    return kind.removeprefix("inv-") if kind.startswith("inv-") else f"inv-{kind}"


def _kinship() -> dict[tuple[int, int], str]:
    """The kind of kinship of every pair of people who have one."""

    def chain(first: set[tuple[int, int]], second: set[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(a, c) for a, b in first for b_, c in second if b == b_ and a != c}

    child = {(parent, one) for one, both in PARENTS.items() for parent in both}
    married = {*COUPLES, *((b, a) for a, b in COUPLES)}
    sibling = chain({(b, a) for a, b in child}, child)
    down = {"child": child, "grand": chain(child, child), "un": chain(sibling, child), "in-law": chain(child, married)}
    up = {converse(kind): {(b, a) for a, b in pairs} for kind, pairs in down.items()}
    kinds = down | up | {"sibling": sibling, "SO": married}
    return {pair: kind for kind, pairs in sorted(kinds.items()) for pair in sorted(pairs)}


KINSHIP = _kinship()
PAIRS = {kind: [pair for pair in KINSHIP if KINSHIP[pair] == kind] for kind in WORDS if kind != "SO"}
# People c through whom a rule derives what b is to a.
WAYS = {
    (a, b): [c for c in PEOPLE if RULES.get((KINSHIP.get((a, c), ""), KINSHIP.get((c, b), ""))) == kind]
    for (a, b), kind in KINSHIP.items()
}


@lru_cache(maxsize=2**16)
def answers(pattern: tuple[str, ...]) -> frozenset[str]:
    """All relations to which the rules can fold a chain of relations, in any order.

    Args:
        pattern: Relations from person to person, such as ('son', 'sister').

    Returns:
        A frozenset: one relation for the patterns of `generate`, none if no order leads to the end.
    """
    if len(pattern) == 1:
        return frozenset(pattern)
    halves = ((answers(pattern[:cut]), answers(pattern[cut:])) for cut in range(1, len(pattern)))
    found = (COMPOSE.get(pair) for first, second in halves for pair in product(first, second))
    return frozenset(relation for relation in found if relation)
