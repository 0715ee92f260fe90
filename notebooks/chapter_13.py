# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chapter 13, step by step
#
# Chapter 13 of *Deep Learning with PyTorch* (Stevens, Antiga, Viehmann; Manning, 2020) trains a U-Net that marks lung
# nodules in CT scans. This notebook walks through it with the package `p2ch13`: each part names the section of the
# book, shows the idea on small data, and says what the package does differently, and why. The whole list is in
# [docs/book.md](../docs/book.md).
#
# It needs neither LUNA16 nor a GPU: the scans are synthetic chests ("phantoms"), of which we know every voxel. To run
# it yourself, in a checkout: `pip install '.[notebook]'`, then open it in Jupyter. It takes a few minutes on two
# cores.
#
# *For reading, training and research. This is not a medical device.*

# %%
import io
import os
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, display
from matplotlib.patches import Rectangle

import p2ch13

FAST = bool(os.environ.get("CHAPTER_13_FAST"))  # the tests' way: the same steps, on less data
plt.rcParams.update({"figure.dpi": 72, "image.cmap": "gray", "axes.titlesize": 10})
torch.manual_seed(13)
os.chdir(tempfile.mkdtemp())  # all that follows is written there


def quietly():
    """Hide progress bars, which a saved notebook would show line by line."""
    return redirect_stderr(io.StringIO())


# %% [markdown]
# ## The data
#
# LUNA16 is 888 CT scans with a list of 1,186 nodules, 66 GB to download. `write_phantoms` draws scans in the same
# layout in seconds: files `subset0/<series UID>.mhd`, `annotations.csv`, `candidates.csv`. Ours are small, 256 x 256
# pixels and two dozen slices. Unlike LUNA16, they come with the true mask of every nodule, since a program drew them.

# %%
with quietly():
    p2ch13.write_phantoms("data", scan_count=3 if FAST else 6, seed=4, pixels=256, slice_count=16 if FAST else 24)

candidates = p2ch13.get_candidate_info_list(Path("data"))
nodules = [candidate for candidate in candidates if candidate.is_nodule]
print(
    f"{len(nodules)} nodules, and {len(candidates) - len(nodules)} places that only look like one. The largest nodule:"
)
nodules[0]

# %% [markdown]
# A `Ct` is one scan: its voxels in Hounsfield units (HU, -1000 is air, 0 is water) and where they are in the patient.
# The package reads from disk only the slices that you look at.


# %%
def open_ct(nodule):
    """Open the scan of a nodule, with all its annotated nodules."""
    (path,) = Path("data").glob(f"subset*/{nodule.series_uid}.mhd")
    return p2ch13.Ct(path, [each for each in nodules if each.series_uid == nodule.series_uid])


def is_inside(nodule):
    """Tell whether a nodule is not too large to look at, and not at the end of its scan."""
    ct = open_ct(nodule)
    return nodule.diameter_mm < 16 and 6 <= ct.locate(nodule.center_xyz).index < ct.shape_irc[0] - 6


nodule = next(filter(is_inside, nodules))
ct = open_ct(nodule)
center = ct.locate(nodule.center_xyz)  # the book's xyz2irc: from mm in the patient to index, row, col

print(f"{ct.hu.shape} voxels of {ct.vx_size_xyz.round(2)} mm (x, y, z)")
print(f"A nodule of {nodule.diameter_mm:.1f} mm at {[round(value) for value in nodule.center_xyz]} mm is at {center}")


# %%
def window_around(center, half=24):
    """Slices of rows and cols around a voxel."""
    return tuple(slice(max(0, place - half), place + half) for place in center[1:])


def show(axes, hu, title):
    axes.imshow(hu, vmin=-1350, vmax=150)  # a lung window: black is air, white is tissue
    axes.set_title(title)
    axes.set_axis_off()


