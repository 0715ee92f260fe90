"""The cores that a process may use, and the choice of threads by a simulated clock."""

import os

import pytest

from p2ch13.config import ImportOptions, PrecacheOptions
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.util.options import list_options
from p2ch13.util.threads import available_cores, halvings
from tests.support.simulated_machine import ALL_OF_A_CORE, QUIET

POD = {"": 600_000, "pod/": 300_000, "pod/one/": "max", "pod/other/": 100_000}

# The process's groups, files below sys/fs/cgroup -> cores, of eight that the process may run on.
QUOTAS = [
    (None, {}, 8),  # no Linux
    ("0::/\n", {}, 8),  # no quota anywhere
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # 1.5, rounded up
    ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
    ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),  # more than there are
    (  # the smallest of its own, its parent's and its grandparent's, and not the other group's
        "0::/pod/one\n",
        {f"{group}cpu.max": f"{quota} 100000\n" for group, quota in POD.items()},
        3,
    ),
    (  # a container that sees its own group at the top, under its host's name for it
        "4:cpu,cpuacct:/docker/1f2e\n3:cpuset:/docker/1f2e\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"},
        5,
    ),
    ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    (  # v1, nested, beside an empty v2
        "1:cpu:/slurm/job\n0::/slurm/job\n",
        {
            "cpu/slurm/cpu.cfs_quota_us": "400000\n",
            "cpu/slurm/cpu.cfs_period_us": "100000\n",
            "cpu/slurm/job/cpu.cfs_quota_us": "700000\n",
            "cpu/slurm/job/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    ("0::/../..\nnonsense\n", {"cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
]


@pytest.mark.parametrize(("cgroup", "limits", "expected"), QUOTAS)
def test_a_quota_counts_as_so_many_cores(tmp_path, monkeypatch, cgroup, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process_id: set(range(8)), raising=False)
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    for name, text in (files | {"proc/self/cgroup": cgroup} if cgroup else files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
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


BUSY = {1: 1.0, 2: 15.0}, {1: 0.2, 2: 0.1}

RUNS = [
    (QUIET, {}, {1: 4, 2: 4}),  # one to warm up and three that are measured, of each
    (BUSY, {}, {1: 200}),  # never on more threads
    (BUSY, {"counts": [2]}, {2: 100}),  # a single number is never changed
    (QUIET, {"wait_s": float("inf")}, {1: 4, 2: 996}),  # chosen once
    (({1: 4.0, 2: 2.0}, ALL_OF_A_CORE), {}, {1: 2, 2: 2}),  # long steps are measured once
]


@pytest.mark.parametrize(("speed", "options", "steps"), RUNS)
def test_steps_by_threads(simulate, speed, options, steps):
    machine = simulate(*speed, **options)
    assert (machine.count, machine.tuner.is_settled) == (min(steps), "counts" in options)
    machine.run(sum(steps.values()))
    assert machine.steps == steps
    assert (machine.count, machine.tuner.count, machine.tuner.is_settled) == (max(steps), max(steps), True)


def test_a_quiet_machine_loses_little_to_trials(simulate):
    machine = simulate(*QUIET)
    machine.run(20_000)
    best_s = 20_000 * 0.1
    assert machine.now < 1.02 * best_s
    assert machine.steps[1] >= 4 * best_s / 60  # and is asked again every minute, at least


def test_a_machine_that_gets_busy_and_quiet_again(simulate):
    machine = simulate(*QUIET)
    machine.run(20)
    assert machine.count == 2
    machine.seconds, machine.own_share = BUSY
    machine.run(20)
    assert machine.count == 1
    machine.seconds, machine.own_share = QUIET
    machine.run(2000)
    assert machine.count == 2


def test_one_slow_step_does_not_make_a_trial_long(simulate):
    """A machine whose other programs the calling thread cannot feel: the second thread alone is held up."""
    machine = simulate({1: 1.0, 2: 40.0}, {1: 1.0, 2: 0.9})
    machine.run(3000)
    assert machine.count == 1
    assert machine.steps[2] == 2  # at the start; and after 39 s / 2%
    assert machine.now < 1.04 * 3000


def test_a_gain_too_small_changes_nothing(simulate):
    machine = simulate({1: 0.1, 2: 0.1}, ALL_OF_A_CORE)
    machine.seconds[2] = 0.09
    machine.run(10)
    assert machine.count == 2  # at the start the fastest one counts
    machine.seconds[2] = 0.11
    machine.run(3000)
    assert machine.count == 2
    machine.seconds[2] = 0.12
    machine.run(3000)
    assert machine.count == 1


def test_single_outliers_change_nothing(simulate):
    machine = simulate(*QUIET)
    machine.run(10)
    for _ in range(300):
        machine.run(10)
        machine.now += 3.0  # between two steps: not a step's time
        machine.seconds = {1: 0.2, 2: 5.0}
        machine.run(1)
        machine.seconds = QUIET[0]
        assert machine.count == 2 or not machine.tuner.is_settled


@pytest.mark.parametrize(("free_cores", "best"), [(16, 16), (6, 4), (1, 1)])
def test_many_cores(simulate, free_cores, best):
    """Threads up to the number of free cores are a gain, more than that are held up."""
    counts = halvings(16)
    seconds = {count: 8 / count if count <= free_cores else 20.0 + count for count in counts}
    own_share = {count: 1.0 if count <= free_cores else 0.5 for count in counts}
    machine = simulate(seconds, own_share, counts)
    machine.run(60)
    assert (machine.count, machine.tuner.is_settled) == (best, True)


def test_many_cores_that_get_busy(simulate):
    counts = halvings(16)
    machine = simulate({count: 8 / count for count in counts}, dict.fromkeys(counts, 1.0), counts)
    machine.run(100)
    before = machine.steps.copy()
    machine.run(3000)
    assert machine.count == 16
    assert set(machine.steps - before) == {8, 16}  # far fewer threads are not asked again on a quiet machine
    machine.seconds = {count: 8.0 if count == 1 else 30.0 for count in counts}
    machine.own_share = dict.fromkeys(counts, 0.3)
    machine.run(30)
    assert machine.count == 1


def test_steps_are_compared_by_their_size(simulate):
    """A last batch of a few samples, or slices of another scan."""
    machine = simulate(*QUIET)
    machine.run(4, size=1)
    machine.run(4, size=3)
    assert machine.count == 2


def test_two_tuners_do_not_disturb_each_other(simulate):
    machine = simulate(*QUIET)
    fixed = machine.make_tuner([2])
    machine.run(1)
    machine.run(1, tuner=fixed)
    machine.run(3)
    assert machine.steps == {1: 4, 2: 1}


def test_a_step_that_fails_is_not_measured(simulate):
    machine = simulate(*QUIET)
    for _ in range(9):
        with pytest.raises(RuntimeError), machine.tuner.measuring():
            raise RuntimeError
    assert machine.tuner.count == 1


def test_short_steps_are_measured_for_long_enough(simulate):
    machine = simulate({1: 0.001, 2: 0.0005}, ALL_OF_A_CORE)
    machine.run(90)
    assert (machine.steps, machine.tuner.is_settled) == ({1: 90}, False)
    machine.run(400)
    assert (machine.count, machine.tuner.is_settled) == (2, True)


@pytest.mark.parametrize("options", [PrecacheOptions, ImportOptions, PhantomOptions])
def test_as_many_worker_processes_as_cores_to_use(options):
    assert list_options(options)["num_workers"].default is available_cores
