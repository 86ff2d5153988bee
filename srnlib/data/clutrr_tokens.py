"""Stories as arrays of token numbers, and the part of the training stories that is kept for validation.

Number 0 is padding, 1 a word outside of the vocabulary, 2 .. 21 are the people, the words follow. Which person gets
which of the 20 numbers is drawn for every story: the numbers in `Story` follow the chain and would tell the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srnlib.data.clutrr_columns import Story
from srnlib.data.clutrr_kinship import TARGETS
from srnlib.data.clutrr_text import tokens

PEOPLE = 20  # numbers for people; a story has at most 11
FIRST_PERSON, FIRST_WORD = 2, 2 + PEOPLE
VALIDATION_SHARE = 5  # one pattern in five


class Encoded(NamedTuple):
    """n stories.

    Attributes:
        tokens: int16 `[n, S, W]`: sentence by sentence, zeros where there is no word.
        query: int16 `[n, 2]`: the tokens of a and b.
        target: int64 `[n]`: index into `TARGETS`.
    """

    tokens: NDArray[np.int16]
    query: NDArray[np.int16]
    target: NDArray[np.int64]


def vocabulary(sentences: Iterable[str], size: int) -> dict[str, int]:
    """The most frequent words (ties: the alphabet), numbered from `FIRST_WORD` to at most `size` - 1."""
    if size <= FIRST_WORD:
        raise ValueError(f"size must be above {FIRST_WORD}: padding, the unknown word and the people; got {size}")
    count = Counter(word for sentence in sentences for word in tokens(sentence) if word[0] != "@")
    ordered = sorted(count, key=lambda word: (-count[word], word))
    return {word: i for i, word in enumerate(ordered[: size - FIRST_WORD], FIRST_WORD)}


def encode(stories: Sequence[Story], words: dict[str, int], seed: int = 0) -> Encoded:
    """Numbers every token of every story.

    Args:
        stories: At least one; at most 20 people each.
        words: From `vocabulary`.
        seed: Of the people's numbers.

    Raises:
        ValueError: If there is no story, or one has no sentence, more than 20 people, an unknown target, or a sentence
            about or a query for somebody else; or if there are too many words.
    """
    if not stories:
        raise ValueError("there is no story to encode")
    if max(words.values(), default=0) > np.iinfo(np.int16).max:
        raise ValueError(f"words must be numbered below {np.iinfo(np.int16).max + 1}: ask vocabulary for fewer")
    target = {word: i for i, word in enumerate(TARGETS)}
    for story in stories:
        n, people = len(story.names), {int(mark) for mark in re.findall(r"@(\d+)", " ".join(story.sentences))}
        for wrong, what in (
            (not story.sentences or not all(map(str.strip, story.sentences)), "no sentence, or an empty one"),
            (story.target not in target, f"target {story.target!r}, not one of TARGETS"),
            (n > PEOPLE, f"{n} people; there are numbers for {PEOPLE}"),
            (not {*story.query} <= {*range(n)}, f"{n} people, and asks for {story.query}"),
            (not people <= {*range(n)}, f"{n} people, and speaks of @{max(people, default=0)}"),
        ):
            if wrong:
                raise ValueError(f"story {story.id} has {what}")
    split = [[tokens(sentence) for sentence in story.sentences] for story in stories]
    shape = len(stories), max(map(len, split)), max(len(sentence) for story in split for sentence in story)
    found, query = np.zeros(shape, np.int16), np.zeros((len(stories), 2), np.int16)
    numbers = np.argsort(np.random.default_rng(seed).random((len(stories), PEOPLE)), axis=1) + FIRST_PERSON
    for i, story in enumerate(stories):
        people = {f"@{person}": number for person, number in enumerate(numbers[i])}
        query[i] = [numbers[i][person] for person in story.query]
        for j, sentence in enumerate(split[i]):
            found[i, j, : len(sentence)] = [people.get(token) or words.get(token, 1) for token in sentence]
    return Encoded(found, query, np.array([target[story.target] for story in stories]))


def for_validation(story: Story) -> bool:
    """Whether a training story is kept for validation, about one in five.

    From three facts on whole patterns are kept, so that validation, like the test, asks for patterns never trained on.
    With two facts single stories are: there a pattern is one rule of kinship, and the release tests trained ones.
    """
    key = [story.id] if story.k == 2 else story.pattern
    digest = sha256("-".join(["validation", *key]).encode()).digest()
    return int.from_bytes(digest[:8], "big") % VALIDATION_SHARE == 0
