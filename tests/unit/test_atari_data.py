"""Atari episodes against the protocol of C-SWM, played step by step through gymnasium's own environment."""

import hashlib
import importlib.util
import sys
import types

import numpy as np
import pytest
from PIL import Image

from srnlib.data import atari
from srnlib.data.atari import GAMES, Episodes, generate, load

plays = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")
IDS = {"pong": "Pong", "space_invaders": "SpaceInvaders"}


@pytest.fixture(scope="module")
def played():
    """Two episodes of each game."""
    return {game: generate(game, 2, 1) for game in GAMES}


def by_hand(game, n, seed):
    """Observations, actions and next observations of `n` episodes, as the protocol is written down."""
    import ale_py
    import gymnasium

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(
        f"ALE/{IDS[game]}-v5", frameskip=4, repeat_action_probability=0.0, full_action_space=False, obs_type="rgb"
    )
    warm_up, top, bottom = {"pong": (58, 35, 190), "space_invaders": (50, 30, 200)}[game]
    random = np.random.RandomState(seed)

    def shrink(screen):
        return np.moveaxis(np.array(Image.fromarray(screen[top:bottom]).resize((50, 50), Image.LANCZOS)), 2, 0)

    episodes = []
    for _ in range(n):
        env.reset()
        if game == "space_invaders":  # its random numbers started so in atari-py 0.1.4
            env.unwrapped.ale.setRAM(90, 233)
            env.unwrapped.ale.setRAM(106, 233)
        for _ in range(warm_up):
            screen = env.step(random.randint(6))[0]
        before, now = shrink(screen), shrink(env.step(0)[0])
        seen, actions, then = [], [], []
        for _ in range(10):
            seen.append(np.concatenate([now, before]))
            actions.append(random.randint(6))
            before, now = now, shrink(env.step(actions[-1])[0])
            then.append(np.concatenate([now, before]))
        episodes.append((seen, actions, then))
    env.close()
    return [np.array(part) for part in zip(*episodes, strict=True)]


@plays
@pytest.mark.parametrize("game", GAMES)
def test_the_original_protocol(played, game):
    seen, actions, then = by_hand(game, 2, 1)
    episodes, all_episodes, steps = played[game], np.arange(2)[:, None], np.arange(10)
    assert np.array_equal(episodes.actions, actions)
    assert np.array_equal(episodes.observe(all_episodes, steps), seen)
    assert np.array_equal(episodes.observe(all_episodes, steps + 1), then)


@plays
@pytest.mark.parametrize("game", GAMES)
def test_shapes_types_and_something_to_see(played, game):
    episodes = played[game]
    assert len(episodes) == 2 and episodes.frames.shape == (2, 12, 3, 50, 50) and episodes.frames.dtype == np.uint8
    assert episodes.actions.shape == (2, 10) and episodes.actions.dtype == np.int64
    assert episodes.actions.min() >= 0 and episodes.actions.max() < atari.ACTIONS
    assert all((frames[1:] != frames[:-1]).any() for frames in episodes.frames)  # it moves


@plays
def test_same_bytes_everywhere(played):
    digests = {
        game: hashlib.sha256(e.frames.tobytes() + e.actions.astype("<i8").tobytes()).hexdigest()
        for game, e in played.items()
    }
    assert digests == {
        "pong": "7b482121974d06ff22f3bb2070844f66d30c088f4439b1ddc575d879ea2ba0f9",
        "space_invaders": "6cc1c1d4a1ce255b153ce389adb7d34963dabbad92d7738a4b909a867c19a814",
    }


@plays
def test_the_seed_decides_and_more_begin_with_the_fewer(played):
    one, other = generate("pong", 1, 1), generate("pong", 1, 2)
    assert np.array_equal(one.frames, played["pong"].frames[:1])
    assert np.array_equal(one.actions, played["pong"].actions[:1])
    assert not np.array_equal(one.actions, other.actions) and not np.array_equal(one.frames, other.frames)


def test_actions_are_those_of_the_original_program():
    """The first actions that gym 0.12.0's `Discrete(6)` samples after `seed(1)` and `seed(2)`, from a run of it."""
    for seed, expected in ((1, [5, 3, 4, 0, 1, 3, 5, 0, 0, 1, 4, 5]), (2, [0, 5, 0, 3, 2, 3, 0, 2, 1, 3, 5, 2])):
        assert np.random.RandomState(seed).randint(atari.ACTIONS, size=(3, 4)).ravel().tolist() == expected