rows, cols = window_around(center)
figure, (whole, part) = plt.subplots(1, 2, figsize=(9, 4.5))
show(whole, ct.hu[center.index], f"slice {center.index}")
whole.add_patch(Rectangle((cols.start, rows.start), 48, 48, fill=False, edgecolor="orange"))
show(part, ct.hu[center.index, rows, cols], f"a nodule of {nodule.diameter_mm:.1f} mm")
plt.show()

# %% [markdown]
# ## 13.5.3 Ground truth: from a point to a mask
#
# Segmentation learns from masks: for every pixel, nodule or not. LUNA16 has none. It has the center of each nodule,
# and its diameter. So the book makes masks itself. From the center it walks outward along each axis, both ways at
# once, until one of both ends is as thin as lung (below -700 HU). That gives a box; what is denser than lung in the
# box is the mask.


# %%
def find_radius(hu, center, axis, threshold_hu=-700):
    """Walk outward from the center along one axis until an end meets lung."""
    radius = 2
    while True:
        for step in (-radius, radius):
            place = list(center)
            place[axis] += step
            if not 0 <= place[axis] < hu.shape[axis] or hu[tuple(place)] <= threshold_hu:
                return radius
        radius += 1


radii = [find_radius(ct.hu, center, axis) for axis in range(3)]
box = tuple(slice(max(0, place - radius), place + radius + 1) for place, radius in zip(center, radii, strict=True))
by_hand = np.zeros(ct.hu.shape, dtype=bool)
by_hand[box] = ct.hu[box] > -700
print(f"The walk ends after {radii} voxels (index, row, col); {by_hand.sum()} voxels are marked.")
print("The package's own:", ct.build_annotation_mask([nodule]).sum())

# %% [markdown]
# How good is such a mask? The phantom knows the truth. The package has a second rule, `refined`, which stays within
# the annotated diameter and cuts off vessels and chest wall. (A third one, `lidc`, uses the outlines that four
# radiologists drew of LUNA16's nodules.)

# %%
from p2ch13.labels.refined import RefinedRule

truth = p2ch13.Ct(Path(f"data/masks/{nodule.series_uid}.nii.gz")).voxels > 0
refined = p2ch13.Ct(ct.header.path, [nodule], RefinedRule()).positive_mask


def dice_score(marked, label):
    """2 x what both have in common, as a share of the size of both: 1 is equal, 0 is apart."""
    return 2 * (marked & label).sum() / (marked.sum() + label.sum())


around = np.zeros(ct.hu.shape, dtype=bool)
around[tuple(slice(max(0, place - 12), place + 12) for place in center)] = True  # other nodules do not count
figure, many_axes = plt.subplots(1, 3, figsize=(11, 4))
for axes, (name, mask) in zip(
    many_axes, {"truth": truth, "the book's box": by_hand, "refined": refined}.items(), strict=True
):
    show(axes, ct.hu[center.index, rows, cols], f"{name}: Dice {dice_score(mask & around, truth & around):.2f}")
    axes.contour(mask[center.index, rows, cols], [0.5], colors="orange")
left, top = box[2].start - cols.start, box[1].start - rows.start
many_axes[1].add_patch(
    Rectangle((left - 0.5, top - 0.5), 2 * radii[2] + 1, 2 * radii[1] + 1, fill=False, edgecolor="cyan")
)
plt.show()

# %% [markdown]
# **What differs.** In the book a nodule near the first slice, row or column gets an empty mask: index -1 is the *last*
# slice in Python, so the walk looked at the opposite side of the patient. Here an end stops at the border while the
# other goes on. And the book makes a mask as large as the scan, for each scan; the package makes it for the window
# that is asked for.
#
# ## 13.3 and 13.4: the U-Net
#
# A classifier shrinks an image to one answer. A U-Net shrinks it, to see far, and enlarges it again, to answer for
# every pixel; shortcuts carry the fine detail across. `UNetWrapper` is the book's: batch normalization in front, so
# that HU need no scaling, and a sigmoid behind, so that a pixel's value is a probability.

