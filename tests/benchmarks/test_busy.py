"""Training beside busy programs: the share that is left, and how soon the number of threads follows them."""

import pytest

from benchmarks.busy import BusyRates, Rate, measure_rate, share_left
from tests.support.simulated_machine import ALL_OF_A_CORE, QUIET

# Busy threads, own ones, cores -> the share of the processor time of a quiet machine.
SHARES = [
    (0, 2, 2, 1),
    (2, 2, 2, 1 / 2),  # two of four threads, on two cores: one core of two
    (10, 2, 2, 1 / 6),
    (10, 1, 2, 2 / 11),  # one of eleven threads: 2/11 of a core, of one
    (1, 1, 2, 1),  # a core each
    (16, 16, 16, 1 / 2),
]
BUSY = {1: 0.5, 2: 4.0}, {1: 0.2, 2: 0.16}  # seconds of a step, share of a core: two threads wait for each other


@pytest.mark.parametrize(("busy", "threads", "cores", "expected"), SHARES)
def test_share_left(busy, threads, cores, expected):
    assert share_left(busy, threads, cores) == pytest.approx(expected)


def test_share_reached():
    def rate(samples_per_s):
        return Rate(samples_per_s, settled_s=0.0, threads=1, cores_used=1.0)

    rates = BusyRates(rate(240.0), {2: rate(96.0), 10: rate(20.0)}, rate(230.0), threads=2, cores=2)
    assert rates.share_reached(2) == pytest.approx(0.8)  # 96 of 120
    assert rates.share_reached(10) == pytest.approx(0.5)  # 20 of 40


def run_until(machine, count):
    """Run until this number of threads is chosen. Returns: the seconds of it."""
    start = machine.now
    while not (machine.count == count and machine.tuner.is_settled):
        assert machine.now < start + 3000
        machine.run(1)
    return machine.now - start


@pytest.mark.parametrize("wait_s", [30.0, 600.0])
def test_threads_follow_other_programs_within_steps(simulate, wait_s):
    machine = simulate(*QUIET, wait_s=wait_s)
    run_until(machine, 2)
    machine.run(1000)
    machine.seconds, machine.own_share = BUSY
    slow = machine.steps[2]
    run_until(machine, 1)
    assert machine.steps[2] - slow <= 4  # one may belong to a trial or to a look that has begun
    machine.run(200)
    machine.seconds, machine.own_share = QUIET
    assert run_until(machine, 2) < 3


def test_a_second_thread_that_is_held_up_unseen_is_given_up(simulate):
    """The calling thread has its core, and waits for the other one in a busy loop."""
    machine = simulate(*QUIET)
    run_until(machine, 2)
    machine.run(1000)
    machine.seconds, machine.own_share = {1: 0.2, 2: 4.0}, ALL_OF_A_CORE
    assert run_until(machine, 1) < 5 * 4.0


def test_programs_that_come_and_go_cost_little(simulate):
    """Every ten seconds the machine changes: hardly more steps on two threads are slow than there are changes."""
    machine = simulate(*QUIET)
    run_until(machine, 2)
    slow = 0
    for _ in range(50):
        machine.seconds, machine.own_share = BUSY
        before, end = machine.steps[2], machine.now + 10
        while machine.now < end:
            machine.run(1)
        slow += machine.steps[2] - before
        machine.seconds, machine.own_share = QUIET
        while machine.now < end + 10:
            machine.run(1)
    assert slow <= 3 * 50


class Tuner:
    """Settles on one thread with the third epoch."""

    count, epochs = 2, 0

    @property
    def is_settled(self):
        return self.epochs != 2

    def train(self):
        self.epochs += 1
        self.count = 1 if self.epochs >= 2 else 2
        return 16


@pytest.mark.parametrize(("settle_seconds", "threads", "epochs"), [(60.0, 1, 3 + 1), (0.0, 1, 1 + 1)])
def test_a_rate_is_measured_once_the_threads_are_chosen(settle_seconds, threads, epochs):
    tuner = Tuner()
    rate = measure_rate(tuner.train, tuner, lambda count: count == 1, 0.0, settle_seconds)
    assert (rate.threads, tuner.epochs) == (threads, epochs)
    assert rate.samples_per_s > 0
