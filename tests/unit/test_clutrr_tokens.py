"""Stories as numbers: read back word by word, people without their order, validation apart from training."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from srnlib.data.clutrr import generate
from srnlib.data.clutrr_kinship import TARGETS
from srnlib.data.clutrr_text import tokens
from srnlib.data.clutrr_tokens import FIRST_PERSON, FIRST_WORD, PEOPLE, encode, for_validation, vocabulary


@pytest.fixture(scope="module")
def stories():
    return [story for k in (2, 3, 7) for story in generate(60, 0, k=k)]


@pytest.fixture(scope="module")
def words(stories):
    return vocabulary((sentence for story in stories for sentence in story.sentences), 200)


def test_every_story_can_be_read_back(stories, words):
    spelled = {number: word for word, number in words.items()}
    for story, sentences, query, target in zip(stories, *encode(stories, words), strict=True):
        person = dict(zip(query.tolist(), story.query, strict=True))
        assert len(person) == 2 and TARGETS[target] == story.target
        told = [[int(token) for token in sentence if token] for sentence in sentences if sentence.any()]
        assert len(told) == len(story.sentences)
        for numbers, sentence in zip(told, story.sentences, strict=True):
            for number, token in zip(numbers, tokens(sentence), strict=True):
                if token[0] == "@":
                    assert FIRST_PERSON <= number < FIRST_WORD
                    assert person.setdefault(number, int(token[1:])) == int(token[1:])
                else:
                    assert spelled[number] == token
        assert len(set(person.values())) == len(person)


def test_numbers_of_people_tell_nothing_of_the_chain(words):
    query = encode(generate(2000, 1, k=4), words).query.astype(int)
    first, last = (np.bincount(query[:, i] - FIRST_PERSON, minlength=PEOPLE) for i in (0, 1))
    assert first.min() > 50 and last.min() > 50  # 100 of each expected, sd 10
    assert abs((query[:, 0] < query[:, 1]).mean() - 0.5) < 0.05


def test_same_numbers_for_same_seed_only(stories, words):
    for a, b in zip(encode(stories, words), encode(stories, words), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (encode(stories, words, seed=1).query != encode(stories, words).query).mean() > 0.8


def test_vocabulary_by_hand():
    found = vocabulary(["@0 saw her dog.", "@1 saw @2.", "a dog ran"], FIRST_WORD + 4)
    assert found == {".": 22, "dog": 23, "saw": 24, "a": 25}
    (story,) = generate(1, 0, k=2)
    unknown = encode([story], {}).tokens
    assert set(unknown[unknown > 0].tolist()) - set(range(FIRST_PERSON, FIRST_WORD)) == {1}


def test_validation_keeps_whole_patterns_apart():
    everything = [story for k in (2, 3, 4) for story in generate(3000, 0, k=k)]
    kept = defaultdict(set)
    for story in everything:
        kept[story.k, for_validation(story)].add(story.pattern)
    for k in (3, 4):
        assert not kept[k, True] & kept[k, False]
    assert len(kept[2, False]) == 49  # all of the rules
    share = Counter((story.k, for_validation(story)) for story in everything)
    for k in (2, 3, 4):
        assert 0.1 < share[k, True] / 3000 < 0.3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: encode([], {}), "there is no story"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(sentences=())], {}), "has no sentence"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(sentences=("",))], {}), "no sentence, or an empty one"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(query=(0, 30))], {}), r"people, and asks for \(0, 30\)"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(sentences=("@7 x.",))], {}), "3 people, and speaks of @7"),
        (lambda: encode(generate(1, 0, k=2), {"word": 2**15}), "words must be numbered below 32768"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(target="wife")], {}), "has target 'wife', not one of"),
        (lambda: vocabulary(["a"], 22), "size must be above 22"),
        (lambda: encode([generate(1, 0, k=2)[0]._replace(names=("A",) * 21)], {}), "has 21 people; .* for 20"),
    ],
)
def test_bad_input_says_what_is_wrong(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_numbers_fit_their_type(stories):
    long = [re.sub(" ", f" word{i} ", s, count=1) for i, story in enumerate(stories) for s in story.sentences]
    assert max(vocabulary(long, 32_000).values()) < np.iinfo(np.int16).max
