"""Pong and Space Invaders, ten random steps an episode, as C-SWM was trained on them (paper: section 3.2, appendix E).

The emulator is ale-py's, which brings the games. Actions are drawn as the original program draws them with gym 0.12, so
seed 1 and seed 2 give the actions of its training and of its evaluation data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from srnlib.data._episodes import indices
from srnlib.data._hash import integer
from srnlib.data.cache import cached

STEPS, ACTIONS, SIZE = 10, 6, 50  # transitions an episode, choices a step, side of a frame in pixels
VERSION = 1  # of the data; raise it when `generate` returns something else


@dataclass(frozen=True)
class Game:
    """How an episode starts and what of the screen is kept."""

    warm_up: int  # random steps before the episode
    rows: slice  # of the 210 rows of the screen
    memory: dict[int, int]  # bytes set after a reset, where today's emulator starts otherwise than the original's


GAMES = {
    "pong": Game(58, slice(35, 190), {}),
    "space_invaders": Game(50, slice(30, 200), {90: 233, 106: 233}),  # the invaders' dice
}


@dataclass(frozen=True)
class Episodes:
    """E episodes; every frame is kept once.

    Attributes:
        frames: uint8 `[E, STEPS + 2, 3, SIZE, SIZE]`, red, green, blue; the first is the one before the episode.
        actions: int64 `[E, STEPS]`, 0 .. ACTIONS - 1.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.actions)

    def observe(self, episode: ArrayLike, step: ArrayLike) -> NDArray[np.uint8]:
        """What is seen before action `step`: the present frame stacked on the one before it, to show motion.

        Args:
            episode: Integers of any shape.
            step: Integers 0 .. STEPS that broadcast with `episode`; STEPS is what the last action leads to.

        Returns:
            uint8 `[..., 6, SIZE, SIZE]`: channels 0–2 the present frame, 3–5 the one before.

        Raises:
            IndexError: If an index is not an integer or out of range.
        """
        episode, step = indices(episode, step, self.actions)
        return np.concatenate([self.frames[episode, step + 1], self.frames[episode, step]], axis=-3)


def generate(game: str, n: int, seed: int) -> Episodes:
    """Plays `n` episodes with random actions (paper: section 3.2; 1000 with seed 1 to train, 1000 with seed 2 to test).

    A step holds one of the game's six actions for four frames of the emulator, without sticky actions. An episode is:
    reset, `warm_up` random steps, a step of no action, STEPS random steps. A frame is cut to the game's rows and
    resized with Pillow's Lanczos filter. More episodes begin with the fewer. The actions are the only chance in it.

    After each reset of Space Invaders two bytes of its memory, 90 and 106, are set to 233. From them its invaders throw
    their dice; the emulator of the original program, atari-py 0.1.4, starts with these values, ale-py with others.
    Without this the same actions lead to other episodes than the original's.

    Args:
        game: `"pong"` or `"space_invaders"`.
        n: Number of episodes; 1000 take half a minute of one core.
        seed: Integer from 0 to 2**32 - 1.

    Raises:
        ImportError: If ale-py is missing or too old, or the game's ROM is missing or damaged.
        TypeError: If `n` or `seed` is not an integer.
        ValueError: If there is no such game, or `n` or `seed` is out of range.
    """
    n, seed = integer("n", n, 0), integer("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    if game not in GAMES:
        raise ValueError(f"game must be one of {', '.join(GAMES)}, got {game!r}")
    rules, emulator = GAMES[game], _emulator(game)
    choices = emulator.getMinimalActionSet()
    # NumPy's old generator, whose stream never changes; one draw a random step, as in gym 0.12.
    drawn = np.random.RandomState(seed).randint(ACTIONS, size=(n, rules.warm_up + STEPS)).astype(np.int64)
    played = np.insert(drawn, rules.warm_up, 0, axis=1)  # action 0 does nothing

    frames = np.empty((n, STEPS + 2, 3, SIZE, SIZE), np.uint8)
    for episode, actions in enumerate(played.tolist()):
        emulator.reset_game()
        for address, byte in rules.memory.items():
            emulator.setRAM(address, byte)
        for at, action in enumerate(actions, start=1 - rules.warm_up):
            emulator.act(choices[action])
            if at >= 0:
                cut = Image.fromarray(emulator.getScreenRGB()[rules.rows])
                small = cut.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                frames[episode, at] = np.asarray(small).transpose(2, 0, 1)
    return Episodes(frames, drawn[:, rules.warm_up :].copy())


def load(folder: str | Path, game: str, n: int, seed: int) -> Episodes:
    """As `generate`, kept in `folder` (3 MB for 1000 episodes) and read from there the next time.

    Raises: As `generate` and `srnlib.data.cache.cached`.
    """

    def make(n: int, seed: int) -> dict[str, NDArray]:
        return vars(generate(game, n, seed))

    n, seed = integer("n", n, 0), integer("seed", seed, 0)
    return Episodes(**cached(folder, game, make, version=VERSION, n=n, seed=seed))


def _emulator(game: str) -> Any:
    """An emulator with the game loaded: four frames a step, no sticky actions."""
    try:
        from ale_py import ALEInterface, LoggerMode, __version__, roms

        if tuple(map(int, __version__.split(".")[:2])) < (0, 11):  # 0.10 moves Pong's paddle otherwise
            raise RuntimeError(f"version {__version__}")
        ALEInterface.setLoggerMode(LoggerMode.Error)  # else it greets on stderr
        emulator = ALEInterface()
        emulator.setInt("frame_skip", 4)
        emulator.setFloat("repeat_action_probability", 0.0)
        emulator.loadROM(roms.get_rom_path(game))
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ImportError(
            f"the Atari games need the package ale-py, 0.11 or newer, with its ROMs; here: {type(error).__name__}: "
            f"{error}. Install it: pip install 'srnlib[atari]', or pip install ale-py pillow"
        ) from error
    return emulator
