# %% [markdown]
# # Take a rendered scene apart, and find out what an IoU is worth
#
# **Paper:** appendix C, Table 4. **Running time:** about 2 minutes on two CPU cores.

# %% [markdown] tags=["badge"]
# *Open in Colab: no public address yet; upload this notebook there, its first cell says what to do.*

# %% [markdown]
# ## What you will do
# Draw CLEVR scenes: three to ten solids on a floor, some of them half hidden. Train both models of notebook 03, the
# baseline and the one with a refiner (SRN), on small scenes for half a minute. Then load checkpoints, and redraw
# Table 4 and figures 8 to 12.
#
# ## What you will learn
# - What changes from Circles: the model sees a floor and shadows, and must give back the solids alone.
# - How the paper's two IoUs are computed, and what a prediction of *nothing* scores.
# - How to look at what an element holds *behind* another one.
# - Where our models fail.
#
# ## What you will need
# Notebook 02: $H_{agg}$ and FSPool. Notebook 03: the autoencoder with a set in the middle, Eq. 4, foreground ARI.

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
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from scipy.ndimage import binary_dilation, label

from srnlib import loop, metrics, metrics_iou, plots, results
from srnlib.data import clevr
from srnlib.data.clevr_boxes import fill, published
from srnlib.models.image import patch, superimpose, unpatch
from srnlib.runs import Run
from srnlib.tasks import TASKS
from srnlib.tasks.clevr import colored, weighted
from srnlib.tasks.painting import sample_cells
from srnlib.train import load_module

plots.use_style()
plt.rcParams["figure.dpi"] = 80
torch.manual_seed(0)
MODELS, NAMES, COLOURS = ("baseline", "srn"), plots.NAMES, plots.COLOURS
print("torch", torch.__version__, "| numpy", np.__version__, "| everything here runs on the CPU")

# %% [markdown]
# ## 1. What is in a scene?
#
# > "We use the CLEVR dataset [8] to show that such object decomposition holds in more complicated settings. The dataset
# > contains 70,000 training and 15,000 validation images. The original dataset does not contain images of the masked
# > objects, but we generate these through publicly available code."
#
# CLEVR is drawn by Blender and is 18 GB large. `srnlib` draws scenes by the same rules with a small ray tracer of its
# own: spheres, cubes and cylinders are met in closed form, lamps are squares with soft shadows, metal mirrors once. So
# we know more than CLEVR tells: which pixel sees which object, and what lies *behind* it.

# %% tags=["nbval-check-output"]
data = clevr.generate(60, seed=2_000_000)  # the first scenes of our test set
print("images", data.images.shape, data.images.dtype)
print("ids   ", data.ids.shape, "what a pixel sees: 0 the floor, k + 1 object k")
print("boxes ", data.boxes.shape, "left, top, right, bottom of the whole object")
print("counts", np.bincount(data.counts, minlength=11)[3:].tolist(), "scenes with 3 to 10 objects")
thing = data.scenes[0]["objects"][0]
print("first object:", thing["size"], thing["color"], thing["material"], thing["shape"])
visible, full = data.visible(), data.full()  # [60, 10, 128, 128]: what is seen; the silhouette if it stood alone
assert (visible <= full).all() and (visible.sum(1) <= 1).all()
assert ((data.foregrounds() > 0).any(1) == visible.any(1)).all()
hidden = 1 - visible.sum((2, 3))[full.any((2, 3))] / full.sum((2, 3))[full.any((2, 3))]
print(f"hidden of an object's silhouette: {100 * hidden.mean():.0f} % on average, at most {100 * hidden.max():.0f} %")
fig, axes = plt.subplots(4, 5, figsize=(9, 7.4), layout="constrained")
most = np.argsort(-(full & ~visible).sum((1, 2, 3)), kind="stable")[:5]
for b, column in zip(most, axes.T, strict=True):
    floor, colours = np.zeros((1, 3)), plots.element_colours(10)
    whose = np.concatenate([floor, colours])[data.ids[b]].transpose(2, 0, 1)
    behind = (full[b] & ~visible[b])[:, None] * colours[:, :, None, None]
    plots.show(column[0], data.images[b] / 255, f"{data.counts[b]} objects")
    plots.show(column[1], data.foregrounds()[b] / 255)
    plots.show(column[2], whose)
    plots.show(column[3], behind.max(0) + 0.25 * visible[b].any(0))
    for left, top, right, bottom in data.boxes[b, : data.counts[b]]:
        box = plt.Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, color="white", lw=0.7)
        column[2].add_patch(box)
for ax, name in zip(axes[:, 0], ("image", "foreground", "seen, and boxes", "hidden parts"), strict=True):
    ax.set_ylabel(name)
plt.show()

