"""The cores that a process may use, and the choice of threads by a simulated clock."""

import os
from collections import Counter

import pytest

from p2ch13.config import ImportOptions, PrecacheOptions
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.util import threads
from p2ch13.util.options import list_options
from p2ch13.util.threads import ThreadTuner, available_cores, halvings

# Files below the root -> cores, of eight that the process may run on.
QUOTAS = [
    ({}, 8),  # no Linux
    ({"proc/self/cgroup": "0::/\n"}, 8),  # no quota anywhere
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),  # 1.5, rounded up
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 8),  # more than there are
    (  # the smallest of its own, its parent's and its grandparent's
        {
            "proc/self/cgroup": "0::/pod/one\n",
            "sys/fs/cgroup/cpu.max": "600000 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/pod/one/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/other/cpu.max": "100000 100000\n",  # not the process's
        },
        3,
    ),
    (  # a container that sees its own group at the top, under its host's name for it
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/1f2e\n3:cpuset:/docker/1f2e\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000\n",
        },
        5,
    ),
    (
        {
            "proc/self/cgroup": "1:cpu:/\n0::/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    (  # v1, nested, beside an empty v2
        {
            "proc/self/cgroup": "1:cpu:/slurm/job\n0::/slurm/job\n",
            "sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/slurm/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/slurm/job/cpu.cfs_quota_us": "700000\n",
            "sys/fs/cgroup/cpu/slurm/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    ({"proc/self/cgroup": "0::/../..\nnonsense\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
]


@pytest.mark.parametrize(("files", "expected"), QUOTAS)
def test_a_quota_counts_as_so_many_cores(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process_id: set(range(8)), raising=False)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_cores(tmp_path) == expected


@pytest.mark.parametrize(("count", "expected"), [(4, 4), (None, 1)])
def test_cores_where_the_system_has_no_affinity(tmp_path, monkeypatch, count, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert available_cores(tmp_path) == expected


def test_the_machine_itself():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 3, 6]), (16, [1, 2, 4, 8, 16])])
def test_halvings(count, expected):
    assert halvings(count) == expected


class Machine:
    """Simulates steps of `seconds[count]`, of which the calling thread has a core for `own_share[count]`.

    Attributes: `now`, seconds since the start; `steps`, their number by count of threads.
    """

    def __init__(self, seconds, own_share):
        self.seconds, self.own_share = seconds, own_share
        self.now = self.own = 0.0
        self.count = 0
        self.steps = Counter()

    def make_tuner(self, counts, **options):
        def set_count(count):
            self.count = count

        return ThreadTuner(counts, set_count, clock=lambda: self.now, own_clock=lambda: self.own, **options)

    def run(self, tuner, step_count, size=1.0):
        for _ in range(step_count):
            with tuner.measuring(size):
                seconds = self.seconds[self.count] * size
                self.now += seconds
                self.own += seconds * self.own_share[self.count]
                self.steps[self.count] += 1


QUIET = {1: 0.2, 2: 0.1}, {1: 1.0, 2: 1.0}
BUSY = {1: 1.0, 2: 15.0}, {1: 0.2, 2: 0.1}


def test_a_quiet_machine_computes_on_all_cores():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    assert (machine.count, tuner.is_settled) == (1, False)
    machine.run(tuner, 8)  # one to warm up and three that are measured, of each
    assert (machine.count, tuner.count, tuner.is_settled) == (2, 2, True)
    assert machine.steps == {1: 4, 2: 4}


def test_a_busy_machine_never_computes_on_more_threads():
    machine = Machine(*BUSY)
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 200)
    assert machine.steps == {1: 200}
    assert tuner.is_settled


def test_a_quiet_machine_loses_little_to_trials():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 20_000)
    best_s = 20_000 * 0.1
    assert machine.now < 1.02 * best_s
    assert machine.steps[1] >= 4 * best_s / 60  # and is asked again every minute, at least


def test_a_machine_that_gets_busy_and_quiet_again():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 20)
    assert machine.count == 2
    machine.seconds, machine.own_share = BUSY
    machine.run(tuner, 20)
    assert machine.count == 1
    machine.seconds, machine.own_share = QUIET
    machine.run(tuner, 2000)
    assert machine.count == 2


def test_one_slow_step_does_not_make_a_trial_long():
    """A machine whose other programs the calling thread cannot feel: the second thread alone is held up."""
    machine = Machine({1: 1.0, 2: 40.0}, {1: 1.0, 2: 0.9})
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 3000)
    assert machine.count == 1
    assert machine.steps[2] == 2  # at the start; and after 39 s / 2%
    assert machine.now < 1.04 * 3000


