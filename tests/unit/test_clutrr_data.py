"""CLUTRR: rules and generated stories against walks in the family; the text, the split, the columns, the files."""

import hashlib
import os
import random
import re
import zipfile
from collections import Counter, defaultdict, deque
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest

from srnlib.data import clutrr, clutrr_release, clutrr_text
from srnlib.data.clutrr import LENGTHS, generate, split_of
from srnlib.data.clutrr_columns import COLUMNS, Story
from srnlib.data.clutrr_kinship import (
    COMPOSE,
    COUPLES,
    KINSHIP,
    PARENTS,
    RELATIONS,
    RULES,
    SEXES,
    TARGETS,
    WORDS,
    answers,
)
from srnlib.data.clutrr_release import ROWS, load, read, write
from srnlib.data.clutrr_text import FRAMES, MEANINGS, NAMES, TEMPLATES, parse, tokens

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(os.environ.get("SRNLIB_CLUTRR", ROOT.parent / "shared" / "clutrr"))
RELEASE = next(iter(sorted(RELEASE.glob("*.zip"))), RELEASE) if RELEASE.is_dir() else RELEASE

# Every kinship as the shortest walk: U to a parent, D to a child, S to the spouse.
WALKS = {
    **{"D": "child", "U": "inv-child", "UD": "sibling", "DD": "grand", "UU": "inv-grand"},
    **{"UDD": "un", "UUD": "inv-un", "DS": "in-law", "SU": "inv-in-law", "S": "SO"},
}


@cache
def walks(start: int) -> dict[int, str]:
    """The shortest walk to everybody, by breadth-first search over parents, children and spouses."""
    steps = [(one, parent, "U") for one, both in PARENTS.items() for parent in both]
    steps += [(b, a, "D") for a, b, _ in steps] + [(a, b, "S") for pair in COUPLES for a, b in permutations(pair)]
    found, queue = {start: ""}, deque([start])
    while queue:
        at = queue.popleft()
        for a, b, letter in steps:
            if a == at and b not in found:
                found[b] = found[at] + letter
                queue.append(b)
    return found


def kin(a: int, b: int) -> str | None:
    return WALKS.get(walks(a)[b])


@pytest.fixture(scope="module")
def stories():
    return {(split, k): generate(40, 3, k=k, split=split) for split in ("train", "test") for k in LENGTHS}


def test_the_family_and_its_kinship_are_what_walks_find():
    assert len(walks(0)) == 26 and max(len(walk) for walk in walks(10).values()) < 6
    pairs = {(a, b): kin(a, b) for a, b in permutations(range(26), 2)}
    assert {pair: kind for pair, kind in pairs.items() if kind} == KINSHIP
    assert len(TARGETS) == 18 and set(TARGETS) == set(RELATIONS) - {"husband", "wife"}


def test_the_rules_are_true_up_to_the_two_documented_exceptions():
    seen = defaultdict(set)
    for a, c, b in permutations(range(26), 3):
        if (kin(a, c), kin(c, b)) in RULES:
            seen[kin(a, c), kin(c, b)].add(kin(a, b))
    assert len(RULES) == 16 and all(RULES[pair] in kinds for pair, kinds in seen.items()) and len(seen) == 16
    unsure = {pair: kinds for pair, kinds in seen.items() if len(kinds) > 1}
    assert unsure == {  # the child of a couple has uncles and grandparents on one side only
        ("child", "inv-un"): {"sibling", None},
        ("child", "inv-grand"): {"inv-child", "inv-in-law"},
    }


def test_the_table_in_words_is_closed_and_keeps_the_last_sex():
    assert len(COMPOSE) == 62 and ("son", "husband") not in COMPOSE
    assert set(COMPOSE.values()) <= set(TARGETS) and {word for pair in COMPOSE for word in pair} <= set(RELATIONS)
    for (_, second), result in COMPOSE.items():
        sexes = [i for word in (second, result) for words in WORDS.values() for i in (0, 1) if words[i] == word]
        assert sexes[0] == sexes[1]