# %% [markdown]
# These are the five of the 60 scenes in which most is hidden. Third row: a pixel has the colour of the object that it
# sees; a box holds a whole object, hidden parts too. Fourth row: grey is what is seen, a hidden part has its object's
# colour.
#
# ### How true is it to the original?
#
# Camera, lamps, sizes, colours, distances and the rule that each object must be seen are those of CLEVR's generator;
# the 4:3 picture is squashed into a square, as in the paper. What differs: **our cubes are smaller**, as that code
# divides their size by the root of 2, in a line that never runs in it, so in the release a cube is as high as a sphere
# of its size is (our loader draws the release's as large as they are); directions are those of the camera where it
# stands, the release's of its mean place; the fill lamp has 18 W instead of 23.56; no glossy inter-reflection beyond
# one mirror bounce (metal in metal is a flat tint), no grain of path tracing, shading rounds an edge but the outline
# stays sharp, the sun casts no shadow, and masks ask for the centre of a pixel, so a foreground has hard edges. (The
# bands on the floor above are the palette of the stored picture, not the tracer.)
#
# Whoever owns the original can use it: `srnlib.data.clevr_release.load("CLEVR_v1.0", "val")` returns the same fields.
# It fits the camera of each scene from where the objects are said to be, and traces the masks that CLEVR lacks.
# `srnlib.data.clevr_files` reads the paper's h5 files and DeepMind's CLEVR with masks.
#
# ## 2. What is the model?
#
# > "We again encode images using a CNN that takes 128×128 images as input and has four convolutional layers to produce
# > a 512-dimensional image embedding. [...] The only difference is that the projection layers used in image embedding
# > generation and the decoder are modified to adapt to image size of 128×128."
#
# `laptop`, the settings of the models that ship, is narrower than that, the embedding $z$ too; the parameters are
# counted below. The paper's released code differs from its text: the model *sees* the whole picture and is compared
# with the foreground; the loss is a binary cross-entropy, not the squared error of Circles; and $H_{agg}$, "nearly the
# same" there, looks at pairs of elements before FSPool,
#
# $$H_{agg}(S) = \text{FSPool}_{i,j}\Big(\tfrac{1}{N^2} \text{MLP}([S_i, S_j])\Big).$$
#
# Mind the $1/N^2$: it makes encodings of sets small. If z is not as small, the inner loss is the length of z, and
# little that a set does can lower it. `laptop` multiplies z by 1/16 (`embed_scale`); `paper` does not. That alone keeps
# no refiner awake, the inner rate matters as much: section 12 compares.

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
TASK = TASKS["clevr"]
SETTINGS = Run.of(TASK, "srn", "laptop").settings
net = {m: TASK.build(m, Run.of(TASK, m, "laptop").settings).eval() for m in MODELS}
X = torch.from_numpy(data.images[:2]).float() / 255
H_agg = net["srn"].refiner.H_agg
with torch.no_grad():
    out = net["srn"](X)
    S, z = out.S, net["srn"].encoder(X)[1]
    pairs = torch.cat([S[:, :, None].expand(-1, -1, 16, -1), S[:, None].expand(-1, 16, -1, -1)], dim=3)
    first = torch.cat([H_agg.left.weight, H_agg.right.weight], dim=1)  # one layer for [S_i, S_j]
    features = H_agg.mlp(pairs.flatten(1, 2) @ first.T + H_agg.left.bias) / 16**2
    torch.testing.assert_close(H_agg.pool(features), H_agg(S))
shapes = {"images X": X, "set S": S, "pairs": pairs, "features of pairs": features, "embedding z": z}
shapes |= {"elements (shares)": out.elements, "reconstruction": out.image}
for name, tensor in shapes.items():
    print(f"{name:18s}", tuple(tensor.shape))
for profile in ("laptop", "paper"):
    runs = {m: Run.of(TASK, m, profile) for m in MODELS}
    weights = {m: sum(p.numel() for p in r.task.build(m, r.settings).parameters()) for m, r in runs.items()}
    print(f"{profile:6s} parameters:", ", ".join(f"{NAMES[m]} {n:,}" for m, n in weights.items()))

# %% [markdown]
# ## 3. How is it trained?
#
# The loss is the mean over pixels and channels of $-Y \log \hat Y - (1 - Y) \log(1 - \hat Y)$, where $Y$ is the
# foreground. Decoding 16 elements of 128 x 128 pixels is nearly all of the work, so `laptop` takes the loss on a sample
# of the 1,024 cells of 4 x 4 pixels, those with an edge most often, weighted so that its mean is the same.
#
# And as in Circles there are **few elements to spare** (`few`) for most of the steps (section 7 prints how many): only
# half of the elements paint, and of each batch only the half of the scenes with the fewest objects is shown. With
# sixteen elements for three solids, several share each solid, and nothing in the loss speaks against it. These steps
# are also much cheaper. But **this needs to know how many objects a scene has, which the paper's training does not**.
# Both models get it.

# %% tags=["nbval-check-output"]
Y = torch.from_numpy(data.foregrounds(slice(0, 2))).float() / 255
with torch.no_grad():
    by_hand = -(Y * out.image.log() + (1 - Y) * (1 - out.image).log())
    torch.testing.assert_close(by_hand.mean(), F.binary_cross_entropy(out.image, Y))
    cell_loss = patch(by_hand).mean(dim=2)  # [2, 1024]
    estimates = []
    for _ in range(400):
        at, weight = sample_cells(patch(Y), 256)
        estimates.append((weight * cell_loss.gather(1, at)).sum(dim=1).mean() / 1024)
estimates = torch.stack(estimates)
drawn = (patch(Y).gather(1, at[..., None].expand(-1, -1, 48)).amax(2) > 0).float().mean()
print(
    f"cells with an object: {100 * (patch(Y).amax(2) > 0).float().mean():.0f} % of all,",
    f"{100 * drawn:.0f} % of the last draw",
)
assert abs(estimates.mean() - by_hand.mean()) < 4 * estimates.std() / 20  # unbiased
print("cross-entropy by hand = torch's, and sampling it is unbiased: checked")
best = torch.linspace(0, 0.4, 40_001)  # predictions
for w in (1.0, SETTINGS.black_weight):
    certain = []
    for q in torch.linspace(0.01, 0.3, 30):
        expected = q * weighted(best, torch.tensor(0.4), w) + (1 - q) * weighted(best, torch.tensor(0.0), w)
        torch.testing.assert_close(best[expected.argmin()], 0.4 * q / (q + w * (1 - q)), atol=1e-3, rtol=0)
        certain.append((best[expected.argmin()] < 0.01).item())
    print(f"weight {w:.0f}: paint 0.4 bright that is there with {sum(certain)} % or less stays below 0.01")

