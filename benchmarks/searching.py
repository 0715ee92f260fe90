"""Measure predict and evaluate as whole commands, from their start on: parts of their time, and peak memory.

A measurement runs in a new process that imports no more than the command does.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk

from benchmarks.memory import PeakMemory
from p2ch13.phantom.scan import make_phantom

FIRST_STAGE, SECOND_STAGE, LUNGS = "first stage", "second stage", "lungs"
FORWARD = (FIRST_STAGE, SECOND_STAGE)
# What the parts of a command's time are called, and the functions, or methods, that take it.
PARTS = {
    "networks": "p2ch13.network.checkpoint.load_checkpoint",
    LUNGS: "p2ch13.volumes.volume.find_lungs",
    FIRST_STAGE: "p2ch13.network.model.UNetWrapper.logits",
    "border of the lungs": "p2ch13.detection.segment.reconstruct_from_lungs",
    "candidates": "p2ch13.detection.detector.find_candidates",
    "cubes": "p2ch13.detection.candidates.cut_cubes",
    SECOND_STAGE: "p2ch13.network.second_stage.SecondStage.score",
    "measures": "p2ch13.detection.pipeline.measure_findings",
    "mask": "p2ch13.detection.pipeline.write_image",
    "overlay": "p2ch13.detection.pipeline.draw_nodules",
    "report": "p2ch13.detection.pipeline.write_report",
}


@dataclass
class Times:
    """Seconds of a command in all, and of its parts; what is in none of these is `rest`."""

    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    total: float = 0.0

    @property
    def forward_share(self) -> float:
        return sum(self.parts[name] for name in FORWARD) / self.total

    def __str__(self) -> str:
        shown = {**self.parts, "rest": self.total - sum(self.parts.values())}
        return ", ".join(f"{name} {value:.2f}" for name, value in shown.items()) + f"; all {self.total:.1f} s"


@contextmanager
def timed_parts() -> Iterator[Times]:
    """Inside, the seconds of each call of `PARTS` are added up. None of them calls another."""
    times = Times()
    with ExitStack() as stack:
        for name, target in PARTS.items():
            stack.enter_context(patch(target, timed(resolve_name(target), times.parts, name)))
        yield times


def timed(function: Callable[..., Any], parts: dict[str, float], name: str) -> Callable[..., Any]:
    """Return the function, which then adds the seconds of each call to a part."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            parts[name] += time.perf_counter() - start

    return call


def measure_predict(scan: Path, output: Path, start: float) -> tuple[Times, int]:
    """Search a scan with the network of the package. Returns: the times, and the peak memory in bytes.

    Args: start: `time.monotonic()` before this process began.
    """
    from p2ch13.predict import main

    with PeakMemory() as memory, timed_parts() as times:
        times.parts["start"] = time.monotonic() - start
        main([str(scan), "--output", str(output)])
    times.total = time.monotonic() - start
    return times, memory.peak


def measure_evaluate(arguments: list[str], start: float) -> Times:
    """Score the network of the package in one process, on all of its threads. Args: start: see `measure_predict`."""
    from p2ch13.evaluate import main

    with timed_parts() as times:
        times.parts["start"] = time.monotonic() - start
        main(arguments)
    times.total = time.monotonic() - start
    return times


def measure_shared_evaluate(arguments: list[str], process_count: int) -> float:
    """Measure the seconds of the same in several processes of one thread, which share the scans."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(process_count)]
    command = [sys.executable, "-m", *launcher, "-m", "p2ch13.evaluate", *arguments]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def write_chest(path: Path, slice_counts: tuple[int, ...], pixels: int, phantom_slices: int) -> list[Path]:
    """Write scans of a phantom, uncompressed, as long as wished: it is repeated, each time upside down.

    Returns: a file for each of `slice_counts`.
    """
    phantom = make_phantom(0, 0, pixels, phantom_slices)
    hu = phantom.hu[:, :: phantom.direction_xy, :: phantom.direction_xy]
    path.mkdir(parents=True)
    files = []
    for slice_count in slice_counts:
        turn = np.arange(slice_count) % (2 * phantom_slices)
        image = sitk.GetImageFromArray(hu[np.minimum(turn, 2 * phantom_slices - 1 - turn)])
        image.SetSpacing(phantom.spacing_xyz.tolist())
        files.append(path / f"{slice_count}.mha")
        sitk.WriteImage(image, str(files[-1]))
    return files
