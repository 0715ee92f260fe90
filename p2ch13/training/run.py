"""A run's state as plain values, and how it is saved and resumed."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from p2ch13.config import TrainingConfig
from p2ch13.data.splits import Splits
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import UNREADABLE, check_finite, save_checkpoint
from p2ch13.network.model import BOOK_MODEL, BOOK_NETWORK
from p2ch13.training.graphs import get_random_state, set_random_state
from p2ch13.training.learner import Learner
from p2ch13.training.optimizers import LR_FACTORS
from p2ch13.training.provenance import get_commit, get_versions
from p2ch13.training.run_files import RunFiles
from p2ch13.training.totals import EpochTotals
from p2ch13.util.errors import InputError, one_line
from p2ch13.util.files import atomic_write

log = logging.getLogger(__name__)


@dataclass
class RunState:
    """How far a run has come, and all that its files say besides weights: plain values.

    Attributes:
        world_size: processes of the run.
        epoch: finished epochs; step, totals, marked_totals: of the one after these, see `EpochTotals`.
        random_state: of an epoch that was saved midway and is not resumed yet.
        mining: state of `Mining`.
        splits: of all scans; series: "trn" and "val", series UIDs of those that have labels; "backgrounds", of those.
        background_checksums: of the lungs in series["backgrounds"].
        shape_donors: series UIDs whose readers' outlines are painted.
        init_series: series UIDs, sorted, that the network of `--init-from`, or one before it, was trained on.
        dtype: number format of the network.
        launch_id: see `process_group`.
        skipped_count: batches of finished epochs whose loss or gradient was not finite.
    """

    config: TrainingConfig
    sys_argv: list[str]
    files: RunFiles
    world_size: int = 1
    init_series: Sequence[str] = ()
    epoch: int = 0
    step: int = 0
    totals: list[float] | None = None
    marked_totals: list[float] | None = None
    random_state: dict[str, torch.Tensor] | None = None
    mining: dict[str, Any] | None = None
    splits: Splits = field(default_factory=lambda: Splits([], [], []))
    series: dict[str, list[str]] = field(default_factory=dict)
    background_checksums: list[int] = field(default_factory=list)
    shape_donors: list[str] = field(default_factory=list)
    data_fingerprint: str = ""
    dtype: str = "float32"
    launch_id: str | None = None
    best_score: float = -math.inf
    validations_since_best: int = 0
    skipped_count: int = 0
    saved_at_s: float = field(default_factory=time.monotonic)

    @property
    def all_series(self) -> dict[str, list[str]]:
        """`series`, and as "init" the `init_series`, if the run began with another's weights."""
        return self.series if self.config.init_from is None else {**self.series, "init": list(self.init_series)}

    def count_samples(self, epoch: int, step: int = 0) -> int:
        """Count the training samples of so many epochs, and of so many steps of the next one."""
        per_epoch = self.config.samples_per_epoch
        return epoch * per_epoch + min(step * self.config.batch_size * self.world_size, per_epoch)

    def is_validation_epoch(self, epoch_ndx: int) -> bool:
        """The first, every `validation_cadence`-th, and the last, whose model would otherwise never be saved."""
        return epoch_ndx in (1, self.config.epochs) or epoch_ndx % self.config.validation_cadence == 0

    def learning_rate(self, epoch_ndx: int) -> float:
        """Return the rate of the epoch's next step."""
        progress = self.count_samples(epoch_ndx - 1, self.step) / self.count_samples(self.config.epochs)
        return self.config.learning_rate * LR_FACTORS[self.config.lr_schedule](progress)

    def should_stop(self) -> bool:
        """Tell whether `--early-stop` ends the run: none of the latest validations was better than those before."""
        return 0 < self.config.early_stop <= self.validations_since_best

    def begin_epoch(self, device: torch.device) -> EpochTotals:
        """Begin an epoch's training; or continue the one that was saved midway, random numbers included."""
        if self.random_state is None:
            self.step, self.totals, self.marked_totals = 0, None, None
        else:
            set_random_state(device, self.random_state)
            self.random_state = None
        return EpochTotals(device, self.totals, self.marked_totals)

    def end_epoch(self, skipped_count: int) -> None:
        """Count an epoch whose training and validation are done."""
        self.epoch += 1
        self.skipped_count += skipped_count
        self.step, self.totals, self.marked_totals = 0, None, None

    def update_best(self, scores: Scores) -> bool:
        """Compare a validation's scores with the best, once in every process.

        Returns: whether they are the best so far; those of a model that finds nothing never are.
        """
        score = scores.metric(self.config.best_metric, self.config.precision_floor)
        if scores.recall > 0 and score > self.best_score:
            self.best_score, self.validations_since_best = score, 0
            return True
        self.validations_since_best += 1
        return False

    def is_save_due(self) -> bool:
        return time.monotonic() - self.saved_at_s > 60 * self.config.checkpoint_minutes

    def save(
        self,
        learner: Learner,
        scores: Scores | None = None,
        is_best: bool = False,
        totals: EpochTotals | None = None,
    ) -> None:
        """Write the last state; after a validation this epoch's too, and the best if it is the best so far.

        Args: totals: so far, in the middle of an epoch. Raises: InputError, see `check_finite`.
        """
        random_state = None
        if totals is not None:
            self.totals, self.marked_totals = totals.values.tolist(), totals.marked.tolist()
            random_state = get_random_state(totals.values.device)
        state = as_dict(self, learner, scores, random_state)
        check_finite(self.files.last, state)
        if scores:
            path = self.files.path(f"{self.count_samples(self.epoch)}.state")
            save_checkpoint(path, state)
            log.info(f"E{self.epoch} saved {path}")
        if is_best:
            save_checkpoint(self.files.best, state)
        save_checkpoint(self.files.last, state)  # after the others: a restart resumes from it
        self.saved_at_s = time.monotonic()
        if totals is None:
            self.files.remove_old(self.config.keep_checkpoints)

    def resume(self, path: Path, state: Mapping[str, Any], learner: Learner) -> None:
        """Load a saved state, to continue as if the run had never ended. Raises: InputError if that cannot be."""
        names = ("data_fingerprint", "background_checksums", "shape_donors")
        current = {name: getattr(self, name) for name in names} | {"series": self.all_series}
        if any(state.get(name, value) != value for name, value in current.items()):
            raise InputError(
                "scans, annotations, labels, backgrounds or shapes are not those that the run began with; bring them "
                "back, or start a new run",
                path=Path(self.config.data_dir),
            )
        try:
            learner.load(state)
            self.mining = state.get("mining")
            self.epoch, self.step = state["epoch"], state["step"]
            self.totals, self.marked_totals = state["totals"], state.get("marked_totals")  # earlier files have none
            if self.totals is not None:  # raises ValueError for those of another version
                EpochTotals(torch.device("cpu"), self.totals, self.marked_totals)
                self.random_state = state["random_state"]
            self.best_score = state["best_score"]
            self.validations_since_best = state["validations_since_best"]
            self.skipped_count = state["left_out_count"]
            self.files = dataclasses.replace(self.files, time_str=state["time_str"])
        except UNREADABLE as error:
            raise InputError(f"corrupt ({one_line(error)}); resume from another state", path=path) from None

    @contextmanager
    def own_files(self) -> Iterator[None]:
        """Inside, a run that begins has files of its own, see `RunFiles.claimed`; a resumed one has them already."""
        if self.files.find("*.state"):
            yield
            return
        with self.files.claimed() as self.files:
            yield

    def branch_off(self, path: Path, state: Mapping[str, Any]) -> None:
        """Continue a state of this run under a new name, with a copy of its best model until then, if that is there."""
        best = self.files.find_best_until(path, state)
        self.files = RunFiles.unused(self.files.folder, self.files.comment)
        if best is None:
            self.best_score, self.validations_since_best = -math.inf, 0
        else:
            with atomic_write(self.files.best) as file:
                file.write(best.read_bytes())


