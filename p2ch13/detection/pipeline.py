"""From a checkpoint and scans to masks, pictures and a list of nodules."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from p2ch13.config import PredictOptions
from p2ch13.data.ct import Ct
from p2ch13.detection.dicom_seg import check_highdicom, check_is_dicom, write_dicom_segmentation
from p2ch13.detection.findings import Finding
from p2ch13.detection.inputs import ScanInput, find_inputs, split_duplicates
from p2ch13.detection.outputs import write_image, write_nodules
from p2ch13.detection.pictures import draw_nodules, write_png
from p2ch13.detection.segment import Segmenter, detect, load_segmenter
from p2ch13.network.compute import choose_threads
from p2ch13.util.coordinates import to_axial
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.files import make_writable_folder, written_together
from p2ch13.util.threads import ThreadTuner

log = logging.getLogger(__name__)

NODULES_FILE = "nodules.csv"
PICTURE_COUNT = 4  # findings that a scan's picture shows, the most probable ones


def predict(options: PredictOptions) -> int:
    """Search scans for nodules, one after the other; one that cannot be read is named and skipped.

    The list of nodules is written anew after each scan, so that it is complete for those that are done.
    Returns: the exit status, 1 if a scan was skipped.
    Raises: InputError if the model or the output folder cannot be used, or not one scan can.
    """
    if options.dicom_seg:
        check_highdicom()
    scans, errors = collect_inputs(options)
    total = len(scans) + len(errors)
    for error in errors:
        report_skipped(error, total)
    model = load_segmenter(options.checkpoint)
    make_writable_folder(options.output, "--output")
    threads = choose_threads(options.threads)
    findings: list[Finding] = []
    done_count = 0
    for scan in scans:
        try:
            findings = predict_and_list(scan, model, options, threads, findings)
        except InputError as error:
            report_skipped(error, total)
            errors.append(error)
            continue
        done_count += 1
    if done_count == 0:
        raise errors[0] if total == 1 else InputError(f"none of {total} scans could be used, see above")
    report_end(options.output, findings, done_count, len(errors))
    return EXIT_SKIPPED if errors else EXIT_DONE


def collect_inputs(options: PredictOptions) -> tuple[list[ScanInput], list[InputError]]:
    """The scans that the arguments name, and an error for each argument or scan that cannot be used."""
    inputs: list[ScanInput] = []
    errors: list[InputError] = []
    output = options.output.resolve()
    for path in options.scans:
        if path.is_dir() and path.resolve() == output:
            raise InputError(f"{path}: both a folder of scans and --output; masks would pass for scans, choose another")
        try:
            found = find_inputs(path, options.series_uid)
            inputs += [scan for scan in found if scan.path.resolve() != output]  # DICOM segmentations of another time
        except InputError as error:
            errors.append(error)
    inputs, duplicates = split_duplicates(inputs)
    return inputs, errors + duplicates


def predict_and_list(
    scan: ScanInput, model: Segmenter, options: PredictOptions, threads: ThreadTuner, findings: Sequence[Finding]
) -> list[Finding]:
    """Search one scan; its files and the list of nodules appear together, or stay as they were if anything fails.

    Args: findings: those of the scans before, which the list has too. Returns: them and this scan's.
    Raises: InputError, naming the scan, if it cannot be used.
    """
    start = time.monotonic()
    with written_together(options.output, scan.name) as folder:
        found = predict_scan(scan, model, replace(options, output=folder), threads)
        listed = [*findings, *found]
        write_nodules(folder / NODULES_FILE, listed)
    mask_path = output_path(options, scan, f"mask.{options.format}")
    log.info(f"{scan.path}: {describe(found)}; {time.monotonic() - start:.0f} s. {mask_path}")
    return listed


def predict_scan(scan: ScanInput, model: Segmenter, options: PredictOptions, threads: ThreadTuner) -> list[Finding]:
    """Search one scan and write its files. Raises: InputError, naming the scan, if it cannot be used."""
    ct = Ct(scan.path, series_uid=scan.series_uid)
    if options.dicom_seg:
        check_is_dicom(ct)
    logits, labels, findings = detect(ct, model, **options.detection, show_progress=True, threads=threads)
    if options.probability:
        write_image(output_path(options, scan, f"probability.{options.format}"), as_probabilities(logits), ct)
    write_image(output_path(options, scan, f"mask.{options.format}"), (labels > 0).astype(np.uint8), ct)
    if options.dicom_seg:
        write_dicom_segmentation(output_path(options, scan, "seg.dcm"), labels > 0, ct)
    draw_scan(output_path(options, scan, "overlay.png"), ct, labels, findings)
    return findings


def as_probabilities(logits: NDArray[np.float16]) -> NDArray[np.float32]:
    """(index, row, col), each 0..1."""
    return torch.from_numpy(logits).float().sigmoid().numpy()


def output_path(options: PredictOptions, scan: ScanInput, ending: str) -> Path:
    return options.output / f"{scan.name}_{ending}"


def draw_scan(path: Path, ct: Ct, labels: NDArray[np.int32], findings: Sequence[Finding]) -> None:
    numbers = [finding.number for finding in findings[:PICTURE_COUNT]]
    write_png(path, draw_nodules(to_axial(ct.hu, ct.direction), to_axial(labels, ct.direction), numbers))


def describe(findings: Sequence[Finding]) -> str:
    if not findings:
        return "no nodule found"
    largest = max(findings, key=lambda finding: finding.volume_mm3)
    return (
        f"{len(findings)} found, the largest {largest.diameter_mm:.1f} mm in slices {largest.first_slice} to "
        f"{largest.last_slice} (probability {largest.probability:.2f})"
    )


def report_skipped(error: InputError, total: int) -> None:
    """The only scan of a command line is named at its end instead."""
    if total > 1:
        log.warning(f"Skipped: {one_line(error)}")


def report_end(output: Path, findings: Sequence[Finding], done_count: int, skipped_count: int) -> None:
    skipped = f", {skipped_count} skipped" if skipped_count else ""
    scans = f"{done_count} scan{'' if done_count == 1 else 's'}"
    log.info(f"{len(findings)} found in {scans}{skipped}: {output / NODULES_FILE}")
    log.info(f"The most probable ones of each scan are in {output}/*_overlay.png.")
    log.info("To look at all of them, open a scan and its mask in 3D Slicer or ITK-SNAP.")
