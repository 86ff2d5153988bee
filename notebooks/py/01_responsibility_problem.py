# %% [markdown]
# # See why a continuous map cannot list a set
#
# **Paper:** sections 1 and 2 (theorem 1), appendix A (theorem 2), appendix B.3. **Running time:** about 1 minute on two
# CPU cores.

# %% [markdown] tags=["badge"]
# *Open in Colab: no public address yet; upload this notebook there, its first cell says what to do.*

# %% [markdown]
# ## What you will do
# State the paper's theorem, prove it step by step with two points on a circle, and then watch trained networks obey it:
# first small MLPs, then a convolutional encoder on pictures of circles.
#
# ## What you will learn
# - Why a network that reads an input and writes its objects *as a list* must fail on some inputs.
# - How wrong it must be there, and how to find such an input by bisection, in any network.
# - What larger networks buy: a narrower and steeper failure, never its absence.
#
# ## What you will need
# PyTorch at the level of a training loop, and the meaning of "continuous": a small change of the input makes a small
# change of the output. Every layer in common use is continuous, so every feedforward network is.

# %% tags=["bootstrap"]
# Written by tools/notebooks.py. On Google Colab: install srnlib, keep torch and numpy. Elsewhere: import it.
import sys

if "google.colab" in sys.modules:
    import os
    import shutil
    import subprocess
    import tempfile
    from importlib.metadata import version
    from pathlib import Path

    source = os.environ.get("SRNLIB_SOURCE", "")  # an address, a folder or a zip file
    if not source:
        raise RuntimeError(
            "The public address of srnlib is not set. Upload a zip of the repository (Files, Upload) or clone it, "
            "then add a cell above: import os; os.environ['SRNLIB_SOURCE'] = 'srnlib.zip' (or the folder's name)."
        )
    scratch = Path(tempfile.mkdtemp())
    if Path(source).is_file():
        shutil.unpack_archive(source, scratch)
    elif not Path(source).is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", source, scratch / "srnlib"], check=True)
    folder = Path(source).resolve() if Path(source).is_dir() else next(scratch.glob("**/pyproject.toml")).parent
    (scratch / "keep.txt").write_text("".join(f"{name}=={version(name)}\n" for name in ("torch", "numpy")))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", scratch / "keep.txt"]
    subprocess.run([*pip, f"{folder}[atari]"], check=True)
    os.environ["SRNLIB_DATA"] = str(folder / "data")  # checkpoints and results
import srnlib

print("srnlib", srnlib.__version__)

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from srnlib import refine
from srnlib.data import circles
from srnlib.models.image import ImageEncoder
from srnlib.plots import element_colours, use_style

use_style()
torch.manual_seed(0)
SLOT = element_colours(2)  # one colour for each row of a list of two
print("torch", torch.__version__, "| everything here runs on the CPU")


# %% [markdown]
# ## 1. The theorem
#
# A scene holds a *set* of objects: nothing says which one is first. A network's output is a *list*: row 1, row 2, and
# so on. The paper asks what it takes to turn one into the other. $g$ makes the input (an image, say) from the set,
# continuously; $h$ is the perceptual stage, which reads the input and lists the objects.
#
# > "Let $n, d \ge 2$ and $h: \mathcal{X} \to \mathbb{R}^{n \times d}$. If for every
# > $V = \{v_1, \ldots, v_n\} \in \mathcal{S}_n^d$, there exists a permutation $\sigma$ such that
# > $h(g(\{v_1, \ldots, v_n\})) = [v_{\sigma(1)}, v_{\sigma(2)}, \ldots, v_{\sigma(n)}]$, then $h$ is discontinuous."
# > (Theorem 1)
#
# $$V \;\xrightarrow{\;g\;}\; X \;\xrightarrow{\;h\;}\; [v_{\sigma(1)}, \ldots, v_{\sigma(n)}]
# \qquad g \text{ continuous, } h \text{ exact} \;\Rightarrow\; h \text{ not continuous.}$$
#
# Theorem 2, in appendix A, is the same with the continuity of $g$ spelled out: small changes of the set, by the
# symmetric Chamfer distance (from each point to its nearest in the other set, both ways), make small changes of the
# input.
#
# ($\mathcal{X}$: the inputs, here images. $\mathcal{S}_n^d$: all sets of n vectors of $\mathbb{R}^d$.) The order
# $\sigma$ is free: $h$ may choose a different one for every input. That is generous, and it does not help.
#
# Our example for $n = d = 2$: two opposite points on a circle, turned by $\theta$ from 0 to $\pi$.
#
# $$V(\theta) = \{v(\theta), -v(\theta)\}, \qquad v(\theta) = (\cos\theta, \sin\theta).$$

# %% tags=["nbval-check-output"]
def pair(theta):
    """Two opposite points, turned by theta [T]: [T, 2, 2]. The order of the rows means nothing."""
    v = torch.stack([theta.cos(), theta.sin()], dim=-1)
    return torch.stack([v, -v], dim=-2)


