"""How Sort-of-CLEVR's models are trained: what a profile sets, and what was tuned (paper: D.1)."""

from __future__ import annotations

import dataclasses

from srnlib.models.relation_network import CellEncoder
from srnlib.tasks import Settings
from srnlib.tasks.refining import InnerLoop

STEPS = {"rn": 48_000, "srn": 36_000, "rn_wide": 35_000, "srn_detached": 36_000}  # of laptop: the same core time
TWICE = ("rn", "srn")  # of laptop: these go on for half as long again, the rate rising anew
WIDE = {  # rn_wide: g costs what the inner loop does, f makes up for its parameters
    "smoke": {"width": 10, "hidden": 31},
    "laptop": {"width": 40, "hidden": 240},
    "paper": {"width": 320, "hidden": 495},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortOfClevrSettings(InnerLoop, Settings):
    """Settings of Sort-of-CLEVR.

    Attributes:
        channels, reach, inverted, embed_scale: Of the perceptual stage, see `CellEncoder` in
            `srnlib.models.relation_network`.
        width, layers, hidden, dropout, conditioned, question_scale: See `RelationNetwork` there.
        embed_dim: E.
        set_hidden: Width of H_agg's MLP.
        questions: How many of an image's 36 questions a step asks, drawn anew each time.
        relational: How likely a relational question is drawn; another one with 1 - relational.
        curriculum: Of the whole training, the fraction in which this rises from 0 to `relational`.
        clutter: Five random rectangles behind the shapes (D.4).
        train_images, val_images, test_images: Numbers of images; all 36 questions are asked of the last two.
        val_scenes, test_scenes: Numbers of scenes that are turned, of each kind (synthetic: 200 at most; dataset).
    """

    channels: int = 24
    reach: float = 1.0
    inverted: bool = False
    embed_scale: float = 1.0
    width: int = 256
    layers: int = 4
    hidden: int = 256
    dropout: float = 0.5
    conditioned: bool = True
    question_scale: float = 1.0
    embed_dim: int = 100
    set_hidden: int = 512
    inner_steps: int = 5
    inner_lr: float = 0.1
    questions: int = 12
    relational: float = 0.5
    curriculum: float = 0.0
    clutter: bool = False
    train_images: int = 100_000
    val_images: int = 200
    test_images: int = 1000
    val_scenes: int = 16
    test_scenes: int = 200

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.questions <= 36:
            raise ValueError(f"questions must be 1 to 36, those that an image has, got {self.questions}")
        for name in ("relational", "curriculum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction, 0 to 1, got {getattr(self, name)}")

    @classmethod
    def smoke(cls) -> SortOfClevrSettings:
        """Seconds, for tests: nothing is learned."""
        counts = {"train_images": 64, "val_images": 8, "test_images": 8, "val_scenes": 1, "test_scenes": 1}
        model = {"channels": 4, "width": 8, "layers": 2, "hidden": 8, "embed_dim": 8, "set_hidden": 16}
        return cls(steps=20, batch_size=4, lr=1e-3, eval_every=10, inner_lr=1.0, inner_steps=2, **model, **counts)

    @classmethod
    def laptop(cls, model: str) -> SortOfClevrSettings:
        """One CPU core, at most three hours: a narrow g of three layers, and a start that leaves the plateau sooner."""
        steps, curriculum, restart = STEPS[model], 0.15, 1.0
        if model in TWICE:
            steps, curriculum, restart = steps * 3 // 2, 0.1, 2 / 3
        start = {"reach": 4.0, "inverted": True, "question_scale": 4.0, "relational": 0.7, "curriculum": curriculum}
        shape = {"width": 32, "layers": 3, "hidden": 128, "dropout": 0.0, "embed_dim": 64, "set_hidden": 64}
        inner = {"embed_scale": 1 / CellEncoder.cells, "inner_lr": 2.0}  # z of the size of what H_agg gives
        length = {"steps": steps, "restart": restart, "warmup": 0.01, "cooldown": 0.4, "eval_every": 1500}
        test = {"test_images": 500, "test_scenes": 100}
        return cls(batch_size=16, lr=2e-3, clip=10.0, **inner, **start, **shape, **length, **test)

    @classmethod
    def paper(cls) -> SortOfClevrSettings:
        """Appendix D.1, with what the implementation it reuses adds (dropout, batch, rate); 50 epochs, on a GPU.

        An epoch there asks 20 questions an image, each an example. The refiner has inner rate and steps of D.3 and the
        momentum of the Circles code; gradients flow through S0, since nothing says that they do not.
        """
        length = {"steps": 1_562_500, "eval_every": 31_250}  # an epoch between two rows
        images = {"val_images": 1000, "test_scenes": 1000}
        as_torch = {"conditioned": False, "kaiming": False}
        return cls(batch_size=64, lr=1e-4, beta2=0.999, questions=1, **as_torch, **length, **images)
