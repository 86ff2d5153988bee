# %% [markdown]
# # Refine a set until it encodes to its input
#
# **Paper:** section 2.1, Eq. 2–3, Algorithm 1. **Running time:** about 1 minute on two CPU cores.

# %% [markdown] tags=["badge"]
# *Open in Colab: no public address yet; upload this notebook there, its first cell says what to do.*

# %% [markdown]
# Notebook 01 showed that no continuous network can list the elements of a set. Here is the paper's way round it: do
# not map the input to a set, *search* for a set that maps to the input.
#
# ## What you will do
# Write Algorithm 1 in ten lines and check it against `srnlib`; draw FSPool; walk down the energy landscape of a set
# of two elements; measure what each way of differentiating the loop costs; train a small model with the refiner
# attached, detached and asleep.
#
# ## What you will learn
# Why a refiner comes exponentially close to a jump, and what limits it. How to choose `steps`, `inner_lr` and
# the gradient mode. How to see that a refiner does nothing.
#
# ## What you will need
# PyTorch autograd, and notebook 01 for the rotating points.

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
import itertools
import math
import time
import weakref

import ipywidgets
import matplotlib.pyplot as plt
import seaborn as sns
import torch
from torch import nn

from srnlib import FSPool, SetEncoder, SetRefiner, results
from srnlib.plots import COLOURS, element_colours, use_style

use_style()
plt.rcParams["figure.dpi"] = 75  # a 12 inch figure is as wide as the page
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # so that equal means equal to twelve digits
print("torch", torch.__version__, "on cpu")


# %% [markdown]
# ## 1. How do two equations become a loop?
#
# > Given a data point X, let $S_0 = G(X)$. We also generate [a] data embedding $z = H_{embed}(X)$ as a reference for
# > what information should be contained in S. [...] we want to solve the following optimization problem
# >
# > $$S = \arg\min_{S'} L(S') = \arg\min_{S'} \lVert H_{agg}(S') - z \rVert_2^2, \qquad (2)$$
# >
# > where $H_{agg}$ is a permutation-invariant set encoder function [...]
# >
# > $$S = \mathrm{GradientDescent}_{S'}(L(S'), S_0, r), \qquad (3)$$
# >
# > which means that we run gradient descent for the loss in Eq. 2 for r steps, starting from the initial point $S_0$.
#
# Algorithm 1 spells the descent out. Lines 4 and 5, for $i = 1 \dots r$ (line 4 is printed as $L(S_i)$; the loss is
# that of $S_{i-1}$):
#
# $$L = \lVert H_{agg}(S_{i-1}) - z \rVert_2^2, \qquad S_i = S_{i-1} - \alpha \frac{\partial L}{\partial S_{i-1}}.$$
#
# By the chain rule, element $s_j$ moves against $\partial L / \partial s_j = 2 (\partial H_{agg} / \partial s_j)^\top
# (H_{agg}(S) - z)$. Every element hears the same residual, through its own Jacobian.
#
# Three things the equations leave open, and what we do:
# - **The slope is itself differentiated**, since the outer loss trains $H_{agg}$ and $z$: `create_graph=True`.
# - **Momentum.** The paper's released code descends with SGD, momentum 0.5: $v \leftarrow \mu v + \partial L /
#   \partial S$, $S \leftarrow S - \alpha v$. With $\mu = 0$ this is line 5.
# - **A batch.** We sum the losses of its examples. A mean would divide every slope by B, so how far a set moves would
#   depend on how many others are in the batch: the refiner would do less in training (batch 64) than on one test
#   image. The third cell below shows it.
#
# The first cell below is Algorithm 1. The next asks whether it is the library's: the refined set, and the gradients
# of an outer loss with respect to everything that takes part (proposal, embedding, parameters of the set encoder).

# %%
def refine(S0, z, H_agg, steps, inner_lr, momentum=0.0):
    """Algorithm 1, lines 3 to 7: S0 [B, N, D], z [B, E] -> S [B, N, D]."""
    S = S0 if S0.requires_grad else S0.detach().requires_grad_()
    v = torch.zeros_like(S)
    for _ in range(steps):
        L = (H_agg(S) - z).square().sum()  # line 4, summed over the batch
        (slope,) = torch.autograd.grad(L, S, create_graph=True)
        v = momentum * v + slope
        S = S - inner_lr * v  # line 5
    return S


# %% tags=["nbval-check-output"]
torch.manual_seed(1)
H_agg = SetEncoder(element_dim=2, embed_dim=5, hidden=8)
S0 = torch.randn(4, 3, 2, requires_grad=True)
z = torch.randn(4, 5, requires_grad=True)
settings = {"steps": 10, "inner_lr": 0.1, "momentum": 0.5}

ours = refine(S0, z, H_agg, **settings)
theirs, trace = srnlib.refine(S0, z, H_agg, **settings)
print("S0", tuple(S0.shape), " z", tuple(z.shape), " H_agg(S0)", tuple(H_agg(S0).shape))
print("S", tuple(ours.shape), " trace", *(tuple(part.shape) for part in trace))

wanted = [S0, z, *H_agg.parameters()]
ours_slopes = torch.autograd.grad(ours.square().sum(), wanted)
theirs_slopes = torch.autograd.grad(theirs.square().sum(), wanted)
torch.testing.assert_close(ours, theirs)
torch.testing.assert_close(ours_slopes, theirs_slopes)

# the chain rule written out, for one step of the first example
J = torch.autograd.functional.jacobian(H_agg, S0[:1]).reshape(5, 6)
by_hand = 2 * J.T @ (H_agg(S0[:1]) - z[:1])[0]
torch.testing.assert_close(refine(S0[:1], z[:1], H_agg, 1, 0.1), S0[:1] - 0.1 * by_hand.reshape(1, 3, 2))
print("equal: the refined set,", len(wanted), "gradients, and the slope by hand")


