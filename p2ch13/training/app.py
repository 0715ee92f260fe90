"""SegmentationTrainingApp: the loop of chapter 13."""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from p2ch13.augmentation import SegmentationAugmentation
from p2ch13.cache import describe_rebuilt
from p2ch13.checkpoint import load_checkpoint
from p2ch13.compute import (
    CapturedStep,
    autocast,
    be_deterministic,
    choose_threads,
    compile_model,
    get_device,
    get_dtype,
    get_slice_batch_size,
    get_thread_limit,
    keep_freed_memory,
    should_compile,
)
from p2ch13.config import AUTO_THREADS, NODULE_THRESHOLD
from p2ch13.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.distributed import (
    copy_buffers_from_first,
    copy_from_first,
    data_parallel,
    process_group,
    sum_over_processes,
    sync_batchnorm,
)
from p2ch13.losses import rate_false_alarms, segmentation_loss
from p2ch13.metrics import EpochTotals, Scores, count_pixels
from p2ch13.model import BOOK_MODEL, UNetWrapper
from p2ch13.optimizers import Muon
from p2ch13.reporting import TensorBoardReport, draw_findings, write_png
from p2ch13.schedules import average_weights, set_learning_rate, warm_up_cosine
from p2ch13.training.loss_watch import LossWatch
from p2ch13.training.messages import describe_data, describe_end, describe_work
from p2ch13.training.provenance import fingerprint_data, get_commit, get_versions
from p2ch13.training.resume import read_settings
from p2ch13.training.run_state import RunState
from util.errors import InputError, Stopped
from util.files import make_writable_folder
from util.interruption import Interruption
from util.launch import Launch
from util.progress import progress_bar
from util.threads import ThreadTuner

log = logging.getLogger(__name__)


