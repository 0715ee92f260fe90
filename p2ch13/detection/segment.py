"""Whole-scan segmentation: a logit of each voxel."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from p2ch13.config import CONTEXT_SLICES_COUNT
from p2ch13.data.ct import Ct
from p2ch13.network.checkpoint import load_model
from p2ch13.network.compute import Compute, get_device, get_dtype, get_slice_batch_size
from p2ch13.network.model import SegmentationNetwork
from p2ch13.util.boxes import Box, BoxMask, make_box, pad_box, split_components, widen
from p2ch13.util.errors import InputError, name_type
from p2ch13.util.files import FileName
from p2ch13.util.logits import to_logit
from p2ch13.util.progress import progress_bar
from p2ch13.util.threads import ThreadTuner

log = logging.getLogger(__name__)

LOWEST_THRESHOLD = 0.01  # probability; lower values stay as the network gives them, unless a threshold is lower
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))  # of (batch, channel, row, col)


def load_segmenter(
    checkpoint: FileName, network: str | None = None, device: torch.device | None = None
) -> SegmentationNetwork:
    """Load the model of a checkpoint onto a device.

    Args: network: see `load_model`; device: None for `get_device`'s default.
    Raises: InputError if the file cannot be read, or its model does not map context slices to one logit per pixel.
    """
    return as_segmenter(Path(checkpoint), load_model(checkpoint, network)).to(device or get_device())


def as_segmenter(checkpoint: Path, model: SegmentationNetwork) -> SegmentationNetwork:
    """Return a checkpoint's model, if it segments slices. Raises: see `load_segmenter`."""
    slice_count = 2 * CONTEXT_SLICES_COUNT + 1
    if (model.in_channels, model.n_classes) != (slice_count, 1):
        message = (
            f"the model has {model.in_channels} slices and {model.n_classes} classes; {slice_count} and 1 are needed"
        )
        raise InputError(message, path=checkpoint)
    if not model.has_padding:
        raise InputError("a model without padding marks less than a slice; train one with padding", path=checkpoint)
    return model


def segment(
    ct: Ct,
    model: SegmentationNetwork,
    *,
    lung_mask: bool = True,
    tta: bool = False,
    pixel_mm: float = 0.0,
    precision: str = "auto",
    show_progress: bool = False,
    lowest_threshold: float = LOWEST_THRESHOLD,
    threads: ThreadTuner | None = None,
) -> NDArray[np.float32]:
    """Compute the logit of each voxel of a scan.

    The network sees axial slices, rows to the patient's back: the order of `Ct`.

    Args:
        model: a network, such as `load_segmenter` returns.
        lung_mask: search the box around the lungs, and keep components that touch them: a voxel outside the lungs gets
            the highest value at which it is connected to a voxel inside, so that at any threshold components that
            touch lung stay whole and others vanish. Without lungs, the whole scan is searched.
        tta: average the logits of the slices as they are, with rows flipped, cols flipped, and both.
        pixel_mm: enlarge slices, so that the network sees pixels of at most this size, see `enlarge`; 0: as they are.
        precision: see `compute.get_dtype`.
        show_progress: show a progress bar.
        lowest_threshold: the lowest probability for which `lung_mask` holds.
        threads: tunes the number of threads; None keeps it.
    Returns: (index, row, col), shaped like `ct.hu`; -inf outside the box.
    Raises: InputError, naming the file, if the scan cannot be read or is constant, or a logit is not finite.
    """
    if not isinstance(ct, Ct):
        raise InputError(f"a Ct is searched, such as Ct('scan.nii.gz') or Ct(image), not {name_type(ct)}")
    ct.read_ahead(0, ct.shape_irc[0] - 1)
    if ct.hu.min() == ct.hu.max():
        raise InputError(f"every voxel is {ct.hu.min()} HU; export the scan again", path=ct.header.path)
    lungs = ct.lungs if lung_mask else None
    if lung_mask and lungs is None:
        log.warning(f"{ct.header.path}: no lungs found; searching the whole scan. Is it a chest CT in HU?")
    margin = model.receptive_field // 2
    box = make_box((0, 0, 0), ct.shape_irc) if lungs is None else find_lung_box(lungs, margin, model.size_multiple)

    logits = np.full(ct.shape_irc, -np.inf, dtype=np.float32)
    in_box = logits[box]  # a view
    model.eval()
    with progress_bar(len(in_box), f"Segmenting {ct.series_uid[-20:]}", "slice", show_progress) as bar:
        start = 0
        for slice_logits in predict_slices(ct, box, model, tta, pixel_mm, precision, threads):
            if not np.isfinite(slice_logits).all():
                raise InputError("the model gives NaN; try --precision fp32, or another model", path=ct.header.path)
            in_box[start : start + len(slice_logits)] = slice_logits
            start += len(slice_logits)
            bar.update(len(slice_logits))
    if lungs is not None:
        reconstruct_from_lungs(in_box, lungs[box], to_logit(lowest_threshold))
    return logits