# %%
model = p2ch13.UNetWrapper(in_channels=7, n_classes=1, depth=3, wf=4, padding=True, batch_norm=True, up_mode="upconv")
print(f"{sum(weights.numel() for weights in model.parameters()):,} weights")

ct_slices = torch.from_numpy(ct.context_slices([center.index], count=3)).float()  # the slice, and three on either side
with torch.no_grad():
    probability = model(ct_slices)
print(f"{tuple(ct_slices.shape)} HU -> {tuple(probability.shape)} probabilities")
print(f"A pixel of the output depends on {model.receptive_field} x {model.receptive_field} pixels of the input.")

# %% [markdown]
# Seven slices go in as channels, one mask comes out: that of the middle slice (13.5.2 weighs this "2.5-D" against 3-D,
# which needs far more memory). Before training, the answer is noise; the input batch has one slice, and `padding=True`
# keeps its size (13.5.1).
#
# **What differs.** Training uses `model.logits`, the values in front of the sigmoid. In float32 a sigmoid is exactly 1
# from a logit of 17 on, and a certain error has no gradient any more. Weights and names are the book's: its published
# files load.
#
# ## 13.5.4 to 13.5.6: data sets
#
# Validation looks at whole slices with nodule, training at random 64 x 64 crops around nodules: they hold more nodule,
# and so more to learn from, per pixel. Crops and masks are cached on disk first, as `prepcache.py` does in the book.

# %%
from p2ch13.data.cache import CtCache

folders = p2ch13.Folders(Path("data"), Path("cache"))
cache = CtCache.open(folders)
for series_uid in cache.index.all_series:
    cache.fill(series_uid)

VAL_STRIDE = 3  # every third patient is for validation
SAMPLES = 128 if FAST else 1_600
train_ds = p2ch13.TrainingLuna2dSegmentationDataset(VAL_STRIDE, False, folders=folders, samples_per_epoch=SAMPLES)
val_ds = p2ch13.Luna2dSegmentationDataset(VAL_STRIDE, True, folders=folders)
print(
    f"training:   {len(train_ds.series_list)} scans, {len(train_ds.pos_list)} nodules, {len(train_ds):,} crops an epoch"
)
print(f"validation: {len(val_ds.series_list)} scans, {len(val_ds)} slices with nodule")

hu, mask, series_uid, slice_ndx = val_ds[0]
print(f"a validation sample: {tuple(hu.shape)} {hu.dtype}, {tuple(mask.shape)} {mask.dtype}, slice {slice_ndx}")


# %%
def show_crops(ct_slices, label_mask, title):
    """Show the middle slice of each crop with the outline of its mask."""
    figure, many_axes = plt.subplots(1, len(ct_slices), figsize=(1.8 * len(ct_slices), 2.1))
    for axes, crop, label in zip(many_axes, ct_slices, label_mask, strict=True):
        show(axes, crop[3], "")
        if label.any():
            axes.contour(label[0], [0.5], colors="orange", linewidths=1)
    figure.suptitle(title, fontsize=10)
    plt.show()


ct_batch, label_batch, *_ = next(train_ds.batches(batch_size=16))
show_crops(ct_batch[:6], label_batch[:6], "six training crops, with their masks")

# %% [markdown]
# **What differs.** A plain `DataLoader` works, as in the book; training itself uses `batches`, which cuts whole
# batches out of one tensor, on the GPU if there is one, and needs no worker processes. A mask is `bool` everywhere: in
# the book it can be an integer, of which `~mask` is never false, and then precision comes out wrong. The middle of a
# crop is the nodule's own slice; in the book it is one off for every even slice, since `round(4.5)` is 4.
#
# ## 13.5.7 Augmenting on the device
#
# A few hundred nodules are soon known by heart. So each crop is flipped, shifted, scaled and turned at random, with
# noise on top, and its mask with it. This happens on the device that trains, for a batch at once.

# %%
from p2ch13.config import BOOK_AUGMENTATION

