"""The language of the generated CLUTRR stories: names, sentence templates, and the parser that reads them back.

In a sentence `@0`, `@1` ... stand for the people, who are numbered within their story.
"""

from __future__ import annotations

import re

from srnlib.data.clutrr_kinship import FEMALE, MALE, SEXES, WORDS, converse

# {r} is what b is to a, {c} what a is to b. Each frame tells the sexes of both, and no two frames are alike.
FRAMES = {
    "child": (
        "{a} drove {his_a} {r} {b} to school.",
        "{a} is proud of {b}, {his_a} {r}.",
        "{b} made breakfast for {his_b} {c} {a}.",
        "{b} asked {a}, {his_b} {c}, for a story.",
    ),
    "inv-child": (
        "{a} looks just like {his_a} {r} {b}.",
        "{a} borrowed the car from {b}, {his_a} {r}.",
        "{b} knitted a scarf for {his_b} {c} {a}.",
        "{b} took {a}, {his_b} {c}, to the dentist.",
    ),
    "sibling": (
        "{a} and {his_a} {r} {b} built a tree house.",
        "{a} lost at chess to {b}, {his_a} {r}.",
        "{b} shared a room with {his_b} {c} {a}.",
        "{b} lent {a}, {his_b} {c}, a bicycle.",
    ),
    "grand": (
        "{a} baked a cake for {his_a} {r} {b}.",
        "{a} showed {b}, {his_a} {r}, the old photographs.",
        "{b} spent the summer with {his_b} {c} {a}.",
        "{b} learned to fish from {a}, {his_b} {c}.",
    ),
    "inv-grand": (
        "{a} visits {his_a} {r} {b} every Sunday.",
        "{a} got a watch from {b}, {his_a} {r}.",
        "{b} keeps sweets for {his_b} {c} {a}.",
        "{b} told {a}, {his_b} {c}, about the old days.",
    ),
    "un": (
        "{a} trains {his_a} {r} {b} in football.",
        "{a} sent a birthday card to {b}, {his_a} {r}.",
        "{b} stayed for a week with {his_b} {c} {a}.",
        "{b} flew a kite with {a}, {his_b} {c}.",
    ),
    "inv-un": (
        "{a} travelled far to see {his_a} {r} {b}.",
        "{a} helps in the shop of {b}, {his_a} {r}.",
        "{b} taught {his_b} {c} {a} to swim.",
        "{b} took {a}, {his_b} {c}, to the circus.",
    ),
    "in-law": (
        "{a} welcomed {his_a} {r} {b} into the family.",
        "{a} gave good advice to {b}, {his_a} {r}.",
        "{b} mended the roof of {his_b} {c} {a}.",
        "{b} invited {a}, {his_b} {c}, to lunch.",
    ),
    "inv-in-law": (
        "{a} thanked {his_a} {r} {b} for the wedding.",
        "{a} plays cards with {b}, {his_a} {r}.",
        "{b} thinks highly of {his_b} {c} {a}.",
        "{b} lent money to {a}, {his_b} {c}.",
    ),
    "SO": (
        "{a} and {his_a} {r} {b} danced all evening.",
        "{a} bought flowers for {b}, {his_a} {r}.",
        "{b} cooked dinner for {his_b} {c} {a}.",
        "{b} moved to the coast with {a}, {his_b} {c}.",
    ),
}

MEN = (
    "Adam Alan Ben Carl Colin Daniel David Eric Felix Frank George Gordon Harry Hugo Ian Ivan Jack Karl Leo Liam "
    "Martin Neil Oscar Owen Paul Peter Ralph Simon Tom Victor"
)
WOMEN = (
    "Ada Alice Anna Beth Clara Diana Edith Ella Emma Flora Grace Hanna Helen Ida Irene Jane Julia Kate Laura Lucy "
    "Maria Mary Nora Olga Paula Rosa Sarah Tina Vera Wendy"
)
NAMES = {MALE: MEN.split(), FEMALE: WOMEN.split()}


def _templates() -> dict[tuple[str, str], tuple[str, ...]]:
    filled = {}
    for kind, frames in FRAMES.items():
        for a, sex in enumerate(SEXES):
            for b, relation in enumerate(WORDS[kind]):
                if kind == "SO" and a == b:
                    continue  # every couple is a husband and a wife
                slots = dict(r=relation, c=WORDS[converse(kind)][a], his_a=("his", "her")[a], his_b=("his", "her")[b])
                filled[relation, sex] = tuple(frame.format(a="{a}", b="{b}", **slots) for frame in frames)
    return filled


TEMPLATES = _templates()  # by relation and sex of a: sentences with places {a} and {b}
MEANINGS = {
    template.format(a="{}", b="{}"): (relation, template.index("{a}") < template.index("{b}"))
    for (relation, _), templates in TEMPLATES.items()
    for template in templates
}  # sentence without its people -> relation, and whether a is named first


def parse(sentence: str) -> tuple[int, str, int]:
    """Reads a sentence of the generator back: '@4 drove his son @2 to school.' is the fact (4, 'son', 2).

    Raises:
        ValueError: If no template makes this sentence.
    """
    people = [int(mark) for mark in re.findall(r"@(\d+)", sentence)]
    frame = re.sub(r"@\d+", "{}", sentence)
    if frame not in MEANINGS or len(set(people)) != 2:
        raise ValueError(f"no template makes the sentence {sentence!r}; only generated stories can be parsed")
    relation, forward = MEANINGS[frame]
    a, b = people if forward else reversed(people)
    return a, relation, b


def tokens(sentence: str) -> list[str]:
    """Lower-case words, punctuation marks and people: '@0 met his son-in-law.' is @0, met, his, son-in-law, '.'."""
    return re.findall(r"@\d+|\w+(?:-\w+)*|[^\w\s]", sentence.lower())