# %% [markdown]
# **A halo counts as paint.** Where the outline of an object is uncertain, this loss is least at the mean of what may be
# there, faint but not black. Table 4's measures count every value from 0.01 on as painted (section 4). So `laptop` lets
# a wrong value weigh more where $Y$ is 0 (`black_weight`), for both models; it rises from 1 while elements are few, for
# a heavy penalty on paint, given from the start, is best met by painting nothing. With weight $w$, and paint $v$ bright
# there with probability $q$, the best prediction is $qv / (q + w (1 - q))$. The last two lines above come from it.
#
# **What does this loss pay for?** On an object $Y$ is seldom 0 or 1, so even the truth does not reach a loss of 0. The
# bars are predictions made from the truth of our 60 scenes by forgetting more and more: shading within an object, its
# colour, the differences between objects, the last pixel of the outline, and at last where the objects are.
#
# On the left is the released code's cross-entropy, on the right the loss of `laptop`: with `black_weight`, and with a
# squared error of *colour* inside the objects, how far a pixel's channels are from their mean, `color_weight` times:
#
# $$\big((\hat Y_c - \tfrac13 \textstyle\sum_k \hat Y_k) - (Y_c - \tfrac13 \sum_k Y_k)\big)^2 \; [Y_c > 0].$$

# %%
Y = torch.from_numpy(data.foregrounds()).float() / 255
solid = torch.from_numpy(data.ids > 0)[:, None].expand_as(Y)
wider = F.max_pool2d(solid.float(), 3, 1, 1) > 0
shade, nearly_0 = Y[solid].mean(), torch.tensor(1e-4)
ids, plain = torch.from_numpy(data.ids).long().flatten(1)[:, None].expand(-1, 3, -1), torch.zeros_like(Y).flatten(2)
size = plain.new_zeros(*plain.shape[:2], 11).scatter_add(2, ids, torch.ones_like(plain))
total = plain.new_zeros(*plain.shape[:2], 11).scatter_add(2, ids, Y.flatten(2))
plain = (total / size.clamp(min=1)).gather(2, ids).view_as(Y) * solid  # each object in its mean colour
made = {"the truth": Y, "each object in its mean colour": plain}
made |= {"each object in its mean grey": plain.mean(1, True).expand_as(Y)}
made |= {"one grey for all objects": torch.where(solid, shade, nearly_0)}
made |= {"that, one pixel too wide": torch.where(wider, shade, nearly_0)}
made |= {"one grey for every pixel": Y.mean().expand_as(Y)}


# %% tags=["nbval-check-output"]
def off_grey(image):
    return image - image.mean(dim=1, keepdim=True)


paid = {"cross-entropy": {}, "the loss of laptop": {}}
for name, image in made.items():
    p = image.clamp(1e-4, 1 - 1e-4)
    plainly = F.binary_cross_entropy(p, Y, reduction="none")
    colour = (off_grey(p) - off_grey(Y)).square() * (Y > 0)
    torch.testing.assert_close(patch(colour), colored(patch(p), patch(Y)))
    paid["cross-entropy"][name] = plainly.mean().item()
    heavier = plainly * torch.where(Y > 0, 1, SETTINGS.black_weight) + SETTINGS.color_weight * colour
    paid["the loss of laptop"][name] = heavier.mean().item()
fig, axes = plt.subplots(1, 2, figsize=(10, 2.1), layout="constrained", sharey=True)
for ax, (name, values) in zip(axes, paid.items(), strict=True):
    ax.barh(list(values), [1000 * v for v in values.values()], color=COLOURS["paper"])
    ax.bar_label(ax.containers[0], fmt="%.0f", padding=3)
    ax.set(title=name, xlabel="x 1000 (less is better)", xlim=(0, 1150 * max(values.values())))
axes[0].invert_yaxis()
plt.show()
for name, v in paid.items():
    assert list(v.values()) == sorted(v.values())  # what is forgotten costs
    pixel = v["that, one pixel too wide"] - v["one grey for all objects"]
    colours = v["each object in its mean grey"] - v["each object in its mean colour"]
    print(f"{name:18s} the last pixel of the outline {1000 * pixel:.1f}, the objects' colours {1000 * colours:.1f}")


# %% [markdown]
# To cross-entropy all colours are worth far less than one pixel of outline, and the models that we trained with it
# alone painted in grey, for as long as we trained them (section 7 lists them). With the weight they paint in colour:
# section 8 measures it.
#
# ## 4. What does Table 4 measure?
#
# > "In both cases, we first threshold the pixels valued in [0, 1] by 0.01 [...]. For the overall IoU case, this
# > threshold is applied on the final reconstruction, and in the per-object case it is applied on each set element.
# > [...] we algorithmically generate bounding boxes with OpenCV's findContours() function applied to the thresholded
# > prediction. [...] each prediction is matched with the closest ground truth bounding box."
#
# The released code matches the other way round: for each of *16 slots* of the truth, the best IoU of any element. A
# slot without an object is an empty mask, an empty element is an empty box, and the IoU of two empty boxes counts as 1.
# The overall IoU compares values, pixel by pixel and channel by channel: a painted one counts from 0.01 on, a true one
# if it is not exactly 0. Here both measures are written as plainly as possible. What is left of OpenCV is: connected
# parts, their rectangles.

# %%
def boxes_of(mask):
    """The rectangles around the connected parts of a mask, all filled."""
    parts, n = label(mask, np.ones((3, 3)))
    filled = np.zeros_like(mask)
    for k in range(1, n + 1):
        rows, columns = np.nonzero(parts == k)
        filled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return filled


def iou(a, b):
    return (np.sum(a & b) + 1e-6) / (np.sum(a | b) + 1e-6)


def per_object(elements, slots):
    found = [boxes_of((e >= 0.01).any(0)) for e in elements]
    return np.mean([max(iou(true, f) for f in found) for true in slots])