print(BOOK_AUGMENTATION)
augment = p2ch13.SegmentationAugmentation(**BOOK_AUGMENTATION)
same_ct, same_label = ct_batch[:1].repeat(6, 1, 1, 1), label_batch[:1].repeat(6, 1, 1, 1)
show_crops(*augment(same_ct, same_label), "one crop, drawn six times")

# %% [markdown]
# **What differs.** In the book the shift does nothing, because it stands in a row of the matrix that is cut off; and
# all crops of a batch get the same transform. Here it is drawn for each crop.
#
# ## 13.6.3 Dice loss
#
# A nodule is a thousandth of a slice. A network that marks nothing is right for 99.9% of the pixels, so accuracy is no
# goal. The Dice loss compares the marked pixels with the labeled ones instead: 1 - 2 x common / (marked + labeled),
# with 1 added above and below, so that "nothing there, nothing marked" is a perfect answer. By hand, for a row of
# eight pixels:

# %%
from p2ch13.training.losses import dice_loss

label = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0], dtype=torch.bool)
predictions = {
    "perfect": [0, 0, 1, 1, 1, 1, 0, 0],
    "half of it is missed": [0, 0, 1, 1, 0, 0, 0, 0],
    "twice as much is marked": [1, 1, 1, 1, 1, 1, 1, 1],
    "unsure": [0.5] * 8,
    "nothing": [0] * 8,
}


def as_batch(pixels):
    """(pixel,) -> (batch, channel, row, col)."""
    return torch.as_tensor(pixels)[None, None, None]


print(f"{'':24}by hand  package  of the nodule alone")
for name, values in predictions.items():
    prediction = torch.tensor(values, dtype=torch.float)
    common = (prediction * label).sum()
    loss = 1 - (2 * common + 1) / (prediction.sum() + label.sum() + 1)
    own = dice_loss(as_batch(prediction), as_batch(label)).item()
    of_nodule = dice_loss(as_batch(prediction * label), as_batch(label)).item()
    print(f"{name:24}{loss:7.3f}{own:9.3f}{of_nodule:12.3f}")

# %% [markdown]
# The last column is the book's second term: the loss over the nodule's pixels alone, where marking too much costs
# nothing. The book adds it with a weight of 8: better to mark too much than to miss a nodule, because the next network
# (chapter 14) throws out what is none. Keep this in mind for the results below.
#
# ## 13.6 Training, in fifteen lines
#
# Model, augmentation, Adam (13.6.2) and loss: that is all it takes.

# %%
from p2ch13.config import LossOptions
from p2ch13.training.losses import segmentation_loss

optimizer = torch.optim.Adam(model.parameters())
model.train()
losses = []
for ct_slices, label_mask, *_ in train_ds.batches(batch_size=16):
    ct_slices, label_mask = augment(ct_slices, label_mask)
    loss_of_each, _ = segmentation_loss(model.logits(ct_slices), label_mask, LossOptions(fn_weight=8))
    optimizer.zero_grad()
    loss_of_each.mean().backward()
    optimizer.step()
    losses.append(loss_of_each.mean().item())

figure, axes = plt.subplots(figsize=(6, 2.5))
axes.plot(losses)
axes.set(xlabel="step, 16 crops each", ylabel="loss", ylim=(0, 9))
plt.show()

# %% [markdown]
# The loss could be 9 at most: 1 for everything, and 8 for what is missed. Within twenty steps it is down to 1: the
# network has found out that nothing is missed if all that is dense gets marked. What is left is the first term, which
# falls slowly.
#
# The package's `SegmentationTrainingApp` is this loop and what a real training needs around it: validation,
# TensorBoard, the best model's file, Ctrl-C and `--resume`, several GPUs. It takes the command's arguments: this is
# `p2ch13 train --data-dir data ...`, in the notebook.

# %%
EPOCHS = 1 if FAST else 3


