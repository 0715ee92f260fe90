"""The loss within an epoch, read back from TensorBoard's files."""

import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from p2ch13.config import TrainingConfig
from p2ch13.training.loss_curve import LossCurve
from p2ch13.training.losses import loss_of_sums
from p2ch13.training.run import RunState
from p2ch13.training.run_files import RunFiles
from p2ch13.training.tensorboard import open_report
from p2ch13.training.totals import SUM_COUNT, EpochTotals, StepResult

CPU = torch.device("cpu")
SUMS = torch.tensor([[10.0, 15, 10, 5, 32, 1, 1], [2.0, 5, 20, 3, 32, 2, 1]])  # of two samples, see `PixelSums`


@pytest.fixture
def make_run(tmp_path):
    """Make the state of a run with batches of two samples."""

    def make(samples_per_epoch, **options):
        config = TrainingConfig(
            samples_per_epoch=samples_per_epoch, batch_size=2, runs_dir=tmp_path / "runs", comment="test", **options
        )
        return RunState(config, [], RunFiles(tmp_path / "models", "now", "test"))

    return make


def as_result(losses, sums=None, is_bad=False):
    count = len(losses)
    sums = torch.zeros(count, SUM_COUNT) if sums is None else sums
    return StepResult(torch.tensor(losses), torch.zeros(count, 3), sums, torch.tensor([is_bad, is_bad, False]))


def train(run, totals, report, results):
    """Take a step for each result."""
    curve = LossCurve(run, totals, report)
    for result in results:
        curve.begin_step()
        totals.add(result)
        run.step += 1
        curve.end_step()


def read_curve(tmp_path):
    (folder,) = (tmp_path / "runs" / "p2ch13").glob("now_trn_*")
    events = EventAccumulator(str(folder)).Reload()
    if "loss/within_epoch" not in events.Tags()["scalars"]:
        return []
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars("loss/within_epoch")]


@pytest.mark.parametrize(
    ("results", "samples", "expected"),
    [
        # Each step of a short epoch is a point: the mean of its samples.
        ([[0.5, 0.25], [1.0, 0.0], [0.75]], 5, [(2, 0.375), (4, 0.5), (5, 0.75)]),
        # Of 202 steps every three are a point, and the last one: steps 1 to 3 have losses of 1, 2 and 3.
        ([[float(step)] * 2 for step in range(1, 203)], 404, [*((6 * n, 3 * n - 1) for n in range(1, 68)), (404, 202)]),
    ],
)
def test_points_by_hand(make_run, tmp_path, results, samples, expected):
    run = make_run(samples)
    with open_report(run, is_first=True) as report:
        train(run, EpochTotals(CPU), report, map(as_result, results))
    assert read_curve(tmp_path) == expected


def test_the_next_epoch_goes_on_behind_it(make_run, tmp_path):
    run = make_run(4)
    with open_report(run, is_first=True) as report:
        for losses in ([0.5, 0.25], [1.5, 1.25]):
            train(run, run.begin_epoch(CPU), report, [as_result([loss] * 2) for loss in losses])
            run.end_epoch(0)
    assert read_curve(tmp_path) == [(2, 0.5), (4, 0.25), (6, 1.5), (8, 1.25)]


def test_skipped_batches_are_not_on_it(make_run, tmp_path):
    """Without any other batch there is no point."""
    run = make_run(6)
    with open_report(run, is_first=True) as report:
        results = [as_result([0.5] * 2), as_result([float("nan")] * 2, is_bad=True), as_result([0.25] * 2)]
        train(run, EpochTotals(CPU), report, results)
    assert read_curve(tmp_path) == [(2, 0.5), (6, 0.25)]


def test_the_loss_of_all_samples_as_one(make_run, tmp_path):
    run = make_run(4, batch_dice=True)
    with open_report(run, is_first=True) as report:
        train(run, EpochTotals(CPU), report, [as_result([9.0] * 2, SUMS), as_result([9.0] * 2, SUMS + 1)])
    expected = [loss_of_sums(sums.sum(0), run.config).item() for sums in (SUMS, SUMS + 1)]
    assert read_curve(tmp_path) == [(2, expected[0]), (4, expected[1])]


@pytest.mark.parametrize(("saved_at", "lost_steps"), [(99, 0), (100, 7), (102, 7), (202, 0)])
def test_a_resumed_run_has_the_same_curve(make_run, tmp_path, saved_at, lost_steps):
    """A run of 202 steps, a point for every three, is killed some steps after its state was saved."""
    results = [as_result([float(step)] * 2) for step in range(1, 203)]
    run = make_run(404)
    with open_report(run, is_first=True) as report:
        totals = EpochTotals(CPU)
        train(run, totals, report, results[:saved_at])
        values, marked = totals.values.tolist(), totals.marked.tolist()
        train(run, totals, report, results[saved_at:][:lost_steps])
    time.sleep(1.1)  # files of one process and second are read in the order of the digits in their names: 10 before 9
    resumed = make_run(404)
    resumed.step = saved_at
    with open_report(resumed, is_first=True) as report:
        train(resumed, EpochTotals(CPU, values, marked), report, results[saved_at:])
    assert read_curve(tmp_path) == [*((6 * n, 3 * n - 1) for n in range(1, 68)), (404, 202)]