# %% tags=["nbval-check-output"]
def first_step(B, reduce):
    """Length of the step that example 0 takes in a batch of B examples."""
    S, target = S0[:1].expand(B, 3, 2).detach().requires_grad_(), z[:1].expand(B, 5)
    L = reduce((H_agg(S) - target).square().sum(dim=1))
    return 0.1 * torch.autograd.grad(L, S)[0][0].norm()


print("length of one example's step in a batch, relative to the example alone\nbatch    sum    mean")
for B in (1, 8, 64):
    by_sum, by_mean = (first_step(B, r) / first_step(1, torch.sum) for r in (torch.sum, torch.mean))
    print(f"{B:5d} {by_sum:6.3f} {by_mean:7.4f}")
    assert math.isclose(by_sum, 1) and math.isclose(by_mean, 1 / B)


# %% [markdown]
# ## 2. What makes $H_{agg}$ blind to order?
#
# **FSPool** (Zhang et al. 2020) pools each feature by itself: sort its values over the set, multiply each by a weight
# that depends on its *rank*, add. The weights are a piecewise linear function on [0, 1] with 20 learned pieces, read
# at ranks $i / (N-1)$, so the same parameters pool sets of any size. Sorting forgets the order in which elements
# came; unlike a sum it can still tell the largest from the middle.

# %% tags=["nbval-check-output"]
class MyFSPool(nn.Module):
    def __init__(self, channels, pieces=20):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, pieces + 1))

    def forward(self, x):  # [B, N, C] -> [B, C]
        knots = torch.arange(self.weight.shape[1])
        position = torch.linspace(0, 1, x.shape[1]) * knots[-1]
        hats = (1 - (position[:, None] - knots).abs()).clamp(min=0)  # [N, pieces + 1]: linear interpolation
        ordered = x.sort(dim=1, descending=True).values
        return (ordered * (hats @ self.weight.T)).sum(dim=1)


mine, library = MyFSPool(7), FSPool(7)
library.load_state_dict(mine.state_dict())
for N in (2, 3, 16, 50):
    x = torch.randn(4, N, 7)
    torch.testing.assert_close(mine(x), library(x))
    print("N =", f"{N:2d}:", tuple(x.shape), "->", tuple(mine(x).shape))

# %%
pool = FSPool(channels=1, pieces=5)
pool.weight.data = torch.tensor([[1.0, 0.1, -0.6, 0.5, 0.9, -0.4]])
x = torch.tensor([0.4, 1.5, -0.7, 0.9, 2.0, -0.2, 1.1])
colours, order, rank = element_colours(len(x)), x.argsort(descending=True), torch.linspace(0, 1, len(x))
weights = pool.weights_at(rank).detach()[:, 0]
pooled = pool(x[None, :, None]).item()

fig, axes = plt.subplots(1, 4, figsize=(12, 2.9), constrained_layout=True)
names = [f"$s_{i + 1}$" for i in range(len(x))]
axes[0].bar(names, x, color=colours)
axes[0].set(title="1. one feature of a set", xlabel="element", ylabel="feature value")
axes[1].bar(range(len(x)), x[order], color=colours[order], tick_label=[names[i] for i in order])
axes[1].set(title="2. sorted", xlabel="element, largest first", ylabel="feature value")
fine = torch.linspace(0, 1, 200)
axes[2].plot(fine, pool.weights_at(fine).detach(), color="0.4")
axes[2].scatter(rank, weights, c=colours[order], s=60, zorder=3)
axes[2].set(title="3. weights at the ranks (5 pieces)", xlabel="rank i / (N - 1)", ylabel="weight")
product = x[order] * weights
axes[3].bar(range(len(x)), product, color=colours[order], tick_label=[names[i] for i in order])
axes[3].axhline(pooled, color="k", ls="--", label=f"their sum = pooled = {pooled:.2f}")
axes[3].set(title="4. value x weight", xlabel="element, largest first", ylabel="product", ylim=(-0.6, 3.1))
axes[3].legend(loc="upper right", fontsize=9)
assert math.isclose(product.sum(), pooled)
plt.show()

# %% [markdown]
# **SetEncoder**: $H_{agg}(S) = \mathrm{FSPool}_i(\mathrm{MLP}(s_i) / N)$, the MLP of three layers. (Division by N is
# not in the paper's text but in its released code: FSPool adds N terms, and so they stay of one size.) It is
# permutation
# *invariant*: $H_{agg}(PS) = H_{agg}(S)$ for every permutation $P$ of the rows. Hence $L(PS) = L(S)$, and by
# differentiating both sides with respect to $S$, $P^\top \nabla L(PS) = \nabla L(S)$, that is $\nabla L(PS) = P
# \nabla L(S)$. The slope is permutation *equivariant*: reorder the proposal, and the same steps are taken in the new
# order. So the whole refiner is equivariant, and no slot has a role of its own.

# %% tags=["nbval-check-output"]
P = torch.tensor([2, 0, 1])
torch.testing.assert_close(H_agg(S0[:, P]), H_agg(S0))
S, _ = srnlib.refine(S0, z, H_agg, **settings)
S_permuted, _ = srnlib.refine(S0[:, P], z, H_agg, **settings)
torch.testing.assert_close(S_permuted, S[:, P])
print("invariant encoder, equivariant refiner")


# %% [markdown]
# ## 3. Where does the jump come from?
#
# To see a landscape we need a set with two numbers, and an $H_{agg}$ that we can trust to tell any two sets apart.
# Newton's identities give one: the power sums $p_1 = s_1 + s_2$ and $p_2 = s_1^2 + s_2^2$ fix $\lbrace s_1, s_2
# \rbrace$, for real and for complex numbers. A point of the plane is a complex number, $c = x + iy$ and $c^2 = (x^2 -
# y^2) + 2ixy$, so the same encoder serves sets of two points.