def train(name, *options):
    """Train a network on the phantoms; return the file of its best model."""
    arguments = [
        *("--data-dir", "data", "--cache-dir", "cache", "--models-dir", "models", "--runs-dir", "runs"),
        *("--epochs", str(EPOCHS), "--samples-per-epoch", str(SAMPLES), "--val-stride", str(VAL_STRIDE)),
        *("--augmented", "--validation-cadence", "1", "--precision", "fp32", "--threads", "1"),
    ]
    with quietly():
        p2ch13.SegmentationTrainingApp([*arguments, *options, name]).main()
    (best,) = Path("models").rglob(f"*_{name}.best.state")
    return best


best = train("book")
print(*sorted(path.name.partition("_book.")[2] for path in best.parent.glob("*.state")))

# %% [markdown]
# Three kinds of files (13.6.6): the model after each epoch, named after the samples that it has seen; the best one;
# and the last state, from which a run resumes. They hold tensors, numbers and texts. A pickle, as PyTorch reads it by
# default in the book, can hold any program, and loading a stranger's file would run it; here such a file is refused.
#
# ## 13.6.5 Metrics
#
# Pixels are counted: true positives (nodule, and marked), false negatives (missed) and false positives (marked, and
# none). The rest follows: recall is the share of nodule that was found, precision the share of marks that are right,
# F1 their harmonic mean, and the same as the Dice coefficient of all pixels together. The book gives percentages of
# the *labeled* pixels, so false positives can exceed 100%.

# %%
from p2ch13.network.checkpoint import load_checkpoint

trained = p2ch13.load_model(best)
tp = fn = fp = 0
for hu, label, *_ in val_ds:
    with torch.no_grad():
        marked = trained(hu[None])[0] > 0.5
    tp += (marked & label).sum().item()
    fn += (~marked & label).sum().item()
    fp += (marked & ~label).sum().item()

recall, precision = tp / (tp + fn), tp / (tp + fp)
f1 = 2 * tp / (2 * tp + fn + fp)
scores = load_checkpoint(best)["scores"]
print(f"{tp} true positives, {fn} false negatives, {fp} false positives: {100 * fp / (tp + fn):.0f}% of nodule pixels")
print(f"by hand: recall {recall:.3f}, precision {precision:.3f}, F1 {f1:.3f}")
print(f"in file: recall {scores['recall']:.3f}, precision {scores['precision']:.3f}, F1 {scores['f1']:.3f}")

# %% [markdown]
# **What differs.** The best model is the one of the highest recall, as in the book; `--best-metric` chooses another
# score, and an epoch that found nothing never counts as best. Recall alone is easily reached by marking everything:
# look at the precision.
#
# ## 13.6.4 TensorBoard
#
# `tensorboard --logdir runs` shows curves and pictures in a browser. The event files can be read as well, and so here
# they are:

# %%
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_events(name):
    """Read the curves and pictures of a run's validation."""
    (folder,) = Path("runs").rglob(f"*_val_seg_{name}")
    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


def print_curves(events):
    print("epoch   loss  recall  precision     F1")
    tags = ("loss/all", "pr/recall", "pr/precision", "pr/f1_score")
    for epoch, points in enumerate(zip(*map(events.Scalars, tags), strict=True), 1):
        loss, recall, precision, f1 = (point.value for point in points)
        print(f"{epoch:5}{loss:7.3f}{recall:8.3f}{precision:11.4f}{f1:7.3f}")


def show_pictures(events):
    """Show two slices of the first validation scan, as the last epoch's network marks them."""
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("val/0_prediction")]
    display(*(Image(events.Images(tag)[-1].encoded_image_string) for tag in tags[1:4:2]))


events = read_events("book")
print_curves(events)
show_pictures(events)

