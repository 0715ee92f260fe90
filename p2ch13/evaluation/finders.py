"""Finders: what gives the findings of a scan to score, networks or the files of another program."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from p2ch13.config import EvaluationOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.detection.detector import Detector, average, detect, load_detector
from p2ch13.detection.findings import Finding, find_marked
from p2ch13.detection.outputs import NODULES_FILE as FINDINGS_FILE
from p2ch13.evaluation.checkpoints import Checkpoint, choose_unseen
from p2ch13.evaluation.external import choose_values, find_mask, read_findings
from p2ch13.evaluation.scoring import Labels
from p2ch13.evaluation.submission import check_findings
from p2ch13.labels.mask import read_mask
from p2ch13.network.compute import choose_threads, get_device, keep_freed_memory
from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What was found in a scan. Its labels are None without a mask; `threshold`, see `ScanScores`."""

    labels: Labels | None  # (index, row, col)
    findings: list[Finding]
    threshold: float | None = None


Finder = Callable[[Ct], Found]


class ThresholdedDetector(NamedTuple):
    """The networks that search a scan, and the probability at which their findings are cut."""

    detector: Detector
    threshold: float


def load_detectors(
    options: EvaluationOptions, checkpoints: Sequence[Checkpoint], series_list: Sequence[str], process: ProcessRank
) -> dict[str, ThresholdedDetector]:
    """Load the networks that search each scan: those that were not trained on it, on average.

    Returns: by series; empty without checkpoints.
    Raises: InputError if a checkpoint cannot be used, or lacks what the threshold asks for.
    """
    if not checkpoints:
        return {}
    device = get_device(options.device, process)
    settings = (options.network, options.second_stage, device, options.engine)
    loaded = {each.path: load_detector(each.path, *settings) for each in checkpoints}
    unseen = {uid: tuple(each.path for each in choose_unseen(checkpoints, uid)) for uid in series_list}
    averages = {}
    for paths in set(unseen.values()):
        detector = average({path: loaded[path] for path in paths})
        threshold = detector.choose_threshold(options.threshold, options.sensitivity)
        averages[paths] = ThresholdedDetector(detector, threshold)
    return {uid: averages[paths] for uid, paths in unseen.items()}


def make_searcher(
    options: EvaluationOptions, detectors: Mapping[str, ThresholdedDetector], process: ProcessRank
) -> Finder:
    """Make the function that searches a scan.

    Of a second stage, all candidates are findings, since FROC needs them; the labels are of those that are shown.
    """
    threads = choose_threads(options.threads, get_device(options.device, process), process)
    keep_freed_memory()

    def search(ct: Ct) -> Found:
        detector, threshold = detectors[ct.series_uid]
        if not detector.scorers:
            return Found(*detect(ct, detector, threshold, **options.detection, threads=threads)[1:])
        _, labels, findings = detect(ct, detector, 0.0, **options.detection, threads=threads)
        shown_count = sum(finding.probability >= threshold for finding in findings)  # they have the first numbers
        labels[labels > shown_count] = 0
        return Found(labels, findings, threshold)

    return search


def make_reader(options: EvaluationOptions, index: ScanIndex, series_list: Sequence[str]) -> Finder:
    """Make the function that reads a scan's mask, or looks up its findings.

    Raises: InputError if the folder of masks or the findings cannot be used.
    """
    given = None
    if options.findings is not None:
        given = read_findings(options.findings, index.layout.scans)
        check_findings(options.findings, given, series_list)
    mask_dir = options.mask
    if mask_dir is not None and not mask_dir.is_dir():
        raise InputError("no such folder; --mask needs a folder of masks", path=mask_dir)
    if mask_dir is not None and given is None and (mask_dir / FINDINGS_FILE).is_file():
        log.warning(
            f"{mask_dir / FINDINGS_FILE} is not read, and each component of a mask counts with probability 1: "
            f"--findings {mask_dir / FINDINGS_FILE} scores the list, with its probabilities."
        )
    values = () if mask_dir is None else choose_values(mask_dir, series_list, index.labels.mask_values)

    def find(ct: Ct) -> Found:
        labels: Labels | None = None
        findings: list[Finding] = []
        if mask_dir is not None:
            mask = read_mask(find_mask(mask_dir, ct.series_uid), ct, values)
            labels, findings = find_marked(ct, mask, options.min_diameter or 0.0)
        return Found(labels, findings if given is None else given.get(ct.series_uid, []))

    return find