# %% tags=["nbval-check-output"]
def power_sums(S):
    """Injective on sets of two: S [B, 2, 1] -> [B, 2], or points S [B, 2, 2] -> [B, 4]."""
    if S.shape[2] == 1:
        return torch.cat([S, S**2], dim=2).sum(dim=1)
    x, y = S.unbind(dim=2)
    return torch.stack([x, y, x**2 - y**2, 2 * x * y], dim=2).sum(dim=1)


search = torch.no_grad()(srnlib.refine)  # no outer loss in this section: the refined set comes back detached
target = torch.tensor([[[1.0], [-0.5]]])
starts = [[1.5, 1.1], [0.3, -1.4], [-0.2, -1.3], [1.0, 1.45], [-1.4, -1.0], [-1.2, 0.6]]
starts = torch.tensor(starts)[..., None]
z_pair = power_sums(target).expand(len(starts), 2)
print("target", target.flatten().tolist(), " z", z_pair[0].tolist(), " starts", tuple(starts.shape))

ends, trace = search(starts, z_pair, power_sums, steps=200, inner_lr=0.02)
for start, end in zip(starts, ends, strict=True):
    print("({:5.2f}, {:5.2f}) -> ({:5.2f}, {:5.2f})".format(*start.flatten(), *end.flatten()))
assert trace.inner_loss[-1].max() < 1e-6

# %%
grid = torch.linspace(-1.7, 1.7, 200)
s1, s2 = torch.meshgrid(grid, grid, indexing="xy")
pairs = torch.stack([s1, s2], dim=-1).reshape(-1, 2, 1)
landscape = (power_sums(pairs) - z_pair[0]).square().sum(dim=1).reshape(s1.shape)
assert torch.allclose(landscape, landscape.T)  # mirror-symmetric about the diagonal s1 = s2
basin = {True: sns.color_palette("colorblind")[2], False: sns.color_palette("colorblind")[4]}


def draw(ax, starts, steps=200):
    """Contours of L over (s1, s2) and the descent paths from some starts [K, 2, 1]."""
    ax.contourf(s1.numpy(), s2.numpy(), landscape.log10().numpy(), levels=12, cmap="Greys_r", vmin=-2, vmax=2)
    ax.plot(grid, grid, color="w", ls="--", lw=1)
    path, z = [starts], z_pair[:1].expand(len(starts), 2)
    for _ in range(steps):
        path.append(search(path[-1], z, power_sums, steps=1, inner_lr=0.02)[0])
    for way in torch.stack(path, dim=1)[..., 0]:
        colour = basin[bool(way[-1, 0] > way[-1, 1])]
        ax.plot(*way.T, color=colour, lw=2)
        ax.plot(*way[0], "o", color=colour, mec="w")
    ax.plot([1, -0.5], [-0.5, 1], "*", color="gold", ms=16, mec="k", ls="")
    ax.set(xlabel="$s_1$, first element of the list", ylabel="$s_2$, second element", aspect="equal")
    ax.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    return torch.stack(path, dim=1)


# %%
across = torch.linspace(0, 1, 201)  # starts on a straight line that crosses the diagonal at 0.5
line = torch.stack([-1.0 + 2.2 * across, 1.2 - 2.2 * across], dim=1)[..., None]
end, _ = search(line, z_pair[:1].expand(201, 2), power_sums, steps=200, inner_lr=0.02)

fig, axes = plt.subplots(1, 2, figsize=(12, 4.8), width_ratios=[1, 1.4], constrained_layout=True)
draw(axes[0], starts)
axes[0].plot(*line[[0, -1], :, 0].T, color="w", lw=1)
axes[0].set_title("L (dark: low), six descents, two minima")
for i, colour in enumerate(element_colours(2)):
    axes[1].plot(across, line[:, i, 0], color=colour, ls=":", label=f"$s_{i + 1}$ of the start")
    axes[1].plot(across, end[:, i, 0], color=colour, lw=2, label=f"$s_{i + 1}$ refined")
axes[1].set(xlabel="place of the start on the white line", ylabel="value", ylim=(-1.2, 1.8))
axes[1].set_title("the start moves smoothly, the list jumps, the set stays")
axes[1].legend(ncols=2, loc="upper center")
plt.show()
off = across[(end[..., 0].sort(dim=1).values - torch.tensor([-0.5, 1.0])).abs().amax(dim=1) > 0.01]
print("places whose refined set is wrong by more than 0.01:", off.tolist())
assert 0 < len(off) <= 3 and (off - 0.5).abs().max() < 0.02


@ipywidgets.interact(place=ipywidgets.FloatSlider(value=0.4, min=0, max=1, step=0.02))
def descend(place=0.4):
    _, ax = plt.subplots(figsize=(5, 5))
    way = draw(ax, torch.tensor([[[-1.0 + 2.2 * place], [1.2 - 2.2 * place]]]))
    ax.set_title("ends at ({:.2f}, {:.2f})".format(*way[0, -1, :, 0]))
    plt.show()


# %% [markdown]
# The landscape is its own mirror image in the diagonal: both orders of the list, (1, -0.5) and (-0.5, 1), are minima,
# and the ridge between their basins is the diagonal $s_1 = s_2$. Which one the descent finds depends on the side of the
# ridge on which the *proposal* lies. Push the start smoothly over the ridge and the list swaps while the set stays: the
# discontinuity that notebook 01 asked for, here of the start, below of the input. On this grid only the start on the
# ridge fails, since equal elements stay equal; nearer to it than the grid shows, 200 steps are too few as well. (In a
# live notebook, drag the slider: it moves the start along the white line.)
#
# **Now rotate the target.** Two points, opposite on the unit circle, turn by $\theta$ from 0 to 180 degrees: the set,
# and so its embedding $z$, comes back; a list that follows the points comes back swapped. Three ways to make a list
# from $z$: a small network alone, the refiner from one fixed proposal (an opposite pair, so that its centre is right
# from the start), the refiner from the network's proposal. The
# error is the distance of the worse element under the better of the two matchings. A continuous list must somewhere
# be wrong by at least 1, half the distance of the points: were it always nearer than that, there would never be a
# doubt about which element goes with which point, and following both round would swap the list although $z$ is the
# same.