def as_dict(
    run: RunState,
    learner: Learner,
    scores: Scores | None = None,
    random_state: dict[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Return the content of a .state file.

    The book's keys, and what loading and resuming need. `epoch` counts finished epochs, `step` the steps of the
    optimizer since then.
    """
    model, optimizer, averaged = learner.model, learner.optimizer, learner.averaged
    return {
        "sys_argv": run.sys_argv,
        "time": str(datetime.datetime.now()),
        "model_state": learner.evaluated_model.state_dict(),
        "model_name": type(model).__name__,
        "network": run.config.network,
        "model_args": model_args_of(run.config),
        "optimizer_state": optimizer.state_dict(),
        "optimizer_name": type(optimizer).__name__,
        "epoch": run.epoch,
        "step": run.step,
        "totals": run.totals,
        "marked_totals": run.marked_totals,
        "random_state": random_state,
        "mining": run.mining,
        "threads": torch.get_num_threads(),
        "totalTrainingSamples_count": run.count_samples(run.epoch, run.step),
        "config": run.config.as_dict(),
        "versions": get_versions(),
        "commit": get_commit(),
        "data_fingerprint": run.data_fingerprint,
        "splits": run.splits._asdict(),
        "series": run.all_series,
        "background_checksums": run.background_checksums,
        "shape_donors": run.shape_donors,
        "scores": dataclasses.asdict(scores) if scores else None,
        "trained_state": model.state_dict() if averaged else None,
        "averaged_count": int(averaged.n_averaged) if averaged else 0,
        "best_score": run.best_score,
        "validations_since_best": run.validations_since_best,
        "left_out_count": run.skipped_count,
        "time_str": run.files.time_str,
        "dtype": run.dtype,
    }


def model_args_of(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of the network that the options describe, for `build_network`."""
    if config.network != BOOK_NETWORK:
        return {"slice_spacing_mm": config.slice_spacing_mm}
    return {
        **BOOK_MODEL,
        "depth": config.depth,
        "wf": config.filters.bit_length() - 1,
        "intensity_projections": config.intensity_projections,
        "space_to_depth": config.space_to_depth,
        "activation": config.activation,
        "slice_spacing_mm": config.slice_spacing_mm,
    }