class SegmentationTrainingApp:
    """One training run, from the options of a command line to its best model.

    Started by torchrun, it is one of the processes that train one model together: each with its own part of every
    step's samples and of the validation series. The first one writes for all of them.

    Args: sys_argv: the command line's arguments; None takes those of the process.
    """

    def __init__(self, sys_argv: Sequence[str] | None = None) -> None:
        self.sys_argv = list(sys.argv[1:] if sys_argv is None else sys_argv)
        self.config, _, self.resumed = read_settings(self.sys_argv)
        self.launch = Launch.from_environment()
        if self.config.deterministic:
            be_deterministic()
        torch.manual_seed(self.config.seed)
        self.device = get_device(self.launch)
        self.dtype = get_dtype(self.config.precision, self.device)
        self.segmentation_model, self.augmentation_model = self.init_model()
        self.is_compiled = not self.config.deterministic and should_compile(
            self.config.compile, self.config.epochs * self.config.samples_per_epoch
        )
        self.train_threads, self.val_threads = self.init_threads()
        self.records_steps = self.is_compiled and self.device.type == "cuda" and self.launch.is_alone
        self.optimizer = self.init_optimizer()
        self.averaged_model = average_weights(self.segmentation_model) if self.config.average_weights else None
        self.run = RunState(
            config=self.config,
            sys_argv=self.sys_argv,
            launch=self.launch,
            device=self.device,
            model=self.segmentation_model,
            averaged_model=self.averaged_model,
            optimizer=self.optimizer,
            model_args=self.model_args,
        )
        self.loss_watch = LossWatch(self.device, self.config.skip_bad_batches)
        self.interruption: Interruption | None = None
        self.training_model, self.train_step = self.init_training()

    def init_model(self) -> tuple[UNetWrapper, SegmentationAugmentation]:
        segmentation_model = UNetWrapper(**self.model_args)
        segmentation_model.slice_distance_mm = self.config.slice_distance
        if self.config.sync_batchnorm:
            segmentation_model = sync_batchnorm(segmentation_model, self.device)
        segmentation_model.to(self.device)
        segmentation_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        return segmentation_model, SegmentationAugmentation(**self.config.augmentation)

    def init_threads(self) -> tuple[ThreadTuner, ThreadTuner]:
        """What sets the number of computing threads in training and in validation, whose steps are of different sizes.

        With `--deterministic` it is the same from the beginning of a run to its end.
        """
        choice = self.config.threads
        if self.config.deterministic and choice == AUTO_THREADS:
            saved = (self.resumed or {}).get("threads")
            choice = saved if isinstance(saved, int) and saved > 0 else get_thread_limit()
        return choose_threads(choice, self.launch, is_compiled=self.is_compiled), choose_threads(choice, self.launch)

    @property
    def model_args(self) -> dict[str, Any]:
        """What `UNetWrapper` is made with, here and wherever a checkpoint is loaded."""
        config = self.config
        return {
            **BOOK_MODEL,
            "depth": config.depth,
            "wf": config.filters.bit_length() - 1,
            "projections": config.projections,
            "pixel_block": config.pixel_block,
        }

    def init_optimizer(self) -> Optimizer:
        """The learning rate is a tensor where steps are recorded, in which a number would never change."""
        learning_rate: torch.Tensor | float = self.config.learning_rate
        if self.records_steps:
            learning_rate = torch.tensor(learning_rate, device=self.device)
        parameters = self.segmentation_model.parameters()
        if self.config.optimizer == "muon":
            return Muon(parameters, learning_rate)
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
            hard_negatives=self.config.hard_negatives,
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
        with process_group(self.launch) as self.run.launch_id:
            self.training_model, self.train_step = self.init_training()
            train_ds, val_ds = self.init_train_ds(), self.init_val_ds()
            if self.launch.is_first:
                make_writable_folder(self.run.models_dir, "--models-dir")
                make_writable_folder(self.runs_dir, "--runs-dir")
            self.run.series = {"trn": train_ds.series_list, "val": val_ds.series_list}
            self.run.data_fingerprint = fingerprint_data(train_ds.ct_cache, train_ds.series_list + val_ds.series_list)
            self.log_start(train_ds, val_ds)
            self.take_up()
            with self.init_report() as report, self.noting_signals() as self.interruption:
                self.log_settings(report)
                for epoch_ndx in range(self.run.epoch + 1, self.config.epochs + 1):
                    if self.run.should_stop():
                        log.info(f"No better model in {self.config.early_stop} validations; --early-stop ends the run.")
                        break
                    self.log_metrics(report, epoch_ndx, "trn", self.do_training(epoch_ndx, train_ds))
                    scores = None
                    if self.is_validation_epoch(epoch_ndx):
                        scores = self.log_metrics(report, epoch_ndx, "val", self.do_validation(epoch_ndx, val_ds))
                        self.log_pictures(report, epoch_ndx, {"trn": train_ds, "val": val_ds})
                    self.run.end_epoch()
                    self.save_model(scores, is_best=scores is not None and self.run.note_scores(scores))
            self.log_end(val_ds)

    def is_validation_epoch(self, epoch_ndx: int) -> bool:
        """The first, every `validation_cadence`-th, and the last, whose model would otherwise never be saved."""
        return epoch_ndx in (1, self.config.epochs) or epoch_ndx % self.config.validation_cadence == 0

    def do_training(self, epoch_ndx: int, train_ds: TrainingLuna2dSegmentationDataset) -> Scores:
        self.training_model.train()
        self.seed_epoch(epoch_ndx)
        train_ds.shuffle_samples(epoch_ndx)
        under_way = self.run.begin_epoch()
        batches = train_ds.batches(self.config.batch_size, self.launch, under_way.steps, self.rate_negatives)
        with progress_bar(len(train_ds), f"E{epoch_ndx} training", "sample") as bar:
            bar.update(self.run.count_samples(under_way.steps))
            for ct_slices, label_mask, series_uids, slice_ndxs in batches:
                self.follow_schedule((epoch_ndx - 1) * len(train_ds) + self.run.count_samples(under_way.steps))
                with self.train_threads.measuring(len(ct_slices)):
                    losses, counts = self.train_step(ct_slices, label_mask)
                under_way.steps += 1
                if self.averaged_model is not None:
                    self.averaged_model.update_parameters(self.segmentation_model)
                under_way.totals.add(losses, counts)
                self.loss_watch.add(f"epoch {epoch_ndx}, step {under_way.steps}", losses, series_uids, slice_ndxs)
                bar.update(len(losses) * self.launch.world_size)
                self.pause(f"in epoch {epoch_ndx}, after {under_way.steps} steps")
        return self.sum_up(epoch_ndx, "trn", under_way.totals)

    def sum_up(self, epoch_ndx: int, mode: str, totals: EpochTotals) -> Scores:
        """An epoch's scores, over all processes. Raises: InputError if not one batch had a loss."""
        self.loss_watch.check()
        sum_over_processes(totals.values)
        if totals.left_out_count:
            log.warning(
                f"E{epoch_ndx} {mode}: {totals.left_out_count} batches were left out, whose loss was not finite."
            )
        if not totals.sample_count:
            raise InputError(f"no batch of epoch {epoch_ndx} ({mode}) has a finite loss; lower --learning-rate")
        return totals.scores()

    def pause(self, where: str) -> None:
        """Between two batches: keep the last state up to date, and end here if a signal asks for that.

        Of several processes each would have to do so after the same step, and random numbers of its own to save: they
        save at the end of an epoch alone, and a signal ends them at once.
        """
        if self.interruption is None:
            return
        signal_number = self.interruption.signal_number
        if signal_number is not None or self.run.is_save_due():
            self.loss_watch.check()
            self.run.save_last()
        if signal_number is not None:
            command = shlex.join(["python", "-m", "p2ch13.training", "--resume", str(self.run.last_path)])
            raise Stopped(
                f"Stopped by {signal.Signals(signal_number).name} {where}. To go on: {command}", signal_number
            )

    def noting_signals(self) -> AbstractContextManager[Interruption | None]:
        return Interruption() if self.launch.is_alone else nullcontext()

    def seed_epoch(self, epoch_ndx: int) -> None:
        """An epoch's random numbers depend on the seed, the epoch and the process alone: not on the epochs before."""
        torch.manual_seed(np.random.SeedSequence([self.config.seed, epoch_ndx, self.launch.rank]).generate_state(1)[0])

    def follow_schedule(self, samples_count: int) -> None:
        """Set the learning rate of the step after so many training samples of the run."""
        if self.config.warm_up_cosine:
            progress = samples_count / (self.config.epochs * self.config.samples_per_epoch)
            set_learning_rate(self.optimizer, self.config.learning_rate * warm_up_cosine(progress))

    @torch.no_grad()
    def rate_negatives(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> torch.Tensor:
        """How hard crops without a nodule are for the model as it is now: (batch,)."""
        self.segmentation_model.eval()
        with autocast(self.device, self.dtype):
            nodule_prob = self.segmentation_model(ct_slices.contiguous(memory_format=torch.channels_last))
        self.segmentation_model.train()
        return rate_false_alarms(nodule_prob, label_mask)

    def compute_step(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the optimizer on a batch. Returns: what `compute_batch_loss` does.

        A loss that is not finite leaves the weights as they are, and with `--skip-bad-batches` also BatchNorm's
        statistics. That is left to the device, which would have to wait if it were asked.
        """
        self.optimizer.zero_grad()
        buffers = list(self.segmentation_model.buffers()) if self.config.skip_bad_batches else []
        before = [buffer.clone() for buffer in buffers]
        losses, counts = self.compute_batch_loss(ct_slices, label_mask)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        bad_count = (~losses.detach().isfinite().all()).float()
        sum_over_processes(bad_count)  # the gradients, too, are those of all processes
        is_bad = bad_count > 0
        self.optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]  # what a gradient scaler tells a fused optimizer
        self.optimizer.step()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(is_bad, value, buffer))
        return losses.detach(), counts

    def do_validation(self, epoch_ndx: int, val_ds: Luna2dSegmentationDataset) -> Scores:
        self.set_evaluating()
        copy_buffers_from_first(self.evaluated_model)
        totals = EpochTotals(self.device)
        batches = val_ds.group_by_series(get_slice_batch_size(self.device), self.launch)
        slice_count = sum(map(len, batches))
        with torch.inference_mode(), progress_bar(slice_count, f"E{epoch_ndx} validation", "slice") as bar:
            for ct_slices, label_mask, series_uids, slice_ndxs in self.init_val_dl(val_ds, batches):
                with self.val_threads.measuring(ct_slices.numel()):
                    losses, counts = self.compute_batch_loss(ct_slices, label_mask)
                totals.add(losses, counts)
                self.loss_watch.add(f"the validation of epoch {epoch_ndx}", losses, series_uids, slice_ndxs)
                bar.update(len(losses))
                self.pause(f"in the validation of epoch {epoch_ndx}")
        return self.sum_up(epoch_ndx, "val", totals)

    def compute_batch_loss(
        self, ct_slices: torch.Tensor, label_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each sample, (batch,), and the batch's pixel counts; both stay on the device.

        Args: (batch, 7, row, col) in HU and (batch, 1, row, col) bool, on any device.
        """
        ct_slices, label_mask = (x.to(self.device, non_blocking=True) for x in (ct_slices, label_mask))
        model: nn.Module = self.evaluated_model
        if self.segmentation_model.training:
            # PyTorch compiles anew for each number of threads: in a trial of some the model runs as it is.
            model = self.training_model if self.train_threads.is_settled else self.segmentation_model
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
        return self.run.evaluated_model

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
        return TensorBoardReport(
            self.runs_dir, self.run.time_str, self.config.comment, first_step=self.run.samples_count + 1
        )

    def log_metrics(self, report: TensorBoardReport | None, epoch_ndx: int, mode: str, scores: Scores) -> Scores:
        log.info(f"E{epoch_ndx} {mode} {scores}")
        if report:
            report.log_scores(mode, scores, epoch_ndx * self.config.samples_per_epoch)
        return scores

    def log_pictures(
        self, report: TensorBoardReport | None, epoch_ndx: int, datasets: Mapping[str, Luna2dSegmentationDataset]
    ) -> None:
        if report:
            samples_count = epoch_ndx * self.config.samples_per_epoch
            for mode, dataset in datasets.items():
                report.log_pictures(mode, dataset, self.predict, samples_count, with_labels=epoch_ndx == 1)

    @property
    def runs_dir(self) -> Path:
        return Path(self.config.runs_dir) / self.config.tb_prefix

    def save_model(self, scores: Scores | None, is_best: bool) -> None:
        if self.launch.is_first:
            self.run.save(scores, is_best)

    def take_up(self) -> None:
        """Go on with the run that `--resume` names; or, if torchrun has started its processes anew, with theirs."""
        state = copy_from_first(self.run.find_last_of_launch() if self.launch.is_first else None) or self.resumed
        if state is None:
            return
        if state["step"] and not self.launch.is_alone:
            raise InputError("--resume: this run was stopped by one process in the middle of an epoch; go on with one")
        self.run.load(state)
        log.info(f"Going on with {self.run.last_path}: after epoch {state['epoch']}, step {state['step']} of the next")

    def log_settings(self, report: TensorBoardReport | None) -> None:
        if report:
            origin = {"versions": get_versions(), "commit": get_commit(), "data": self.run.data_fingerprint}
            report.log_settings(dataclasses.asdict(self.config), {**origin, "series": self.run.series})

    def log_start(self, train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset) -> None:
        lines = describe_data(train_ds, val_ds)
        lines += describe_work(self.config, self.launch, self.device, self.dtype, self.is_compiled)
        for line in lines:
            log.info(line)
        if rebuilt_count := train_ds.ct_cache.rebuilt_count + val_ds.ct_cache.rebuilt_count:
            log.warning(describe_rebuilt(rebuilt_count))

    def log_end(self, val_ds: Luna2dSegmentationDataset) -> None:
        """Draw what the best model finds, and say where everything is."""
        if not self.launch.is_first:
            return
        best = None
        if self.run.best_score != -math.inf:
            best = load_checkpoint(self.run.best_path)
            self.evaluated_model.load_state_dict(best["model_state"])
            write_png(self.run.picture_path, draw_findings(val_ds, self.predict))
        for line in describe_end(self.run, best):
            log.info(line)
