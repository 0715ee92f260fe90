"""What a run saves and takes up again: its weights, its optimizer and how far it has come."""

from __future__ import annotations

import dataclasses
import datetime
import glob
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from p2ch13.config import BEST_STATE, TrainingConfig
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.checkpoint import UNREADABLE, load_checkpoint, save_checkpoint
from p2ch13.network.model import UNetWrapper
from p2ch13.training.provenance import get_commit, get_versions
from p2ch13.training.resume import LAST, models_dir_of
from p2ch13.training.totals import EpochTotals
from p2ch13.util.errors import InputError, one_line
from p2ch13.util.files import atomic_write
from p2ch13.util.launch import Launch

log = logging.getLogger(__name__)

LAUNCH = "launch"  # ending of the file that says which torchrun has started a run


@dataclass
class EpochProgress:
    """How far the training of the current epoch has come."""

    totals: EpochTotals
    steps: int = 0


class RunState:
    """All of a run that outlives its process, and the files that it is kept in.

    Args:
        device: what it is trained on.
        model, averaged_model, optimizer: those that are trained; the average of the latest weights, where it is kept.
        model_args: what the model was made with.
    Attributes: `epoch`, how many are over; `progress`, the training of the one after these; `time_str`, a part of the
        run's file names; `series`, "trn" and "val", what the run is trained and validated on; `data_fingerprint`;
        `dtype`, what the network is computed in; `launch_id`, see `process_group`; `best_score`;
        `validations_since_best`; `left_out_count`, of batches whose loss or gradient was not finite.
    """

    def __init__(
        self,
        config: TrainingConfig,
        sys_argv: Sequence[str],
        launch: Launch,
        device: torch.device,
        model: UNetWrapper,
        averaged_model: AveragedModel | None,
        optimizer: Optimizer,
        model_args: dict[str, Any],
    ) -> None:
        self.config = config
        self.sys_argv = list(sys_argv)
        self.launch = launch
        self.device = device
        self.model = model
        self.averaged_model = averaged_model
        self.optimizer = optimizer
        self.model_args = model_args
        self.epoch = 0
        self.progress: EpochProgress | None = None
        self._taken_up: dict[str, Any] | None = None  # a state in the middle of an epoch, until it is gone on with
        self.time_str = self._find_free_time()
        self.dtype = torch.float32
        self.series: dict[str, list[str]] = {}
        self.data_fingerprint = ""
        self.launch_id: str | None = None
        self.best_score = -math.inf
        self.validations_since_best = 0
        self.left_out_count = 0
        self.saved_at_s = time.monotonic()

    @property
    def evaluated_model(self) -> UNetWrapper:
        """The model that is scored, saved and shown: with the average of its latest weights, where that is kept."""
        return self.model if self.averaged_model is None else cast("UNetWrapper", self.averaged_model.module)

    @property
    def samples_count(self) -> int:
        """Training samples in the epochs that are over."""
        return self.epoch * self.config.samples_per_epoch

    def count_samples(self, steps: int) -> int:
        """Training samples in so many steps of an epoch."""
        return min(steps * self.config.batch_size * self.launch.world_size, self.config.samples_per_epoch)

    @property
    def models_dir(self) -> Path:
        return models_dir_of(self.config)

    @property
    def last_path(self) -> Path:
        return self.model_path(LAST)

    @property
    def best_path(self) -> Path:
        return self.model_path(BEST_STATE)

    @property
    def picture_path(self) -> Path:
        """What the best model finds, drawn when the run ends."""
        return self.model_path("best.png")

    def model_path(self, ending: str) -> Path:
        return self.models_dir / f"{self._name(self.time_str)}.{ending}"

    def _name(self, time_str: str) -> str:
        return f"seg_{time_str}_{self.config.comment}"

    def _find_free_time(self) -> str:
        """Now, or the first second after it that no other run of this name was begun in."""
        moment = datetime.datetime.now()
        while True:
            time_str = moment.strftime("%Y-%m-%d_%H.%M.%S")
            if not any(self.models_dir.glob(f"{glob.escape(self._name(time_str))}.*")):
                return time_str
            moment += datetime.timedelta(seconds=1)

    def update_best(self, scores: Scores) -> bool:
        """Remember a validation's scores, once in every process.

        Returns: whether they are the best so far; a model that finds nothing is not the best of anything.
        """
        score = scores.metric(self.config.best_metric, self.config.precision_floor)
        if scores.recall > 0 and score > self.best_score:
            self.best_score, self.validations_since_best = score, 0
            return True
        self.validations_since_best += 1
        return False

    def should_stop(self) -> bool:
        """Whether `--early-stop` ends the run: none of the latest validations was better than those before."""
        return 0 < self.config.early_stop <= self.validations_since_best

    def begin_epoch(self) -> EpochProgress:
        """The epoch's training from its beginning; or from where it was when it was saved, random numbers too."""
        state, self._taken_up = self._taken_up, None
        if state is None:
            self.progress = EpochProgress(EpochTotals(self.device))
        else:
            self.progress = EpochProgress(EpochTotals(self.device, state["totals"]), state["step"])
            set_random_state(self.device, state["random_state"])
        return self.progress

    def end_epoch(self) -> None:
        """All of an epoch is done, its validation too."""
        self.epoch += 1
        self.left_out_count += self.progress.totals.left_out_count if self.progress else 0
        self.progress = None

    def is_save_due(self) -> bool:
        return time.monotonic() - self.saved_at_s > 60 * self.config.checkpoint_minutes

    def save_last(self) -> None:
        """Write the last .state file anew. Raises: InputError, see `check_finite`."""
        state = self.as_dict(None)
        check_finite(self.last_path, state)
        save_checkpoint(self.last_path, state)
        self.saved_at_s = time.monotonic()

    def save(self, scores: Scores | None, is_best: bool) -> None:
        """Write the last .state file anew; after a validation this epoch's, and the best if it is the best so far.

        Raises: InputError, see `check_finite`.
        """
        state = self.as_dict(scores)
        check_finite(self.last_path, state)
        if scores:
            path = self.model_path(f"{self.samples_count}.state")
            save_checkpoint(path, state)
            log.info(f"E{self.epoch} saved {path}")
        if is_best:
            save_checkpoint(self.best_path, state)
        save_checkpoint(self.last_path, state)  # when the others are there: a restart goes on from it
        self.saved_at_s = time.monotonic()
        self._remove_old()

    def _remove_old(self) -> None:
        """Keep the newest of the validated epochs."""
        prefix = self.model_path("").name
        paths = self.models_dir.glob(f"{glob.escape(prefix)}*.state")
        counts = (path.name.removeprefix(prefix).removesuffix(".state") for path in paths)
        of_epochs = sorted(int(count) for count in counts if count.isdecimal())
        for count in of_epochs[: -self.config.keep_checkpoints]:
            self.model_path(f"{count}.state").unlink(missing_ok=True)

    def as_dict(self, scores: Scores | None) -> dict[str, Any]:
        """What a .state file holds.

        Keys are the book's, with `model_args`, `config`, `scores`, where it all comes from and what going on with the
        run needs added. `epoch` is the number of those that are over, `step` that of the optimizer's steps since then.
        """
        steps = self.progress.steps if self.progress else 0
        return {
            "sys_argv": self.sys_argv,
            "time": str(datetime.datetime.now()),
            "model_state": self.evaluated_model.state_dict(),
            "model_name": type(self.model).__name__,
            "model_args": self.model_args,
            "optimizer_state": self.optimizer.state_dict(),
            "optimizer_name": type(self.optimizer).__name__,
            "epoch": self.epoch,
            "step": steps,
            "totals": self.progress.totals.values.tolist() if self.progress else None,
            "threads": torch.get_num_threads(),
            "random_state": get_random_state(self.device) if self.progress else None,
            "totalTrainingSamples_count": self.samples_count + self.count_samples(steps),
            "config": self.config.as_dict(),
            "versions": get_versions(),
            "commit": get_commit(),
            "data_fingerprint": self.data_fingerprint,
            "series": self.series,
            "scores": dataclasses.asdict(scores) if scores else None,
            "trained_state": self.model.state_dict() if self.averaged_model else None,
            "averaged_count": int(self.averaged_model.n_averaged) if self.averaged_model else 0,
            "best_score": self.best_score,
            "validations_since_best": self.validations_since_best,
            "left_out_count": self.left_out_count,
            "time_str": self.time_str,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what was saved, and go on as if the run had never ended. Raises: InputError if that cannot be."""
        if state["data_fingerprint"] != self.data_fingerprint or state.get("series", self.series) != self.series:
            raise InputError(
                f"{self.config.data_dir}: scans, annotations or labels are not those that the run began with; bring "
                "them back, or start a new run"
            )
        try:
            self._load(state)
        except UNREADABLE as error:
            raise InputError(f"the state to go on from is damaged ({one_line(error)}); take another one") from None

    def _load(self, state: dict[str, Any]) -> None:
        self.evaluated_model.load_state_dict(state["model_state"])
        if self.averaged_model is not None:
            self.model.load_state_dict(state["trained_state"])
            self.averaged_model.n_averaged.fill_(state["averaged_count"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer_state"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(rate, torch.Tensor):  # it was loaded onto the CPU, where a recorded step cannot read it
                group["lr"] = group["lr"].to(rate.device)
        self.epoch = state["epoch"]
        self._taken_up = None
        if state["totals"] is not None:
            EpochTotals(self.device, state["totals"])  # raises ValueError for those of another version
            self._taken_up = state
        self.best_score = state["best_score"]
        self.validations_since_best = state["validations_since_best"]
        self.left_out_count = state["left_out_count"]
        self.time_str = state["time_str"]

    def is_ahead_of(self, path: Path, state: Mapping[str, Any]) -> bool:
        """Whether the run has files that going on with a state of it would overwrite with others.

        Not if it is the last state: what was saved just before that is what comes next, once more.

        Args: path, state: a file of this run, and its content, taken up by `load`.
        """
        if path.resolve() == self.last_path.resolve():
            return False
        others = self.models_dir.glob(f"{glob.escape(self.model_path('').name)}*.state")
        return any(find_position(other) > position_of(state) for other in others)

    def branch_off(self, path: Path, state: Mapping[str, Any]) -> None:
        """Go on under a new name, with a copy of the best model until then, if that is still there.

        Args: as for `is_ahead_of`.
        """
        best = self._find_best_until(path, state)
        content = None if best is None else best.read_bytes()
        self.time_str = self._find_free_time()
        if content is None:
            self.best_score, self.validations_since_best = -math.inf, 0
        else:
            with atomic_write(self.best_path) as file:
                file.write(content)

    def _find_best_until(self, path: Path, state: Mapping[str, Any]) -> Path | None:
        """The run's best model as of a state: saved as that, if it was the best then, or as the best before it."""
        if state["scores"] is not None and state["validations_since_best"] == 0:
            return path
        is_earlier = self.best_path.exists() and find_position(self.best_path) <= position_of(state)
        return self.best_path if is_earlier else None

    def note_launch(self) -> None:
        """Leave word of the torchrun that has started this run, for when it starts the processes anew.

        That is an empty file whose name says both, so that no other run's states need be read then.
        """
        self.forget_launch()
        if self.launch_id is not None:
            self.model_path(f"{self.launch_id}.{LAUNCH}").touch()

    def forget_launch(self) -> None:
        for path in self.models_dir.glob(f"{glob.escape(self.model_path('').name)}*.{LAUNCH}"):
            path.unlink(missing_ok=True)

    def find_last_of_launch(self) -> Path | None:
        """The last state of an earlier start by the same torchrun."""
        if self.launch_id is None:
            return None
        ending = f"{self.launch_id}.{LAUNCH}"
        notes = self.models_dir.glob(f"seg_*.{ending}")
        paths = (note.with_name(f"{note.name.removesuffix(ending)}{LAST}") for note in notes)
        return next((path for path in paths if path.exists()), None)


def position_of(state: Mapping[str, Any]) -> tuple[float, float]:
    """How far a run had come: epochs that are over, and steps of the next one."""
    return state["epoch"], state["step"]


def find_position(path: Path) -> tuple[float, float]:
    """How far the run of a .state file had come; beyond all else if that cannot be read, so that it is kept."""
    try:
        return position_of(load_checkpoint(path))
    except (InputError, KeyError):
        return math.inf, math.inf


def check_finite(path: Path, state: Mapping[str, Any]) -> None:
    """See that a state can be gone on with. Raises: InputError if weights or the optimizer's values are not finite."""
    names = ("model_state", "trained_state", "optimizer_state")
    if not all(tensor.isfinite().all() for name in names for tensor in find_tensors(state[name])):
        raise InputError(
            f"{path}: not written, since the model's weights are not finite; what was saved before stays. Start anew "
            "with a lower --learning-rate"
        )


def find_tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a dictionary of dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from find_tensors(item)
    elif isinstance(value, list):
        for item in value:
            yield from find_tensors(item)


def get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Where PyTorch's random numbers have come to, on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(device: torch.device, states: dict[str, torch.Tensor]) -> None:
    """A state from a machine without a GPU says nothing of one's random numbers: they begin with the epoch's."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
