"""Failing writes, loss of power and too little memory one after the other, on commands that are prepared once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stress.faults import Faults, compile_library, is_possible
from stress.io_errors import NOT_POSSIBLE, fail_writes_of
from stress.no_memory import limit_all, limit_memory_of
from stress.power_loss import cut_power_under
from stress.report import Row
from stress.warm import in_new_process
from stress.work import prepare_work

Counts = tuple[int | None, int | None, int]  # of failing writes, states after a loss of power, limits of memory


def meet_all(counts: Counts, work_dir: Path | None = None) -> list[Row]:
    """Args: counts: for each command; None: as many as there are. Raises: LostError."""
    if not is_possible():
        return [Row("failing writes, power loss", NOT_POSSIBLE, "", 0, 0.0), *limit_all(counts[2], work_dir)]
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        folder = Path(name).resolve()
        watched = folder / "watched"
        environment = compile_library(folder, watched)
        rows: list[Row] = in_new_process(meet_each, folder, watched, counts, environment=environment)
        return rows


def meet_each(folder: Path, watched: Path, counts: Counts) -> list[Row]:
    """In a process with the library: the faults of all kinds, each under all commands."""
    faults, works = Faults(), prepare_work(folder, watched)
    writes, states, limits = counts
    rows = [fail_writes_of(work, faults, writes) for work in works]
    rows += [cut_power_under(work, faults, states) for work in works]
    return rows + [limit_memory_of(work, limits) for work in works]