# %% [markdown]
# Each color has one meaning, everywhere in the package: green is nodule that was found, pink is missed, blue is marked
# and no nodule. After so short a training the network has understood one thing: what is dense may be nodule. So it
# marks vessels, and most of what is around the lungs.
#
# ## 13.7 Results: a whole scan
#
# So far we looked at slices with nodule. What counts is a scan of which nobody knows where the nodules are.
# `p2ch13.predict` takes the path of a scan, or an image of SimpleITK or nibabel, segments it slice by slice, joins
# what touches to findings, and measures each. First with the network from above:

# %%
val_uid = val_ds.series_list[0]
(val_path,) = Path("data").glob(f"subset*/{val_uid}.mhd")
own = p2ch13.predict(val_path, checkpoint=best, precision="fp32")
print(f"{len(own.findings)} findings; the scan has {len(val_ds.index.nodules[val_uid])} nodules")

# %% [markdown]
# The nodules drown in that. It is what was asked for: misses cost eight times as much, and every crop held a nodule,
# so the network never saw what a vessel far from one looks like. In the book, the classifier of chapter 12 sorts the
# findings out in chapter 14.
#
# ## Beyond the chapter: turn the knobs
#
# Another way is to ask for something else. The same network, the same number of crops, and
#
# - `--labels refined`: masks without vessels and chest wall,
# - `--negatives 0.5`: half of the crops show no nodule, but what may be taken for one,
# - `--fn-weight 0.3`, `--batch-dice`, `--cross-entropy 10`: a loss in which a false positive costs, too,
# - `--val-negatives 1`, `--best-metric f1`: validation looks at slices without nodule as well, and chooses by F1.

# %%
balanced = train(
    "balanced",
    *("--labels", "refined", "--negatives", "0.5", "--fn-weight", "0.3", "--batch-dice", "--cross-entropy", "10"),
    *("--val-negatives", "1", "--best-metric", "f1"),
)
events = read_events("balanced")
print_curves(events)
show_pictures(events)

# %% [markdown]
# The same scan, with far less blue, although the network is as small and its training as short. (The loss is another
# one: its numbers cannot be compared with those above.) These options, and some more, are the recipe `strong`: `p2ch13
# train --preset strong`. What each of them brings is measured in [docs/training.md](../docs/training.md#ablation).
#
# With more data, more time, and a second, three-dimensional network that scores each finding, one gets to the network
# that comes with the package. `p2ch13.predict` uses it if no other is named:

# %%
tuned = p2ch13.predict(val_path, checkpoint=balanced, precision="fp32")
found = p2ch13.predict(val_path, **({"pixel_mm": 0.0} if FAST else {}))
print(found)

# %%
found.figure


# %% [markdown]
# Which of the annotated nodules were found? As in LUNA16, a finding is right if its center lies within a nodule's
# radius.


# %%
def finds(finding, nodule):
    return np.linalg.norm(np.subtract(finding.center_xyz, nodule.center_xyz)) <= nodule.diameter_mm / 2


for name, prediction in {
    "the chapter's recipe": own,
    "with other knobs": tuned,
    "the network in the package": found,
}.items():
    truly = val_ds.index.nodules[val_uid]
    hits = [any(finds(finding, each) for finding in prediction.findings) for each in truly]
    wrong = [finding for finding in prediction.findings if not any(finds(finding, each) for each in truly)]
    print(f"{name:28}{sum(hits)} of {len(truly)} nodules found, {len(wrong)} false positives")

# %% [markdown]
# What the chapter's recipe marks runs together into large findings, whose centers are in no nodule.
#
# These are a few phantoms, and the scan in this notebook is coarser than real ones: no figure here says how good a
# network is on patients. The [README](../README.md#how-good-is-it) has what was measured on scans.
#
# ## Where to go from here
#
# - Your own scan: `p2ch13.predict("scan.nii.gz")`, or `p2ch13 predict scan.nii.gz` for files and a report:
#   [docs/inference.md](../docs/inference.md).
# - LUNA16, or your own scans and masks: [docs/training.md](../docs/training.md) and [docs/data.md](../docs/data.md).
# - The book's names, and all that differs: [docs/book.md](../docs/book.md).