# %% tags=["nbval-check-output"]
slots = published(data.scenes)  # [60, 16, 128, 128]: boxes by the released code's formula; empty after the last object
exact = fill(data.boxes, 128)  # [60, 10, 128, 128]
seen = torch.from_numpy(visible[:, :, None] * data.foregrounds()[:, None] / 255).float()  # each object in an element
checked = []
for b in range(3):
    truth = torch.from_numpy(data.foregrounds()[b : b + 1] / 255).float()
    for elements in (seen[b], seen[b].roll(6, dims=-1), seen[b].sum(0, keepdim=True)):  # true, displaced, in one
        ours = metrics_iou.object_iou(elements[None], torch.from_numpy(slots[b : b + 1])).item()
        assert abs(ours - per_object(elements.numpy(), slots[b])) < 1e-6
        image = elements.sum(dim=0)
        whole = metrics_iou.overall_iou(image[None], truth).item()
        assert abs(whole - iou(image.numpy() >= 0.01, truth[0].numpy() != 0)) < 1e-6
        checked += [ours, whole]
assert any(0.2 < v < 0.8 for v in checked[::2]) and any(0.2 < v < 0.8 for v in checked[1::2])  # not only at 0 and 1
print("truth: slots", slots.shape, "| exact boxes", exact.shape, "| both measures equal srnlib's: checked")

# %% [markdown]
# ## 5. How can it be fooled?
#
# Three predictions that need no training: *nothing*; *everything in one element*, the whole foreground undivided; and
# *the truth*, each object's visible part in an element of its own, six or more elements empty. Beside the paper's
# measures stand two that give *nothing* a 0: the IoU over real objects with exact boxes, and foreground ARI.

# %% tags=["nbval-check-output"]
empty = torch.zeros(60, 16, 3, 128, 128)
one, truth = empty.clone(), empty.clone()
truth[:, :10] = seen
one[:, 0] = seen.sum(dim=1)
Y = seen.sum(dim=1)


def scores(elements, image, Y=Y, slots=slots, exact=exact, visible=visible):
    """The four measures in percent, means over scenes."""
    slots, exact, visible = map(torch.from_numpy, (slots, exact, visible))
    four = metrics_iou.overall_iou(image, Y), metrics_iou.object_iou(elements, slots)
    four += metrics_iou.object_iou_real(elements, exact), metrics.foreground_ari(elements, visible)
    return [100 * v.mean().item() for v in four]


lines = ["| prediction | " + " | ".join(TASK.rows.values()) + " |", "|---|" + "---:|" * 4]
naive = {"nothing": empty, "all in one element": one, "the truth": truth}
naive = {name: scores(elements, elements.sum(dim=1)) for name, elements in naive.items()}
for name, four in naive.items():
    lines.append(f"| {name} | " + " | ".join(f"{v:.0f}" for v in four) + " |")
display(Markdown("\n".join(lines)))
n = data.counts.mean()
print(f"mean number of objects {n:.2f}, so empty slots make up {1 - n / 16:.2f} of all")
assert naive["nothing"][1] > 50 > naive["nothing"][2]  # nothing is paid for, and the honest measure does not pay
assert naive["the truth"][1] < 95  # the boxes of the formula are not where the objects are

# %% [markdown]
# So read the published per-object IoU between what *nothing* gets and what *the truth* gets, not from 0 to 100. On the
# original validation set these are 62.6 and 91.2 (measured once for this project; that set is not shipped, so nothing
# here repeats it); the paper's baseline has 77.37, its SRN 83.05. (A
# model can score below *nothing*, by junk in the elements that should be empty.) The truth stays below 100 because the
# "ground truth boxes" are a rule of thumb computed from an object's centre.
#
# ## 6. What does half a minute of training give?
#
# A smaller problem: 64 x 64 pixels, 200 scenes, a narrow network; both models get the same steps on the same scenes.

# %%
small = {"size": 64, "width": 3, "encoder_width": 8, "hidden": 32, "embed_dim": 32, "set_size": 16, "cells": 96}
small |= {"steps": 240, "batch_size": 8, "lr": 4e-3, "cooldown": 0.4, "eval_every": 80}
small |= {"train_images": 200, "val_images": 16}
live, history = {}, {}
for model in MODELS:
    run = Run.of("clevr", model, "smoke", **small)
    loop.seed_everything(0)
    live[model] = run.task.build(model, run.settings)
    history[model] = loop.fit(run.task, live[model], run.settings, seed=0, on=loop.accelerator("cpu"), show=False)
    for row in history[model]:
        inner = f"  inner loss {row['inner_first']:.1f} -> {row['inner_last']:.1f}" if model == "srn" else ""
        print(
            f"{NAMES[model]:8s}  step {row['step']:4d}  {row['core_seconds']:4.1f} core-seconds",
            f" loss {row['loss']:.3f}  overall IoU {row['iou.overall']:2.0f} %{inner}",
        )
    assert history[model][-1]["loss"] < 0.5 * history[model][0]["loss"]  # it learns
assert not loop.collapsed(history["srn"][-1])  # the refiner moves its set

# %%
few = clevr.generate(3, seed=1_000_000, size=64)
X_live = torch.from_numpy(few.images).float() / 255
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", width_ratios=(1, 1.1))
for model in MODELS:
    rows = history[model]
    left.plot([r["step"] for r in rows], [r["loss"] for r in rows], "o-", color=COLOURS[model], label=NAMES[model])
left.set(xlabel="step", ylabel="cross-entropy", xticks=[r["step"] for r in rows], title="Training loss")
left.legend()
with torch.no_grad():
    found = {model: live[model].eval()(X_live) for model in MODELS}
table = [X_live, torch.from_numpy(few.foregrounds()).float() / 255, *(found[m].image for m in MODELS)]
plots.show(right, plots.sheet(torch.stack(table, dim=1).flatten(0, 1), 4), "Three scenes of the validation set")
right.set_xticks([34, 102, 170, 238], ["image", "target", *(NAMES[m] for m in MODELS)], fontsize=10)
plt.show()

