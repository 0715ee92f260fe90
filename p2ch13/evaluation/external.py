"""Masks and findings that any other program has made, read so that they can be scored like our own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.labels.candidates import POSITION_COLUMNS, parse_center, parse_number, read_table
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import SCAN_SUFFIXES, read_header, read_voxels

MASK_ENDINGS = tuple(f"{ending}{suffix}" for ending in ("", "_mask") for suffix in SCAN_SUFFIXES)
TOLERANCES = {"origin": 0.01, "voxel size": 0.001, "direction": 0.001}  # mm, mm, 1; NIfTI keeps float32


def find_mask(mask_dir: Path, series_uid: str) -> Path:
    """`<series_uid>.nii.gz` or `<series_uid>_mask.nii.gz`, or another of the formats of scans.

    Raises: InputError if there is none.
    """
    paths = [mask_dir / f"{series_uid}{ending}" for ending in MASK_ENDINGS]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise InputError(f"{mask_dir / series_uid}_mask.nii.gz: no such file; --mask needs one mask for each scan")
    return found


def read_mask(path: Path, ct: Ct) -> NDArray[np.bool_]:
    """(index, row, col): what is more than 0 in a mask of this scan; fractions are rounded.

    Raises: InputError, naming the file, if it cannot be read or has not the scan's geometry.
    """
    header = read_header(path)
    if header.shape_irc != ct.shape_irc:
        raise unlike_scan(path, "size", header.shape_irc, ct.shape_irc)
    geometry: dict[str, tuple[ArrayLike, ArrayLike]] = {
        "origin": (header.origin_xyz, ct.origin_xyz),
        "voxel size": (header.vx_size_xyz, ct.vx_size_xyz),
        "direction": (header.direction, ct.direction),
    }
    for name, (of_mask, of_scan) in geometry.items():
        if not np.allclose(of_mask, of_scan, rtol=0, atol=TOLERANCES[name]):
            raise unlike_scan(path, name, np.asarray(of_mask).tolist(), np.asarray(of_scan).tolist())
    mask: NDArray[np.bool_] = read_voxels(header) > 0
    return mask


def unlike_scan(path: Path, name: str, of_mask: object, of_scan: object) -> InputError:
    return InputError(f"{path}: its {name} is {of_mask}, the scan's {of_scan}; save it with the scan's own geometry")


def read_findings(csv_path: Path) -> dict[str, list[Finding]]:
    """Series UID -> findings, from LUNA16's submission columns, and from `logit` where there is such a column.

    Findings with a logit are ranked by it, others by their probability, which may be any finite number. Further columns
    are not looked at. Raises: InputError, naming file and line.
    """

    def parse(row: Mapping[str, str]) -> Finding:
        return Finding(
            series_uid=row["seriesuid"],
            number=0,
            center_xyz=parse_center(row),
            logit=parse_number(row["logit"]) if "logit" in row else math.nan,
            probability=parse_number(row["probability"]),
            diameter_mm=math.nan,
            volume_mm3=math.nan,
            first_slice=-1,
            last_slice=-1,
        )

    findings: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in read_table(csv_path, (*POSITION_COLUMNS, "probability"), parse):
        findings[finding.series_uid].append(finding)
    return dict(findings)
