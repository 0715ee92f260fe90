"""Pages of the viewer for results on disk: find each mask's scan and findings, and write its page."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2ch13.config import IMAGE_FORMATS, ViewOptions
from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding, find_marked
from p2ch13.detection.folders import SCAN_ENDING, VIEWER_ENDING, read_scan_path
from p2ch13.detection.inputs import ScanInput, find_inputs, report_skipped
from p2ch13.detection.measure import measure_findings
from p2ch13.detection.outputs import NODULES_FILE, read_nodules
from p2ch13.detection.viewer import write_viewer
from p2ch13.labels.mask import check_geometry, read_mask
from p2ch13.labels.regions import center_of, split_mask
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder
from p2ch13.util.outcome import Outcome
from p2ch13.volumes.volume import Volume

log = logging.getLogger(__name__)


class Marked(NamedTuple):
    """What a mask marks: (index, row, col), a finding's number or 0; and the findings."""

    labels: NDArray[np.int32]
    findings: Sequence[Finding]


def view(options: ViewOptions) -> Outcome:
    """Write a page for a mask, or for each of a result; report and skip scans that cannot be read.

    Returns: the pages, and exit status 1 if a scan was skipped.
    Raises: InputError if there is no result, the output folder cannot be used, or every scan was skipped.
    """
    if options.mask is not None:
        assert options.scan is not None
        scan = find_only(find_inputs(options.scan, options.series_uid), options.scan)
        ct = Ct(scan.source, series_uid=scan.series_uid)
        return conclude([write_page(options.output or options.mask.parent, scan.name, ct, mark_any(options.mask, ct))])
    assert options.folder is not None
    masks = find_masks(options.folder, options.name)
    pages, errors = [], []
    for name, mask in masks.items():
        try:
            scan = find_scan(options.folder, name, options.scan)
            ct = Ct(scan.source, series_uid=scan.series_uid)
            pages.append(write_page(options.output or options.folder, name, ct, mark_result(mask, ct)))
        except InputError as error:
            report_skipped(error, len(masks))
            errors.append(error)
    if len(errors) == len(masks):
        raise errors[0] if len(masks) == 1 else InputError(f"all {len(masks)} scans were skipped, see above")
    return conclude(pages, errors)


def conclude(pages: Sequence[Path], errors: Sequence[InputError] = ()) -> Outcome:
    """Say what was written and skipped."""
    count = f"{len(pages)} page{'' if len(pages) == 1 else 's'}"
    skipped = f", {len(errors)} scans skipped" if errors else ""
    lines = [f"Wrote {count}{skipped}. Open in a browser:", *map(str, pages)]
    values = {"pages": pages, "skipped": [one_line(error) for error in errors]}
    return Outcome(lines, values, EXIT_SKIPPED if errors else EXIT_DONE)


def write_page(output: Path, name: str, ct: Ct, marked: Marked) -> Path:
    make_writable_folder(output, "--output")
    path = output / f"{name}{VIEWER_ENDING}"
    write_viewer(path, name, ct, marked.labels, marked.findings, measure_findings(ct, *marked))
    log.info(f"{name}: {len(marked.findings)} findings, {path.stat().st_size / 1e6:.1f} MB.")
    return path


def find_masks(folder: Path, name: str | None = None) -> dict[str, Path]:
    """Find the masks of a result by the names of their scans, sorted; of those in several formats, the newest.

    Args: name: this scan's alone. Raises: InputError if there is none.
    """
    if not folder.is_dir():
        raise InputError("no such folder; name one that predict has written", path=folder)
    masks: dict[str, Path] = {}
    for ending in (f"_mask.{suffix}" for suffix in IMAGE_FORMATS):
        for path in folder.iterdir():
            if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file():
                earlier = masks.setdefault(path.name.removesuffix(ending), path)
                masks[path.name.removesuffix(ending)] = max(path, earlier, key=lambda each: each.stat().st_mtime_ns)
    if not masks:
        message = "no result of predict, which has a mask (<name>_mask.nii.gz); name such a folder, or a --mask"
        raise InputError(message, path=folder)
    if name is None:
        return dict(sorted(masks.items()))
    if name not in masks:
        raise InputError(f"{name} has no mask in {folder}, which has {min(masks)}", option="--name")
    return {name: masks[name]}


def find_scan(folder: Path, name: str, given: Path | None) -> ScanInput:
    """Find the scan of a result, by its name, where the user says, or where predict read it.

    Raises: InputError if it is not there.
    """
    path = given or read_scan_path(folder / f"{name}{SCAN_ENDING}")
    found = [scan for scan in find_inputs(path, name) if scan.name == name]
    if not found:
        message = f"not the scan of {name}'s mask, by its name; name that scan with --scan, or both with --mask"
        raise InputError(message, path=path, option="--scan")
    return found[0]


def find_only(scans: Sequence[ScanInput], path: Path) -> ScanInput:
    if len(scans) > 1:
        names = f"{len(scans)} scans, such as {scans[0].name}"
        raise InputError(f"{names}; name the mask's own, or its --series-uid", path=path, option="--scan")
    return scans[0]


def mark_any(mask: Path, ct: Ct) -> Marked:
    """Label the connected components of any program's mask, largest first. Raises: see `read_mask`."""
    return Marked(*find_marked(ct, read_mask(mask, ct)))


def mark_result(path: Path, ct: Ct) -> Marked:
    """Read a mask of predict and the list of nodules beside it.

    The mask's values are the findings' numbers; if they are not, as in a mask of 0 and 1, each connected component is
    part of the finding whose center is nearest.
    Raises: InputError, naming the mask, if it is not the scan's or has not all findings of the list.
    """
    mask = Volume(path)
    check_geometry(mask, ct)
    labels: NDArray[np.int32] = mask.voxels.astype(np.int32)
    findings = read_nodules(path.with_name(NODULES_FILE), ct.series_uid)
    numbers = {finding.number for finding in findings}
    if not findings and labels.any():
        return mark_any(path, ct)
    if set(np.unique(labels[labels > 0]).tolist()) != numbers:
        labels = number_components(labels > 0, ct, findings)
        if missing := numbers - set(np.unique(labels[labels > 0]).tolist()):
            message = f"finding {min(missing)} of {NODULES_FILE} is not in it; are they of different searches?"
            raise InputError(f"{message} Search again", path=path)
    return Marked(labels, findings)


def number_components(mask: NDArray[np.bool_], ct: Ct, findings: Sequence[Finding]) -> NDArray[np.int32]:
    """Give each 26-connected component the number of the finding whose center is nearest."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    for part in split_mask(mask):
        center_xyz = center_of(part, ct)
        nearest = min(findings, key=lambda finding: math.dist(finding.center_xyz, center_xyz))
        labels[part.box][part.mask] = nearest.number
    return labels