def test_answers_by_hand():
    assert answers(("daughter", "brother")) == {"son"}
    assert answers(("nephew", "sister")) == frozenset()
    assert answers(("wife", "daughter", "grandfather")) == {"father", "father-in-law"}
    assert answers(("sister", "father", "father", "daughter")) == {"aunt"}


def test_every_step_of_every_proof_is_true_in_the_family(stories):
    for (split, k), group in stories.items():
        for story in group:
            assert (story.split, story.k) == (split, k) and len(set(story.nodes)) == len(story.names) == k + 1

            def true(fact, story=story):
                a, relation, b = fact
                kind = kin(story.nodes[a], story.nodes[b])
                return kind and relation == WORDS[kind][SEXES.index(story.sexes[b])]

            assert true((story.query[0], story.target, story.query[1])) and all(map(true, story.facts))
            known = set(story.facts)
            for whole, first, second in reversed(story.proof):  # folds the chain up from its facts
                assert {first, second} <= known and true(whole)
                assert first[0] == whole[0] and first[2] == second[0] and second[2] == whole[2]
                assert COMPOSE[first[1], second[1]] == whole[1]
                known.add(whole)
            assert whole == (0, story.target, k) and len(story.proof) == k - 1
            assert answers(story.pattern) == {story.target}


def test_shuffled_sentences_tell_the_same_facts(stories):
    moved = Counter()
    for (_, k), group in stories.items():
        for story in group:
            assert tuple(parse(sentence) for sentence in story.ordered) == story.facts
            assert parse(story.answer) == (0, story.target, k)
            for sentences in (story.sentences, random.Random(k).sample(story.sentences, k)):
                after = {a: (relation, b) for a, relation, b in map(parse, sentences)}
                at, pattern = story.query[0], []
                while at != story.query[1]:
                    relation, at = after[at]
                    pattern.append(relation)
                assert len(pattern) == k and answers(tuple(pattern)) == {story.target}
            assert len(set(story.names)) == k + 1
            assert all(name in NAMES[sex] for name, sex in zip(story.names, story.sexes, strict=True))
            moved[k] += story.sentences != story.ordered
    assert moved[2] > 20 and moved[10] == 80


def test_every_template_parses_back_to_its_relation():
    assert (
        len(MEANINGS) == sum(map(len, TEMPLATES.values())) == 9 * 4 * 4 + 2 * 4
    )  # all different; couples differ in sex
    for (relation, _), templates in TEMPLATES.items():
        assert len(templates) == 4
        for template in templates:
            assert parse(template.format(a="@7", b="@10")) == (7, relation, 10)
    frames = [frame for frames in FRAMES.values() for frame in frames]
    assert set(FRAMES) == set(WORDS) and len(set(frames)) == 40
    with pytest.raises(ValueError, match="no template"):
        parse("@0 met her son @1 by chance.")
    with pytest.raises(ValueError, match="no template makes"):
        parse("@1 made breakfast for his mother @1.")
    with pytest.raises(ValueError, match="no template"):
        parse("@0 drove his son @1 to school. @0 drove his son @2 to school.")


def test_tokens_by_hand():
    assert tokens("@10's son-in-law, @2, ran!") == ["@10", "'", "s", "son-in-law", ",", "@2", ",", "ran", "!"]


def test_no_pattern_leaks_from_train_to_test(stories):
    train = {story.pattern for (split, _), group in stories.items() if split == "train" for story in group}
    test = {story.pattern for (split, _), group in stories.items() if split == "test" for story in group}
    assert len(train) > 200 and len(test) > 200 and not train & test
    assert all(split_of(pattern) == "train" for pattern in train)
    assert Counter(map(split_of, COMPOSE)) == {"train": 49, "test": 13}
    assert {COMPOSE[pair] for pair in COMPOSE if split_of(pair) == "train"} == set(TARGETS)


