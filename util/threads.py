"""Count the cores that this process may use, and measure how many threads are fastest on them."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path, PurePosixPath
from statistics import median
from typing import NamedTuple

log = logging.getLogger(__name__)

# Where Linux distributions and containers mount the cgroup hierarchy that counts processor time.
CGROUP_MOUNTS = ("cgroup", "cgroup/unified", "cgroup/cpu", "cgroup/cpu,cpuacct", "cgroup/cpuacct,cpu")

WARM_UP_STEPS = 1  # after a change of the count: libraries start threads and prepare kernels
MEASURED_STEPS = 3  # for each count; fewer if they take `LONG_S` in all
MEASURED_S, LONG_S = 0.1, 1.0  # measured for each count: at least; enough for fewer steps
PATIENCE = 3.0  # a count is abandoned when its steps take this multiple of another count's time
BETTER = 1.15  # speedup that justifies a change
MIN_OWN_SHARE = 0.8  # of a core that the calling thread gets; with less, other programs use the cores
LOST_SHARE = 0.02  # of the time that trials may cost
WATCHED_STEPS, WATCHED_S = 2, 0.5  # between trials, that are looked at together: at least
SOONER = 0.1  # of the minimum time between trials: enough if other programs have come or gone


def available_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: its affinity and its container's processor quota, at least 1.

    A quota of 1.5 cores counts as 2. `os.cpu_count` counts the machine's cores, and `os.process_cpu_count` (Python
    3.13) ignores quotas.

    Args: root: of the file system that holds /proc and /sys.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, read_quota(root))))


def read_quota(root: Path) -> float:
    """Read the processor quota, in cores, of the process's cgroups (v1 and v2) and their parents; infinity if none.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max;
    https://docs.kernel.org/scheduler/sched-bwc.html, cpu.cfs_quota_us and cpu.cfs_period_us.
    """
    quotas = [math.inf]
    for cgroup, mount in product(find_cgroups(root), CGROUP_MOUNTS):
        folder = root / "sys/fs" / mount / cgroup
        quotas.append(parse_quota(read_text(folder / "cpu.max")))
        v1_files = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        quotas.append(parse_quota(" ".join(map(read_text, v1_files))))
    return min(quotas)


def find_cgroups(root: Path) -> set[PurePosixPath]:
    """Find the paths, relative to a mount, of the process's cgroups and their parents.

    The root is included: a container sees its own cgroup there, whatever path /proc names.
    """
    cgroups = {PurePosixPath()}
    for line in read_text(root / "proc/self/cgroup").splitlines():
        path = line.split(":", 2)[-1]  # hierarchy:controllers:path
        cgroup = PurePosixPath(*(part for part in path.split("/") if part != ".."))
        cgroups |= {cgroup, *cgroup.parents}
    return cgroups


def read_text(path: Path) -> str:
    """Read a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ""


def parse_quota(limits: str) -> float:
    """Convert "quota period" in microseconds to cores; a quota of "max" or -1 is infinite."""
    match = re.fullmatch(r"([1-9]\d*)\s+([1-9]\d*)\s*", limits)
    return int(match[1]) / int(match[2]) if match else math.inf


def halvings(count: int) -> list[int]:
    """List `count`, its half, and so on down to 1, smallest first."""
    return [count >> times for times in reversed(range(count.bit_length()))]


class Step(NamedTuple):
    """A step of a trial."""

    seconds: float
    own_seconds: float  # processor time of the calling thread
    size: float  # of the work


Trial = dict[int, list[Step]]  # by number of threads


def is_enough(steps: Sequence[Step]) -> bool:
    """Return whether the steps with one number of threads took long enough to be compared."""
    needed_s = MEASURED_S if len(steps) >= WARM_UP_STEPS + MEASURED_STEPS else LONG_S
    return sum(step.seconds for step in steps[WARM_UP_STEPS:]) >= needed_s


def seconds_per_unit(steps: Sequence[Step]) -> float:
    """Compute the median over the steps, without the warm-up if there are others."""
    return median(step.seconds / step.size for step in steps[WARM_UP_STEPS:] or steps)


def has_changed(steps: Sequence[Step], chosen: Sequence[Step]) -> bool:
    """Return whether other programs have come or gone since a choice. Each step has to show it: one may be an accident.

    Args: chosen: steps with the number of threads in use, of the trial that chose it.
    """
    had_to_wait, usual = own_share(chosen) < MIN_OWN_SHARE, seconds_per_unit(chosen)
    return all((own_share([step]) < MIN_OWN_SHARE) != had_to_wait for step in steps) or all(
        step.seconds > PATIENCE * usual * step.size for step in steps
    )


def own_share(steps: Sequence[Step]) -> float:
    """Compute the share of a core that the calling thread got, without the warm-up if there are other steps."""
    measured = steps[WARM_UP_STEPS:] or steps
    seconds = sum(step.seconds for step in measured)
    return sum(step.own_seconds for step in measured) / seconds if seconds else 1.0