# %%
def two_points(angle):
    """[K] angles -> [K, 2, 2], opposite points on the unit circle."""
    return torch.stack([angle.cos(), angle.sin(), -angle.cos(), -angle.sin()], dim=1).reshape(-1, 2, 2)


def error(S, T):
    """Distance of the worse element under the better of both matchings, [K]."""
    worse = [(S - T_ordered).norm(dim=2).amax(dim=1) for T_ordered in (T, T.flip(1))]
    return torch.minimum(*worse)


torch.manual_seed(0)
theta = torch.linspace(0, math.pi, 721)
T = two_points(theta)
Z = power_sums(T)
layers = [nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)]
G = nn.Sequential(*layers, nn.Unflatten(1, (2, 2)))
optimiser = torch.optim.Adam(G.parameters(), lr=3e-3)
for _ in range(800):
    S = G(Z[::4])
    both = [(S - order).square().sum(dim=(1, 2)) for order in (T[::4], T[::4].flip(1))]
    optimiser.zero_grad()
    torch.minimum(*both).mean().backward()
    optimiser.step()
proposal = G(Z).detach()
fixed = 0.5 * two_points(torch.tensor([0.2 * math.pi])).expand(721, 2, 2)
print("z", tuple(Z.shape), " G(z)", tuple(proposal.shape), " fixed proposal", tuple(fixed.shape))

# %%
descent = {"steps": 30, "inner_lr": 0.05}
lists = {
    "network alone": proposal,
    "refined from one fixed proposal": search(fixed, Z, power_sums, **descent)[0],
    "refined from the network's proposal": search(proposal, Z, power_sums, **descent)[0],
}
fig, axes = plt.subplots(2, 3, figsize=(12, 5), sharex=True, sharey="row", constrained_layout=True)
degrees = theta.rad2deg()
for (name, S), (top, bottom) in zip(lists.items(), axes.T, strict=True):
    top.plot(degrees, T[:, 0, 0], color="0.6", lw=5, alpha=0.5, label="the points")
    top.plot(degrees, T[:, 1, 0], color="0.6", lw=5, alpha=0.5)
    for i, colour in enumerate(element_colours(2)):
        top.plot(degrees, S[:, i, 0], color=colour, lw=2, label=f"element {i + 1}")
    colour = COLOURS["baseline" if name == "network alone" else "srn"]
    bottom.semilogy(degrees, error(S, T).clamp(min=1e-9), color=colour)
    top.set_title(name)
    bottom.set(xlabel="rotation of the points (degrees)", xticks=range(0, 181, 45), ylim=(5e-10, 3))
    wrong = (error(S, T) > 0.1).double().mean()
    bottom.set_title(f"wrong by > 0.1 at {100 * wrong:.1f} % of angles", fontsize=10)
axes[0, 0].set_ylabel("x coordinate")
axes[1, 0].set_ylabel("error of the set")
axes[0, 0].legend(fontsize=9, loc="center left")
plt.show()
wrong = {name: (error(S, T) > 0.1).double().mean().item() for name, S in lists.items()}
assert error(proposal, T).max() > 0.9  # the theorem binds the network
assert wrong["refined from one fixed proposal"] < 0.01 and wrong["network alone"] > 0.03
assert degrees[error(lists["refined from one fixed proposal"], T) > 0.1].round().tolist() == [126]

# %% [markdown]
# The grid has four angles a degree. The refined list follows the points, swaps from one angle to the next, and follows
# them again (errors below $10^{-9}$ are drawn there). The network has to turn one element into the other over a range
# of angles. Started from the network's proposal, the refiner mends that range as far as this grid shows, and swaps
# where the network had its crisis. Its errors are greater than from the fixed proposal, though the network's guess is
# nearer: its centre is a little off, and a wrong centre shrinks by $1 - 4\alpha = 0.8$ a step only. (An error of 1 is
# in the middle at one angle, 126 degrees, which happens to lie in the window of failure; on the right at none, since
# the window lies between two angles.)
#
# **But a fixed number of gradient steps is a continuous function too**, so the theorem binds the refiner as well:
# somewhere it must be wrong by 1. Where? When the points stand at right angles to the centred proposal: neither order
# is nearer and the descent runs along the ridge to (0, 0), a saddle. An angle $\delta$ away, the small sideways part
# of the proposal grows by $1 + 8\alpha$ a step (expand $L$ around 0), so the window of failure shrinks by $1 / (1 +
# 8\alpha)$ with every step: geometrically, with no parameter added. That is the sense in which the refiner models the
# discontinuity.

# %% tags=["nbval-check-output"]
ridge = 0.2 * math.pi + math.pi / 2  # a quarter turn from the fixed proposal
delta = torch.logspace(-8, -0.31, 2000)  # distance from the ridge, radians
T_near = two_points(ridge + delta)
Z_near, fixed_near = power_sums(T_near), fixed[:1].expand(len(delta), 2, 2)
counts = range(8, 41, 4)
window = []
for steps in counts:
    S, _ = search(fixed_near, Z_near, power_sums, steps=steps, inner_lr=0.05)
    window.append(delta[error(S, T_near) > 0.1].max().item())
    print(f"{steps:2d} steps: wrong by more than 0.1 within {window[-1]:.1e} rad of the ridge")
