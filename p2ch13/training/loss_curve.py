"""The loss within an epoch: the mean of every so many steps, for TensorBoard."""

from __future__ import annotations

import math
from math import ceil

from p2ch13.data.sampling import find_steps
from p2ch13.training.run import RunState
from p2ch13.training.tensorboard import TensorBoardReport
from p2ch13.training.totals import EpochTotals

POINTS_PER_EPOCH = 100  # at most
LEAST_STEPS_ON_GPU = 10  # between two points, since the CPU waits for the loss of each


class LossCurve:
    """Logs the loss of every so many steps of an epoch, at the end of these steps and of the epoch.

    It is a difference of the epoch's totals, which stay on the device in between. The mark from which they count moves
    when a point's first step begins, not when the point before is logged: if a run stops right at a point, that point
    is hidden when it resumes, like everything that follows, and logged again.

    Args:
        totals: of the epoch; those so far, if a run resumes in the middle of it.
        report: None logs nothing, as in all processes but the first.
    """

    def __init__(self, run: RunState, totals: EpochTotals, report: TensorBoardReport | None) -> None:
        self.run, self.totals, self.report = run, totals, report
        self.step_count = len(find_steps(run.config.samples_per_epoch, run.config.batch_size, run.world_size)) - 1
        least = 1 if totals.values.device.type == "cpu" else LEAST_STEPS_ON_GPU
        self.interval = max(least, ceil(self.step_count / POINTS_PER_EPOCH))
        if run.step:
            self.end_step()

    def begin_step(self) -> None:
        if self.run.step % self.interval == 0:
            self.totals.mark()

    def end_step(self) -> None:
        """Log a point if one is due. All processes of a run do so together, since its loss is that of all of them."""
        step = self.run.step
        if step % self.interval and step != self.step_count:
            return
        loss = self.totals.since_mark().summed_loss(self.run.config)
        if self.report and not math.isnan(loss):
            self.report.log_loss(loss, self.run.count_samples(self.run.epoch, step))