def test_what_belongs_to_any_story_is_given_from_here():
    assert (clutrr.load, clutrr.read, clutrr.write, clutrr.Story) == (load, read, write, Story)
    assert clutrr.COMPOSE is COMPOSE and clutrr.parse is clutrr_text.parse
    assert all(hasattr(clutrr, name) for name in clutrr.__all__)


def test_every_class_is_met_in_training_and_testing():
    for split, lengths in (("train", (2, 3, 4)), ("test", (4, 5, 6))):
        assert {story.target for k in lengths for story in generate(200, 0, k=k, split=split)} == set(TARGETS)


def test_counts_and_the_shorter_begins_the_longer(stories):
    for (split, k), group in stories.items():
        assert len(group) == 40 and len({story.id for story in group}) == 40
        assert generate(5, 3, k=k, split=split) == group[:5]
    assert generate(0, 3, k=2) == []
    assert [s.names for s in generate(5, 4, k=3)] != [s.names for s in generate(5, 3, k=3)]


def test_same_stories_everywhere(stories):
    text = repr([tuple(story) for key in sorted(stories) for story in stories[key][:20]])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "f14a95a2dc4198fd284bb6821765b653377a9ef6fd54cf8faab2de730055c751"
    )


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (dict(n=-1), ValueError, "n must be at least 0"),
        (dict(n=1.5), TypeError, "n must be an integer"),
        (dict(seed=-1), ValueError, "seed must be at least 0"),
        (dict(seed=None), TypeError, "seed must be an integer"),
        (dict(k=1), ValueError, "k must be 2 .. 10"),
        (dict(k=11), ValueError, "k must be 2 .. 10"),
        (dict(k="3"), TypeError, "k must be an integer"),
        (dict(split="val"), ValueError, "split must be 'train' or 'test'"),
    ],
)
def test_bad_requests_say_what_is_wrong(request_, error, says):
    with pytest.raises(error, match=re.escape(says)):
        generate(**(dict(n=1, seed=0, k=2) | request_))


# A file as the release writes it, with stories of our own: quotes in lists, a missing full stop, two facts in one.
SMALL = f"""{",".join(COLUMNS)}
0,a1,"[Max]'s aunt [Eve] left. [Max] called his mother [Zoe] ",\
"('Zoe', 'Eve')",,sister,"[""[Zoe] is [Eve]'s sister.""]",\
"[Max] called his mother [Zoe] [Max]'s aunt [Eve] left.","[{{('Zoe', 'sister', 'Eve'): [('Zoe', 'son', 'Max'), \
('Max', 'aunt', 'Eve')]}}]",son-aunt,task_1.2,"[(0, 1), (1, 2)]","['son', 'aunt']","(0, 2)",\
"Zoe:female,Max:male,Eve:female",,"{{4: 0, 20: 1, 3: 2}}",train
"""


