"""The model, its optimizer and its EMA, and their step: alone or with other processes, compiled or recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from p2ch13.config import AUTO_THREADS, NODULE_LOGIT, TrainingConfig
from p2ch13.network.compute import Compute, choose_threads, get_thread_limit
from p2ch13.network.model import LogitNetwork, SegmentationNetwork
from p2ch13.training.augmentation import SegmentationAugmentation
from p2ch13.training.distributed import data_parallel, process_group
from p2ch13.training.graphs import CapturedStep, compile_model, is_compiled
from p2ch13.training.loop import Step, train_step
from p2ch13.training.losses import segmentation_loss
from p2ch13.training.optimizers import ema, has_state, update_average
from p2ch13.util.process_rank import ProcessRank


class Learner:
    """A model, its optimizer and its EMA, and a step that changes all three.

    Args: saved_threads: in the state that a run resumes from; a deterministic run keeps their number.
    Attributes:
        averaged: the EMA of the model; None without `--ema`.
        train_threads, val_threads: tuners of the number of threads; steps of training and validation differ in size.
        training_model: (batch, 7, row, col) HU -> (batch, 1, row, col) logits, as it is trained.
        train_step: `loop.train_step` of the model.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        optimizer: Optimizer,
        config: TrainingConfig,
        compute: Compute,
        process: ProcessRank,
        saved_threads: Any = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.averaged = ema(model) if config.ema else None
        self.config, self.compute, self.process = config, compute, process
        self.augmentation_model = SegmentationAugmentation(**config.augmentation)
        threads = config.threads
        if config.deterministic and threads == AUTO_THREADS:  # sums depend on their number
            is_known = isinstance(saved_threads, int) and saved_threads > 0
            threads = saved_threads if is_known else get_thread_limit()
        self.train_threads = choose_threads(threads, compute.device, process, is_compiled(config, compute.device))
        self.val_threads = choose_threads(threads, compute.device, process)
        self.training_model, self.train_step = self.init_training()

    def init_training(self) -> tuple[nn.Module, Step]:
        """Build the model as it is trained, and its step. Called again inside `training_together`."""
        config = self.config
        model = data_parallel(LogitNetwork(self.model), self.compute.device)
        eager_step = partial(
            train_step,
            model=model,
            loss=partial(segmentation_loss, options=config, over_batch=config.batch_dice),
            optimizer=self.optimizer,
            augment=self.augmentation_model,
            compute=self.compute,
        )
        if not is_compiled(config, self.compute.device):
            return model, eager_step
        model = compile_model(model, config.compile)
        step: Step = partial(eager_step, model=model)
        if torch.is_tensor(self.optimizer.param_groups[0]["lr"]):
            step = CapturedStep(step, is_ready=lambda: has_state(self.optimizer))
        # PyTorch compiles anew for each number of threads: in a trial of some the model runs as it is.
        return model, lambda *batch: (step if self.train_threads.is_settled else eager_step)(*batch)

    @contextmanager
    def training_together(self) -> Iterator[str | None]:
        """Inside, the processes of the run communicate, and each step is all of theirs. Yields: see `process_group`."""
        with process_group(self.process, self.compute.device) as launch_id:
            self.training_model, self.train_step = self.init_training()
            try:
                yield launch_id
            finally:  # they may not outlive the process group
                del self.training_model, self.train_step

    @property
    def evaluated_model(self) -> SegmentationNetwork:
        """The model that is scored, saved and shown: the EMA, where there is one."""
        return self.model if self.averaged is None else cast("SegmentationNetwork", self.averaged.module)

    @torch.inference_mode()
    def predict(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """(batch, 7, row, col) in HU -> (batch, 1, row, col), bool."""
        model = self.evaluated_model.eval()
        with self.compute.autocast():
            return model.logits(ct_slices.to(self.compute.device)) > NODULE_LOGIT

    def update_average(self, is_bad: torch.Tensor) -> None:
        """Follow the model after a step. Args: is_bad: a bool, on the device, of the step."""
        if self.averaged is not None:
            update_average(self.averaged, self.model, is_bad)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take weights and the optimizer's state from the content of a .state file."""
        self.evaluated_model.load_state_dict(state["model_state"])
        if self.averaged is not None:
            self.model.load_state_dict(state["trained_state"])
            self.averaged.n_averaged.fill_(state["averaged_count"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer_state"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(rate, torch.Tensor):  # it was loaded onto the CPU, where a recorded step cannot read it
                group["lr"] = group["lr"].to(rate.device)
