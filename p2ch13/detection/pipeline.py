"""Prediction: search one scan after the other and write its files."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import MAX_DIAMETER_MM, PredictOptions
from p2ch13.data.ct import Ct
from p2ch13.detection.conclusion import conclude
from p2ch13.detection.detector import Detector, detect
from p2ch13.detection.dicom.objects import name_nodules
from p2ch13.detection.dicom.writer import DicomWriter, check_library
from p2ch13.detection.findings import Finding
from p2ch13.detection.folders import (
    SCAN_ENDING,
    VIEWER_ENDING,
    choose_folder,
    name_folder,
    write_scan_path,
)
from p2ch13.detection.inputs import ScanInput, collect_inputs, report_skipped
from p2ch13.detection.markups import write_markups
from p2ch13.detection.measure import measure_findings
from p2ch13.detection.nodule_list import NoduleList, list_files
from p2ch13.detection.outputs import NODULES_FILE, Rows, list_rows, write_image, write_rows
from p2ch13.detection.pictures import draw_nodules, write_png
from p2ch13.detection.report import write_report
from p2ch13.detection.search_facts import SearchFacts, load_networks, prepare_search
from p2ch13.detection.sides import find_sides
from p2ch13.detection.viewer import write_viewer
from p2ch13.network.compute import choose_threads
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder, written_together
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.threads import ThreadTuner

log = logging.getLogger(__name__)

OVERLAY_COUNT = 4  # most probable findings of a scan that its overlay shows


def predict(options: PredictOptions, process: ProcessRank | None = None) -> Outcome:
    """Search scans for nodules; report and skip those that cannot be read.

    In an output folder for all scans, the list of nodules is rewritten after each scan, so that it is complete for the
    scans that are done; or at the end, if processes share the scans.

    Args: process: of those that torchrun started; the first one concludes.
    Returns: what was found, and exit status 1 if a scan was skipped.
    Raises: InputError if the model or the output folder cannot be used, or every scan was skipped.
    """
    process = process or ProcessRank()
    check_library(options.dicom_objects)
    scans, errors = collect_inputs(options)
    total = len(scans) + len(errors)
    for error in errors if process.is_first else ():
        report_skipped(error, total)
    check_not_all_skipped(errors, total)
    detector, facts = prepare_search(options, partial(load_networks, process=process))
    make_writable_folder(options.output or Path(), "--output")
    log.info(facts.explanation)
    by_name = {scan.name: scan for scan in scans}
    nodules = NoduleList(options, {name: list_files(scan.source) for name, scan in by_name.items()}, process)
    own = [] if options.merge else options.share(nodules.names)
    threads = choose_threads(options.threads, detector.network.device, process)
    with nodules.claimed(own) as claimed:
        for name in claimed:
            try:
                nodules.add(name, predict_scan(by_name[name], detector, facts, options, threads, nodules))
            except InputError as error:
                report_skipped(error, total)
                errors.append(error)
                nodules.skip(name, one_line(error))
    if options.shard or not process.is_first:
        return conclude_part(options, nodules.describe(own), errors, process)
    nodules.check_complete()
    return conclude_all(options, by_name, nodules, errors, process)


def conclude_part(options: PredictOptions, done: str, errors: Sequence[InputError], process: ProcessRank) -> Outcome:
    """Say what one of several processes or jobs has done. Args: done: in words."""
    lines = [f"Part {options.shard}: {done}. Put all parts together with --merge."]
    values = {"shard": options.shard, "done": done, "skipped": [one_line(error) for error in errors]}
    # torchrun takes any other status for a failure and ends all processes, even those at work.
    return Outcome(lines, values, EXIT_SKIPPED if errors and process.is_alone else EXIT_DONE)


def conclude_all(
    options: PredictOptions,
    scans: Mapping[str, ScanInput],
    nodules: NoduleList,
    errors: list[InputError],
    process: ProcessRank,
) -> Outcome:
    """Write the list of all nodules, and say what was found.

    Args: scans: by name; errors: of this process. Raises: see `predict`.
    """
    rows = nodules.gather()
    reported = set(map(one_line, errors))
    for reason in nodules.skipped.values():
        if reason not in reported:  # of another process
            log.warning(f"Skipped: {reason}")
            errors.append(InputError(reason))
    check_not_all_skipped(errors, len(nodules.rows) + len(errors))
    if options.output is not None and not nodules.is_alone:
        write_rows(options.output / NODULES_FILE, rows)
    nodules.close()
    searched = {name: scan.path for name, scan in scans.items() if name in nodules.rows}
    outcome = conclude(searched, {name: options.output or name_folder(name) for name in searched}, errors)
    return outcome if process.is_alone else replace(outcome, status=EXIT_DONE)


def check_not_all_skipped(errors: Sequence[InputError], total: int) -> None:
    """Raises: InputError if no scan is left."""
    if len(errors) == total:
        raise errors[0] if total == 1 else InputError(f"all {total} scans were skipped, see above")


def predict_scan(
    scan: ScanInput,
    detector: Detector,
    facts: SearchFacts,
    options: PredictOptions,
    threads: ThreadTuner,
    nodules: NoduleList,
) -> Rows:
    """Search one scan; its files and the list of nodules appear together, or not at all if anything fails.

    Args: nodules: of the scans that are done. Returns: this scan's rows of the list.
    Raises: InputError, naming the scan, if it cannot be used.
    """
    start = time.monotonic()
    mask_name = f"{scan.name}_mask.{options.format}"
    ct = Ct(scan.source, series_uid=scan.series_uid)
    dicom = DicomWriter.of(ct, options.dicom_objects, facts.network_names)
    output = options.output or choose_folder(scan.name, ct)
    logits, labels, findings = detect(
        ct, detector, facts.threshold, **options.detection, show_progress=True, threads=threads
    )
    if not options.probability:
        del logits  # of a scan of 300 slices 157 MB
    measures = measure_findings(ct, labels, findings)
    own = (findings, measures, find_sides(ct, findings))
    rows = list_rows(*own)
    with written_together(output, scan.name) as folder:
        if options.probability:
            path = folder / f"{scan.name}_probability.{options.format}"
            write_image(path, torch.from_numpy(logits).float().sigmoid().numpy(), ct)
        write_image(folder / mask_name, as_mask(labels, options.binary), ct)
        if dicom is not None:
            dicom.write(folder / scan.name, ct.as_stored(labels), name_nodules(*own))
        write_png(folder / f"{scan.name}_overlay.png", draw_nodules(ct.hu, labels, findings[:OVERLAY_COUNT]))
        write_report(folder / scan.name, ct, labels, *own, facts)
        write_markups(folder / f"{scan.name}_findings.mrk.json", scan.name, findings)
        if options.viewer:
            write_viewer(folder / f"{scan.name}{VIEWER_ENDING}", scan.name, ct, labels, findings, measures)
        write_scan_path(folder / f"{scan.name}{SCAN_ENDING}", scan.given or scan.path, output)
        if nodules.is_alone:
            write_rows(folder / NODULES_FILE, nodules.with_rows_of(scan.name, rows) if options.output else rows)
    log.info(f"{scan.path}: {describe(findings)}; {time.monotonic() - start:.0f} s. {output / mask_name}")
    return rows


def as_mask(labels: NDArray[np.int32], is_binary: bool) -> NDArray[np.unsignedinteger[Any]]:
    """Turn labels into a mask of the smallest type for their numbers, or of 0 and 1."""
    if is_binary:
        return (labels > 0).astype(np.uint8)
    return labels.astype(np.min_scalar_type(labels.max()))


def describe(findings: Sequence[Finding]) -> str:
    if not findings:
        return "no findings"
    largest = max(findings, key=lambda finding: finding.volume_mm3)
    note = ", larger than what the network was made for" if largest.diameter_mm > MAX_DIAMETER_MM else ""
    return (
        f"{count(findings)}, the largest {largest.diameter_mm:.1f} mm as a sphere, in slices {largest.first_slice} to "
        f"{largest.last_slice} (probability {largest.probability:.2f}{note})"
    )


def count(findings: Sequence[object]) -> str:
    return "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