theta = torch.linspace(0, math.pi, 721, dtype=torch.float64)  # a step is a quarter of a degree
V = pair(theta)
print("V", tuple(V.shape))
print("rows at 0: ", V[0].round(decimals=3).add(0).tolist())
print("rows at pi:", V[-1].round(decimals=3).add(0).tolist())
assert torch.allclose(V[-1], V[0].flip(0))  # the same two points: the set has returned
assert not torch.allclose(V[-1], V[0])  # in the other order: the list has not

# %% [markdown]
# The input is a small picture: a blurred spot at every point, summed. A sum does not know the order of its terms, so
# $g$ is a function of the set. It is continuous too: below, steps ten times smaller change the picture ten times less.

# %% tags=["nbval-check-output"]
axis = torch.linspace(-1.5, 1.5, 8, dtype=torch.float64)
PIXELS = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)


def g(S):
    """Picture of a set of points S [B, n, 2]: a sum of Gaussian spots on 8 x 8 pixels, [B, 64]."""
    distance = (S.unsqueeze(-2) - PIXELS.to(S.dtype)).square().sum(-1)
    return torch.exp(-2 * distance).sum(-2)


X = g(V)
print("X", tuple(X.shape))
for step in (0.1, 0.01, 0.001):
    change = (g(pair(theta + step)) - X).norm(dim=1).max()
    print(f"turn by {step:5.3f}: the picture changes by at most {change:.3f}")
assert change < 5 * step
assert torch.allclose(g(V.flip(1)), X)  # order does not matter
assert torch.allclose(X[0], X[-1])  # after half a turn: the same picture

fig, axes = plt.subplots(1, 5, figsize=(9, 2.2), layout="constrained")
for ax, degrees in zip(axes, (0, 45, 90, 135, 180), strict=True):
    i = 4 * degrees
    ax.imshow(X[i].reshape(8, 8), cmap="Greys", extent=(-1.7, 1.7, -1.7, 1.7), origin="lower", vmax=1.2)
    ax.scatter(*V[i].T, color="black", s=20)
    ax.set(title=f"{degrees}°", xticks=[], yticks=[])
fig.suptitle("The input while the pair turns: the first and the last are the same picture", fontsize=12)
plt.show()


# %% [markdown]
# ## 2. The proof, in four steps
#
# Suppose some $h$ were both exact and continuous. Write $L(\theta) = h(g(V(\theta)))$ for its list, $L_1$ for row 1.
#
# 1. **$L$ is continuous**: it is a chain of continuous maps.
# 2. **Row 1 follows one point.** $L_1(\theta)$ is $v(\theta)$ or $-v(\theta)$, so $L_1(\theta) \cdot v(\theta)$ is $+1$
#    or $-1$. A continuous number that is always $+1$ or $-1$ never changes. Call the point it starts at $v$; then
#    $L_1(\theta) = v(\theta)$ all along.
# 3. **At the end row 1 is somewhere else**: $L_1(\pi) = v(\pi) = -v(0)$.
# 4. **But the input is the one we began with**, so the output is too: $L_1(\pi) = L_1(0) = v(0)$. Contradiction:
#    $v(0) \neq -v(0)$. $\blacksquare$
#
# Step 2 can be run. `follow` is given the set at each angle with its rows shuffled, and builds the only list that moves
# continuously: every row goes on to the nearest point.

# %% tags=["nbval-check-output"]
def follow(curve):
    """The continuous list along a curve of sets [T, n, d]: each row goes on to the nearest point."""
    rows = [curve[0]]
    for S in curve[1:]:
        nearest = torch.cdist(rows[-1], S).argmin(dim=1)
        assert nearest.unique().numel() == len(S), "two rows chose one point: take smaller steps"
        rows.append(S[nearest])
    return torch.stack(rows)


shuffled = torch.stack([S[torch.randperm(2)] for S in V])
L = follow(shuffled)
print("1. largest move of a row", round(L.diff(dim=0).norm(dim=2).max().item(), 4), "= a step of theta")
along = (L[:, 0] * V[:, 0]).sum(dim=1)
print("2. row 1 follows one point:", torch.allclose(along, along[:1]))
print("3. row 1 ends opposite:", torch.allclose(L[-1, 0], -L[0, 0]))
print("4. same input at both ends:", torch.allclose(g(L[-1:]), g(L[:1])))
assert torch.allclose(L[-1], L[0].flip(0))  # swapped: this list is no function of the input

# %%
degrees = theta.rad2deg()
fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
for row in (0, 1):
    angle = np.rad2deg(np.unwrap(torch.atan2(L[:, row, 1], L[:, row, 0]).numpy()))
    angle = angle - 360 * np.floor(angle[0] / 360)  # so that it begins in 0 .. 360
    ax.plot(degrees, angle, color=SLOT[row], lw=3, label=f"row {row + 1}")
    ax.plot([0, 180], angle[[0, -1]], "o", color=SLOT[row], ms=10)
ax.axhline(180, color="0.4", ls=":")
ax.set(xlabel="turn of the pair, theta (degrees)", ylabel="angle of the point (°)")
ax.set(xticks=range(0, 181, 45), yticks=range(0, 361, 90))
ax.set_title("A continuous list: row 1 ends where row 2 began, at the same input")
ax.legend()
plt.show()


# %% [markdown]
# A map that *is* exact must therefore jump, and a map that does not jump must be wrong. Three rules for listing the
# pair: two that sort, and one that is continuous (put both rows in the middle).

