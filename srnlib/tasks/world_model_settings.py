"""How the world models are trained: what a profile sets, and what was tuned (paper: E)."""

from __future__ import annotations

import dataclasses

from srnlib.data import atari
from srnlib.tasks import Settings
from srnlib.tasks.refining import InnerLoop

TUNED = {  # of laptop: chosen on validation; on Atari at K = 3, and with shorter trainings than these
    ("pong", "srn"): {"inner_lr": 0.15},
    ("space_invaders", "cswm"): {"lr": 1e-3},
    ("space_invaders", "srn"): {"lr": 1e-3, "inner_lr": 0.01},
    ("shapes", "srn"): {"inner_lr": 0.01},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldModelSettings(InnerLoop, Settings):
    """Settings of a world model; `embed_dim` is read by the SRN only.

    An example of the training data is `span` consecutive transitions of one episode. Their observations overlap, so a
    longer span costs less a transition; 1 is the original. `batch_size` counts examples.

    Attributes:
        slots, state_dim: K and D.
        width, first, second: Of the extractor, see `srnlib.models.object_extractor.ObjectExtractor`.
        leak: Slope of its leaky ReLU below 0.
        original_start: Whether the weights start as those of the code of C-SWM, see there.
        hidden: Width of the MLPs of C-SWM.
        span: See above; divides the length of a training episode.
        background: Whether the extractor takes the background away first.
        same_time: Whether negatives are of other episodes at the same time, instead of any state of the batch.
        once: Whether an observation that a batch holds several times is seen once; the maths is the same
            (`srnlib.counted_norm`), and the paper's batches hold a third of copies.
        embed_dim: E, and the width of H_agg's MLP.
        train_episodes, train_length, val_episodes, test_episodes: Number of episodes, and steps of one to train on;
            those to evaluate on have ten steps.
    """

    slots: int
    state_dim: int
    width: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    hidden: int
    leak: float = 0.01
    original_start: bool = False
    span: int = 1
    background: bool = False
    same_time: bool = False
    once: bool = False
    embed_dim: int = 512
    inner_lr: float = 0.05
    train_episodes: int = 1000
    train_length: int = atari.STEPS
    val_episodes: int = 300
    test_episodes: int = 1000

    def __post_init__(self):
        super().__post_init__()
        if self.span < 1 or self.train_length % self.span:
            raise ValueError(f"span must divide an episode's {self.train_length} steps, got {self.span}")
        if self.same_time and self.span != self.train_length:
            raise ValueError("same_time compares whole episodes: it needs span = train_length")

    @classmethod
    def smoke(cls, world: str, slots: int) -> WorldModelSettings:
        """Seconds, for tests: nothing is learned."""
        model = {"slots": slots, "state_dim": 4, "width": 4, "hidden": 16, "embed_dim": 16, "inner_steps": 3}
        model |= {"first": (10, 10, 0), "second": (1, 1, 0)}
        counts = {"train_episodes": 8, "train_length": 10, "val_episodes": 4, "test_episodes": 6}
        return cls(steps=6, batch_size=4, lr=1e-3, clip=10.0, eval_every=3, span=5, **model, **counts)

    @classmethod
    def laptop(cls, world: str, slots: int) -> WorldModelSettings:
        """A few minutes of one CPU core; Space Invaders is learned slower."""
        steps = {"pong": 6000, "space_invaders": 18_000, "shapes": 2000}[world]
        length = {"steps": steps, "lr": 2e-3, "warmup": 0.02, "cooldown": 0.5, "clip": 10.0}
        length |= {"eval_every": max(250, steps // 24)}
        model = {"slots": slots, "hidden": 128, "embed_dim": 64, "width": 16, "inner_steps": 5}
        if world == "shapes":
            model |= {"state_dim": 2, "first": (10, 10, 0), "second": (1, 1, 0), "train_length": 100}
            return cls(batch_size=8, span=10, **length, **model)
        model |= {"state_dim": 4, "first": (9, 5, 2), "second": (1, 1, 0)}
        return cls(batch_size=8, span=atari.STEPS, same_time=True, background=True, **length, **model)

    @classmethod
    def paper(cls, world: str, slots: int) -> WorldModelSettings:
        """Appendix E and the C-SWM code it builds on: 500 epochs of Atari; 100 of 2D Shapes, as C-SWM trained.

        As many steps as there; its last batch of an epoch was not full, ours are. Of the inner loop the appendix states
        rate and steps: momentum is that of the released code of Circles; gradients flow through S0, since
        nothing says that they do not. In training batch norm takes its statistics from all observations of a batch at
        once, where the code of C-SWM encodes those before the actions and those after them apart; states then differ by
        about 0.1 %.
        """
        model = {"slots": slots, "hidden": 512, "width": 32, "batch_size": 1024, "once": True, "beta2": 0.999}
        model |= {"original_start": True, "kaiming": False}
        if world == "shapes":
            model |= {"state_dim": 2, "first": (10, 10, 0), "second": (1, 1, 0), "train_length": 100, "leak": 0.0}
            return cls(steps=9800, lr=5e-4, test_episodes=10_000, **model)
        model |= {"state_dim": 4, "first": (9, 1, 4), "second": (5, 5, 0)}
        model |= {"inner_lr": {"pong": 0.045, "space_invaders": 0.05}[world]}
        return cls(steps=5000, lr=1e-4, **model)