def test_a_small_file_in_the_format_of_the_release(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text(SMALL, encoding="utf-8")
    (story,) = read(path)
    assert story.names == ("Zoe", "Max", "Eve") and story.sexes == ("female", "male", "female")
    assert story.sentences == ("@1's aunt @2 left.", "@1 called his mother @0")
    assert story.ordered == ("@1 called his mother @0 @1's aunt @2 left.",)
    assert (story.id, story.split, story.k, story.query, story.target) == ("a1", "train", 2, (0, 2), "sister")
    assert story.facts == ((0, "son", 1), (1, "aunt", 2)) and story.pattern == ("son", "aunt")
    assert story.proof == (((0, "sister", 2), *story.facts),) and story.nodes == (4, 20, 3)
    assert story.answer == "@0 is @2's sister."


def test_columns_round_trip(stories, tmp_path):
    for (split, k), group in stories.items():
        path = tmp_path / f"{split}{k}.csv"
        write(group, path)
        assert read(path) == group
        assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    write(read_back := read(path), tmp_path / "again.csv")
    assert read_back and (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    odd = [read_back[0]._replace(answer=answer) for answer in ("", "A \\ back.", "Both ' and \" quotes.")]
    write(odd, path)
    assert read(path) == odd
    with pytest.raises(ValueError, match="speaks of @99, but has 11 people"):
        write([odd[0], odd[1]._replace(sentences=("@99 x.",))], path)
    assert read(path) == odd  # what was there stays


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(sentences=("@0 met @1. @1 met @2.",)), "its sentences would be read back otherwise"),
        (dict(sentences=("@0 met Dr. Smith at 5 p.m. with @1.",)), "its sentences would be read back otherwise"),
        (dict(sentences=()), "story or clean_story is empty"),
        (dict(names=("O'Hara", "Ben", "Eve")), "ValueError: not enough values to unpack"),
        (dict(names=("Ann, Jr", "Ben", "Eve")), "ValueError: zip"),
        (dict(names=("[Ann]", "Ben", "Eve")), "KeyError: '.Ann'"),
        (dict(split="val"), "task_split is 'val'"),
        (dict(query=(0, 9)), "index out of range"),
    ],
)
def test_a_story_that_would_not_come_back_is_not_written(change, says, tmp_path):
    story = generate(1, 3, k=2)[0]
    with pytest.raises(ValueError, match=f"story {story.id} does not fit the release's columns .*{says}.*leave it out"):
        write([story, story._replace(**change)], tmp_path / "odd.csv")
    assert not any(tmp_path.iterdir())