# %% [markdown]
# A dim blob where most objects are, by both, and that the floor is to be left out. Shapes and colours are missing.
#
# ## 7. What do we get after longer training? (Table 4)
#
# `laptop` is what ships: 128 x 128 pixels, 16 elements of dimension 10, narrower layers. The lines below say how long
# each model was trained (as long; the baseline's steps are cheaper, it takes a fifth more), and whether batch norm kept
# its statistics from some step on ("frozen": notebook 03, section 3). The paper has 70,000 images, and its authors, in
# the tracker of their code, advise 100 to 200 epochs, 7 to 14 million images. And its images are the original's, ours
# are not: compare SRN with baseline, and take the distance from the paper as a rough one. (The paper's Table 4 heads
# its columns "MLP" and "baseline"; by its caption the second is the SRN.)

# %% tags=["nbval-check-output"]
PROFILE = "laptop"
RECORDS = {model: results.load("clevr", model, PROFILE) for model in MODELS}
SHOWN = ("srn", "baseline")
assert all(RECORDS.values()), f"no results: train first; there are {[m for m in MODELS if RECORDS[m]]}"
TRAINED = {model: load_module(Run.of("clevr", model, PROFILE, RECORDS[model][0]["seed"])) for model in SHOWN}
for model in SHOWN:
    records = RECORDS[model]
    minutes, config = [r["history"][-1]["core_seconds"] / 60 for r in records], records[0]["config"]
    images = config["steps"] * config["batch_size"] * (1 - config["few"] / 2)
    print(
        f"{NAMES[model]:8s} n={len(records)}, {min(minutes):.0f} to {max(minutes):.0f} core-minutes:",
        f"{config['steps']:,} steps showed {images:,.0f} images",
        f"of {config['train_images']:,} scenes",
    )
frozen = config.get("freeze_norm", 1.0)  # of notebook 03, section 3
print(
    f"few elements for {100 * config['few']:.0f} % of the steps, normalisation",
    f"frozen after {100 * frozen:.1f} %" if frozen < 1 else "never frozen",
)
print(f"{config['test_images']} test scenes, {RECORDS['srn'][0]['cpu']}")
display(Markdown("**Table 4.** Percent.\n\n" + results.table(TASK, PROFILE, NAMES)))


# %% tags=["nbval-check-output"]
def mean(model, key):
    return np.mean([r["metrics"][key] for r in RECORDS[model]])


def verdict():
    """What the table says, in words, from its numbers only."""
    for key, name in TASK.rows.items():
        here = f"{name.removesuffix(', %')}: SRN {mean('srn', key):.1f}"
        if key in TASK.paper["srn"]:
            here += f", {mean('srn', key) - TASK.paper['srn'][key]:+.1f} points from the paper's SRN"
        yield here + f"; SRN minus baseline {mean('srn', key) - mean('baseline', key):+z.1f} points"
    nothing = naive["nothing"][1]
    gains = ", ".join(f"{NAMES[m]} {mean(m, 'iou.object') - nothing:+.1f}" for m in SHOWN)
    yield f"per-object IoU as published, beyond the {nothing:.0f} that nothing gets (60 scenes): {gains} points"
    seeds = ", ".join(f"{NAMES[m]} {len(RECORDS[m])}" for m in MODELS)
    doubt = "; with so few, a difference of a few points may be chance"
    yield f"trainings finished: {seeds}" + (doubt if min(map(len, RECORDS.values())) < 3 else "")


display(Markdown("\n".join(f"- {sentence}." for sentence in verdict())))

# %%
TUNED = {"baseline": ("steps", "width", "encoder_width", "few", "black_weight", "color_weight", "freeze_norm")}
TUNED["srn"] = ("embed_scale", "inner_lr", *TUNED["baseline"])  # what these models read
heads = ["model", "differs by", "seed", "core-minutes", *TASK.rows.values(), "inner loss taken away, %"]
lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * 7]
for model in MODELS:
    base = Run.of(TASK, model, PROFILE).config
    for r in sorted(results.load("clevr", model), key=lambda r: -r["history"][-1]["core_seconds"]):
        config, row = r["config"], r["history"][-1]
        differs = [f"{k} {config[k]:g}" for k in TUNED[model] if config[k] != base[k]]
        four = " | ".join(f"{row[key]:.1f}" for key in TASK.rows)
        taken = f"{100 * (1 - row['inner.last'] / row['inner.first']):.0f}" if model == "srn" else "–"
        what = f"{', '.join(differs) or 'nothing'} | {r['seed']}"
        lines.append(f"| {NAMES[model]} | {what} | {row['core_seconds'] / 60:.0f} | {four} | {taken} |")
caption = "**The models that ship, and older ones.** The last row of validation; the test set chose nothing."
display(Markdown(caption + "\n\n" + "\n".join(lines)))


# %% [markdown]
# Smaller z, black weight and frozen normalisation came together, and so did colour weight and width; what each alone
# brings was not measured at length. Core-minutes are of the day: the models that ship had a machine on which a step
# took less than half as long, so compare steps.
#
# The black weight of 20 was chosen on validation, by going on from a trained SRN for 500 steps with 5, 15, 25 and 60
# (not kept). Up to 25 both the overall IoU and that over real objects rise; at 60 only the latter does, and the
# pictures grow darker all the way. Of the inner rates 2 is the one whose first steps were sound on seed 0: at 1 the
# refiner fell asleep with the new weight, at 4 its inner loss had grown without bound, and so it did with noise on
# the proposal (`jitter`).
#
# ## 8. What do the elements look like? (Figures 8 and 9)
#
# Six scenes of the test set, the first six, not chosen; for each model (of seed 0, here and below) its reconstruction
# and its 16 elements.
# The paper's figures show whole objects in colour, one an element. How near do ours come? Three numbers below say it:
#
# - *colour*: how far the strongest channel is above the weakest, over the pixels of the objects; grey has 0;
# - how much of an object's light comes from its **main element**, the one that paints most of it;
# - how many objects share their main element with no other object.
#
# And a fourth, how many of the 16 elements paint: fewer than there are objects cannot hold them apart. Where the
# numbers of both models are alike, only Table 4 sets them apart. The elements are drawn brighter than they are, each by
# the square root of its share of its own greatest value, as most of them are dim; the reconstructions are not.