# %%
def sort_by(score):
    """The exact list that puts the point with the larger score first."""
    return lambda S: S.gather(1, score(S).argsort(dim=1, descending=True)[..., None].expand_as(S))


def alignment(L, V):
    """+1 if the list [T, 2, 2] is in the order of V, -1 if swapped, between otherwise: [T]."""
    return ((L[:, 0] - L[:, 1]) * (V[:, 0] - V[:, 1])).sum(1) / (V[:, 0] - V[:, 1]).square().sum(1)


rules = {
    "sort by x": sort_by(lambda S: S[..., 0]),
    "sort by distance to (1, 2)": sort_by(lambda S: -(S - torch.tensor([1.0, 2.0])).norm(dim=-1)),
    "both in the middle": lambda S: S.mean(dim=1, keepdim=True).expand_as(S),
}
fig, axes = plt.subplots(1, 3, figsize=(9, 2.5), sharey=True, layout="constrained")
for ax, (name, rule) in zip(axes, rules.items(), strict=True):
    a = alignment(rule(V), V)
    ax.plot(degrees, a, color="black", drawstyle="steps-mid")
    ax.set(title=name, xlabel="theta (degrees)", xticks=range(0, 181, 45))
    assert torch.isclose(a[0], -a[-1], atol=1e-12)  # true of any rule
axes[0].set(ylabel="alignment with (v, -v)", yticks=[-1, 0, 1])
plt.show()


# %% [markdown]
# ## 3. How wrong must a continuous list be?
#
# The paper stops at "discontinuous". The same argument gives a number, which we can check in trained networks. Let
# $a(\theta)$ be the *alignment* plotted above, $a = (L_1 - L_2) \cdot v / 2$. It is $+1$ for the list $[v, -v]$, $-1$
# for $[-v, v]$.
#
# - Half a turn leaves $L$ as it is and flips $v$, so $a(\pi) = -a(0)$, for *every* function of the input.
# - If $L$ is continuous, so is $a$: by the intermediate value theorem $a(\hat\theta) = 0$ somewhere.
# - There, $L_1 - L_2$ is at right angles to $v$. With centre $c = (L_1 + L_2)/2$ and $w = (L_1 - L_2)/2 \perp v$,
#   either order gives $|L_1 - v|^2 + |L_2 + v|^2 = 2|c|^2 + 2|w|^2 + 2 \ge 2$.
#
# **Every continuous list is wrong by at least the radius, 1, at some $\hat\theta$** (root mean square over the two
# points, best order). Both rows in the middle is wrong by exactly 1, so no better bound exists. And since $a$ changes
# sign, bisection finds $\hat\theta$: the proof is an algorithm that breaks any continuous network.

# %% tags=["nbval-check-output"]
def squared_error(L, V):
    """Mean squared distance of list and set, [..., 2, 2] each, in the better order: [...]."""
    kept = (L - V).square().sum((-1, -2))
    swapped = (L - V.flip(-2)).square().sum((-1, -2))
    return torch.minimum(kept, swapped) / 2


@torch.no_grad()
def find_break(read, turn=pair, halvings=48):
    """An angle [1] where the continuous list read(turn(theta)) has alignment 0, by bisection."""
    low, high = torch.zeros(1, dtype=torch.float64), torch.full((1,), math.pi, dtype=torch.float64)
    start = alignment(read(turn(low)), turn(low))
    for _ in range(halvings):
        middle = (low + high) / 2
        same = alignment(read(turn(middle)), turn(middle)) * start > 0
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return low