shrink = (window[-1] / window[0]) ** (1 / (counts[-1] - counts[0]))
print(f"the window shrinks by {shrink:.2f} a step; predicted {1 / (1 + 8 * 0.05):.2f}")
assert abs(shrink - 1 / 1.4) < 0.02

# %% [markdown]
# ## 4. How many steps, and how large?
#
# The heat map shows the share of the inner loss that is left after `steps` steps of size `inner_lr`, for a `SetEncoder`
# with random weights and 16 random sets of 8 elements. Too small, and the refiner is a *no-op*. Below the limit, size
# and number of steps can be traded for each other: it is nearly their product that counts, though a few large steps do
# less than many small ones. Above the limit the descent diverges, and more steps make it worse. So take the largest
# `inner_lr` that is a factor of three to ten below the limit, then as many steps as still lower the loss. The limit
# depends on $H_{agg}$, which moves during training; that is why we log the inner loss (section 7).
#
# **The step shrinks with N.** `SetEncoder` divides its features by N, so each slope carries a factor $1/N$. One step
# lowers the loss through $\sum_i \lVert \partial H_{agg} / \partial s_i \rVert^2$, N terms of size $1/N^2$: the
# descent is N times slower in a set of N. Scaling `inner_lr` with N undoes most of it (second figure).