# %%
def decode(model, X):
    """A trained model's `Reconstruction` of uint8 images [B, 3, H, W]."""
    with torch.no_grad():
        return TRAINED[model](torch.as_tensor(X).float() / 255)


OUT, MAIN = {model: decode(model, data.images) for model in SHOWN}, {}
with plt.rc_context({"figure.dpi": 72}):
    coarse = {m: F.max_pool2d(OUT[m].elements[:6].flatten(1, 2), 2).unflatten(1, (16, 3)) for m in SHOWN}
    drawn = {m: (OUT[m].image[:6], plots.brighter(coarse[m])) for m in SHOWN}
    plots.samples(data.images[:6] / 255, drawn, columns=8)
    plt.show()
real, inside = torch.from_numpy(visible.any((2, 3))), torch.from_numpy(visible.any(1))
for model in SHOWN:
    torch.testing.assert_close(OUT[model].elements.sum(dim=1), OUT[model].image)
    light = torch.einsum("bnhw,bkhw->bkn", OUT[model].elements.amax(dim=2), torch.from_numpy(visible).float())
    MAIN[model] = light.argmax(dim=2)  # [60, 10]: the main element of each object
    part = (light.amax(dim=2) / light.sum(dim=2).clamp(min=1e-9))[real].mean()
    paints = OUT[model].elements.flatten(2).amax(dim=2) > 0.1  # [60, 16]
    sharers = ((MAIN[model][:, :, None] == MAIN[model][:, None]) & real[:, None]).sum(dim=2)  # itself among them
    colour, true = ((image.amax(dim=1) - image.amin(dim=1))[inside].mean() for image in (OUT[model].image, Y))
    print(
        f"{NAMES[model]:8s} colour {colour:.2f} (true {true:.2f}); main element: {100 * part:.0f} % of the light,",
        f"not shared by {100 * (sharers == 1)[real].float().mean():.0f} % of objects",
    )
    print(
        f"         elements that paint: {paints.float().sum(dim=1).mean():.1f} a scene",
        f"(objects {data.counts.mean():.1f}), {paints.any(dim=0).sum()} of 16 in any of the 60",
    )

# %% [markdown]
# ## 9. And from nearby? (Figures 10 to 12)
#
# The first scene of five objects and the first of eight, large. In the third column a pixel has the colour of the
# element that paints most of it: each solid should have one colour, and no two the same. On the right the 16 elements,
# in the order in which the model lists them. Third and fourth column are brightened, as above.

