"""A whole scan through the network: how probable it is that each voxel is nodule, and where nodules are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from p2ch13.config import CONTEXT_SLICES_COUNT, HU_MAX, HU_MIN, MIN_DIAMETER_MM, NODULE_THRESHOLD
from p2ch13.data.ct import Ct, cut_slab, find_slice_step, repeat_ends
from p2ch13.detection.findings import Finding, find_nodules
from p2ch13.network.checkpoint import load_model
from p2ch13.network.compute import autocast, get_device, get_dtype, get_slice_batch_size
from p2ch13.network.model import UNetWrapper
from p2ch13.util.boxes import Box
from p2ch13.util.coordinates import axial_vx_size, to_axial
from p2ch13.util.errors import InputError
from p2ch13.util.launch import Launch
from p2ch13.util.logits import to_logit
from p2ch13.util.progress import progress_bar
from p2ch13.util.threads import ThreadTuner
from p2ch13.volumes.files import read_ahead
from p2ch13.volumes.lungs import find_lungs

log = logging.getLogger(__name__)

LOWEST_THRESHOLD = 0.01  # probability; what is lower is left as the network gives it, unless a threshold asks for less
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))  # of (batch, channel, row, col)


class Segmenter(Protocol):
    """What gives slices their logits: a `UNetWrapper`, or anything else that has these.

    Attributes:
        slice_spacing_mm: between the slices that it is to see; 0 for those right beside each other.
        size_multiple: rows and cols are taken together in blocks of so many.
        reach: rows and cols away from which a pixel can change another one's result.
        device: where it computes.
    """

    slice_spacing_mm: float
    size_multiple: int
    reach: int

    @property
    def device(self) -> torch.device: ...

    def eval(self) -> object: ...

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        """(batch, 7, row, col) in HU -> (batch, 1, row, col), float32."""


class Detection(NamedTuple):
    """What was found in a scan.

    Attributes:
        logits: (index, row, col), float16, -inf where nothing was searched; its 11 bits tell all that a map is shown
            for, and take half the room. Labels and scores were made before it was rounded.
        labels: (index, row, col), each voxel's number of the finding, 0 for none.
        findings: the most probable first.
    """

    logits: NDArray[np.float16]
    labels: NDArray[np.int32]
    findings: list[Finding]


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


def detect(
    ct: Ct,
    model: Segmenter,
    threshold: float = NODULE_THRESHOLD,
    min_diameter_mm: float = MIN_DIAMETER_MM,
    *,
    lung_mask: bool = True,
    tta: bool = False,
    precision: str = "auto",
    show_progress: bool = False,
    threads: ThreadTuner | None = None,
) -> Detection:
    """Find the nodules of a scan. Args, Raises: see `segment` and `find_nodules`."""
    logits = segment(
        ct,
        model,
        lung_mask=lung_mask,
        tta=tta,
        precision=precision,
        show_progress=show_progress,
        lowest_threshold=min(threshold, LOWEST_THRESHOLD),
        threads=threads,
    )
    labels, findings = find_nodules(ct, logits, threshold, min_diameter_mm)
    return Detection(logits.astype(np.float16), labels, findings)


def segment(
    ct: Ct,
    model: Segmenter,
    *,
    lung_mask: bool = True,
    tta: bool = False,
    precision: str = "auto",
    show_progress: bool = False,
    lowest_threshold: float = LOWEST_THRESHOLD,
    threads: ThreadTuner | None = None,
) -> NDArray[np.float32]:
    """How probable it is that each voxel of a scan is nodule, as a logit.

    The network sees axial slices, rows to the patient's back, however the scan is turned.

    Args:
        model: such as `load_segmenter` gives.
        lung_mask: look in the box around the lungs only, and keep what lies in them or touches them: a voxel outside
            gets the highest value at which it is connected to one inside, so that the components above any threshold
            stay whole where they touch lung, and go where they do not. Without lungs all of the scan is used.
        tta: average the logits of the slices as they are, with rows flipped, with cols flipped, and with both.
        precision: see `compute.get_dtype`.
        show_progress: a bar over the slices.
        lowest_threshold: probability from which on this holds.
        threads: chooses how many compute; None leaves their number as it is.
    Returns: (index, row, col), shaped like `ct.hu`; -inf outside the box.
    Raises: InputError, naming the file, if the scan cannot be read or all of its voxels are the same, and if the model
        gives anything but numbers.
    """
    read_ahead(ct.header, 0, ct.shape_irc[0] - 1)
    hu = to_axial(ct.hu, ct.direction)
    if hu.min() == hu.max():
        raise InputError(f"{ct.header.path}: every voxel is {hu.min()} HU, nothing to be seen; export the scan anew")
    vx_size_xyz = axial_vx_size(ct.vx_size_xyz, ct.direction)
    step = find_slice_step(vx_size_xyz[2], model.slice_spacing_mm)
    lungs = find_lungs(hu, vx_size_xyz) if lung_mask else None
    if lung_mask and lungs is None:
        log.warning(f"{ct.header.path}: no lungs found, so that all of it is searched; is it a chest, in HU?")
    box = whole_box(hu.shape) if lungs is None else find_lung_box(lungs, model.reach, model.size_multiple)

    logits = np.full(ct.shape_irc, -np.inf, dtype=np.float32)
    in_box = to_axial(logits, ct.direction)[box]  # a view
    model.eval()
    with progress_bar(len(in_box), f"Segmenting {ct.series_uid[-20:]}", "slice", show_progress) as bar:
        start = 0
        for slice_logits in predict_slices(hu, box, step, model, tta, precision, threads):
            if not np.isfinite(slice_logits).all():
                raise InputError(f"{ct.header.path}: the model's result is NaN; try --precision fp32, or another model")
            in_box[start : start + len(slice_logits)] = slice_logits
            start += len(slice_logits)
            bar.update(len(slice_logits))
    if lungs is not None:
        reconstruct_from_lungs(in_box, lungs[box], to_logit(lowest_threshold))
    return logits


def whole_box(shape: tuple[int, ...]) -> Box:
    index, rows, cols = (slice(0, size) for size in shape)
    return index, rows, cols


def find_lung_box(lungs: NDArray[np.bool_], reach: int, size_multiple: int) -> Box:
    """The lungs with a slice more at either end, and with all that the network's results in them depend on.

    Args: reach, size_multiple: the network's, see `Segmenter`. The box begins and ends where the network's blocks do in
        a whole slice, so that the same pixels are taken together.
    """
    slices, rows, cols = (np.flatnonzero(lungs.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return (
        slice(max(int(slices[0]) - 1, 0), min(int(slices[-1]) + 2, len(lungs))),
        with_margin(int(rows[0]), int(rows[-1]) + 1, lungs.shape[1], reach, size_multiple),
        with_margin(int(cols[0]), int(cols[-1]) + 1, lungs.shape[2], reach, size_multiple),
    )


def with_margin(start: int, stop: int, size: int, margin: int, multiple: int) -> slice:
    start, stop = start - margin, stop + margin
    return slice(max(start - start % multiple, 0), min(stop + -stop % multiple, size))


@torch.inference_mode()
def predict_slices(
    hu: NDArray[np.int16],
    box: Box,
    step: int,
    model: Segmenter,
    tta: bool,
    precision: str,
    threads: ThreadTuner | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The logits of the box's slices, a batch of them after the other: (slice, row, col).

    Args: step: from a slice to the next that the network sees with it.
    """
    device = model.device
    dtype = get_dtype(precision, device)
    index, rows, cols = box
    batch_size = get_slice_batch_size(device)
    for start in range(index.start, index.stop, batch_size):
        stop = min(start + batch_size, index.stop)
        margin = step * CONTEXT_SLICES_COUNT
        slab = cut_slab(hu, repeat_ends(range(start - margin, stop + margin), len(hu)), rows, cols)
        slab.clip(HU_MIN, HU_MAX, out=slab)
        windows = torch.from_numpy(slab).to(device).unfold(0, 2 * margin + 1, 1)[..., ::step]
        # (slice, 7, row, col), in what convolutions are fastest in
        ct_slices = windows.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        with threads.measuring(ct_slices.numel()) if threads else nullcontext(), autocast(device, dtype):
            logits = predict_flipped(model, ct_slices) if tta else model.logits(ct_slices)
        yield logits[:, 0].float().cpu().numpy()


def predict_flipped(model: Segmenter, ct_slices: torch.Tensor) -> torch.Tensor:
    """The mean logits over flips, each turned back."""
    return torch.stack([model.logits(ct_slices.flip(dims)).flip(dims) for dims in FLIPS]).mean(dim=0)


def reconstruct_from_lungs(logits: NDArray[np.float32], lungs: NDArray[np.bool_], floor: float) -> None:
    """Lower, in place, what lies outside the lungs to the highest value at which it is connected to lung.

    Args: floor: what is lower than this is left as it is: sorting it takes most of the time, and changes no component
        above a threshold that is higher.
    Source: morphological reconstruction by dilation; Vincent (1993), https://doi.org/10.1109/83.217222
    """
    raised = np.maximum(logits, np.float32(floor))
    marker = np.where(lungs, raised, np.float32(floor))
    marker_image, image = (sitk.GetImageFromArray(array) for array in (marker, raised))
    reached = sitk.ReconstructionByDilation(marker_image, image, fullyConnected=True)
    np.minimum(logits, sitk.GetArrayViewFromImage(reached), out=logits)
