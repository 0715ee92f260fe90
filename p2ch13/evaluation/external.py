"""Input files of an evaluation: other programs' masks and findings, excluded findings, series lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.labels.candidates import (
    POSITION_COLUMNS,
    CandidateInfoTuple,
    group_by_series,
    open_text,
    parse_center,
    parse_number,
    read_excluded,
    read_table,
)
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import SCAN_SUFFIXES
from p2ch13.volumes.volume import Volume


def find_mask(mask_dir: Path, series_uid: str) -> Path:
    """Find `<series_uid>.nii.gz` or `<series_uid>_mask.nii.gz`, or one in another format of scans.

    Raises: InputError if there is none.
    """
    paths = [mask_dir / f"{series_uid}{ending}{suffix}" for ending in ("", "_mask") for suffix in SCAN_SUFFIXES]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise InputError("no such file; --mask needs one for each scan", path=mask_dir / f"{series_uid}_mask.nii.gz")
    return found


def read_mask(path: Path, ct: Ct) -> NDArray[np.bool_]:
    """Read a mask of this scan, (index, row, col), axial: values above 0, after rounding.

    The file may be stored in another order of axes than the scan's.
    Raises: InputError, naming the file, if it cannot be read or its geometry is not the scan's.
    """
    mask = Volume(path)
    for name, of_mask, of_scan, tolerance in (  # NIfTI keeps float32
        ("size", np.array(mask.shape_irc), np.array(ct.shape_irc), 0.0),
        ("voxel size", mask.vx_size_xyz, ct.vx_size_xyz, 0.001),  # mm
        ("direction", mask.direction, ct.direction, 0.001),
        ("origin", mask.origin_xyz, ct.origin_xyz, 0.01),  # mm
    ):
        if not np.allclose(of_mask, of_scan, rtol=0, atol=tolerance):
            values = f"{of_mask.tolist()}, the scan's {of_scan.tolist()}"
            raise InputError(f"its {name} is {values}; save it with the scan's geometry", path=path)
    is_marked: NDArray[np.bool_] = mask.hu > 0
    return is_marked


def read_findings(csv_path: Path) -> dict[str, list[Finding]]:
    """Read findings by series UID, from LUNA16's submission columns and an optional column `logit`.

    The logit ranks the findings, or else the probability, which may be any finite number. Other columns are ignored.
    Raises: InputError, naming file and line.
    """

    def parse(row: Mapping[str, str]) -> Finding:
        return Finding(
            series_uid=row["seriesuid"],
            number=0,
            center_xyz=parse_center(row),
            logit=parse_number(row["logit"]) if "logit" in row else math.nan,
            probability=parse_number(row["probability"]),
        )

    findings: dict[str, list[Finding]] = {}
    for finding in read_table(csv_path, (*POSITION_COLUMNS, "probability"), parse):
        findings.setdefault(finding.series_uid, []).append(finding)
    return findings


def read_excluded_by_series(csv_path: Path | None) -> dict[str, list[CandidateInfoTuple]]:
    return group_by_series(read_excluded(csv_path)) if csv_path else {}


def read_series_file(path: Path) -> list[str]:
    """Read a list of series UIDs such as LUNA16's seriesuids.csv: one a line, below an optional header `seriesuid`.

    Raises: InputError, naming file and line, for a repeated UID or a line of several fields; naming the file, if it has
        no UID.
    """
    lines: dict[str, int] = {}
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            series_uid = line.strip()
            if not series_uid or (not lines and series_uid == POSITION_COLUMNS[0]):
                continue
            if "," in series_uid or len(series_uid.split()) > 1:
                raise InputError(f"{series_uid!r} is not one series UID; give one a line", path=path, line=number)
            if series_uid in lines:
                raise InputError(f"{series_uid} repeats line {lines[series_uid]}; remove it", path=path, line=number)
            lines[series_uid] = number
    if not lines:
        raise InputError("no series UID; give one a line", path=path)
    return list(lines)