worst = []
for _ in range(100):  # 100 random continuous functions of the picture
    A, B = torch.randn(64, 20, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
    read = lambda S, A=A, B=B: ((g(S) @ A).tanh() @ B).unflatten(-1, (2, 2))  # noqa: E731
    at = find_break(read)
    worst.append(squared_error(read(pair(at)), pair(at)).sqrt().item())
print("error at the break, 100 random networks: at least 1?", min(worst) >= 1 - 1e-9)
assert min(worst) >= 1 - 1e-9


# %% [markdown]
# ## 4. Other curves, other data, more objects
#
# Appendix A generalises: any curve of sets will do, inside any part of the data, if it "connects two sets with
# different permutation" (the same set, listed in another order). Its example: "we can let $\gamma$ be the rotation of
# two green circles (while red circles are unchanged)". So it is enough to `follow` a closed curve *on which no two
# elements meet* and to see whether the rows come back in another order. (Elements that meet could change places at that
# moment. On a line, $d = 1$, two points cannot swap otherwise: hence $d \ge 2$.)
#
# If the rows do come back in another order, some row would have to be two points at once, as in step 4: it cannot
# change over on the way, since the elements stay a least distance apart. If they come back in the same order (a *full*
# turn of the pair), that curve proves nothing. For any $n, d \ge 2$, turn two points in a plane and hold the others
# still.
#
# For circles the elements are $(x, y, r, \text{colour})$, and a curve must stay inside the data set. Strictly, the
# pictures of Circles have whole-pixel centres and hard edges, which jump pixel by pixel; the curve below is one of
# their continuous version, with soft edges and any centre (section 6). The pictures drawn here are rounded.

# %% tags=["nbval-check-output"]
def ring(n, turn):
    """A regular n-gon, turned by 0 .. turn: curve [361, n, 2]."""
    angle = torch.linspace(0, turn, 361)[:, None] + 2 * math.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def still(elements):
    return torch.tensor(elements).expand(361, -1, -1)


green = torch.cat([32 + 13 * ring(2, math.pi), still([[8.0, 2.0]] * 2)], dim=2)  # r = 8, colour 2
red = still([[8.0, 50, 4, 1], [32, 32, 4, 1], [54, 58, 3, 1]])
others = still([[1.8, 0.2], [0, 1.6], [-1.5, 1]])
curves = {
    "2 points, half a turn": ring(2, math.pi),
    "2 points, a full turn": ring(2, 2 * math.pi),
    "3 points, a third of a turn": ring(3, 2 * math.pi / 3),
    "5 points, two of them turn": torch.cat([ring(2, math.pi), others], dim=1),
    "circles, two green ones turn": torch.cat([green, red], dim=1),
}
orders = {}
for name, curve in curves.items():
    rows = follow(curve)
    orders[name] = torch.cdist(rows[-1], rows[0]).argmin(dim=1).tolist()
    assert (rows[-1] - rows[0][orders[name]]).abs().max() < 1e-4  # the set has returned
    verdict = "no contradiction" if orders[name] == sorted(orders[name]) else "another order"
    print(f"{name:30s} {tuple(curve.shape)!s:13s} rows come back as {orders[name]}: {verdict}")

# %%
fig, axes = plt.subplots(1, 4, figsize=(9, 2.6), layout="constrained")
for ax, name in zip(axes, list(curves)[2:4], strict=False):
    rows = follow(curves[name])
    for row, colour in enumerate(element_colours(rows.shape[1])):
        ax.plot(*rows[:, row].T, color=colour, lw=3)
        ax.scatter(*rows[0, row], color=colour, s=70, zorder=3)
    ax.set(title=name, aspect="equal", xticks=[], yticks=[])
scene = curves["circles, two green ones turn"]
for ax, i, title in ((axes[2], 0, "circles: start and end"), (axes[3], 120, "circles: turned by 60°")):
    image = circles.render(scene[i : i + 1].round().int().numpy())[0]
    ax.imshow(image.transpose(1, 2, 0))
    ax.set(title=title, xticks=[], yticks=[])
fig.suptitle("Dot: where a row begins; line: where it goes", fontsize=12)
plt.show()

# %% [markdown]
# ## 5. Larger networks break too, more steeply
#
# Now train. An MLP reads the picture (64 numbers) and writes two points. The loss is blind to order (`squared_error`:
# the better of the two matchings, the Hungarian loss for two points), so no order is asked for. (The Chamfer distance
# is blind to order too; exercise 3 asks what the theorem means for such a distance.) Training and test data are the
# same half turn: nothing is left to generalise. Nine sizes, three seeds each (trained side by side as a batch).

# %%
fine = torch.linspace(0, math.pi, 7201, dtype=torch.float64)


class MLPs(nn.Module):
    """Several MLPs of one size, one a seed: picture [B, 64] to lists [seeds, B, 2, 2]."""

    def __init__(self, width, depth, seeds=3):
        super().__init__()
        sizes = [64] + [width] * depth + [4]
        steps = list(zip(sizes, sizes[1:], strict=False))
        self.weights = nn.ParameterList(torch.randn(seeds, a, b) * (2 / a) ** 0.5 for a, b in steps)
        self.biases = nn.ParameterList(torch.zeros(seeds, 1, b) for _, b in steps)

    def forward(self, X):
        x = X.expand(len(self.weights[0]), *X.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if i else x, weight)
        return x.unflatten(-1, (2, 2))


def train(model, sample, read, steps, lr):
    """Adam on the order-blind loss; sample() draws sets, read(sets) makes the model list them."""
    optimiser = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for _ in range(steps):
        V = sample()
        squared_error(read(V), V).mean(-1).sum().backward()
        optimiser.step(), schedule.step(), optimiser.zero_grad()
    return model.double().eval().requires_grad_(False)  # double: the bisection needs the digits


# %%
nets, study = {}, []
for depth, width in [(depth, width) for depth in (1, 2, 3) for width in (8, 24, 72)]:
    net = nets[depth, width] = MLPs(width, depth)
    train(net, lambda: pair(math.pi * torch.rand(96)), lambda S, net=net: net(g(S)), 500, 6e-3)
    L = net(g(pair(fine)))
    error = squared_error(L, pair(fine)).sqrt()
    gap = (error > 0.5).sum(dim=1) * (fine[1] - fine[0])  # radians of the half turn listed badly
    speed = (L.diff(dim=1).square().sum((2, 3)) / 2).sqrt() / (fine[1] - fine[0])
    for seed in range(3):
        at = find_break(lambda S, net=net, seed=seed: net(g(S))[seed])
        worst = squared_error(net(g(pair(at)))[seed], pair(at)).sqrt().item()
        swaps = int((alignment(L[seed], pair(fine)).sign().diff() != 0).sum())
        assert worst >= 1 - 1e-6  # the bound
        assert swaps % 2 == 1  # a(pi) = -a(0), so a changes sign an odd number of times
        study.append((depth, width, gap[seed].item(), speed[seed].max().item(), worst))

print("lists", tuple(L.shape), "= [seeds, angles, points, coordinates]; means of 3 seeds:")
print("layers x width | error at the break | listed badly (error > 0.5) | steepest slope | width in radians x slope")
for depth, width in nets:
    gap, slope, worst = np.mean([s[2:] for s in study if s[:2] == (depth, width)], axis=0)
    print(f"{depth} x {width:<10d} | {worst:18.2f} | {math.degrees(gap):25.1f}° | {slope:14.1f} | {gap * slope:.2f}")

# %%
fig, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
for ax, (depth, width) in zip(axes, ((1, 8), (3, 72)), strict=True):
    error = squared_error(nets[depth, width](g(pair(fine))), pair(fine)).sqrt()
    for seed, colour in enumerate(("0.1", "0.4", "0.65")):
        ax.plot(fine.rad2deg(), error[seed], color=colour, label=f"seed {seed}")
    ax.axhline(1, color="crimson", ls="--", lw=1)
    ax.set(title=f"{depth} hidden layer{'s' * (depth > 1)} of {width}", ylabel="error", ylim=(0, 1.3))
axes[0].text(1, 1.05, "every continuous list reaches this line somewhere", color="crimson", va="bottom")
axes[0].legend(loc="center right")
axes[1].set(xlabel="theta (degrees)", xticks=range(0, 181, 45))
plt.show()

# %% [markdown]
# Every network of every size breaks, at an angle that its initialisation chooses, with an error of at least 1 there.
# (The curves end just under the line where the grid of angles straddles the tip; the bisection does not.) To get from
# one order to the other within an angle $w$, a list must move at a speed of about $1/w$: where the error exceeds a
# half, each row goes from one point's side to the other's, about one radius. So all a wider or deeper network can do,
# trained as long, is trade the width of its break for steepness:

# %%
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for depth, marker in ((1, "o"), (2, "s"), (3, "^")):
    for width, size in ((8, 30), (24, 80), (72, 180)):
        gaps, slopes = zip(*[s[2:4] for s in study if s[:2] == (depth, width)], strict=True)
        look = {"marker": marker, "s": size, "color": str(1.1 - 0.3 * depth), "edgecolor": "black"}
        ax.scatter(gaps, slopes, label=f"{depth} x {width}", **look)
w = np.geomspace(0.01, 0.3, 50)
ax.plot(w, 1 / w, color="crimson", ls="--", lw=1, label="1 / width")
ax.set(xscale="log", yscale="log", title="Growing a network: narrower, but steeper")
ax.set(xlabel="width of the break (radians with error > 0.5)", ylabel="steepest slope of the list")
ax.legend(ncols=2, title="layers x width")
assert all(s[2] * s[3] > 0.7 for s in study)  # about: no network gets far below the line
plt.show()

# %% [markdown]
# Points above the dashed line move unevenly inside their break. A narrow break looks harmless: few inputs fall into it.
# But at its tip the list is wrong by a whole radius, and around it a tiny change of the picture changes the list
# completely. Whatever reasons on the list afterwards meets both.
#
# ## 6. A convolutional encoder on circles
#
# Now the paper's own perceptual stage $G$: convolutions whose channels are split into set elements (appendix B.1, here
# narrower, without the refiner). The data are 32 x 32 images of two green circles of radius 5, not overlapping,
# anywhere in the frame: the second generalisation of appendix A, "the images with only green circles in the Circles
# Dataset". The elements it has to list are the two centres, in pixels.
#
# One care: a hard-edged picture jumps pixel by pixel, so $g$ would not be continuous. `draw` has soft edges; cut at one
# half, at whole-pixel centres, it *is* the data set's picture.
#
# After training, one pair 18 pixels apart is turned by half a turn about the middle. The bound of section 3 scales with
# the picture: however good the encoder is on average, somewhere on the turn its list is wrong by 9 pixels or more.

# %% tags=["nbval-check-output"]
RADIUS, MIDDLE = 5, 15.5
LINE = torch.arange(32)


def draw(S):
    """Soft-edged green circles at centres S [B, 2, 2] in pixels: images [B, 3, 32, 32] in 0..1."""
    dx, dy = (LINE.to(S.dtype) - S[..., i, None] for i in (0, 1))  # [B, 2, 32] each
    distance = (dx.square().unsqueeze(-2) + dy.square().unsqueeze(-1)).sqrt()
    disc = (RADIUS + 0.5 - distance).clamp(0, 1).amax(dim=1)
    return torch.stack([torch.zeros_like(disc), disc, torch.zeros_like(disc)], dim=1)


def random_pairs(n=64):
    """Centres of two circles inside the frame, more than 2 radii + 1 apart: [n, 2, 2]."""
    S = RADIUS + (31 - 2 * RADIUS) * torch.rand(4 * n, 2, 2)
    return S[(S[:, 0] - S[:, 1]).norm(dim=1) > 2 * RADIUS + 1][:n]


S = torch.tensor([[[8, 9], [23, 20]], [[5, 26], [17, 6]]])
rows = torch.cat([S, torch.tensor([RADIUS, circles.GREEN]).expand(2, 2, 2)], dim=2)
pictures = draw(S.double())
print("centres", tuple(S.shape), "pictures", tuple(pictures.shape))
assert np.array_equal((pictures >= 0.5).numpy() * 255, circles.render(rows.numpy(), size=32))

# %%
torch.manual_seed(1)
encoder, REACH = ImageEncoder(width=8, set_size=2, element_dim=2, embed_dim=None, size=32), 9


def read(S):
    """The encoder's list of centres [B, 2, 2] in pixels, from the picture of S."""
    return MIDDLE + 8 * encoder(draw(S))[0]


def turning(theta):
    return MIDDLE + REACH * pair(theta)


train(encoder, random_pairs, read, steps=1200, lr=4e-3)
test = random_pairs(3000).double()
error = squared_error(read(test), test).sqrt()
far = 100 * (error > 3).double().mean()
print("parameters:", sum(p.numel() for p in encoder.parameters()))
print(f"3,000 new pictures: median error {error.median():.2f} px; {far:.1f} % wrong by over 3 px")

V, L = turning(theta), read(turning(theta))
at = find_break(read, turning)
worst = squared_error(read(turning(at)), turning(at)).sqrt().item()
print(f"one pair turned: error {worst:.2f} px at {math.degrees(at.item()):.2f}°")
assert worst >= REACH - 1e-4 and error.median() < 2  # bound met, and yet the task is learned


# %% [markdown]
# Which row is *responsible* for which circle? Share each circle among the rows by how near they are (a softmax of
# squared distances), and paint it in the rows' colours. This is what the paper's figure 1(a) and appendix B.3 show for
# a reconstruction: the baseline "gradually hands responsibility for the circle from one set element to the other".
# Below, first the pictures around one break, then the whole half turn: the two ends must disagree, so the rows trade
# circles an odd number of times.

# %%
def responsibility(L, V):
    """Share of each row in each circle, a Gaussian of 3 px about each: [T, row, circle]."""
    return (-(L[:, :, None] - V[:, None]).square().sum(-1) / 18).softmax(dim=1)


def paint(ax, angle):
    """The picture at an angle [1], its circles in their rows' colours, and the listed centres."""
    V = turning(angle)
    L = read(V)
    colour = responsibility(L, V)[0].T.numpy() @ SLOT  # [circle, rgb]
    alone = np.stack([draw(V[:, [i, i]])[0, 1].numpy() for i in (0, 1)])
    ax.imshow(np.einsum("chw,cr->hwr", alone, colour).clip(0, 1))
    ax.scatter(*L[0].T, c=SLOT, s=60, edgecolor="white", linewidth=1.5, zorder=3)
    ax.set(xlim=(-0.5, 31.5), ylim=(31.5, -0.5), xticks=[], yticks=[])


fig, axes = plt.subplots(2, 7, figsize=(9.5, 3.3), layout="constrained")
for column, offset in zip(axes.T, (-12, -3, -1, 0, 1, 3, 12), strict=True):
    angle = at + math.radians(offset)
    column[0].imshow(draw(turning(angle))[0].permute(1, 2, 0))
    column[0].set(title=f"break {offset:+d}°" if offset else "the break", xticks=[], yticks=[])
    paint(column[1], angle)
axes[0, 0].set_ylabel("input")
axes[1, 0].set_ylabel("listed")
fig.suptitle("Two degrees of turn, and the rows have changed circles", fontsize=12)
sides = turning(at + torch.tensor([math.radians(-1), math.radians(1)], dtype=torch.float64))
leader = responsibility(read(sides), sides)[:, :, 0].argmax(dim=1)
assert leader[0] != leader[1]  # what the title says
plt.show()

# %%
R = responsibility(L, V)
fig, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained")
for row in (0, 1):
    axes[0].plot(degrees, R[:, row, 0], color=SLOT[row], lw=2.5, label=f"row {row + 1}")
axes[0].set(ylabel="share in circle A", title="Responsibility for one circle, followed through half a turn")
axes[0].legend(loc="center", bbox_to_anchor=(0.6, 0.5))
error = squared_error(read(turning(fine)), turning(fine)).sqrt()
axes[1].plot(fine.rad2deg(), error, color="black")
axes[1].axhline(REACH, color="crimson", ls="--", lw=1)
axes[1].text(1, REACH + 0.3, "every continuous encoder reaches this line somewhere", color="crimson")
axes[1].set(xlabel="theta (degrees)", ylabel="error (px)", ylim=(0, REACH * 1.35), xticks=range(0, 181, 30))
swaps = int((alignment(L, V).sign().diff() != 0).sum())
first, last = (int(R[i, :, 0].argmax()) + 1 for i in (0, -1))
print(f"circle A: row {first} at 0°, row {last} at 180°; swaps on the way: {swaps} (always odd)")
assert first != last and swaps % 2 == 1
plt.show()

# %%
# Run the notebook, then drag: the same picture at any angle. (The figures above say it without.)
import ipywidgets


def show(degrees):
    _, ax = plt.subplots(figsize=(3.2, 3.2))
    angle = torch.tensor([math.radians(degrees)], dtype=torch.float64)
    paint(ax, angle)
    wrong = squared_error(read(turning(angle)), turning(angle)).sqrt().item()
    ax.set(title=f"{degrees:.1f}°: error {wrong:.1f} px")
    plt.show()


start = round(math.degrees(at.item()), 1)
slider = ipywidgets.FloatSlider(start, min=0, max=180, step=0.2, description="theta", readout_format=".1f")
_ = ipywidgets.interact(show, degrees=slider)

# %% [markdown]
# These are the breaks on one circle of turns. But *every* such circle, of any reach and about any midpoint, has an odd
# number of them. They join into seams. Fix the midpoint and place circle A anywhere around it (circle B opposite): the
# map of errors is cut from the inside to the outside, and, since A and B are the same green circle, it is the same
# after half a turn. (The grid straddles the steepest places, so most cells of a seam show less than the full error.)

# %%
line = torch.linspace(5, 26, 106, dtype=torch.float64)
A = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)  # where circle A may stand
reach = (A - MIDDLE).norm(dim=-1)
fits = (reach > RADIUS + 0.5) & (reach < 10.5)  # not on its partner, and inside the frame
around = torch.stack([A, 2 * MIDDLE - A], dim=-2)[fits]
seam = torch.full_like(reach, math.nan)
seam[fits] = squared_error(read(around), around).sqrt()
print("A", tuple(A.shape), "pairs", tuple(around.shape))
assert torch.allclose(seam, seam.flip(0, 1), atol=1e-6, equal_nan=True)  # swap A and B: same picture

fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
ax.grid(False)
shades = plt.get_cmap("inferno").with_extremes(bad="0.8")
image = ax.imshow(seam, extent=(5, 26, 26, 5), cmap=shades, vmin=0, vmax=10.5)
fig.colorbar(image, label="error of the list (px); grey: not allowed")
ax.set(xlabel="x of circle A (px)", ylabel="y of circle A (px)")
ax.set_title("Where circle A stands, and how wrong the list is")
plt.show()

# %% [markdown]
# ## 7. What a refiner does instead
#
# The paper's way out: do not *compute* the list from the input, *search* for it. Find a set that would encode to the
# input, $S = \arg\min_{S'} \|H_{agg}(S') - z\|^2$ (Eq. 2), by gradient steps from a first guess $S_0$ (Eq. 3). The
# quantity that moves continuously is now the *energy*, the squared difference of z, a code of the input, and
# $H_{agg}(S')$, a code of the set. Its minimiser need not. The smallest example: tilt a double well.

# %% tags=["nbval-check-output"]
s = torch.linspace(-1.6, 1.6, 3201, dtype=torch.float64)
tilt = torch.linspace(-0.4, 0.4, 401, dtype=torch.float64)
energy = (s**2 - 1) ** 2 + tilt[:, None] * s  # [tilt, s]
lowest, where = energy.min(dim=1)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for i, colour in zip((50, 200, 350), ("0.75", "0.5", "0.1"), strict=True):
    left.plot(s, energy[i], color=colour, label=f"tilt {tilt[i].round(decimals=2).add(0):.1f}")
    left.plot(s[where[i]], lowest[i], "o", color="crimson")
