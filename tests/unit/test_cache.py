"""Cached arrays: read back whole, made again when damaged, and nobody else's file touched."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from srnlib.data.cache import cached


class Maker:
    """Makes arrays and counts how often."""

    def __init__(self):
        self.calls = []

    def __call__(self, n, seed):
        self.calls.append((n, seed))
        return {"frames": np.arange(n * 1000, dtype=np.uint8) + np.uint8(seed), "actions": np.arange(n)}


@pytest.fixture
def make():
    return Maker()


def same(left, right):
    return left.keys() == right.keys() and all(
        np.array_equal(left[key], right[key]) and left[key].dtype == right[key].dtype for key in left
    )


def test_made_once_and_read_back(tmp_path, make):
    folder = tmp_path / "a" / "b"
    made = cached(folder, "pong", make, version=1, n=3, seed=7)
    read = cached(folder, "pong", make, version=1, n=3, seed=7)
    assert make.calls == [(3, 7)] and same(made, read)
    assert sorted(p.name for p in folder.iterdir()) == ["pong-n3-seed7.json", "pong-n3-seed7.npz"]
    side = json.loads((folder / "pong-n3-seed7.json").read_text())
    assert side["making"] == {"name": "pong", "version": 1, "settings": {"n": 3, "seed": 7}}
    assert len(side["sha256"]) == 64


def test_other_settings_are_another_file(tmp_path, make):
    one = cached(tmp_path, "pong", make, version=1, n=3, seed=7)
    two = cached(tmp_path, "pong", make, version=1, n=3, seed=8)
    assert not same(one, two) and make.calls == [(3, 7), (3, 8)]
    assert same(one, cached(tmp_path, "pong", make, version=1, n=3, seed=7)) and len(make.calls) == 2


def test_a_new_version_replaces_the_old(tmp_path, make):
    cached(tmp_path, "pong", lambda n, seed: {"old": np.zeros(n)}, version=1, n=3, seed=7)
    new = cached(tmp_path, "pong", make, version=2, n=3, seed=7)
    assert same(new, cached(tmp_path, "pong", make, version=2, n=3, seed=7))
    assert len(make.calls) == 1 and len(list(tmp_path.iterdir())) == 2


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b""])
def test_a_damaged_file_is_named_and_made_again(tmp_path, make, damage):
    made = cached(tmp_path, "pong", make, version=1, n=3, seed=7)
    path = tmp_path / "pong-n3-seed7.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"pong-n3-seed7\.npz is damaged") as caught:
        again = cached(tmp_path, "pong", make, version=1, n=3, seed=7)
    assert caught[0].filename == __file__  # points at the caller
    assert same(made, again) and len(make.calls) == 2
    assert same(made, cached(tmp_path, "pong", make, version=1, n=3, seed=7)) and len(make.calls) == 2


@pytest.mark.parametrize("side", [None, b"", b"{", b"[]", b"3", b'{"sha256": "0"}', b"\xff\xfe\x00"])
def test_a_foreign_file_is_refused_and_kept(tmp_path, make, side):
    path = tmp_path / "pong-n3-seed7.npz"
    path.write_bytes(b"somebody's work")
    if side is not None:
        path.with_suffix(".json").write_bytes(side)
    with pytest.raises(ValueError, match=r"pong-n3-seed7\.npz is the place of cached arrays.*move both away"):
        cached(tmp_path, "pong", make, version=1, n=3, seed=7)
    assert path.read_bytes() == b"somebody's work" and make.calls == []
    if side is not None:  # nor is a side file alone lost
        path.unlink()
        with pytest.raises(ValueError, match="move both away"):
            cached(tmp_path, "pong", make, version=1, n=3, seed=7)
        assert path.with_suffix(".json").read_bytes() == side and make.calls == []


@pytest.mark.parametrize("dies_at", [".json", ".npz"])
def test_a_disk_that_is_full_leaves_nothing_half_done(tmp_path, make, monkeypatch, dies_at):
    real = os.replace

    def replace(source, target):
        if target.suffix == dies_at:
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.warns(UserWarning, match="cannot be written .disk full."):
        assert same(cached(tmp_path, "pong", make, version=1, n=3, seed=7), Maker()(3, 7))
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".*"))  # no temporary file either
    monkeypatch.undo()
    cached(tmp_path, "pong", make, version=1, n=3, seed=7)
    assert same(make(3, 7), cached(tmp_path, "pong", make, version=1, n=3, seed=7)) and len(make.calls) == 3


def test_threads_do_not_disturb_each_other(tmp_path, make):
    together = threading.Barrier(8)

    def meet(**settings):
        together.wait(60)  # all make, then all write
        return make(**settings)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached(tmp_path, "pong", meet, version=1, n=3, seed=7), range(8)))
    assert len(make.calls) == 8 and all(same(one, make(3, 7)) for one in found)
    assert len(list(tmp_path.iterdir())) == 2 and same(found[0], cached(tmp_path, "pong", None, version=1, n=3, seed=7))


def test_a_long_name_ends_in_a_hash(tmp_path, make):
    seeds = [10**400, 10**400 + 1]
    for _ in range(2):
        for seed in seeds:
            cached(tmp_path, "pong", lambda n, seed: make(n, seed % 7), version=1, n=3, seed=seed)
    assert len(make.calls) == 2 and all(len(path.name) < 150 for path in tmp_path.iterdir())


def test_a_maker_that_fails_leaves_no_file(tmp_path):
    def fail(n):
        raise RuntimeError("no emulator")

    with pytest.raises(RuntimeError, match="no emulator"):
        cached(tmp_path, "pong", fail, version=1, n=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "settings", "error", "says"),
    [
        ("pong", dict(n=2.5), TypeError, "n = 2.5"),
        ("pong", dict(n=None), TypeError, "n = None"),
        ("../pong", dict(n=1), ValueError, "no name for a cached file"),
        (".pong", dict(n=1), ValueError, "no name for a cached file"),
        ("", dict(n=1), ValueError, "no name for a cached file"),
        ("pong", dict(game="a/b"), ValueError, "no name for a cached file"),
    ],
)
def test_bad_names_and_settings_are_refused_before_work(tmp_path, make, name, settings, error, says):
    with pytest.raises(error, match=says):
        cached(tmp_path, name, make, version=1, **settings)
    assert make.calls == [] and not list(tmp_path.iterdir())


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(TypeError, match="array 'words' holds Python objects"):
        cached(tmp_path, "words", lambda: {"words": np.array(["a", None], object)}, version=1)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_the_arrays_come_all_the_same(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written.*again next time"):
        found = cached(tmp_path / "file", "pong", make, version=1, n=3, seed=1)
    assert same(found, Maker()(3, 1))