def test_a_gain_too_small_changes_nothing():
    machine = Machine({1: 0.1, 2: 0.1}, {1: 1.0, 2: 1.0})
    tuner = machine.make_tuner([1, 2])
    machine.seconds[2] = 0.09
    machine.run(tuner, 10)
    assert machine.count == 2  # at the start the fastest one counts
    machine.seconds[2] = 0.11
    machine.run(tuner, 3000)
    assert machine.count == 2
    machine.seconds[2] = 0.12
    machine.run(tuner, 3000)
    assert machine.count == 1


def test_single_outliers_change_nothing():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 10)
    for _ in range(300):
        machine.run(tuner, 10)
        machine.now += 3.0  # between two steps: not a step's time
        machine.seconds = {1: 0.2, 2: 5.0}
        machine.run(tuner, 1)
        machine.seconds = QUIET[0]
        assert machine.count == 2 or not tuner.is_settled


@pytest.mark.parametrize(
    ("free_cores", "best"),
    [(16, 16), (6, 4), (1, 1)],
)
def test_many_cores(free_cores, best):
    """Threads up to the number of free cores are a gain, more than that are held up."""
    counts = halvings(16)
    seconds = {count: 8 / count if count <= free_cores else 20.0 + count for count in counts}
    own_share = {count: 1.0 if count <= free_cores else 0.5 for count in counts}
    machine = Machine(seconds, own_share)
    tuner = machine.make_tuner(counts)
    machine.run(tuner, 60)
    assert (machine.count, tuner.is_settled) == (best, True)


def test_many_cores_that_get_busy():
    counts = halvings(16)
    machine = Machine({count: 8 / count for count in counts}, dict.fromkeys(counts, 1.0))
    tuner = machine.make_tuner(counts)
    machine.run(tuner, 100)
    before = machine.steps.copy()
    machine.run(tuner, 3000)
    assert machine.count == 16
    assert set(machine.steps - before) == {8, 16}  # far fewer threads are not asked again on a quiet machine
    machine.seconds = {count: 8.0 if count == 1 else 30.0 for count in counts}
    machine.own_share = dict.fromkeys(counts, 0.3)
    machine.run(tuner, 30)
    assert machine.count == 1


def test_steps_are_compared_by_their_size():
    """A last batch of a few samples, or slices of another scan."""
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 4, size=1)
    machine.run(tuner, 4, size=3)
    assert machine.count == 2


def test_a_single_number_is_never_changed():
    machine = Machine(*BUSY)
    tuner = machine.make_tuner([2])
    assert (machine.count, tuner.is_settled) == (2, True)
    machine.run(tuner, 100)
    assert machine.steps == {2: 100}


def test_chosen_once():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2], wait_s=float("inf"))
    machine.run(tuner, 1000)
    assert machine.steps == {1: 4, 2: 996}


def test_two_tuners_do_not_disturb_each_other():
    machine = Machine(*QUIET)
    fixed, tuner = machine.make_tuner([2]), machine.make_tuner([1, 2])
    machine.run(tuner, 1)
    machine.run(fixed, 1)
    machine.run(tuner, 3)
    assert machine.steps == {1: 4, 2: 1}


def test_a_step_that_fails_is_not_measured():
    machine = Machine(*QUIET)
    tuner = machine.make_tuner([1, 2])
    for _ in range(9):
        with pytest.raises(RuntimeError), tuner.measuring():
            raise RuntimeError
    assert tuner.count == 1


def test_short_steps_are_measured_for_long_enough():
    machine = Machine({1: 0.001, 2: 0.0005}, {1: 1.0, 2: 1.0})
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 90)
    assert (machine.steps, tuner.is_settled) == ({1: 90}, False)
    machine.run(tuner, 400)
    assert (machine.count, tuner.is_settled) == (2, True)


def test_long_steps_are_measured_once():
    machine = Machine({1: 4.0, 2: 2.0}, {1: 1.0, 2: 1.0})
    tuner = machine.make_tuner([1, 2])
    machine.run(tuner, 4)
    assert (machine.count, machine.steps, tuner.is_settled) == (2, {1: 2, 2: 2}, True)
    assert threads.LONG_S <= 2.0


@pytest.mark.parametrize("options", [PrecacheOptions, ImportOptions, PhantomOptions])
def test_as_many_worker_processes_as_cores_to_use(options):
    assert list_options(options)["num_workers"].default is available_cores
