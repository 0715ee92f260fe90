"""SegmentationTrainingApp: the loop of chapter 13."""

from __future__ import annotations

import dataclasses
import datetime
import glob
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from p2ch13.augmentation import SegmentationAugmentation
from p2ch13.cache import describe_rebuilt
from p2ch13.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.compute import (
    CapturedStep,
    autocast,
    compile_model,
    get_device,
    get_dtype,
    get_slice_batch_size,
    keep_freed_memory,
    should_compile,
)
from p2ch13.config import NODULE_THRESHOLD
from p2ch13.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.distributed import (
    copy_buffers_from_first,
    copy_from_first,
    data_parallel,
    process_group,
    sum_over_processes,
    sync_batchnorm,
)
from p2ch13.losses import segmentation_loss
from p2ch13.metrics import EpochTotals, Scores, count_pixels
from p2ch13.model import BOOK_MODEL, UNetWrapper
from p2ch13.reporting import TensorBoardReport, draw_findings, write_png
from p2ch13.schedules import average_weights, set_learning_rate, warm_up_cosine
from p2ch13.training.options import parse_config
from util.errors import InputError
from util.files import make_writable_folder
from util.launch import Launch
from util.progress import progress_bar

log = logging.getLogger(__name__)

LAST = "last.state"


class SegmentationTrainingApp:
    """One training run, from the options of a command line to its best model.

    Started by torchrun, it is one of the processes that train one model together: each with its own part of every
    step's samples and of the validation series. The first one writes for all of them.

    Args: sys_argv: the command line's arguments; None takes those of the process.
    """

    def __init__(self, sys_argv: Sequence[str] | None = None) -> None:
        self.sys_argv = list(sys.argv[1:] if sys_argv is None else sys_argv)
        self.config = parse_config(self.sys_argv)
        self.launch = Launch.from_environment()
        self.launch_id: str | None = None
        self.time_str = datetime.datetime.now().strftime("%Y-%m-%d_%H.%M.%S")
        self.total_training_samples_count = 0
        self.series: dict[str, list[str]] = {}  # "trn" and "val": what the run has been trained and validated on
        self.best_score = -math.inf
        self.validations_since_best = 0
        torch.manual_seed(self.config.seed)
        self.device = get_device(self.launch)
        self.dtype = get_dtype(self.config.precision, self.device)
        self.segmentation_model, self.augmentation_model = self.init_model()
        self.is_compiled = should_compile(self.config.compile, self.config.epochs * self.config.samples_per_epoch)
        self.records_steps = self.is_compiled and self.device.type == "cuda" and self.launch.is_alone
        self.optimizer = self.init_optimizer()
        self.averaged_model = average_weights(self.segmentation_model) if self.config.average_weights else None
        self.training_model, self.train_step = self.init_training()

    def init_model(self) -> tuple[UNetWrapper, SegmentationAugmentation]:
        segmentation_model = UNetWrapper(**self.model_args)
        segmentation_model.slice_distance_mm = self.config.slice_distance
        if self.config.sync_batchnorm:
            segmentation_model = sync_batchnorm(segmentation_model, self.device)
        segmentation_model.to(self.device)
        segmentation_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        return segmentation_model, SegmentationAugmentation(**self.config.augmentation)

    @property
    def model_args(self) -> dict[str, Any]:
        return {**BOOK_MODEL, "depth": self.config.depth}

    def init_optimizer(self) -> Optimizer:
        """Adam. Its learning rate is a tensor where steps are recorded, in which a number would never change."""
        learning_rate: torch.Tensor | float = self.config.learning_rate
        if self.records_steps:
            learning_rate = torch.tensor(learning_rate, device=self.device)
        parameters = self.segmentation_model.parameters()
        return Adam(parameters, lr=learning_rate, fused=True, capturable=self.records_steps)

    def init_training(self) -> tuple[nn.Module, Callable[..., tuple[torch.Tensor, torch.Tensor]]]:
        """The model as it is trained, and the function that takes a step with it; weights are those of the model.

        Called again by `main`, when the processes of the run can talk to each other.
        """
        model = data_parallel(self.segmentation_model, self.device)
        if not self.is_compiled:
            return model, self.compute_step
        step = CapturedStep(self.compute_step) if self.records_steps else self.compute_step
        return compile_model(model, self.config.compile), step

    def init_train_ds(self) -> TrainingLuna2dSegmentationDataset:
        if self.config.samples_per_epoch < self.launch.world_size:
            raise InputError(
                f"{self.config.samples_per_epoch} samples an epoch for {self.launch.world_size} processes; "
                "raise --samples-per-epoch"
            )
        return TrainingLuna2dSegmentationDataset(
            self.config.val_stride,
            is_val_set=False,
            samples_per_epoch=self.config.samples_per_epoch,
            seed=self.config.seed,
            device=self.device,
            negatives=self.config.negatives,
            off_centre=self.config.off_centre,
            balance_sizes=self.config.balance_sizes,
            slice_distance=self.config.slice_distance,
            folders=self.config.folders,
            labels=self.config.label_options,
        )

    def init_val_ds(self) -> Luna2dSegmentationDataset:
        val_ds = Luna2dSegmentationDataset(
            self.config.val_stride,
            is_val_set=True,
            folders=self.config.folders,
            labels=self.config.label_options,
            slice_distance=self.config.slice_distance,
        )
        if not val_ds.sample_list:
            raise InputError(
                f"none of the {len(val_ds.series_list)} validation series has a nodule, so that there is nothing to "
                "score; choose another split with --val-stride"
            )
        return val_ds

    def init_val_dl(self, val_ds: Luna2dSegmentationDataset, batches: list[list[int]]) -> DataLoader[Any]:
        return DataLoader(
            val_ds,
            batch_sampler=batches,
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def main(self) -> None:
        """Train, validate, save. Raises: InputError for data, folders or options that cannot be used."""
        keep_freed_memory()
        with process_group(self.launch) as self.launch_id:
            self.training_model, self.train_step = self.init_training()
            train_ds, val_ds = self.init_train_ds(), self.init_val_ds()
            if self.launch.is_first:
                make_writable_folder(self.models_dir, "--models-dir")
                make_writable_folder(self.runs_dir, "--runs-dir")
            self.series = {"trn": train_ds.series_list, "val": val_ds.series_list}
            self.log_start(train_ds, val_ds)
            first_epoch_ndx = self.go_on_after_restart()
            with self.init_report() as report:
                for epoch_ndx in range(first_epoch_ndx, self.config.epochs + 1):
                    if self.should_stop():
                        log.info(f"No better model in {self.config.early_stop} validations; --early-stop ends the run.")
                        break
                    self.log_metrics(report, epoch_ndx, "trn", self.do_training(epoch_ndx, train_ds))
                    scores = None
                    if self.is_validation_epoch(epoch_ndx):
                        scores = self.log_metrics(report, epoch_ndx, "val", self.do_validation(epoch_ndx, val_ds))
                        self.log_pictures(report, epoch_ndx, {"trn": train_ds, "val": val_ds})
                    self.save_model(epoch_ndx, scores, is_best=scores is not None and self.note_scores(scores))
            self.log_end(val_ds)

    def is_validation_epoch(self, epoch_ndx: int) -> bool:
        """The first, every `validation_cadence`-th, and the last, whose model would otherwise never be saved."""
        return epoch_ndx in (1, self.config.epochs) or epoch_ndx % self.config.validation_cadence == 0

    def do_training(self, epoch_ndx: int, train_ds: TrainingLuna2dSegmentationDataset) -> Scores:
        self.training_model.train()
        self.seed_epoch(epoch_ndx)
        train_ds.shuffle_samples(epoch_ndx)
        totals = EpochTotals(self.device)
        step_size = self.config.batch_size * self.launch.world_size
        with progress_bar(len(train_ds), f"E{epoch_ndx} training", "sample") as bar:
            batches = train_ds.batches(self.config.batch_size, self.launch)
            for step_ndx, (ct_slices, label_mask, *_) in enumerate(batches):
                self.follow_schedule(self.total_training_samples_count + step_ndx * step_size)
                losses, counts = self.train_step(ct_slices, label_mask)
                if self.averaged_model is not None:
                    self.averaged_model.update_parameters(self.segmentation_model)
                totals.add(losses, counts)
                bar.update(len(losses) * self.launch.world_size)
        self.total_training_samples_count += len(train_ds)
        sum_over_processes(totals.values)
        return totals.scores()

    def seed_epoch(self, epoch_ndx: int) -> None:
        """An epoch's random numbers depend on the seed, the epoch and the process alone: not on the epochs before."""
        torch.manual_seed(np.random.SeedSequence([self.config.seed, epoch_ndx, self.launch.rank]).generate_state(1)[0])

    def follow_schedule(self, samples_count: int) -> None:
        """Set the learning rate of the step after so many training samples of the run."""
        if self.config.warm_up_cosine:
            progress = samples_count / (self.config.epochs * self.config.samples_per_epoch)
            set_learning_rate(self.optimizer, self.config.learning_rate * warm_up_cosine(progress))

    def compute_step(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer on a batch. Returns: what `compute_batch_loss` does."""
        self.optimizer.zero_grad()
        losses, counts = self.compute_batch_loss(ct_slices, label_mask)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses.detach(), counts

    def do_validation(self, epoch_ndx: int, val_ds: Luna2dSegmentationDataset) -> Scores:
        self.set_evaluating()
        copy_buffers_from_first(self.evaluated_model)
        totals = EpochTotals(self.device)
        batches = val_ds.group_by_series(get_slice_batch_size(self.device), self.launch)
        slice_count = sum(map(len, batches))
        with torch.inference_mode(), progress_bar(slice_count, f"E{epoch_ndx} validation", "slice") as bar:
            for ct_slices, label_mask, *_ in self.init_val_dl(val_ds, batches):
                losses, counts = self.compute_batch_loss(ct_slices, label_mask)
                totals.add(losses, counts)
                bar.update(len(losses))
        sum_over_processes(totals.values)
        return totals.scores()

    def compute_batch_loss(
        self, ct_slices: torch.Tensor, label_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each sample, (batch,), and the batch's pixel counts; both stay on the device.

        Args: (batch, 7, row, col) in HU and (batch, 1, row, col) bool, on any device.
        """
        ct_slices, label_mask = (x.to(self.device, non_blocking=True) for x in (ct_slices, label_mask))
        model: nn.Module = self.evaluated_model
        if self.segmentation_model.training:
            model = self.training_model
            ct_slices, label_mask = self.augmentation_model(ct_slices, label_mask)
        with autocast(self.device, self.dtype):
            nodule_prob = model(ct_slices)  # (batch, 1, row, col), each 0..1
        config = self.config
        # Validation batches have one slice on a CPU and several on a GPU: their losses should not depend on that.
        over_batch = config.batch_dice and self.segmentation_model.training
        losses = segmentation_loss(nodule_prob, label_mask, config.fn_weight, over_batch, config.cross_entropy)
        return losses, count_pixels(nodule_prob > NODULE_THRESHOLD, label_mask)

    @property
    def evaluated_model(self) -> UNetWrapper:
        """The model that is scored, saved and shown: with the average of its latest weights, where that is kept."""
        return (
            self.segmentation_model if self.averaged_model is None else cast("UNetWrapper", self.averaged_model.module)
        )

    def set_evaluating(self) -> None:
        self.segmentation_model.eval()
        self.evaluated_model.eval()

    @torch.inference_mode()
    def predict(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """(batch, 7, row, col) in HU -> (batch, 1, row, col), bool, with the model as it is in use."""
        self.set_evaluating()
        with autocast(self.device, self.dtype):
            nodule_prob: torch.Tensor = self.evaluated_model(ct_slices.to(self.device))
        return nodule_prob > NODULE_THRESHOLD

    def init_report(self) -> AbstractContextManager[TensorBoardReport | None]:
        """The run's TensorBoard folders; None in all processes but the first."""
        if not self.launch.is_first:
            return nullcontext()
        first_step = self.total_training_samples_count + 1
        return TensorBoardReport(self.runs_dir, self.time_str, self.config.comment, first_step)

    def log_metrics(self, report: TensorBoardReport | None, epoch_ndx: int, mode: str, scores: Scores) -> Scores:
        log.info(f"E{epoch_ndx} {mode} {scores}")
        if not math.isfinite(scores.loss):
            raise InputError(f"the {mode} loss of epoch {epoch_ndx} is {scores.loss}; try --precision fp32")
        if report:
            report.log_scores(mode, scores, self.total_training_samples_count)
        return scores

    def log_pictures(
        self, report: TensorBoardReport | None, epoch_ndx: int, datasets: Mapping[str, Luna2dSegmentationDataset]
    ) -> None:
        if report:
            for mode, dataset in datasets.items():
                report.log_pictures(
                    mode, dataset, self.predict, self.total_training_samples_count, with_labels=epoch_ndx == 1
                )

    @property
    def models_dir(self) -> Path:
        return Path(self.config.models_dir) / self.config.tb_prefix

    @property
    def runs_dir(self) -> Path:
        return Path(self.config.runs_dir) / self.config.tb_prefix

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

    def save_model(self, epoch_ndx: int, scores: Scores | None, is_best: bool) -> None:
        """Write the last .state file anew; after a validation this epoch's, and the best if it is the best so far.

        Keys are the book's, with `model_args`, `config`, `scores` and what a restart needs added.
        """
        if not self.launch.is_first:
            return
        state = {
            "sys_argv": self.sys_argv,
            "time": str(datetime.datetime.now()),
            "model_state": self.evaluated_model.state_dict(),
            "model_name": type(self.segmentation_model).__name__,
            "model_args": self.model_args,
            "optimizer_state": self.optimizer.state_dict(),
            "optimizer_name": type(self.optimizer).__name__,
            "epoch": epoch_ndx,
            "totalTrainingSamples_count": self.total_training_samples_count,
            "config": dataclasses.asdict(self.config),
            "series": self.series,
            "scores": dataclasses.asdict(scores) if scores else None,
            "trained_state": self.segmentation_model.state_dict() if self.averaged_model else None,
            "best_score": self.best_score,
            "validations_since_best": self.validations_since_best,
            "time_str": self.time_str,
            "launch_id": self.launch_id,
        }
        if scores:
            path = self.model_path(f"{self.total_training_samples_count}.state")
            save_checkpoint(path, state)
            log.info(f"E{epoch_ndx} saved {path}")
        if is_best:
            save_checkpoint(self.best_path, state)
        save_checkpoint(self.model_path(LAST), state)  # when the others are there: a restart goes on from it

    def go_on_after_restart(self) -> int:
        """Take up the run's last state, if torchrun has started its processes anew because one of them died.

        Returns: the epoch to begin with.
        """
        state = copy_from_first(self.find_last_state() if self.launch.is_first else None)
        if state is None:
            return 1
        self.evaluated_model.load_state_dict(state["model_state"])
        if self.averaged_model is not None:
            self.segmentation_model.load_state_dict(state["trained_state"])
            self.averaged_model.n_averaged.fill_(1)  # the next step's weights are to be averaged with these
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.records_steps:  # the learning rate was loaded as a tensor on the CPU, which a recorded step cannot read
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"].to(self.device)
        self.total_training_samples_count = state["totalTrainingSamples_count"]
        self.best_score = state["best_score"]
        self.validations_since_best = state["validations_since_best"]
        self.time_str = state["time_str"]
        log.info(f"Started again by torchrun; going on after epoch {state['epoch']} of {self.model_path(LAST)}")
        return int(state["epoch"]) + 1

    def find_last_state(self) -> dict[str, Any] | None:
        """What an earlier start by the same torchrun has saved last."""
        if self.launch_id is None:
            return None
        paths = self.models_dir.glob(f"seg_*_{glob.escape(self.config.comment)}.{LAST}")
        states = (load_checkpoint(path) for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True))
        return next((state for state in states if state.get("launch_id") == self.launch_id), None)

    def log_start(self, train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset) -> None:
        config = self.config
        for note in train_ds.ct_cache.labels.notes:
            log.info(note)
        log.info(
            f"Training on {len(train_ds.series_list)} series with {len(train_ds.pos_list)} nodules, validation on "
            f"{len(val_ds.series_list)} series with {len(val_ds)} slices that hold nodule."
        )
        log.info(
            f"{config.epochs} epochs of {config.samples_per_epoch:,} samples in batches of {config.batch_size}"
            f"{'' if self.launch.is_alone else f' in each of {self.launch.world_size} processes'}; "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}; "
            f"augmentation: {', '.join(config.augmentation) or 'none'}."
        )
        if self.is_compiled:
            log.info("The first step compiles the network, which takes half a minute; --compile no does without it.")
        if rebuilt_count := train_ds.ct_cache.rebuilt_count + val_ds.ct_cache.rebuilt_count:
            log.warning(describe_rebuilt(rebuilt_count))

    def log_end(self, val_ds: Luna2dSegmentationDataset) -> None:
        """Say where everything is, and draw what the best model finds."""
        if not self.launch.is_first:
            return
        if self.best_score == -math.inf:
            log.info("No best model: in no epoch did it find a pixel of a nodule. More samples or epochs may help.")
        else:
            best = load_checkpoint(self.best_path)
            self.evaluated_model.load_state_dict(best["model_state"])
            picture_path = self.model_path("best.png")
            write_png(picture_path, draw_findings(val_ds, self.predict))
            log.info(f"Best model, by {self.config.best_metric}: {self.best_path}")
            log.info(f"Its scores, epoch {best['epoch']}: {Scores(**best['scores'])}")
            log.info(f"Picture (green: found, orange: missed, red: false alarm): {picture_path}")
        log.info(f"Curves and pictures: tensorboard --logdir {self.config.runs_dir}")