# %%
with plt.rc_context({"figure.dpi": 69}):
    fig, axes = plt.subplots(4, 4, figsize=(11, 6.6), layout="constrained", width_ratios=(1, 1, 1, 4))
    for at, line in enumerate(axes):
        b, model = int(np.argmax(data.counts == (5, 8)[at // 2])), SHOWN[at % 2]
        image, elements = OUT[model].image[b], OUT[model].elements[b]
        whose = plots.tint(elements)[1]
        pictures = (data.images[b] / 255, image, (whose / whose.max()) ** 0.5, plots.sheet(plots.brighter(elements), 8))
        for ax, picture, name in zip(line, pictures, ("input", "painted", "by whom", "the 16 elements"), strict=True):
            plots.show(ax, picture, "" if at else name)
        line[0].set_ylabel(NAMES[model], color=COLOURS[model])
    plt.show()


# %% [markdown]
# ## 10. Does an element know what is hidden?
#
# > "In contrast, SRN can decompose the scene with the superposition of full objects, including the occluded parts"
#
# In the sum of Eq. 4 a hidden part is painted by whoever stands in front. To see what an element holds there, decode it
# without the competition, $\text{sigmoid}(I_i)$. We take objects of which a quarter to three quarters is hidden, and
# leave out those that share their main element with the object in front, which lights the hidden part for its own sake.
# Where is the main element lit (above 0.1)? It should be so at the seen and at the hidden part, and not in a ring of 3
# pixels around the whole silhouette.

# %%
def alone(model, X):
    """Each element decoded without competition, [B, N, H, W]."""
    with torch.no_grad():
        S = TRAINED[model].encode(torch.as_tensor(X).float() / 255)[0]
        return unpatch(TRAINED[model].decoder(S)).sigmoid().amax(dim=2)


share = 1 - visible.sum((2, 3)) / np.maximum(full.sum((2, 3)), 1)
half_hidden = np.argwhere((share > 0.25) & (share < 0.75))
assert len(half_hidden) > 5
ALONE = {model: alone(model, data.images) for model in SHOWN}
for model in SHOWN:
    lit = {"seen part": [], "hidden part": [], "ring": []}
    for b, k in half_hidden:
        behind, main = full[b, k] & ~visible[b, k], MAIN[model][b].tolist()
        front = np.bincount(data.ids[b][behind])[1:].argmax()  # the object that hides most of it
        if main[front] == main[k]:
            continue
        held = ALONE[model][b, main[k]].numpy() > 0.1
        around = binary_dilation(full[b, k], iterations=3) & ~full[b, k]
        for values, place in zip(lit.values(), (visible[b, k], behind, around), strict=True):
            values.append(held[place].mean())
    shares = ", ".join(f"{place} {100 * np.mean(values or np.nan):.0f} %" for place, values in lit.items())
    print(f"{NAMES[model]:8s} {len(lit['ring'])} of {len(half_hidden)} half-hidden objects; lit: {shares}")

# %%
order = np.argsort(-full[tuple(half_hidden.T)].sum((1, 2)))[:4]
fig, axes = plt.subplots(4, 2 + 2 * len(SHOWN), figsize=(3.4 + 3.3 * len(SHOWN), 6.8), layout="constrained")
for line, (b, k) in zip(axes, half_hidden[order], strict=True):
    plots.show(line[0], data.images[b] / 255)
    plots.show(line[1], np.stack([visible[b, k], full[b, k], full[b, k]]).astype(float))
    for at, model in enumerate(SHOWN):
        main = MAIN[model][b, k]
        plots.show(line[2 + 2 * at], OUT[model].elements[b, main])
        plots.show(line[3 + 2 * at], ALONE[model][b, main].expand(3, -1, -1))
heads = [("image", "black"), ("seen white, hidden cyan", "black")]
heads += [(f"{NAMES[m]}: {what}", COLOURS[m]) for m in SHOWN for what in ("share", "alone")]
for ax, (head, colour) in zip(axes[0], heads, strict=True):
    ax.set_title(head, fontsize=10, color=colour)
plt.show()

# %% [markdown]
# The four largest of the half-hidden objects, those that the percentages leave out among them. *Share* is what the main
# element paints in the sum, *alone* what it holds. One that completes its object is lit in the white and the cyan part,
# and nowhere else; a blob that is merely too large is lit in the ring as well. So read the three percentages together,
# and with them the number of objects: they are few. The paper's quote claims this of the SRN alone; our baseline holds
# as much of what is hidden, or more, so we do not see that contrast.
#
# ## 11. Where do they fail?
#
# Two measures against the number of objects in a scene, one for large and small objects, and the four scenes on which
# the SRN is worst by the per-object IoU over real objects. A dot is the mean of six to nine scenes (their counts are in
# section 1), so small ups and downs mean nothing.

# %%
T = torch.from_numpy
each = {m: 100 * metrics_iou.object_iou_real(OUT[m].elements, T(exact)).numpy() for m in SHOWN}
ari = {m: 100 * metrics.foreground_ari(OUT[m].elements, T(visible)).numpy() for m in SHOWN}
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for ax, (name, values) in zip(axes, {"IoU, real objects, %": each, "foreground ARI, %": ari}.items(), strict=False):
    for model in SHOWN:
        at = [values[model][data.counts == n].mean() for n in range(3, 11)]
        ax.plot(range(3, 11), at, "o-", color=COLOURS[model], label=NAMES[model])
    ax.set(xlabel="objects in the scene", ylabel=name, xticks=range(3, 11), ylim=(0, 100))
sizes = ("large", "small")
things = [(b, k, thing["size"]) for b, scene in enumerate(data.scenes) for k, thing in enumerate(scene["objects"])]
best = {m: metrics_iou.best_iou(OUT[m].elements, T(exact)).numpy() for m in SHOWN}
for shift, m in enumerate(SHOWN):
    large, small = (100 * np.mean([best[m][b, k] for b, k, this in things if this == size]) for size in sizes)
    axes[2].bar(np.arange(2) + 0.35 * (shift - 0.5), (large, small), 0.33, color=COLOURS[m])
    few, many = each[m][data.counts <= 5].mean(), each[m][data.counts >= 8].mean()
    print(
        f"{NAMES[m]:8s} IoU over real objects: {few:.0f} % in scenes of 3 to 5, {many:.0f} % of 8 to 10;",
        f"large {large:.0f} %, small {small:.0f} %",
    )
    assert (best[m] <= 1).all() and each[m].min() >= 0
axes[2].set(xticks=[0, 1], xticklabels=sizes, xlabel="size of the object", ylabel="IoU, real objects, %", ylim=(0, 100))
axes[0].legend()
plt.show()
worst = np.argsort(each["srn"])[:4]
stack = [np.stack([data.images[b] / 255, Y[b], *(OUT[m].image[b] for m in SHOWN)]) for b in worst]
fig, ax = plt.subplots(figsize=(6, 5.2), layout="constrained")
plots.show(ax, plots.sheet(np.concatenate(stack), 2 + len(SHOWN)), "The four worst scenes of the SRN")
ax.set_xticks([66 + 132 * k for k in range(2 + len(SHOWN))], ["image", "target", *(NAMES[m] for m in SHOWN)])
plt.show()

# %% [markdown]
# ## 12. Is the refiner awake?
#
# It sleeps if it does not move its set (notebook 03). It may also move it in vain, hardly nearer to z: so we ask what
# share of the inner loss it takes away, early in training and at the end. First of those that ship, then of an older
# one whose z was not made smaller.

# %%
whole = [r for r in results.load("clevr", "srn") if r["config"]["embed_scale"] == 1]
for record in (*RECORDS["srn"], max(whole, key=lambda r: r["config"]["steps"])):
    early = record["history"][0]
    full = record["config"]["few"] * record["config"]["steps"]  # from here on with all elements
    before = [h for h in record["history"] if h["step"] < full][-1]
    rows = {f"step {early['step']}": early, f"step {before['step']}": before, "trained": record["metrics"]}
    for when, row in rows.items():
        taken = 100 * (1 - row["inner.last"] / row["inner.first"])
        print(
            f"z x {record['config']['embed_scale']:g}, seed {record['seed']}, {when:11s}",
            f"inner loss {row['inner.first']:.3g} -> {row['inner.last']:.3g},",
            f"{taken:.0f} % taken away; moved {row['moved']:.2f} of the proposal's norm",
        )
    print(f"asleep: {bool(record['metrics']['collapsed'])}")
with torch.no_grad():
    proposed = superimpose(unpatch(TRAINED["srn"].decoder(OUT["srn"].S0)))
torch.testing.assert_close(superimpose(unpatch(TRAINED["srn"].decoder(OUT["srn"].S))).detach(), OUT["srn"].elements)
for name, elements in {"proposed": proposed, "refined": OUT["srn"].elements}.items():
    four = scores(elements, elements.sum(dim=1))
    print(f"{name:8s}", ", ".join(f"{row} {v:.1f}" for row, v in zip(TASK.rows.values(), four, strict=True)))

# %%
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for model in SHOWN:
    rows, config = [r["history"] for r in RECORDS[model]], RECORDS[model][0]["config"]
    grown = [h for h in rows[0] if h["step"] <= config["few"] * config["steps"]][-1]
    for ax, key in zip(axes, ("loss", "iou.object", "iou.object_real"), strict=True):
        curves = [([h["core_seconds"] / 60 for h in seed], [h[key] for h in seed]) for seed in rows]
        plots.band(ax, curves, colour=COLOURS[model], label=NAMES[model])
        ax.axvline(grown["core_seconds"] / 60, color=COLOURS[model], linestyle=":", linewidth=1)
axes[0].set(xlabel="core-minutes", ylabel="loss", yscale="log", title="Training loss")
axes[1].set(xlabel="core-minutes", ylabel="%", ylim=(0, 90), title="Per-object IoU as published")
axes[2].set(xlabel="core-minutes", ylim=(0, 90), title="Per-object IoU, real objects")
axes[0].legend()
plt.show()

# %% [markdown]
# From the dotted line on a model may use all 16 elements, and sees all scenes: the loss rises with the fuller scenes.
# (Both IoUs are of validation.) The published IoU of both models jumps there and that over real objects does not: what
# they gain is paid for new elements that match empty slots. Section 8 counts those that paint in a scene.
#
# A refiner that takes away most of the inner loss searches. One that moves its set and takes away little only
# pushes it: z stays out of reach of what sets encode to (notebook 05, section 7). The last two lines above say what
# that does for the picture: $S_0$ decoded as it is proposed, and the refined set, by the same decoder.
#
# **One recipe, two basins.** The refiner of seed 0 takes away half of its inner loss at first, and still near a tenth
# at the end. That of seed 1 begins alike, but soon takes away no more than a hundredth: it moves its set in vain. And
# so do the two differ as models: by the measures of single objects seed 0 is ahead of both baselines, seed 1 a little
# behind them (the last table of section 7 has each seed), so that the means are level. Once trained, refining brings
# seed 0 some points (the last two lines above); the rest of its lead lies in what it proposes, so the refiner helped
# while the network learned. Two seeds do not prove that, and what decides between the basins we do not know; the
# inner rate is one lever, and no sure one.
#
# ## Summary and takeaways
# - What came out: by their means over two seeds the two models are level. The SRN whose refiner kept taking away a
#   part of its inner loss is ahead of both baselines by the measures of single objects; the one whose refiner moved
#   its set in vain is not. Both are more than ten points below the paper's overall IoU; per object the baseline is at
#   the paper's number, the SRN some points below its own.
# - CLEVR asks for more than Circles: leave out a floor with shadows, draw solids, and choose who paints a hidden place.
# - A metric has a floor and a ceiling. Compute both, with predictions of nothing and of the truth, before you read it.
# - The published per-object IoU counts empty slots. Over real objects and with exact boxes it says what it seems to.
# - What an element holds behind another is seen only without the competition of Eq. 4.
# - A model may separate objects better and reconstruct no better: look at ARI and at overall IoU side by side.
# - The trainings that ship are shorter than the paper's; section 7 says how short, and how far from the paper they end.
#
# ## Exercises
# 1. A scene has n objects. What does *nothing* score on the published per-object IoU? For which n is it 81.25 %?
# 2. In which case does the overall IoU of a *perfect* reconstruction fall below 1?
# 3. An element paints two distant pixels. What do the boxes hold? And two pixels that touch at a corner?
# 4. One element holds the whole foreground. What is its ARI, and why is its IoU over real objects not 0?
#
# Try first; the last cell asserts the answers.
#
# ## Next
# **05_sort_of_clevr**: flat shapes again, but with questions about relations.

# %%
# 1. (16 - n) / 16: three objects.
slot = torch.zeros(1, 16, 8, 8, dtype=torch.bool)
slot[0, :3, 2:5, 2:5] = True
assert abs(metrics_iou.object_iou(torch.zeros(1, 16, 3, 8, 8), slot).item() - 0.8125) < 1e-6

# 2. If a true value is not 0 but below 0.01: 1/255 and 2/255, the darkest shades.
dark = torch.full((1, 3, 8, 8), 2 / 255)
assert metrics_iou.overall_iou(dark, dark).item() < 1e-6
assert metrics_iou.overall_iou(dark + 1 / 255, dark + 1 / 255).item() == 1

# 3. Two boxes of one pixel; one box of 2 x 2.
dots = torch.zeros(2, 8, 8, dtype=torch.bool)
dots[0, 1, 1] = dots[0, 6, 6] = dots[1, 1, 1] = dots[1, 2, 2] = True
assert metrics_iou.fill_boxes(dots).sum((1, 2)).tolist() == [2, 4]

# 4. 0, no better than chance. Objects that stand apart are parts of their own, but the boxes of all of them are the
#    union that each is compared with: n equal boxes give 1 / n.
mask = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
mask[0, 0, :2, :2] = mask[0, 1, 5:7, 5:7] = True
heap = torch.zeros(1, 3, 3, 8, 8)
heap[0, 1] = mask[0].any(0).float()
assert metrics.foreground_ari(heap, mask).item() == 0
assert abs(metrics_iou.object_iou_real(heap, mask).item() - 1 / 2) < 1e-6
print("1: (16 - n) / 16, three  2: values of 1 or 2 of 255  3: two boxes, one of 2 x 2  4: 0; 1 / n for n equal boxes")