left.set(xlabel="s", ylabel="energy", ylim=(-0.6, 2.3), title="The energy changes a little ...")
left.legend(loc="upper center")
right.plot(tilt, s[where], ".", color="crimson", ms=3, label="where the minimum is")
right.plot(tilt, lowest, color="black", label="how low it is")
right.set(xlabel="tilt", ylim=(-1.3, 2.2), title="... and its minimiser jumps")
right.legend(loc="upper center")
print("largest change from one tilt to the next:")
print("lowest energy", round(lowest.diff().abs().max().item(), 3))
print("its place    ", round(s[where].diff().abs().max().item(), 1))
assert lowest.diff().abs().max() < 0.003 and s[where].diff().abs().max() > 1.9
plt.show()

# %% [markdown]
# Now the rotating pair. `srnlib.refine` runs the search; as $H_{agg}$ we hand it the true picture-maker $g$, so nothing
# is trained, and $S_0$ is the same fixed guess for every input. (In an SRN $H_{agg}$ and $z$ are learned; that is
# notebook 02.)

# %%
guess = torch.tensor([[0.5, 0.1], [-0.4, -0.2]], dtype=torch.float64)


def search(steps):
    return torch.no_grad()(lambda S: refine(guess.expand_as(S), g(S), g, steps=steps, inner_lr=0.05)[0])