@plays
def test_load_keeps_the_episodes(tmp_path, monkeypatch):
    made = load(tmp_path, "pong", 1, 3)
    monkeypatch.setattr(atari, "_emulator", None)  # not needed again
    read = load(tmp_path, "pong", 1, 3)
    assert np.array_equal(made.frames, read.frames) and np.array_equal(made.actions, read.actions)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pong-n1-seed3.json", "pong-n1-seed3.npz"]


def test_observe_stacks_the_present_on_the_past():
    frames = np.zeros((2, 12, 3, 50, 50), np.uint8) + np.arange(24, dtype=np.uint8).reshape(2, 12, 1, 1, 1)
    episodes = Episodes(frames, np.zeros((2, 10), np.int64))
    seen = episodes.observe([[0], [1]], [0, 3, 10])
    assert seen.shape == (2, 3, 6, 50, 50)
    assert seen[:, :, :3].max((2, 3, 4)).tolist() == [[1, 4, 11], [13, 16, 23]]
    assert seen[:, :, 3:].max((2, 3, 4)).tolist() == [[0, 3, 10], [12, 15, 22]]
    assert episodes.observe(1, 10).shape == (6, 50, 50) and episodes.observe(np.zeros(0, int), 1).shape == (
        0,
        6,
        50,
        50,
    )
    assert episodes.observe([], []).shape == (0, 6, 50, 50)
    for indices, says in (((2, 0), "episode must be from 0 to 1"), ((0, 11), "step must be from 0 to 10")):
        with pytest.raises(IndexError, match=says):
            episodes.observe(*indices)
    with pytest.raises(IndexError, match="step must be from 0 to 10, got -1 to 4"):
        episodes.observe(0, [-1, 4])
    with pytest.raises(IndexError, match="step must be integers, got float64"):
        episodes.observe(0, 1.0)


def without_settings(version):
    """An ale-py whose emulator has no settings."""
    emulator = type("ALEInterface", (), {"setLoggerMode": staticmethod(lambda mode: None)})
    names = {"LoggerMode": types.SimpleNamespace(Error=0), "roms": types.SimpleNamespace(), "__version__": version}
    return types.SimpleNamespace(ALEInterface=emulator, **names)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (None, "ModuleNotFoundError"),
        (types.SimpleNamespace(), "ImportError"),
        (without_settings("0.10.2"), "RuntimeError: version 0.10.2"),
        (without_settings("dev"), "ValueError"),
        (without_settings("0.99.0"), "AttributeError.*setInt"),
    ],
)
def test_missing_or_incompatible_ale_py_says_how_to_get_it(monkeypatch, module, why):
    monkeypatch.setitem(sys.modules, "ale_py", module)
    install = r"pip install 'srnlib\[atari\]', or pip install ale-py pillow"
    with pytest.raises(ImportError, match=rf"need the package ale-py, 0\.11 or newer.*{why}.*{install}"):
        generate("pong", 1, 1)


@plays
def test_missing_rom_says_how_to_get_it(monkeypatch):
    from ale_py import roms

    def not_there(game):
        raise FileNotFoundError(f"{game}.bin")

    for wrong in (lambda game: None, not_there):
        monkeypatch.setattr(roms, "get_rom_path", wrong)
        with pytest.raises(ImportError, match="with its ROMs"):
            generate("pong", 1, 1)


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (("breakout", 1, 1), ValueError, "game must be one of pong, space_invaders, got 'breakout'"),
        (("pong", -1, 1), ValueError, "n must be at least 0"),
        (("pong", 1.5, 1), TypeError, "n must be an integer"),
        (("pong", 1, -1), ValueError, "seed must be at least 0"),
        (("pong", 1, 2**32), ValueError, r"seed must be below 2\*\*32"),
        (("pong", 1, None), TypeError, "seed must be an integer"),
    ],
)
def test_bad_requests_say_what_is_wrong(request_, error, says):
    with pytest.raises(error, match=says):
        generate(*request_)