# %%
torch.manual_seed(0)
H_agg = SetEncoder(element_dim=4, embed_dim=64, hidden=64)
S0, S_true = torch.randn(2, 16, 8, 4)
rates = [0.001, 0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
counts = [1, 2, 5, 10, 20, 40, 80]
left = torch.empty(len(counts), len(rates))
with torch.no_grad():
    z = H_agg(S_true)
    for j, rate in enumerate(rates):
        _, trace = srnlib.refine(S0, z, H_agg, steps=max(counts), inner_lr=rate, momentum=0.5)
        left[:, j] = (trace.inner_loss / trace.inner_loss[0]).median(dim=1).values[counts]

cells = [["diverges" if v > 1.5 else f"{100 * v:.0f} %" for v in row] for row in left.tolist()]
fig, ax = plt.subplots(figsize=(12, 4.2), constrained_layout=True)
shade = {"cmap": "vlag", "center": 0, "vmin": -1.5, "vmax": 1.5, "cbar": False, "linewidths": 1}
sns.heatmap(left.log10().clamp(-2, 2), annot=cells, fmt="", ax=ax, **shade)
ax.set_xticklabels([f"{rate:g}" for rate in rates])
ax.set_yticklabels(counts, rotation=0)
ax.set(xlabel="inner_lr", ylabel="steps")
ax.set_title("inner loss left (N = 8, momentum 0.5, median of 16 sets)")
plt.show()
assert left[:, 0].min() > 0.99 and left[-1, 6] < 0.2 and left[-1, -1] > 1e3

# %%
torch.manual_seed(0)
sizes = [4, 8, 16, 32, 64, 128]
rules = {"inner_lr = 4": lambda N: 4.0, "inner_lr = N / 2": lambda N: N / 2}
fig, ax = plt.subplots(figsize=(8, 3.8), constrained_layout=True)
kept, colours = {}, iter(sns.color_palette("colorblind")[2:5:2])
for (name, rule), marker in zip(rules.items(), "os", strict=True):
    kept[name] = []
    for N in sizes:
        S0, S_true = torch.randn(2, 32, N, 4)
        with torch.no_grad():
            _, trace = srnlib.refine(S0, H_agg(S_true), H_agg, steps=10, inner_lr=rule(N))
        kept[name].append((trace.inner_loss[-1] / trace.inner_loss[0]).median().item())
    ax.semilogx(sizes, kept[name], marker=marker, base=2, label=name, color=next(colours))
ax.set(xlabel="N, elements in the set", ylabel="inner loss left", ylim=(0, 1.05))
ax.set_title("10 steps without momentum, median of 32 sets")
ax.set_xticks(sizes)
ax.set_xticklabels(sizes)
ax.legend(loc="lower right")
plt.show()
assert kept["inner_lr = 4"][-1] > 0.97 and kept["inner_lr = N / 2"][-1] < 0.9


# %% [markdown]
# ## 5. What does the gradient through the loop cost?
#
# The outer loss needs $\partial S_r / \partial(z, H_{agg})$. Three ways to get it (`grad=` of `srnlib.refine`):
# - `unroll`: backpropagate through all r steps, exactly. Every step's tensors are kept.
# - `truncate:k`: exactly through the last k steps, nothing before.
# - `implicit`: at a minimum $\nabla L(S^*, z) = 0$, whatever path led there. Differentiating that equation gives
#   $dS^*/dz = -H^{-1} \nabla^2_{Sz} L$, with the Hessian $H = \nabla^2_{SS} L$, and the same for the parameters. Only
#   the last point is kept. The inverse is applied by as many terms of its Neumann series,
#   $H^{-1} = \alpha \sum_k (I - \alpha H)^k$, as there were steps ($\alpha$: `inner_lr`). The series converges if every
#   eigenvalue of $H$ lies between 0 and $2/\alpha$, as the descent without momentum does near such a minimum.
#   `implicit:1` keeps one term, a multiple of the identity (approximate implicit differentiation, Zhang et al. 2022).
#
# We count the bytes that autograd holds between forward and backward, CPU time of both, and how well the gradient
# with respect to $z$ and all parameters agrees (cosine) with the exact one after the same number of steps, and with
# the gradient at the minimum itself (400 steps, 400 terms). The sets start near their solution, the favourable case
# for `implicit`.

# %%
class Held:
    def __init__(self, tensor):
        self.tensor = tensor


def measure(steps, mode):
    """Gradient for z and H_agg's parameters, bytes kept for backward, CPU seconds."""
    live = weakref.WeakSet()  # what is still saved when the forward pass is over

    def pack(tensor):
        live.add(held := Held(tensor))
        return held

    started = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        S, _ = srnlib.refine(S0, z, H_agg, steps=steps, inner_lr=10.0, momentum=0.5, grad=mode)
    storages = {h.tensor.untyped_storage().data_ptr(): h.tensor.untyped_storage().nbytes() for h in live}
    owned = {t.untyped_storage().data_ptr() for t in (S0, *wanted)}
    grads = torch.autograd.grad((S * readout).sum(), wanted)
    seconds = time.process_time() - started
    kept = sum(size for pointer, size in storages.items() if pointer not in owned)
    return torch.cat([g.flatten() for g in grads]), kept, seconds


torch.manual_seed(0)
H_agg, readout, S_true = SetEncoder(3, 64, hidden=64), torch.randn(8, 4, 3), torch.randn(8, 4, 3)
S0 = S_true + 0.3 * torch.randn(8, 4, 3)
z = H_agg(S_true).detach()
z = (z + 0.02 * z.std() * torch.randn(8, 64)).requires_grad_()
wanted = [z, *H_agg.parameters()]

# %%
modes = ["unroll", "truncate:5", "truncate:1", "implicit", "implicit:1"]
steps_tried = [1, 2, 5, 10, 20, 40]
at_minimum = measure(400, "implicit")[0]
cosine = nn.CosineSimilarity(dim=0)
figures = {mode: [] for mode in modes}
for steps, mode in itertools.product(steps_tried, modes):
    runs = [measure(steps, mode) for _ in range(3)]
    g, kept, seconds = runs[0][0], runs[0][1], min(run[2] for run in runs)
    exact = measure(steps, "unroll")[0]
    row = [kept / 1e6, 1e3 * seconds, cosine(g, exact), cosine(g, at_minimum), g.norm() / exact.norm()]
    figures[mode].append([float(number) for number in row])

fig, axes = plt.subplots(2, 2, figsize=(12, 6.4), sharex=True, constrained_layout=True)
titles = ["memory kept for backward (MB)", "forward and backward (CPU ms)"]
titles += ["cosine with the exact gradient of these steps", "cosine with the gradient at the minimum"]
looks = dict(zip(modes, ["o-", "s--", "s:", "D-", "D:"], strict=True))
for k, (ax, title) in enumerate(zip(axes.flat, titles, strict=True)):
    for i, (mode, rows) in enumerate(figures.items()):
        colour = sns.color_palette("colorblind")[[7, 4, 4, 2, 2][i]]
        ax.plot(steps_tried, [row[k] for row in rows], looks[mode], color=colour, label=mode, ms=6)
    ax.set(title=title, ylim=(0, None) if k < 2 else (0.5, 1.03))
for ax in axes[1]:
    ax.set_xlabel("steps")
axes[0, 0].legend()
plt.show()
final = {mode: rows[-1] for mode, rows in figures.items()}
print("length / exact length:", *(f"{mode} {row[4]:.2f} " for mode, row in final.items()))
assert final["unroll"][0] > 30 * final["implicit"][0] and final["implicit"][2] > 0.9 > final["implicit:1"][2]


# %% [markdown]
# Memory: `unroll` grows with every step, `truncate:k` stops growing at k, `implicit` keeps one step whatever `steps`
# is. Time: the truncated modes and `implicit:1` are the cheapest, `implicit` costs about half as much again, `unroll`
# about twice as much.
# Accuracy: `implicit` agrees with both references once the loop has come close to a minimum; after few steps nothing
# agrees with the gradient at the minimum, because the set is not there yet. `implicit:1` and `truncate:1` point roughly
# the right way and are about ten times too short. Use `unroll` while its memory fits (ten steps usually do), `implicit`
# beyond, if the inner loss has levelled off by then. `benchmarks/refiner_gradients.py` prints the table.
#
# ## 6. Should the task's gradient reach the proposal?
#
# In Algorithm 1, $S_0 = G(X)$ is part of the graph, and `unroll` carries the task's gradient back to it. The released
# code wraps the proposal as `nn.Parameter(init)`, which cuts it off: the layer that proposes the set stays as it was
# initialised, and only $z$ and $H_{agg}$ learn from the task (`detach_init=True`). Implicit and truncated gradients
# cut there too. We watch both on a small relative of Circles: strips of 24 pixels with up to three bumps, a set of
# four elements, each decoded to a strip, their sum compared with the input.

# %%
def strips(n, generator):
    """[n, 24] strips with 0 to 3 bumps each."""
    there = torch.arange(3) < torch.randint(0, 4, (n, 1), generator=generator)
    centre = 2 + 19 * torch.rand(n, 3, 1, generator=generator)
    bumps = torch.exp(-0.5 * (torch.arange(24) - centre) ** 2)
    return (bumps * there[..., None]).sum(dim=1)


class StripAutoencoder(nn.Module):
    def __init__(self, N=4, D=4, E=16, **settings):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(24, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.propose = nn.Sequential(nn.Linear(128, N * D), nn.Unflatten(1, (N, D)))  # G = propose(trunk)
        self.embed = nn.Linear(128, E)  # H_embed shares the trunk
        self.refiner = SetRefiner(SetEncoder(D, E, hidden=32), steps=5, momentum=0.5, **settings)
        self.decode = nn.Sequential(nn.Linear(D, 128), nn.ReLU(), nn.Linear(128, 24))

    def forward(self, X):  # [B, 24] -> [B, 24], S0, S [B, N, D], trace
        features = self.trunk(X)
        S0 = self.propose(features)
        S, trace = self.refiner(S0, self.embed(features))
        return (self.decode(S) - 3).sigmoid().sum(dim=1), S0, S, trace


# %% tags=["nbval-check-output"]
X = strips(32, torch.Generator().manual_seed(0))
print("which parts get a gradient from the task:")
for settings in ({}, {"detach_init": True}, {"grad": "truncate:1"}, {"grad": "implicit"}):
    torch.manual_seed(0)
    model = StripAutoencoder(inner_lr=1.0, **settings)
    Y, S0, S, trace = model(X)
    (Y - X).square().sum().backward()
    parts = dict(model.named_children())
    reached = [name for name, part in parts.items() if any(p.grad is not None for p in part.parameters())]
    print(f"{str(settings or 'as in Algorithm 1'):24s}", *reached)
    assert ("propose" in reached) == (not settings)
print("X", tuple(X.shape), " S0", tuple(S0.shape), " S", tuple(S.shape), " Y", tuple(Y.shape))


# %%
def moved(S0, S):
    """||S_r - S_0|| / ||S_0||, mean over the batch: how much the refiner does."""
    return ((S - S0).flatten(1).norm(dim=1) / S0.flatten(1).norm(dim=1)).mean().item()


def train(iterations=300, **settings):
    """Train on fresh strips; returns the model and rows of (task loss, moved, inner loss left)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model, history = StripAutoencoder(**settings), []
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(iterations):
        X = strips(32, generator)
        Y, S0, S, trace = model(X)
        loss = (Y - X).square().sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        first, last = trace.inner_loss[[0, -1]].mean(dim=1).tolist()
        history.append((loss.item(), moved(S0.detach(), S.detach()), last / first))
    return model, torch.tensor(history)


runs = {
    "attached": {"inner_lr": 1.0},
    "detached": {"inner_lr": 1.0, "detach_init": True},
    "asleep": {"inner_lr": 1e-6},
}
trained = {name: train(**settings) for name, settings in runs.items()}

# %%
colours = {"attached": COLOURS["srn"], "detached": "C2", "asleep": COLOURS["baseline"]}
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
labels = ["task loss", "moved: $||S_r - S_0|| / ||S_0||$", "inner loss left: last / first"]
for k, (ax, label) in enumerate(zip(axes, labels, strict=True)):
    for name, (_, history) in trained.items():
        smooth = history[:, k].unfold(0, 20, 1).mean(dim=1)
        ax.plot(range(20, len(history) + 1), smooth, color=colours[name], label=name, lw=2)
    ax.set(xlabel="iteration", title=label, yscale="log" if k == 1 else "linear")
axes[0].set_ylim(0, None)
axes[2].set_ylim(0, 1.05)
axes[0].legend()
plt.show()
last = {name: history[-50:].mean(dim=0) for name, (_, history) in trained.items()}
for name, (loss, move, left) in last.items():
    with torch.no_grad():
        _, S0, S, _ = trained[name][0](X)
    length, shift = (v.flatten(1).norm(dim=1).mean() for v in (S0, S - S0))
    print(f"{name:9s} task loss {loss:.3f}   moved {move:.4f} (||S0|| {length:.2f}, ||S - S0|| {shift:.2g})"
          f"   inner loss left {left:.2f}")
assert last["detached"][1] > 2 * last["attached"][1] and last["asleep"][1] < 0.01
assert last["asleep"][0] < 2 * last["attached"][0]  # the task's loss does not tell

# %% [markdown]
# Attached, the proposal learns with the rest, and the refiner moves it by about its own length. Detached, the
# proposal is a random function of the trunk, and small; relative to its length the refiner carries the set several
# times as far. Learning is slower here, but the proposal cannot learn to do the refiner's work. *Asleep*, with
# `inner_lr` a million times smaller, the model is the baseline, **and its task loss is as good** as the attached
# one's. (It moves a little more as $z$ and $H_{agg}$ grow, still far below anything that shows.) Strips are easy and
# one seed is one seed; what carries over is that the loss of the task need not tell whether the refiner works.
#
# ## 7. How do you see a refiner that does nothing?
#
# Two numbers, both free: how far the set moved, and how much of the inner loss is left. Look at both before the first
# training step, then log them. They are not the same: before training, $z$ is not yet the code of any set, and a
# refiner may move its set without getting nearer to $z$.
#
# **Equal slots** are another way to do nothing. If all slots start identical and $H_{agg}$ is smooth, as a mean over
# elements is, an equivariant step moves them identically: they stay one element, N times, for ever. FSPool escapes by
# accident: a sort has to put equal elements in *some* order, they get different ranks and weights, and they come
# apart (there it has no derivative, only one-sided ones, and autograd picks one). Do not count on it: let proposals
# differ between slots.

# %%
X = strips(256, torch.Generator().manual_seed(1))
torch.manual_seed(0)
models = {"untrained": StripAutoencoder(inner_lr=1.0), "trained, attached": trained["attached"][0]}
print(f"{'':18s} inner_lr    moved  inner loss first -> last")
for name, model in models.items():
    for rate in (1e-6, 1e-3, 1e-1, 1.0, 10.0):
        model.refiner.inner_lr = rate
        with torch.no_grad():
            _, S0, S, trace = model(X)
        first, last = trace.inner_loss[[0, -1]].mean(dim=1)
        verdict = "no-op" if moved(S0, S) < 0.01 else "in vain" if last > 0.99 * first else ""
        print(f"{name:18s} {rate:8g} {moved(S0, S):8.4f}  {first:8.3f} -> {last:<8.3f} {verdict}")
        assert last <= first * 1.000001  # larger would mean that it diverges
    model.refiner.inner_lr = 1.0

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
H_agg = SetEncoder(element_dim=3, embed_dim=8, hidden=16)
same = torch.randn(2, 1, 3).expand(2, 5, 3)
z = H_agg(torch.randn(2, 5, 3)).detach()
encoders = {"mean of the MLP": lambda S: H_agg.mlp(S).mean(dim=1), "FSPool of the MLP": H_agg}
for name, encoder in encoders.items():
    S, _ = srnlib.refine(same, z, encoder, steps=50, inner_lr=0.5, momentum=0.5)
    spread = (S - S[:, :1]).abs().max().item()
    print(f"{name:17s}  moved: {moved(same, S) > 0.01}   slots still equal: {spread < 1e-9}")
    assert (spread < 1e-9) == ("mean" in name) and moved(same, S) > 0.01

print("\nfrom records, on the test sets:")
older = "laptop+curriculum=0.3+embed_scale=1.0+eval_every=500+inner_lr=0.05+restart=1.0+steps=16500"
recorded = {
    "Circles, one start": ("circles", "srn", "laptop"),
    "Pong": ("pong", "srn_k3", "laptop"),
    "Pong, small inner rate": ("pong", "srn_k3", "laptop+inner_lr=0.01+steps=3000"),
    "Sort-of-CLEVR": ("sort_of_clevr", "srn", "laptop"),
    "older recipe, z not divided by N": ("sort_of_clevr", "srn", older),
}
for what, (task, model, profile) in recorded.items():
    m = next(r for r in results.load(task, model, profile) if r["seed"] == 0)["metrics"]
    first, last, move = (m.get(f"single.{key}", m.get(key)) for key in ("inner.first", "inner.last", "moved"))
    left = f"{100 * last / first:.0f} % left; moved {move:.2f}"
    print(f"{what:34s} inner loss {first:7.1f} -> {last:6.1f}, {left}")

# %% [markdown]
# **Two basins of training.** With the proposal attached, training itself has two places to settle. In one, the inner
# loss falls steeply within every call; in the other it is flat, last over first near 1 whatever its size: the proposal
# does all the work, and the model is nearly a baseline. The last lines above are records of both. In the last two
# (Sort-of-CLEVR twice; the recipes differ in more than z) the sets move alike, and only what is left of the inner loss
# tells that one moves in vain. Ways that make sleep less likely: scale `inner_lr` with N, detach the proposal, raise
# `inner_lr` until both numbers move, put noise on the proposal in training (`jitter`, notebook 03), or divide z by N
# as $H_{agg}$ does its features, so that it does not grow out of reach (notebook 05).

# %% [markdown]
# ## Summary and takeaways
# - The refiner is ten lines: gradient descent on $\lVert H_{agg}(S) - z \rVert^2$, summed over the batch, with the
#   steps kept differentiable.
# - $H_{agg}$ is invariant, so the refiner is equivariant, and every order of the set is a minimum. On which side of the
#   ridge the proposal lies chooses the order; in the limit of many steps the list jumps there while the set stays.
# - r steps are a continuous function, wrong in a window that shrinks geometrically with r.
# - `inner_lr` times `steps` nearly decides, up to a limit; `inner_lr` grows with N because features are divided by N.
# - `unroll` is exact; `implicit` keeps memory constant and is accurate once the loop has converged; one-term
#   shortcuts point roughly right and are too short.
# - The attached proposal learned faster here; in other trainings the refiner took almost nothing away. Log
#   $\lVert S_r - S_0 \rVert / \lVert S_0 \rVert$ and the inner loss.
#
# ## Exercises
# 1. A colleague averages the inner loss over the batch. Which `inner_lr` gives the sum's steps at batch size B?
# 2. Which weights make FSPool with 20 pieces a maximum? For which set sizes?
# 3. Two power sums do not fix a set of *three* numbers: find another set with the power sums of {-1, 0, 1}, and check
#    that the inner loss cannot tell them apart. Which third sum mends it?
# 4. By section 3's rate, how many steps with inner_lr 0.05 make the window smaller than $10^{-6}$ radians?
#
# Try first; the last cell asserts the answers.
#
# ## Next
# **03_circles**: the same refiner inside the paper's first experiment, on images, at full length.

# %%
# 1. B times as large.
S0, z = torch.randn(6, 5, 3), torch.randn(6, 8)
S = S0.clone().requires_grad_()
mean_loss = (H_agg(S) - z).square().sum(dim=1).mean()
stepped = S - 6 * 0.1 * torch.autograd.grad(mean_loss, S)[0]
torch.testing.assert_close(stepped, srnlib.refine(S0, z, H_agg, steps=1, inner_lr=0.1)[0])

# 2. One at rank 0, zero at the other 20 knots; up to N = 21, where the second rank reaches the second knot.
pool = FSPool(1)
pool.weight.data = torch.eye(1, 21)
for N in (1, 2, 21, 22):
    x = torch.randn(100, N, 1)
    assert torch.allclose(pool(x), x.amax(dim=1)) == (N <= 21)

# 3. p1 = 0 and p2 = 2: any three points at 120 degrees on a circle, seen from the side.
angles = torch.tensor([0.0, 1.0, 2.0]) * 2 * math.pi / 3
other = (2 / math.sqrt(3)) * (angles + 0.1).cos()[None, :, None]
three = torch.tensor([[[-1.0], [0.0], [1.0]]])
assert (power_sums(other) - power_sums(three)).norm() < 1e-12
assert (other.sort(dim=1).values - three).abs().max() > 0.1
assert (other**3).sum().abs() > 0.1  # p3 of {-1, 0, 1} is 0: the third power sum tells them apart

# 4. window(r) = window(40) / 1.4^(r - 40): the first whole r with window(r) < 1e-6.
r = math.ceil(40 + math.log(window[-1] / 1e-6) / math.log(1.4))
missed = error(search(fixed_near, Z_near, power_sums, steps=r, inner_lr=0.05)[0], T_near) > 0.1
assert not missed[delta > 1e-6].any() and missed[delta < 1e-7].all()
print("1: B times larger  2: (1, 0, ..., 0), N <= 21  3: p3  4:", r, "steps")