class ThreadTuner:
    """Measure with how many threads a repeated step is fastest, at the start and at intervals, and use that count.

    The threads of a step wait for each other, some of them in busy loops (oneDNN's spin in the backward pass of a
    convolution, whatever OpenMP's wait policy is). If other programs use the cores, a thread that others wait for may
    not be running: two threads on two cores with ten other busy threads were 10 to 30 times slower than one.

    A trial measures a few steps with the count in use, initially the smallest, then with the neighbors of the fastest;
    after the smallest it tries the largest. If the calling thread has to wait for a core, other programs use the cores:
    then the smallest count is tried and no larger one, so that a trial costs little on a busy machine. Trials take no
    more than `LOST_SHARE` of the time. Steps between trials are watched, see `has_changed`: when other programs come,
    each step on all threads costs as much as many on one, so that the next trial begins at once.

    Args:
        counts: numbers of threads to choose from, ascending. A single one is used without trials.
        set_count: sets the libraries' number of threads.
        wait_s: minimum seconds between trials; infinity chooses once.
    Attributes: `count`, the number of threads in use.
    """

    def __init__(self, counts: Sequence[int], set_count: Callable[[int], None], wait_s: float = 30.0) -> None:
        self.counts = tuple(counts)
        self.set_count = set_count
        self.wait_s = wait_s
        self.count = self.counts[0]
        self._chosen: int | None = self.count if len(self.counts) == 1 else None  # None before the first trial's end
        self._trial: Trial | None = None if self._chosen else {self.count: []}
        self._next_trial_s = self._sooner_s = math.inf
        self._watched, self._watched_s = list[Step](), 0.0  # the latest steps between trials, and their seconds
        self._chosen_steps = list[Step]()  # of the last trial, with the count in use
        set_count(self.count)

    @property
    def is_settled(self) -> bool:
        """Whether no trial is running."""
        return self._trial is None

    @contextmanager
    def measuring(self, size: float = 1.0) -> Iterator[None]:
        """Run a step inside the block with the number of threads in use or on trial.

        Args: size: of the step; steps are compared by seconds per unit of size.
        """
        self.set_count(self.count)  # another tuner may have changed it
        start, own_start = time.perf_counter(), time.thread_time()
        yield
        step = Step(time.perf_counter() - start, time.thread_time() - own_start, size)
        if self._trial is not None:
            self._trial[self.count].append(step)
            self._go_on_with_trial(self._trial)
        elif time.perf_counter() >= self._sooner_s and self._shows_change(step):
            self._trial = {self.count: self._watched}
            self._go_on_with_trial(self._trial)
        elif time.perf_counter() >= self._next_trial_s:
            self._trial = {self.count: []}

    def _shows_change(self, step: Step) -> bool:
        """Return whether the latest steps between trials, this one included, show that other programs came or went."""
        self._watched.append(step)
        self._watched_s += step.seconds
        if len(self._watched) < WATCHED_STEPS or self._watched_s < WATCHED_S:
            return False
        if has_changed(self._watched, self._chosen_steps):
            return True
        self._watched, self._watched_s = [step], step.seconds
        return False

    def _go_on_with_trial(self, trial: Trial) -> None:
        steps = trial[self.count]
        if is_enough(steps) or self._is_hopeless(steps, trial):
            count = self._find_next(trial)
            if count is None:
                self._end_trial(trial)
            else:
                trial[count] = []
                self._use(count)

    def _is_hopeless(self, steps: list[Step], trial: Trial) -> bool:
        """Return whether these steps have taken so long that another count must be faster."""
        others = [seconds_per_unit(other) for other in trial.values() if other is not steps]
        planned_size = sum(step.size for step in steps) * max(1, (WARM_UP_STEPS + MEASURED_STEPS) / len(steps))
        return bool(others) and sum(step.seconds for step in steps) > PATIENCE * min(others) * planned_size

    def _find_next(self, trial: Trial) -> int | None:
        """Return the next count to try; None ends the trial."""
        smallest, largest = self.counts[0], self.counts[-1]
        has_to_wait = {count for count, steps in trial.items() if own_share(steps) < MIN_OWN_SHARE}
        if smallest not in trial and has_to_wait:
            return smallest
        if list(trial) == [smallest] and not has_to_wait:
            return largest
        fastest = min(trial, key=lambda count: seconds_per_unit(trial[count]))
        ndx = self.counts.index(fastest)
        fewer = self.counts[:ndx][-1:]
        more = () if fastest in has_to_wait else self.counts[ndx + 1 :][:1]
        return next((count for count in (*fewer, *more) if count not in trial), None)

    def _end_trial(self, trial: Trial) -> None:
        seconds = {count: seconds_per_unit(steps) for count, steps in trial.items()}
        best = min(seconds, key=lambda count: seconds[count])
        before = self._chosen
        if before is not None and seconds[before] < BETTER * seconds[best]:
            best = before
        lost_steps = chain(*(steps for count, steps in trial.items() if count not in (best, before)))
        lost_s = sum(step.seconds - step.size * seconds[best] for step in lost_steps)
        self._next_trial_s = time.perf_counter() + max(self.wait_s, lost_s / LOST_SHARE)
        self._sooner_s = time.perf_counter() + SOONER * max(self.wait_s, lost_s / LOST_SHARE)
        self._chosen, self._trial = best, None
        self._watched, self._watched_s, self._chosen_steps = [], 0.0, trial[best]
        if best != (before or self.counts[-1]):
            log.info(f"Computing on {best} of {self.counts[-1]} threads, the fastest at present.")
        self._use(best)

    def _use(self, count: int) -> None:
        self.count = count
        self.set_count(count)
