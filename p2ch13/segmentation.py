"""A whole scan through the network: the probability that each voxel is nodule."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn

from p2ch13.checkpoint import load_model
from p2ch13.compute import autocast, get_device, get_dtype, get_slice_batch_size
from p2ch13.config import CONTEXT_SLICES_COUNT, HU_MAX, HU_MIN
from p2ch13.ct import Ct, find_slice_step
from p2ch13.lungs import find_lungs
from p2ch13.model import UNetWrapper
from p2ch13.scans import read_ahead
from util.boxes import Box
from util.coordinates import axial_vx_size, to_axial
from util.errors import InputError
from util.launch import Launch
from util.progress import progress_bar
from util.threads import ThreadTuner

log = logging.getLogger(__name__)

MARGIN = 32  # rows and cols around the lungs that the network sees too; more changes next to nothing inside
ALIGNMENT = (
    16  # the box begins and ends at a multiple of this, so that the network pools what it would in a whole slice
)
LEVELS = 255  # steps of probability that tell apart what touches the lungs
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))  # of (batch, channel, row, col)


def load_segmenter(checkpoint: Path) -> UNetWrapper:
    """The model of a checkpoint, on this process's device.

    Raises: InputError if it cannot be read, or is no model that gives each pixel of whole slices one probability.
    """
    model = load_model(checkpoint)
    channel_count, class_count = model.in_channels, model.n_classes
    slice_count = 2 * CONTEXT_SLICES_COUNT + 1
    if channel_count != slice_count or class_count != 1:
        raise InputError(
            f"{checkpoint}: a model of {channel_count} slices and {class_count} classes; {slice_count} and 1 are needed"
        )
    if not model.has_padding:
        raise InputError(f"{checkpoint}: a model without padding marks less than a slice; train one with padding")
    return model.to(get_device(Launch()))


def segment(
    ct: Ct,
    model: nn.Module,
    *,
    lung_field: bool = True,
    tta: bool = False,
    precision: str = "auto",
    show_progress: bool = False,
    threads: ThreadTuner | None = None,
) -> NDArray[np.float16]:
    """How probable it is that each voxel of a scan is nodule.

    The network sees axial slices, rows to the patient's back, however the scan is turned.

    Args:
        model: (batch, 7, row, col) in HU -> (batch, 1, row, col), such as `load_segmenter` gives; on any device. Its
            `slice_distance_mm`, if it has one, tells which slices it is to see.
        lung_field: look in the box around the lungs only, and keep what lies in them or touches them: a voxel outside
            gets the highest value at which it hangs together with one inside, so that whatever the threshold is, what
            is above it in one piece with lung stays whole and the rest goes. Without lungs all of the scan is used.
        tta: average over the slices as they are, with rows flipped, with cols flipped, and with both.
        precision: see `compute.get_dtype`.
        show_progress: a bar over the slices.
        threads: chooses how many compute; None leaves their number as it is.
    Returns: (index, row, col), shaped like `ct.hu`.
    Raises: InputError, naming the file, if the scan cannot be read or all of its voxels are the same, and if the model
        gives anything but numbers.
    """
    read_ahead(ct.header, 0, ct.shape_irc[0] - 1)
    hu = to_axial(ct.hu, ct.direction)
    if hu.min() == hu.max():
        raise InputError(f"{ct.header.path}: every voxel is {hu.min()} HU, nothing to be seen; export the scan anew")
    vx_size_xyz = axial_vx_size(ct.vx_size_xyz, ct.direction)
    step = find_slice_step(vx_size_xyz[2], getattr(model, "slice_distance_mm", 0.0))
    lungs = find_lungs(hu, vx_size_xyz) if lung_field else None
    if lung_field and lungs is None:
        log.warning(f"{ct.header.path}: no lungs found, so that all of it is searched; is it a chest, in HU?")
    box = whole_box(hu.shape) if lungs is None else find_lung_box(lungs)

    probability = np.zeros(ct.shape_irc, dtype=np.float16)
    in_box = to_axial(probability, ct.direction)[box]  # a view
    model.eval()
    with progress_bar(len(in_box), f"Segmenting {ct.series_uid[-20:]}", "slice", show_progress) as bar:
        start = 0
        for nodule_prob in predict_slices(hu, box, step, model, tta, precision, threads):
            if not np.isfinite(nodule_prob).all():
                raise InputError(f"{ct.header.path}: the model's result is NaN; try --precision fp32, or another model")
            in_box[start : start + len(nodule_prob)] = nodule_prob
            start += len(nodule_prob)
            bar.update(len(nodule_prob))
    if lungs is not None:
        keep_what_touches(in_box, lungs[box])
    return probability


def whole_box(shape: tuple[int, ...]) -> Box:
    index, rows, cols = (slice(0, size) for size in shape)
    return index, rows, cols


def find_lung_box(lungs: NDArray[np.bool_]) -> Box:
    """The lungs with a slice more at either end, and with the network's surroundings in each slice."""
    slices, rows, cols = (np.flatnonzero(lungs.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return (
        slice(max(int(slices[0]) - 1, 0), min(int(slices[-1]) + 2, len(lungs))),
        with_margin(int(rows[0]), int(rows[-1]) + 1, lungs.shape[1]),
        with_margin(int(cols[0]), int(cols[-1]) + 1, lungs.shape[2]),
    )


def with_margin(start: int, stop: int, size: int) -> slice:
    start, stop = start - MARGIN, stop + MARGIN
    return slice(max(start - start % ALIGNMENT, 0), min(stop + -stop % ALIGNMENT, size))


@torch.inference_mode()
def predict_slices(
    hu: NDArray[np.int16],
    box: Box,
    step: int,
    model: nn.Module,
    tta: bool,
    precision: str,
    threads: ThreadTuner | None = None,
) -> Iterator[NDArray[np.float16]]:
    """The probabilities of the box's slices, a batch of them after the other: (slice, row, col).

    Args: step: from a slice to the next that the network sees with it.
    """
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    dtype = get_dtype(precision, device)
    index, rows, cols = box
    batch_size = get_slice_batch_size(device)
    for start in range(index.start, index.stop, batch_size):
        stop = min(start + batch_size, index.stop)
        margin = step * CONTEXT_SLICES_COUNT
        neighbours = np.arange(start - margin, stop + margin).clip(0, len(hu) - 1)
        slab = np.stack([hu[ndx, rows, cols].clip(HU_MIN, HU_MAX) for ndx in neighbours]).astype(np.int16, copy=False)
        windows = torch.from_numpy(slab).to(device).unfold(0, 2 * margin + 1, 1)[..., ::step]
        # (slice, 7, row, col), in what convolutions are fastest in
        ct_slices = windows.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        with threads.measuring(ct_slices.numel()) if threads else nullcontext(), autocast(device, dtype):
            nodule_prob = predict_flipped(model, ct_slices) if tta else model(ct_slices)
        yield nodule_prob[:, 0].half().cpu().numpy()


def predict_flipped(model: nn.Module, ct_slices: torch.Tensor) -> torch.Tensor:
    """The mean over flips, each turned back."""
    return torch.stack([model(ct_slices.flip(dims)).flip(dims) for dims in FLIPS]).mean(dim=0)


def keep_what_touches(probability: NDArray[np.float16], lungs: NDArray[np.bool_]) -> None:
    """Lower, in place, what lies outside the lungs to the highest value at which it hangs together with lung.

    Source: morphological reconstruction by dilation; Vincent (1993), https://doi.org/10.1109/83.217222
    """
    levels = np.ceil(probability * np.float16(LEVELS)).astype(np.uint8)
    marker, mask = (sitk.GetImageFromArray(array) for array in (levels * lungs, levels))
    reached = sitk.GetArrayFromImage(sitk.ReconstructionByDilation(marker, mask, fullyConnected=True))
    is_lowered = reached < levels
    probability[is_lowered] = reached[is_lowered] / np.float32(LEVELS)
