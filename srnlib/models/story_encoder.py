"""A story as a set of sentences, each read by one LSTM: the perceptual stage of the CLUTRR models (paper: 3.3, F)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from srnlib._refine_checks import kind, shape


class Reading(NamedTuple):
    """What the encoder makes of stories; D = 2 * hidden.

    Attributes:
        S0: A vector a sentence `[B, S, D]`, zeros where there is none.
        here: Where there is a sentence, bool `[B, S]`.
        z: The mean of the sentences' last cell states `[B, D]`.
        query: What is said of the two people asked for `[B, 2 D]`.
    """

    S0: Tensor
    here: Tensor
    z: Tensor
    query: Tensor


class StoryEncoder(nn.Module):
    """Reads each sentence with a bidirectional LSTM; an element is the mean of its outputs.

    Args:
        vocabulary: Number of tokens; 0 is padding.
        embed_dim: Size of a word vector (published: 100).
        hidden: Of the LSTM, in each direction (published: 100).
        layers: Of the LSTM (published: 2).
        dropout: Of its inputs and between its layers.
        original: As published: word vectors start by Xavier's rule and are kept within the unit ball, and of the
            LSTM's inputs none is dropped.
        read_story: How the query is read. True, as published: the same LSTM runs over the whole story, and its outputs
            at the two people's names are summed. False: the sentences' outputs there are summed, which is cheaper and
            makes the whole model invariant to the order of the sentences.
    """

    def __init__(
        self,
        vocabulary: int,
        embed_dim: int,
        hidden: int,
        layers: int,
        dropout: float,
        read_story: bool,
        original: bool = False,
    ):
        super().__init__()
        self.read_story = read_story
        self.embedding = nn.Embedding(vocabulary, embed_dim, padding_idx=0, max_norm=1.0 if original else None)
        if original:
            nn.init.xavier_uniform_(self.embedding.weight)
        self.dropout = nn.Dropout(0.0 if original else dropout)
        between = dropout if layers > 1 else 0.0
        self.lstm = nn.LSTM(embed_dim, hidden, layers, batch_first=True, bidirectional=True, dropout=between)

    def forward(self, tokens: Tensor, query: Tensor) -> Reading:
        """Reads stories; S becomes the number of sentences of the longest, whatever room `tokens` gives.

        Args:
            tokens: Integers below `vocabulary`, `[B, S, W]`; zeros after the last word of a sentence and after the last
                sentence.
            query: The tokens of the two people `[B, 2]`.

        Raises:
            TypeError: If these are no integers.
            ValueError: If their shapes do not fit, a token is out of range, a word follows a zero, there is no story,
                or one has no sentence.
        """
        _check(tokens, query, self.embedding.num_embeddings)
        tokens, query = tokens.long(), query.long()
        lengths = (tokens > 0).sum(dim=2)
        here = lengths > 0
        if empty := (~here.any(dim=1)).nonzero().flatten().tolist():
            raise ValueError(f"stories {empty} of the batch have no sentence, all their tokens are 0: leave them out")
        longest = int(here.any(dim=0).nonzero().max()) + 1
        tokens, lengths, here = (t[:, :longest] for t in (tokens, lengths, here))
        story = here.nonzero()[:, 0]  # of each sentence
        out, cells, ids, row = self.read(tokens[here], lengths[here])
        mean = out.new_zeros(len(story), out.shape[1]).index_add(0, row, out) / lengths[here][:, None]
        S0 = out.new_zeros(*here.shape, out.shape[1]).masked_scatter(here[:, :, None], mean)
        z = out.new_zeros(len(tokens), cells.shape[1]).index_add(0, story, cells) / here.sum(dim=1, keepdim=True)
        row = story[row]
        if self.read_story:
            words, lengths = tokens.flatten(1), lengths.sum(dim=1)
            words = words.gather(1, (words == 0).to(torch.int8).argsort(dim=1, stable=True))  # zeros to the end
            out, _, ids, row = self.read(words[:, : int(lengths.max())], lengths)
        named = (ids[:, None] == query[row]).to(out.dtype)  # [T, 2]
        said = out.new_zeros(len(tokens), 2, out.shape[1]).index_add(0, row, named[:, :, None] * out[:, None])
        return Reading(S0, here, z, said.flatten(1))

    def read(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs the LSTM over sequences `[n, W]`.

        Returns:
            For all T words, in no order that matters: outputs `[T, D]`; for all sequences: last cell states `[n, D]`;
            then the words' tokens `[T]` and sequences `[T]`.
        """
        lengths, rows = lengths.cpu(), torch.arange(len(words), device=words.device)[:, None].expand_as(words)
        ids, row = (pack_padded_sequence(t, lengths, batch_first=True, enforce_sorted=False) for t in (words, rows))
        out, (_, cells) = self.lstm(PackedSequence(self.dropout(self.embedding(ids.data)), *ids[1:]))
        return out.data, cells[-2:].transpose(0, 1).flatten(1), ids.data, row.data


def _check(tokens: Tensor, query: Tensor, vocabulary: int) -> None:
    for name, t in (("tokens", tokens), ("query", query)):
        if not isinstance(t, Tensor) or t.dtype == torch.bool or t.is_floating_point() or t.is_complex():
            raise TypeError(f"{name} must be a tensor of integers, got {kind(t)}")
    if tokens.dim() != 3 or 0 in tokens.shape:
        raise ValueError(f"tokens must be [B, S, W], none of them 0, got {shape(tokens)}")
    if query.shape != (len(tokens), 2):
        raise ValueError(f"query must be [{len(tokens)}, 2], two people a story, got {shape(query)}")
    for name, t in (("tokens", tokens), ("query", query)):
        low, high = int(t.min()), int(t.max())
        if not 0 <= low <= high < vocabulary:
            raise ValueError(f"{name} must be 0 to {vocabulary - 1}, by the model's vocabulary, got {low} to {high}")
    if bool(((tokens[..., :-1] == 0) & (tokens[..., 1:] != 0)).any()):
        raise ValueError("a word of tokens follows a 0: that is padding, which comes after a sentence's last word")
