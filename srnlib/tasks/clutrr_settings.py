"""How CLUTRR's models are trained: what a profile sets (paper: 3.3, F)."""

from __future__ import annotations

import dataclasses

from srnlib.tasks import Settings
from srnlib.tasks.refining import InnerLoop


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClutrrSettings(InnerLoop, Settings):
    """Settings of CLUTRR.

    Attributes:
        embed_dim, hidden, layers, dropout, read_story: Of the LSTM, see `srnlib.models.story_encoder.StoryEncoder`.
        original: Whether word vectors, dropout and the padding of `rn` are as published, see `StoryEncoder` and
            `srnlib.models.language.StoryModel`.
        reason: Width of the relation network's g.
        set_size: N, of all models but `rn`.
        agg: Width of H_agg.
        pool_edges: Whether GRN's H_agg is `GraphEncoder`, which pools edges too, or the cheap `TripleEncoder`.
        vocabulary: Tokens told apart, at most; rarer words become one.
        train_stories: Generated stories for each of k = 2, 3, 4, validation included; the release has its own number.
        val_stories: Stories for each k that are validated on, about.
        test_stories: Generated stories for each k to test on; of the release all are.
    """

    embed_dim: int
    hidden: int
    layers: int
    dropout: float
    read_story: bool
    original: bool = False
    reason: int
    set_size: int = 20
    agg: int
    pool_edges: bool = False
    inner_momentum: float = 0.0
    vocabulary: int = 2048
    train_stories: int = 5000
    val_stories: int = 400
    test_stories: int = 400

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more: the relation network normalises over the batch")

    @classmethod
    def smoke(cls, model: str) -> ClutrrSettings:
        """Seconds, for tests: little is learned."""
        words = {"embed_dim": 8, "hidden": 8, "layers": 1, "dropout": 0.0, "read_story": False}
        sizes = {"reason": 8, "set_size": 14, "agg": 8, "inner_steps": 2, "inner_lr": 0.1}
        counts = {"train_stories": 100, "val_stories": 10, "test_stories": 10}
        return cls(steps=20, batch_size=16, lr=5e-3, eval_every=10, **words, **sizes, **counts)

    @classmethod
    def laptop(cls, model: str) -> ClutrrSettings:
        """One CPU core, minutes: a third of the published width, one LSTM layer, a query read from the sentences."""
        words = {"embed_dim": 32, "hidden": 32, "layers": 1, "dropout": 0.2, "read_story": False}
        inner = {"inner_steps": 5, "inner_lr": 1.0}
        length = {"steps": 4725, "warmup": 0.05, "cooldown": 0.5, "eval_every": 189}  # 25 epochs of the release
        return cls(batch_size=64, lr=4e-3, clip=1.0, reason=32, agg=32, **words, **inner, **length)

    @classmethod
    def paper(cls, model: str) -> ClutrrSettings:
        """Section 3.3, appendix F and, where these refer to it, the baseline's published configuration; 50 epochs.

        They state no inner momentum, so there is none; at such rates one of .5 would not move the set either. The
        query is read from the whole story, as published, so here every model's answer depends on the order of the
        sentences, also that of SRN and GRN.
        """
        words = {"embed_dim": 100, "hidden": 100, "layers": 2, "read_story": True, "vocabulary": 4096, "original": True}
        decay = {"rn": 0.0, "grn": 5e-6}.get(model, 1e-4)  # of rn_fixed as of srn, whose control it is
        regular = {"dropout": 0.0 if model == "rn" else 0.5, "weight_decay": decay}
        inner = {"inner_steps": 10, "inner_lr": 0.0005} if model == "grn" else {"inner_steps": 5, "inner_lr": 0.001}
        inner |= {"kaiming": False, "pool_edges": True}
        length = {"steps": 37_800, "eval_every": 756}  # an epoch of the stories not kept for validation
        return cls(
            batch_size=16, lr=1e-3, beta2=0.999, clip=1.0, reason=64, agg=512, **words, **regular, **inner, **length
        )
