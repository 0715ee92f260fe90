"""The scores of a scan as a file: what processes that share the scans hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from p2ch13 import __version__
from p2ch13.config import EvaluationOptions, LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.detection.colors import Color
from p2ch13.detection.findings import Finding
from p2ch13.evaluation.checkpoints import Checkpoint, choose_unseen
from p2ch13.evaluation.external import find_mask
from p2ch13.evaluation.froc import ScanMatch
from p2ch13.evaluation.results import IRRELEVANT
from p2ch13.evaluation.scoring import NoduleScore, ScanScores, VoxelCounts
from p2ch13.evaluation.worst_cases import Case, WorstCases
from p2ch13.labels.candidates import find_excluded_file
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.errors import InputError
from p2ch13.util.shared_work import digest
from p2ch13.volumes.files import file_signature

# Options that choose scans, or that scores do not depend on; files count by what is in them.
NOT_OF_A_SCAN = (*IRRELEVANT, "checkpoint", "series", "seed", "device")
MATCH_ARRAYS = ("scores", "hits", "is_excluded")
PICTURES = ("overlay", "surroundings", "marked")


def identify_scans(
    options: EvaluationOptions,
    labels: LabelOptions,
    index: ScanIndex,
    series_list: Sequence[str],
    checkpoints: Sequence[Checkpoint],
) -> dict[str, list[Any]]:
    """Return for each series what its scores depend on: options, and name, size and time of files."""
    excluded = find_excluded_file(options.data_dir, options.excluded)
    files = [*sorted(options.data_dir.glob("*.csv")), options.findings, options.annotations, excluded]
    settings = {name: value for name, value in asdict(options).items() if name not in NOT_OF_A_SCAN}
    common = digest([__version__, settings, labels.as_dict(), sign(files)])
    masks = index.layout.masks.find() if labels.labels == "mask" else {}

    def sign_scan(series_uid: str) -> list[Any]:
        networks = [each.path for each in choose_unseen(checkpoints, series_uid)]
        scored = None
        with suppress(InputError):  # of a mask that is missing: the scan is skipped for it
            scored = None if options.mask is None else find_mask(options.mask, series_uid)
        return sign([index.scans[series_uid], masks.get(series_uid), scored, *networks])

    return {series_uid: [common, sign_scan(series_uid)] for series_uid in series_list}


def sign(paths: Sequence[Path | None]) -> list[Any]:
    return [file_signature(path) for path in paths if path is not None and path.exists()]


def pack(scores: ScanScores, worst_cases: WorstCases) -> list[Any]:
    """Return a scan's scores, and those of the worst cases that are its own, as plain values and arrays."""
    values = {
        "series_uid": scores.series_uid,
        "nodules": [asdict(nodule) for nodule in scores.nodules],
        "findings": [asdict(finding) for finding in scores.findings],
        "slice_count": scores.slice_count,
        "voxels": None if scores.voxels is None else asdict(scores.voxels),
        "threshold": scores.threshold,
    }
    # Dictionaries stand in lists: alone they would describe an array.
    packed = [[values], *(getattr(scores.match, name) for name in MATCH_ARRAYS)]
    for is_nodule, cases in ((True, worst_cases.nodules), (False, worst_cases.false_positives)):
        for case in cases:
            if case.series_uid == scores.series_uid:
                words = {name: value for name, value in vars(case).items() if name not in PICTURES}
                packed += [[is_nodule, words], *(np.asarray(getattr(case, name)) for name in PICTURES)]
    return packed


def unpack(packed: Sequence[Any], worst_cases: WorstCases) -> ScanScores:
    """Return what `pack` was given, and keep the scan's cases among the worst."""
    (values,), *arrays = packed
    voxels = values.pop("voxels")
    pictured = arrays[len(MATCH_ARRAYS) :]
    for ndx in range(0, len(pictured), 1 + len(PICTURES)):
        is_nodule, words = pictured[ndx]
        colors = tuple(Color(name, meaning, tuple(rgb)) for name, meaning, rgb in words.pop("colors"))
        severity = tuple(words.pop("severity"))
        pictures = dict(zip(PICTURES, pictured[ndx + 1 :], strict=False))
        worst_cases.keep(is_nodule, Case(**words, severity=severity, colors=colors, **pictures))
    return ScanScores(
        series_uid=values["series_uid"],
        nodules=tuple(NoduleScore(**with_center(each)) for each in values["nodules"]),
        findings=tuple(Finding(**with_center(each)) for each in values["findings"]),
        match=ScanMatch(*arrays[: len(MATCH_ARRAYS)]),
        slice_count=values["slice_count"],
        voxels=None if voxels is None else VoxelCounts(**voxels),
        threshold=values["threshold"],
    )


def with_center(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "center_xyz": XyzTuple(*values["center_xyz"])}