fig, (ax, zoom) = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True, layout="constrained")
close = torch.linspace(-2, 2, 801, dtype=torch.float64)  # degrees from the break
for steps, colour in ((5, "0.8"), (10, "0.6"), (20, "0.4"), (40, "0.0"), (80, "tab:blue")):
    at = find_break(listed := search(steps))
    worst = squared_error(listed(pair(at)), pair(at)).sqrt().item()
    near = at + torch.tensor([-1e-10, 1e-10], dtype=torch.float64)
    slope = (listed(pair(near)).diff(dim=0).norm() / 2e-10 / 2**0.5).item()
    assert worst >= 1 - 1e-4  # the bound holds here as well
    V = pair(fine[::4])  # a tenth of a degree
    error, left = squared_error(listed(V), V).sqrt(), (g(listed(V)) - g(V)).square().sum(dim=1)
    wide, left = 0.1 * (error > 0.5).sum(), left[error > 0.5].max()
    print(f"{steps:3d} steps: error at the break {worst:.2f}, slope there {slope:7.2g};",
          f"error above 0.5 for {wide:4.1f}°, inner loss there up to {left:.1f}")
    ax.plot(fine[::4].rad2deg(), error, color=colour, label=f"{steps} gradient steps")
    V = pair(at + close.deg2rad())
    zoom.plot(close, squared_error(listed(V), V).sqrt(), color=colour)
