"""Questions a second of the Relation Network, forward and backward: as D.1 is written, and as we compute it.

Plain: every pair of elements with its question concatenated, all through g at once. Split: the first layer of g in its
three terms, still all pairs at once. Blocks: as split, a block of pairs at a time (`sum_over_pairs`). Equal maths, as
tests assert. Again: blocks whose activations are not kept for the backward pass but computed again there, as is done
where they would need too much memory (`KEPT`). The last column: what the blocks achieve, in GFLOP/s that the result
needs, and as a share of what this machine's matrix product of the same width gives.

Run: python benchmarks/relation_network.py
"""

from __future__ import annotations

import torch
from _clock import milliseconds
from torch.nn.functional import linear

from srnlib.models import pair_sum
from srnlib.models.relation_network import RelationNetwork

ELEMENTS, DIM, QUESTION = 25, 26, 11


def plain(net, S, questions):
    """g of all pairs, word for word."""
    (b, q), n = questions.shape[:2], S.shape[1]
    parts = (S[:, None, :, None], S[:, None, None], questions[:, :, None, None])
    h = net.first(torch.cat([p.expand(b, q, n, n, -1) for p in parts], dim=4)).relu_()
    for layer in net.rest:
        h = layer(h).relu_()
    return h.sum(dim=(2, 3)).flatten(0, 1)


def halves(net, S, questions):
    """The three terms of the first layer, as two tensors `[B Q, N, width]`."""
    A, B, C = net.first.weight.split(net.split, dim=1)
    shift = questions @ C.t() + net.first.bias
    left = (S @ A.t()).unsqueeze(1).expand(-1, questions.shape[1], -1, -1)
    return left.flatten(0, 1), ((S @ B.t()).unsqueeze(1) + shift.unsqueeze(2)).flatten(0, 1)


def split(net, S, questions):
    """As `blocks`, all pairs at once."""
    left, right = halves(net, S, questions)
    h = (left.unsqueeze(2) + right.unsqueeze(1)).relu_().flatten(1, 2)
    for layer in net.rest:
        h = linear(h, layer.weight, layer.bias).relu_()
    return h.sum(dim=1)


def blocks(net, S, questions):
    """What the model does."""
    return pair_sum.sum_over_pairs(*halves(net, S, questions), net.rest)


def again(net, S, questions):
    """As `blocks`, with nothing kept."""
    kept, pair_sum.KEPT = pair_sum.KEPT, 0
    total = blocks(net, S, questions)
    pair_sum.KEPT = kept
    return total


def seconds(call) -> float:
    """CPU time of a call, the best of five."""
    return milliseconds(call, 1, rounds=5) / 1000


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = "".join(f"{name:>9s}" for name in ("plain", "split", "again", "blocks"))
    print(f"width{heads}  questions a second; blocks / plain, GFLOP/s, limit")
    for width, images, asked in ((32, 16, 12), (64, 16, 12), (128, 16, 6), (256, 8, 4)):
        net = RelationNetwork(DIM, QUESTION, 10, width=width, layers=4)
        S, questions = torch.randn(images, ELEMENTS, DIM), torch.rand(images, asked, QUESTION)
        count, speed = images * asked, {}
        for way in (plain, split, again, blocks):
            speed[way] = count / seconds(lambda args=(net, S, questions), way=way: way(*args).sum().backward())
        h, weight = torch.randn(4096, width), torch.randn(width, width)
        limit = 20 * 2 * h.numel() * width / seconds(lambda h=h, weight=weight: [h @ weight for _ in range(20)])
        needed = 3 * 2 * len(net.rest) * ELEMENTS**2 * width**2 * speed[blocks]  # forward, and twice backward
        row = "".join(f"{speed[way]:9.0f}" for way in (plain, split, again, blocks))
        share = f"{needed / 1e9:.0f} GFLOP/s, {100 * needed / limit:.0f} % of {limit / 1e9:.0f}"
        print(f"{width:5d}{row}  {speed[blocks] / speed[plain]:.1f}x, {share}")


if __name__ == "__main__":
    main()
