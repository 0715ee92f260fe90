"""What a run saves and takes up again: its weights, its optimizer and how far it has come."""

from __future__ import annotations

import dataclasses
import datetime
import glob
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from p2ch13.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.config import TrainingConfig
from p2ch13.metrics import Scores
from p2ch13.model import UNetWrapper

log = logging.getLogger(__name__)

LAST = "last.state"


class RunState:
    """All of a run that outlives its process, and the files that it is kept in.

    Args:
        model, averaged_model, optimizer: those that are trained; the average of the latest weights, where it is kept.
        model_args: what the model was made with.
    Attributes: `epoch`, how many are over; `time_str`, a part of the run's file names; `series`, "trn" and "val", what
        the run is trained and validated on; `launch_id`, see `process_group`; `best_score`; `validations_since_best`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        sys_argv: Sequence[str],
        model: UNetWrapper,
        averaged_model: AveragedModel | None,
        optimizer: Optimizer,
        model_args: dict[str, Any],
    ) -> None:
        self.config = config
        self.sys_argv = list(sys_argv)
        self.model = model
        self.averaged_model = averaged_model
        self.optimizer = optimizer
        self.model_args = model_args
        self.epoch = 0
        self.time_str = datetime.datetime.now().strftime("%Y-%m-%d_%H.%M.%S")
        self.series: dict[str, list[str]] = {}
        self.launch_id: str | None = None
        self.best_score = -math.inf
        self.validations_since_best = 0

    @property
    def evaluated_model(self) -> UNetWrapper:
        """The model that is scored, saved and shown: with the average of its latest weights, where that is kept."""
        return self.model if self.averaged_model is None else cast("UNetWrapper", self.averaged_model.module)

    @property
    def samples_count(self) -> int:
        """Training samples in the epochs that are over."""
        return self.epoch * self.config.samples_per_epoch

    @property
    def models_dir(self) -> Path:
        return Path(self.config.models_dir) / self.config.tb_prefix

    @property
    def best_path(self) -> Path:
        return self.model_path("best.state")

    def model_path(self, ending: str) -> Path:
        return self.models_dir / f"seg_{self.time_str}_{self.config.comment}.{ending}"

    def note_scores(self, scores: Scores) -> bool:
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

    def save(self, scores: Scores | None, is_best: bool) -> None:
        """Write the last .state file anew; after a validation this epoch's, and the best if it is the best so far."""
        state = self.as_dict(scores)
        if scores:
            path = self.model_path(f"{self.samples_count}.state")
            save_checkpoint(path, state)
            log.info(f"E{self.epoch} saved {path}")
        if is_best:
            save_checkpoint(self.best_path, state)
        save_checkpoint(self.model_path(LAST), state)  # when the others are there: a restart goes on from it

    def as_dict(self, scores: Scores | None) -> dict[str, Any]:
        """What a .state file holds.

        Keys are the book's, with `model_args`, `config`, `scores` and what a restart needs added.
        """
        return {
            "sys_argv": self.sys_argv,
            "time": str(datetime.datetime.now()),
            "model_state": self.evaluated_model.state_dict(),
            "model_name": type(self.model).__name__,
            "model_args": self.model_args,
            "optimizer_state": self.optimizer.state_dict(),
            "optimizer_name": type(self.optimizer).__name__,
            "epoch": self.epoch,
            "totalTrainingSamples_count": self.samples_count,
            "config": dataclasses.asdict(self.config),
            "series": self.series,
            "scores": dataclasses.asdict(scores) if scores else None,
            "trained_state": self.model.state_dict() if self.averaged_model else None,
            "best_score": self.best_score,
            "validations_since_best": self.validations_since_best,
            "time_str": self.time_str,
            "launch_id": self.launch_id,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what was saved, and go on as if the run had never ended."""
        self.evaluated_model.load_state_dict(state["model_state"])
        if self.averaged_model is not None:
            self.model.load_state_dict(state["trained_state"])
            self.averaged_model.n_averaged.fill_(1)  # the next step's weights are to be averaged with these
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer_state"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(rate, torch.Tensor):  # it was loaded onto the CPU, where a recorded step cannot read it
                group["lr"] = group["lr"].to(rate.device)
        self.epoch = state["epoch"]
        self.best_score = state["best_score"]
        self.validations_since_best = state["validations_since_best"]
        self.time_str = state["time_str"]

    def find_last_of_launch(self) -> dict[str, Any] | None:
        """What an earlier start by the same torchrun has saved last."""
        if self.launch_id is None:
            return None
        paths = self.models_dir.glob(f"seg_*_{glob.escape(self.config.comment)}.{LAST}")
        states = (load_checkpoint(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True))
        return next((state for state in states if state.get("launch_id") == self.launch_id), None)