@pytest.fixture
def small_release(tmp_path, monkeypatch):
    """A folder and a zip with the release's files, two stories each."""
    folder = tmp_path / "release"
    folder.mkdir()
    monkeypatch.setattr(clutrr_release, "ROWS", dict.fromkeys(ROWS, 2))
    for name in ROWS:
        k = int(name[2:].split("_")[0].split(",")[0])
        write(generate(2, 0, k=k, split="train" if "train" in name else "test"), folder / name)
    with zipfile.ZipFile(tmp_path / "release.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ROWS:
            archive.write(folder / name, name)
    return folder


def test_zip_and_folder_load_alike(small_release):
    stories = load(small_release)
    assert stories == load(str(small_release.with_suffix(".zip")))
    assert stories["train"] == generate(2, 0, k=2)
    assert [story.k for story in stories["test"]] == [k for k in LENGTHS for _ in (0, 1)]


def test_the_release_is_found_one_folder_deeper(small_release, tmp_path):
    stories, around = load(small_release), tmp_path / "around"
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        for name in ROWS:
            archive.write(small_release / name, f"data_db9b8f04/{name}")
    assert load(tmp_path / "nested.zip") == stories
    around.mkdir()
    small_release.rename(around / "inner")
    assert load(around) == stories
    (tmp_path / "nested.zip").rename(tmp_path / clutrr_release.ARCHIVE)
    assert load(tmp_path) == stories


@pytest.mark.parametrize(("k", "split"), [(5, "train"), (7, "test")])
def test_files_with_another_ones_stories_are_refused(small_release, k, split):
    write(generate(2, 0, k=k, split=split), small_release / "1.5_test.csv")
    with pytest.raises(ValueError, match=rf"1\.5_test\.csv holds story \S+ with k = {k} of '{split}'.*Get data_"):
        load(small_release)


def test_a_missing_release_says_where_to_get_it(small_release, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist.*CC BY-NC 4.0.*https://github.com"):
        load(tmp_path / "nowhere")
    (small_release / "1.7_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"release does not hold 1\.7_test\.csv\. Get .*CC BY-NC 4\.0"):
        load(small_release)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "something else")
    with pytest.raises(FileNotFoundError, match=r"other\.zip does not hold 1\.2,1\.3,1\.4_train\.csv"):
        load(tmp_path / "other.zip")


def test_damaged_zips_are_refused(small_release):
    path = small_release.with_suffix(".zip")
    whole = path.read_bytes()
    other_method = bytearray(whole)
    other_method[zipfile.ZipFile(path).start_dir + 10] = 0x41
    for damaged in (
        bytes(other_method),
        whole[:-100],
        whole[: len(whole) // 2],
        b"",
        b"not a zip",
        whole[:300] + bytes(400) + whole[700:],
        whole[:300] + whole[700:],
        whole[-300:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"release\.zip is not a zip file or is cut off or damaged.*Get data_"):
            load(path)


def test_damaged_folders_are_refused(small_release):
    path = small_release / "1.5_test.csv"
    whole = path.read_bytes()
    for damaged, says in (
        (whole[:-1].rsplit(b"\n", 1)[0], "has 1 stories instead of 2; is it cut off"),
        (whole[:-300], "cut off or not"),
        (whole[:-4], "task_split is"),
        (b"\xff\xfe" + whole, "not a CSV file"),
        (b"a,b\n1,2\n", "is not a CLUTRR file: it lacks the columns id, story"),
        (b"", "is not a CLUTRR file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"1\.5_test\.csv.*{says}"):
            load(small_release)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (",sister,", ",cousin,", "target is 'cousin'"),
        ("Max:male", "Max:boy", "genders are"),
        ("Eve:female", "Ada:female", "'Eve'"),
        ("task_1.2", "task_1.3", "are not k = 3 facts"),
        ("task_1.2", "clean", "invalid literal"),
        ("[(0, 1), (1, 2)]", "[(0, 1), (0, 2)]", "are no chain"),
        ("[(0, 1), (1, 2)]", "[(0, 1)]", "zip"),
        ("('Zoe', 'Eve')", "('Zoe', 'Max')", "do not lead along the query"),
        ("['son', 'aunt']", "['son', 'cousin']", "edge_types are"),
        ("('Max', 'aunt', 'Eve')", "", "zip"),
        (",sister,", ",niece,", "proof_state does not end at the target 'niece'"),
        ("{4: 0, 20: 1, 3: 2}", "{4: 0}", "node_mapping"),
        ("[(0, 1), (1, 2)]", "[(0, 9), (9, 2)]", "story_edges name nobody"),
        ("['son', 'aunt']", "['son', 'son']", "f_comb is 'son-aunt'"),
        ("Eve:female", "Eve:female,Max:male", "somebody twice"),
        ("[Max] called his mother [Zoe] [Max]'s aunt [Eve] left.", "", "clean_story is empty"),
    ],
)
def test_rows_that_make_no_sense_are_refused(old, new, says, tmp_path):
    path = tmp_path / "bad.csv"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad\.csv, story 0: .*{says}"):
        read(path)


@pytest.mark.skipif(not RELEASE.is_file() and not (RELEASE / "1.2_test.csv").exists(), reason="the release is not here")
def test_the_real_release():
    stories = load(RELEASE)
    assert Counter(story.k for story in stories["train"]) == {2: 5063, 3: 4996, 4: 5024}
    assert [len([s for s in stories["test"] if s.k == k]) for k in LENGTHS] == [
        38,
        107,
        77,
        185,
        105,
        155,
        135,
        124,
        122,
    ]
    everything = stories["train"] + stories["test"]
    assert {story.target for story in everything} == set(TARGETS)
    assert max(len(story.sentences) for story in everything) == 13  # the paper's sets have room for 20
    assert all(story.target in answers(story.pattern) for story in everything)  # same rules
    steps = {(first[1], second[1], whole[1]) for s in everything for whole, first, second in s.proof}
    assert steps == {(*pair, result) for pair, result in COMPOSE.items()}
    train = {story.pattern for story in stories["train"]}
    assert {s.k for s in stories["test"] if s.pattern in train} == {2}
    both = defaultdict(set)
    for story in everything:
        both[story.pattern].add(story.target)
    assert sum(len(targets) > 1 for targets in both.values()) == 30  # one pattern, two answers