for panel in (ax, zoom):
    panel.axhline(1, color="crimson", ls="--", lw=1)
ax.set(xlabel="theta (degrees)", ylabel="error", xticks=range(0, 181, 45), title="Searching: the whole half turn")
ax.text(1, 1.05, "every continuous list\nreaches this line", color="crimson", va="bottom")
zoom.set(xlabel="theta - break (degrees)", title="The break, enlarged: it stops narrowing")
fig.legend(loc="outside right center")
plt.show()

# %% [markdown]
# Be careful what this says. A *fixed number* of gradient steps is a composition of continuous maps, so the theorem
# holds for it, and the bound is met, more than met: at the break both rows may end beside the same point, and near it a
# row may run out of the picture. But two solutions are separated by a ridge of the energy, and from there every step
# multiplies small differences: steepness grows *exponentially with the number of steps*, at no cost in parameters. An
# MLP has to build it from its weights: compare the slopes in section 5.
#
# And the break does not narrow for ever (on the right). From some forty steps on it stays about half a degree wide:
# there the search has ended in a **local minimum**, with an inner loss that is not 0, and more steps do not help.
# Another start does: the inner loss needs no labels, so it can tell which of several searches came nearest (notebook
# 03, section 11).
#
# ## Summary and takeaways
# - A set has no first element. Turn two points by half a turn: the set returns, a continuous list of it comes back
#   swapped. So no continuous map lists every such set exactly (theorem 1).
# - On that curve every continuous list is wrong by at least the radius at some angle, and bisection finds the angle.
# - A wider or deeper network has a narrower break, as much steeper: width (in radians) times slope stays near 1.
# - In a good convolutional detector of circles the breaks are seams through the data; there the rows trade circles.
# - Searching for the set (a refiner) moves the discontinuity out of the weights and into the choice of a minimiser.
#
# **Where this falls short.** We told the networks the true positions; the paper's networks see only a reconstruction
# loss, and their elements may split an object rather than miss it (notebook 03). How often real data comes near a seam
# is a question about the data, which no theorem answers.
#
# ## Exercises
# 1. What is the smallest turn of a *square* of four points that proves the theorem, and in which order do the rows come
#    back?
# 2. Two points in the plane are two complex numbers $z_1, z_2$, and $g(\{z_1, z_2\}) = (z_1 + z_2,\; z_1 z_2)$ is
#    continuous. Write an exact $h$ for pairs with $z_1 + z_2 = 0$. Where on the half turn does it jump?
# 3. Our error is a root mean square in the better order. Show that the *Hausdorff* distance of list and set (the
#    largest distance from a point to its nearest in the other) is also at least 1 at the break. Check it on a trained
#    network.
# 4. Why does the theorem ask for $d \ge 2$? Show with random sets that on a line sorting is a continuous list: two
#    sorted lists differ by just as much as the two sets.
#
# ## Next
# **02_set_refiner**: the search itself, step by step: the paper's algorithm 1, the set encoder it needs, and what can
# go wrong.

# %%
rows = follow(ring(4, math.pi / 2))  # 1. a quarter of a turn; every row moves on by one
assert torch.cdist(rows[-1], rows[0]).argmin(dim=1).tolist() == [1, 2, 3, 0]

z = torch.view_as_complex(pair(theta))  # 2. roots of z^2 + z1 z2: a square root, which has no continuous branch
root = (-z[:, 0] * z[:, 1]).sqrt()
listed = torch.view_as_real(torch.stack([root, -root], dim=1))
assert squared_error(listed, pair(theta)).max() < 1e-12
jump = listed[:, 0].diff(dim=0).norm(dim=1).argmax()
assert abs(math.degrees(theta[jump]) - 90) < 0.5

# 3. The discs of radius 1 about v and -v are disjoint: nearer rows would match with an error below 1.
net = nets[3, 72]
at = find_break(lambda S: net(g(S))[0])
distance = torch.cdist(net(g(pair(at)))[0], pair(at))[0]
assert max(distance.min(dim=0).values.max(), distance.min(dim=1).values.max()) >= 1 - 1e-6

A, B = torch.randn(2, 1000, 2, 1, dtype=torch.float64)  # 4. sorting finds the best matching
lists = (A.sort(dim=1).values - B.sort(dim=1).values).square().sum((1, 2)) / 2
assert torch.allclose(lists, squared_error(A, B))
print("all four answers hold")
