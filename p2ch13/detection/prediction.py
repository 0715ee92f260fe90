"""Prediction from Python: one scan, on disk or in memory, in one call.

`p2ch13.predict` calls it: a module with the command of that name, which is why the function is not there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image as PillowImage

from p2ch13.config import AUTO_THREADS, SearchOptions
from p2ch13.data.ct import Ct
from p2ch13.detection import statements
from p2ch13.detection.detector import Detector, detect
from p2ch13.detection.figure import draw_figure
from p2ch13.detection.findings import Finding
from p2ch13.detection.inputs import find_inputs
from p2ch13.detection.measure import Measures, measure_findings
from p2ch13.detection.outputs import as_image
from p2ch13.detection.pictures import encode_png
from p2ch13.detection.pipeline import as_mask
from p2ch13.detection.report import describe_finding
from p2ch13.detection.search_facts import Cards, SearchFacts, load_networks, prepare_search
from p2ch13.detection.sides import find_sides
from p2ch13.network.compute import choose_threads
from p2ch13.network.latest import choose_checkpoints
from p2ch13.util.errors import InputError
from p2ch13.util.options import read_values
from p2ch13.volumes.files import ScanSource, file_signature

ScanLike: TypeAlias = "Ct | ScanSource"
SHOWN = 4  # most probable findings that a figure has
KEPT = 4  # sets of networks that stay in memory


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What was found in a scan. Jupyter shows its figure.

    Attributes:
        ct: the scan: its voxels `ct.hu` in HU, and their geometry, `ct.origin_xyz`, `ct.vx_size_xyz`, `ct.direction`,
            in mm, LPS. Its axes are (index, row, col): slices from feet to head, rows to the back, columns to the left,
            whatever those of the file or image.
        findings: most probable first; their positions are in mm, LPS.
        mask: (index, row, col), the number of the finding that a voxel belongs to, or 0.
        measures, sides: of each finding, see `measure_findings` and `find_sides`.
        facts: networks, threshold and options of the search.
    """

    ct: Ct
    findings: list[Finding]
    mask: NDArray[np.int32]
    measures: list[Measures]
    sides: list[str | None]
    facts: SearchFacts

    @cached_property
    def figure(self) -> PillowImage.Image:
        """A picture of the most probable findings, each in three planes; `figure.save("found.png")` writes it."""
        return self.draw(*(finding.number for finding in self.findings[:SHOWN]))

    def draw(self, *numbers: int) -> PillowImage.Image:
        """Draw the findings of these numbers. Raises: InputError if there is none of a number."""
        for number in numbers:
            if not 1 <= number <= len(self.findings):
                raise InputError(f"there is no finding {number}, but {len(self.findings)} findings, from 1 on")
        shown = [(self.findings[number - 1], self.measures[number - 1], self.sides[number - 1]) for number in numbers]
        title = f"{len(shown)} of {len(self.findings)} findings. {statements.INTENDED_USE}"
        return PillowImage.fromarray(draw_figure(self.ct, self.mask, shown, title))

    def mask_image(self) -> sitk.Image:
        """Return the mask as an image in the geometry, and with the order of axes, of the scan's file or image."""
        return as_image(as_mask(self.mask, is_binary=False), self.ct)

    def __repr__(self) -> str:
        """Say what was found, then a line for each finding."""
        found = list(zip(self.findings, self.measures, self.sides, strict=True))
        summary = statements.summarize([describe_finding(*each) for each in found], self.facts)
        return "\n".join([summary, *(describe(*each) for each in found)])

    def _repr_png_(self) -> bytes:
        return encode_png(np.asarray(self.figure))


def describe(finding: Finding, measures: Measures, side: str | None) -> str:
    x, y, z = finding.center_xyz
    return (
        f"{finding.number:3}  probability {statements.show_probability(finding.probability)}, "
        f"{statements.show_side(side)}, {statements.show_slices(finding.first_slice, finding.last_slice)}, "
        f"{measures.axes.long.length_mm:.1f} x {measures.axes.short.length_mm:.1f} mm, {measures.kind}, "
        f"at ({x:.1f}, {y:.1f}, {z:.1f}) mm"
    )


def predict(scan: ScanLike, *, show_progress: bool = False, **options: Any) -> Prediction:
    """Find the nodules of one scan.

    Networks stay in memory for the next call.

    Args:
        scan: a path that the command takes and that has one scan: MetaImage, NIfTI, NRRD, a folder or .zip, or a file
            of a DICOM series; a SimpleITK image; a nibabel image; or a `Ct`.
        show_progress: show a progress bar.
        options: those of `p2ch13 predict` that concern the search, with underscores, and with its checks and defaults:
            checkpoint (a path, or several, whose networks are averaged), threshold, sensitivity, second_stage,
            min_diameter, lung_mask, tta, pixel_mm, network, engine, device, precision, series_uid, and threads, whose
            "auto" leaves the process's number as it is.
    Raises: InputError if the scan, a network or an option cannot be used.
    """
    chosen = read_options(options)
    ct = open_scan(scan, chosen.series_uid)
    detector, facts = prepare_search(chosen, load_once)
    threads = None if chosen.threads == AUTO_THREADS else choose_threads(chosen.threads, detector.network.device)
    _, mask, findings = detect(
        ct, detector, facts.threshold, **chosen.detection, show_progress=show_progress, threads=threads
    )
    return Prediction(ct, findings, mask, measure_findings(ct, mask, findings), find_sides(ct, findings), facts)


def read_options(options: dict[str, Any]) -> SearchOptions:
    """Check options as the command line's are. Raises: InputError, naming the option."""
    if isinstance(checkpoint := options.get("checkpoint", ()), str | os.PathLike):
        options = {**options, "checkpoint": [checkpoint]}
    elif isinstance(checkpoint, Sequence):
        options = {**options, "checkpoint": list(checkpoint)}
    values = SearchOptions(**read_values(SearchOptions, options))
    return SearchOptions(**{**vars(values), "checkpoint": choose_checkpoints(values.checkpoint)})


def open_scan(scan: ScanLike, series_uid: str | None = None) -> Ct:
    """Open the only scan of a path, as the command finds it, or an image. Raises: InputError if it cannot be used."""
    if isinstance(scan, Ct):
        return scan
    if not isinstance(scan, str | os.PathLike):
        return Ct(scan, series_uid=series_uid)
    path = Path(scan)
    first, *others = find_inputs(path, series_uid)
    if others:
        message = f"{1 + len(others)} scans, such as {first.name} and {others[0].name}; name one of them"
        raise InputError(message, path=path)
    return Ct(first.source, series_uid=first.series_uid)


def load_once(
    checkpoints: Sequence[Path], network: str | None, second_stage: bool, device: str, engine: str
) -> tuple[Detector, Cards]:
    """Load networks, see `load_networks`, unless the same files were loaded before."""
    signatures = tuple(tuple(file_signature(path)) if path.is_file() else () for path in checkpoints)
    return _load(tuple(checkpoints), signatures, network, second_stage, device, engine)


@lru_cache(KEPT)
def _load(
    checkpoints: tuple[Path, ...],
    signatures: tuple[tuple[str | int, ...], ...],
    network: str | None,
    second_stage: bool,
    device: str,
    engine: str,
) -> tuple[Detector, Cards]:
    return load_networks(checkpoints, network, second_stage, device, engine)