def find_lung_box(lungs: NDArray[np.bool_], margin: int, size_multiple: int) -> Box:
    """Find the box around the lungs, one slice larger at either end, with the margin that logits in it depend on.

    Args: margin: pixels, half of the network's receptive field; size_multiple: the network's. The box is aligned with
        the network's blocks in a whole slice, so that the same pixels are combined.
    """
    ends = [np.flatnonzero(lungs.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    first, last = np.transpose(ends)
    margins, blocks = np.array([1, margin, margin]), np.array([1, size_multiple, size_multiple])
    starts = (first - margins) // blocks * blocks
    stops = -(-(last + 1 + margins) // blocks) * blocks  # rounded up
    return make_box(np.maximum(starts, 0), np.minimum(stops, lungs.shape))


@torch.inference_mode()
def predict_slices(
    ct: Ct,
    box: Box,
    model: SegmentationNetwork,
    tta: bool,
    pixel_mm: float,
    precision: str,
    threads: ThreadTuner | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of the box's slices in batches, (slice, row, col)."""
    device = model.device
    compute = Compute(device, get_dtype(precision, device))
    index, rows, cols = box
    batch_size = get_slice_batch_size(device)
    row_mm, col_mm = ct.vx_size_xyz[1::-1].tolist()
    for start in range(index.start, index.stop, batch_size):
        slices = range(start, min(start + batch_size, index.stop))
        context = ct.context_slices(slices, CONTEXT_SLICES_COUNT, model.slice_spacing_mm, rows, cols)
        # (slice, 7, row, col), in the memory format that convolutions are fastest in
        ct_slices = enlarge(torch.from_numpy(context).to(device).float(), (row_mm, col_mm), pixel_mm)
        ct_slices = ct_slices.contiguous(memory_format=torch.channels_last)
        with threads.measuring(ct_slices.numel()) if threads else nullcontext(), compute.autocast():
            logits = predict_flipped(model, ct_slices) if tta else model.logits(ct_slices)
        yield resize(logits.float(), context.shape[2:])[:, 0].cpu().numpy()


def enlarge(slices: torch.Tensor, size_mm: tuple[float, float], pixel_mm: float) -> torch.Tensor:
    """Interpolate slices (slice, channel, row, col) to pixels of `pixel_mm`, those that are larger.

    A nodule of a few pixels is less than the blocks and filters of a network are made for, and coarse pixels are
    fewer than most that it was trained on.

    Args: size_mm: of the pixels, along rows and cols; pixel_mm: 0 leaves them as they are.
    """
    if not pixel_mm:
        return slices
    rows, cols = (
        max(count, round(count * size / pixel_mm)) for count, size in zip(slices.shape[2:], size_mm, strict=True)
    )
    return resize(slices, (rows, cols))


def resize(slices: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Interpolate slices (slice, channel, row, col) linearly to so many rows and cols."""
    if slices.shape[2:] == tuple(shape):
        return slices
    return F.interpolate(slices, size=tuple(shape), mode="bilinear", align_corners=False)


def predict_flipped(model: SegmentationNetwork, ct_slices: torch.Tensor) -> torch.Tensor:
    return torch.stack([model.logits(ct_slices.flip(dims)).flip(dims) for dims in FLIPS]).mean(dim=0)


def reconstruct_from_lungs(logits: NDArray[np.float32], lungs: NDArray[np.bool_], floor: float) -> None:
    """Lower logits outside the lungs, in place, to the highest value at which they are connected to lung.

    Each component above the floor that lies outside is reconstructed from the lung beside it, or gets the floor if
    there is none. Reconstructing a whole scan would take as long as its network.

    Args: floor: lower values are kept; no component above the floor depends on them.
    """
    is_outside = logits > np.float32(floor)
    np.greater(is_outside, lungs, out=is_outside)  # and not lung, without memory of its own
    everything = make_box((0, 0, 0), logits.shape)
    for part in split_components(BoxMask(everything, is_outside), fully_connected=True):
        box = pad_box(part.box, 1, logits.shape)
        beside = lungs[box] & (logits[box] > np.float32(floor))
        mask = beside | widen(part, box).mask
        logits[box][mask] = reconstruct(logits[box], beside, mask, floor) if beside.any() else floor


def reconstruct(
    values: NDArray[np.float32], is_marked: NDArray[np.bool_], mask: NDArray[np.bool_], floor: float
) -> NDArray[np.float32]:
    """Lower each value inside a mask to the highest value at which it is 26-connected to a marked voxel.

    Args: floor: at most the values inside the mask. Returns: the mask's values, (voxel,).
    Source: morphological reconstruction by dilation; Vincent (1993), https://doi.org/10.1109/83.217222
    """
    # SimpleITK copies arrays: those of a component as large as a lung are kept no longer than they are needed.
    marker = sitk.GetImageFromArray(np.where(is_marked, values, np.float32(floor)))
    image = sitk.GetImageFromArray(np.where(mask, values, np.float32(floor)))
    reached = sitk.ReconstructionByDilation(marker, image, fullyConnected=True)
    lowered: NDArray[np.float32] = sitk.GetArrayViewFromImage(reached)[mask]
    return lowered
