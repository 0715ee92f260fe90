"""SegmentationTrainingApp: the loop of chapter 13."""

from __future__ import annotations

import dataclasses
import logging
import math
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from p2ch13.config import AUTO_THREADS, NODULE_LOGIT
from p2ch13.data.cache import describe_rebuilt
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.index import ScanIndex
from p2ch13.detection.pictures import draw_findings, write_png
from p2ch13.evaluation.metrics import Scores, count_pixels, find_nodule_samples
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.compute import (
    autocast,
    choose_threads,
    get_device,
    get_dtype,
    get_slice_batch_size,
    get_thread_limit,
    keep_freed_memory,
)
from p2ch13.network.model import BOOK_MODEL, LogitNetwork, UNetWrapper
from p2ch13.training.augmentation import SegmentationAugmentation
from p2ch13.training.distributed import (
    copy_buffers_from_first,
    copy_from_first,
    data_parallel,
    mean_over_processes,
    process_group,
    sum_over_processes,
    sync_batchnorm,
)
from p2ch13.training.graphs import CapturedStep, compile_model, enable_determinism, should_compile
from p2ch13.training.losses import false_positive_score, loss_of_sums, losses_of_batch, sum_pixels
from p2ch13.training.messages import describe_all, describe_data, describe_end, describe_work
from p2ch13.training.mining import batch_statistics
from p2ch13.training.non_finite import NonFiniteLossMonitor, find_faults, find_validation_faults
from p2ch13.training.optimizers import Muon, copy_tensors, has_state, step_unless, take_back
from p2ch13.training.provenance import fingerprint_data, get_commit, get_versions, renew_fingerprint
from p2ch13.training.resume import read_settings
from p2ch13.training.run_state import RunState
from p2ch13.training.schedules import ema, set_learning_rate, update_average, warm_up_cosine
from p2ch13.training.tensorboard import TensorBoardReport
from p2ch13.training.totals import BatchResult, EpochTotals
from p2ch13.util.errors import InputError, Stopped
from p2ch13.util.files import make_writable_folder
from p2ch13.util.interruption import Interruption
from p2ch13.util.launch import Launch
from p2ch13.util.progress import progress_bar
from p2ch13.util.threads import ThreadTuner

log = logging.getLogger(__name__)


class SegmentationTrainingApp:
    """One training run, from the options of a command line to its best model.

    Started by torchrun, it is one of the processes that train one model together: each with its own part of every
    step's samples and of the validation series. The first one writes for all of them.

    Args: sys_argv: the command line's arguments; None takes those of the process.
    """

    def __init__(self, sys_argv: Sequence[str] | None = None) -> None:
        self.sys_argv = list(sys.argv[1:] if sys_argv is None else sys_argv)
        self.config, self.resumed_path, self.resumed = read_settings(self.sys_argv)
        self.launch = Launch.from_environment()
        if self.config.deterministic:
            enable_determinism()
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
        self.averaged_model = ema(self.segmentation_model) if self.config.ema else None
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
        self.non_finite = NonFiniteLossMonitor(self.device, self.config.skip_non_finite)
        self.interruption: Interruption | None = None
        self.training_model, self.train_step = self.init_training()

    def init_model(self) -> tuple[UNetWrapper, SegmentationAugmentation]:
        segmentation_model = UNetWrapper(**self.model_args)
        segmentation_model.slice_spacing_mm = self.config.slice_spacing_mm
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
            "intensity_projections": config.intensity_projections,
            "space_to_depth": config.space_to_depth,
            "activation": config.activation,
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

    def init_training(self) -> tuple[nn.Module, Callable[..., tuple[BatchResult, torch.Tensor]]]:
        """The model as it is trained, HU -> logits, and the function that takes a step with it.

        Called again by `training_together`, when the processes of the run can talk to each other.
        """
        model = data_parallel(LogitNetwork(self.segmentation_model), self.device)
        if not self.is_compiled:
            return model, self.compute_step
        step: Callable[..., tuple[BatchResult, torch.Tensor]] = self.compute_step
        if self.records_steps:
            step = CapturedStep(self.compute_step, is_ready=lambda: has_state(self.optimizer))
        return compile_model(model, self.config.compile), step

    @contextmanager
    def training_together(self) -> Iterator[None]:
        """Inside, the processes of the run talk to each other, and each step is all of theirs."""
        with process_group(self.launch) as self.run.launch_id:
            self.training_model, self.train_step = self.init_training()
            try:
                yield
            finally:  # what `process_group` says must be gone
                self.training_model, self.train_step = LogitNetwork(self.segmentation_model), self.compute_step

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
            sampling=self.config,
            folders=self.config.folders,
            labels=self.config.label_options,
        )

    def init_val_ds(self) -> Luna2dSegmentationDataset:
        val_ds = Luna2dSegmentationDataset(
            self.config.val_stride,
            is_val_set=True,
            folders=self.config.folders,
            labels=self.config.label_options,
            slice_spacing_mm=self.config.slice_spacing_mm,
            negative_slices=self.config.val_negatives,
        )
        if not val_ds.nodule_slice_count:
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
        with self.training_together():
            train_ds, val_ds = self.init_train_ds(), self.init_val_ds()
            if self.launch.is_first:
                make_writable_folder(self.run.models_dir, "--models-dir")
                make_writable_folder(self.runs_dir, "--runs-dir")
            self.run.series = {"trn": train_ds.series_list, "val": val_ds.series_list}
            all_series = train_ds.series_list + val_ds.series_list
            self.run.data_fingerprint = fingerprint_data(train_ds.index, all_series, self.config.crop_choice)
            self.resume(train_ds.index)
            self.log_start(train_ds, val_ds)
            with self.init_report() as report, self.deferred_signals() as self.interruption:
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
                    self.save_model(scores, is_best=scores is not None and self.run.update_best(scores))
            self.log_end(val_ds)

    def is_validation_epoch(self, epoch_ndx: int) -> bool:
        """The first, every `validation_cadence`-th, and the last, whose model would otherwise never be saved."""
        return epoch_ndx in (1, self.config.epochs) or epoch_ndx % self.config.validation_cadence == 0

    def do_training(self, epoch_ndx: int, train_ds: TrainingLuna2dSegmentationDataset) -> Scores:
        self.training_model.train()
        self.seed_epoch(epoch_ndx)
        train_ds.shuffle_samples(epoch_ndx)
        progress = self.run.begin_epoch()
        batches = train_ds.batches(self.config.batch_size, self.launch, progress.steps, self.rate_negatives)
        with progress_bar(len(train_ds), f"E{epoch_ndx} training", "sample") as bar:
            bar.update(self.run.count_samples(progress.steps))
            for ct_slices, label_mask, series_uids, slice_ndxs in batches:
                self.follow_schedule((epoch_ndx - 1) * len(train_ds) + self.run.count_samples(progress.steps))
                with self.train_threads.measuring(len(ct_slices)):
                    result, faults = self.train_step(ct_slices, label_mask)
                progress.steps += 1
                is_bad = faults.any()
                if self.averaged_model is not None:
                    update_average(self.averaged_model, self.segmentation_model, is_bad)
                progress.totals.add(result, is_bad)
                self.non_finite.add(f"epoch {epoch_ndx}, step {progress.steps}", faults, series_uids, slice_ndxs)
                bar.update(len(slice_ndxs) * self.launch.world_size)
                self.pause(f"in epoch {epoch_ndx}, after {progress.steps} steps")
        scores = self.reduce_totals(epoch_ndx, "trn", progress.totals)
        self.warn_of_left_out(epoch_ndx, "trn", progress.totals)
        return scores

    def reduce_totals(self, epoch_ndx: int, mode: str, totals: EpochTotals) -> Scores:
        """An epoch's scores, over all processes. Raises: InputError if not one batch could be used.

        The loss is the mean of the samples'; with `--batch-dice` that of all samples of the epoch as if they were one
        batch. So it is the same function in training, whose batches are parts of that, and in validation, where it does
        not depend on how many slices are computed at once.
        """
        self.non_finite.check()
        sum_over_processes(totals.values)
        if not totals.sample_count:
            raise InputError(
                f"no batch of epoch {epoch_ndx} ({mode}) has a finite loss and gradient; lower --learning-rate"
            )
        if not self.config.batch_dice:
            return totals.scores()
        return totals.scores(loss_of_sums(totals.sums, self.config.fn_weight, self.config.cross_entropy).item())

    def warn_of_left_out(self, epoch_ndx: int, mode: str, totals: EpochTotals) -> None:
        if count := totals.left_out_count:
            log.warning(f"E{epoch_ndx} {mode}: {count} batches were left out, whose loss or gradient was not finite.")

    def pause(self, where: str) -> None:
        """Between two batches: keep the last state up to date, and end here if a signal asks for that.

        Of several processes each would have to do so after the same step, and random numbers of its own to save: they
        save at the end of an epoch alone, and a signal ends them at once.
        """
        if self.interruption is None:
            return
        signal_number = self.interruption.signal_number
        if signal_number is not None or self.run.is_save_due():
            self.non_finite.check()
            self.run.save_last()
        if signal_number is not None:
            command = shlex.join(["python", "-m", "p2ch13.training", "--resume", str(self.run.last_path)])
            raise Stopped(
                f"Stopped by {signal.Signals(signal_number).name} {where}. To go on: {command}", signal_number
            )

    def deferred_signals(self) -> AbstractContextManager[Interruption | None]:
        return Interruption() if self.launch.is_alone else nullcontext()

    def seed_epoch(self, epoch_ndx: int) -> None:
        """An epoch's random numbers depend on the seed, the epoch and the process alone: not on the epochs before."""
        torch.manual_seed(np.random.SeedSequence([self.config.seed, epoch_ndx, self.launch.rank]).generate_state(1)[0])

    def follow_schedule(self, samples_count: int) -> None:
        """Set the learning rate of the step after so many training samples of the run."""
        if self.config.lr_schedule == "cosine":
            progress = samples_count / (self.config.epochs * self.config.samples_per_epoch)
            set_learning_rate(self.optimizer, self.config.learning_rate * warm_up_cosine(progress))

    @torch.no_grad()
    def rate_negatives(self, ct_slices: torch.Tensor, is_ignored: torch.Tensor) -> torch.Tensor:
        """How hard crops are for the model as it is now, by the batch's own statistics: (batch,).

        Args: ct_slices: (batch, 7, row, col) in HU; is_ignored: (batch, 1, row, col), the pixels that do not count.
        """
        with batch_statistics(self.segmentation_model), autocast(self.device, self.dtype):
            logits = self.segmentation_model.logits(ct_slices.contiguous(memory_format=torch.channels_last))
        return false_positive_score(logits, is_ignored)

    def compute_step(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> tuple[BatchResult, torch.Tensor]:
        """One step of the optimizer on a batch. Returns: what `compute_batch_loss` and `find_faults` do.

        A loss or gradient that is not finite, in any process, leaves all as it is: weights, the optimizer's state,
        BatchNorm's statistics. That is left to the device, which would have to wait if it were asked.
        """
        self.optimizer.zero_grad()
        statistics = copy_tensors(self.segmentation_model.buffers())
        result = self.compute_batch_loss(ct_slices, label_mask)
        mean_over_processes(result.losses).backward()  # type: ignore[no-untyped-call]
        faults = find_faults(result.losses, self.segmentation_model.parameters())
        step_unless(faults.any(), self.optimizer)
        take_back(faults.any(), self.segmentation_model.buffers(), statistics)
        return BatchResult(*(values.detach() for values in result)), faults

    def do_validation(self, epoch_ndx: int, val_ds: Luna2dSegmentationDataset) -> Scores:
        """The scores of the slices that hold nodule, with those of all slices if there are others."""
        self.set_evaluating()
        copy_buffers_from_first(self.evaluated_model)
        totals, totals_of_all = EpochTotals(self.device), EpochTotals(self.device)
        batches = val_ds.group_by_series(get_slice_batch_size(self.device), self.launch)
        slice_count = sum(map(len, batches))
        with torch.inference_mode(), progress_bar(slice_count, f"E{epoch_ndx} validation", "slice") as bar:
            for ct_slices, label_mask, series_uids, slice_ndxs in self.init_val_dl(val_ds, batches):
                with self.val_threads.measuring(ct_slices.numel()):
                    result = self.compute_batch_loss(ct_slices, label_mask)
                faults = find_validation_faults(result.losses)
                totals.add(result, faults.any(), find_nodule_samples(result.counts))
                totals_of_all.add(result, faults.any())
                self.non_finite.add(f"the validation of epoch {epoch_ndx}", faults, series_uids, slice_ndxs)
                bar.update(len(slice_ndxs))
                self.pause(f"in the validation of epoch {epoch_ndx}")
        scores, scores_of_all = (self.reduce_totals(epoch_ndx, "val", each) for each in (totals, totals_of_all))
        self.warn_of_left_out(epoch_ndx, "val", totals_of_all)
        has_others = totals_of_all.sample_count > totals.sample_count
        return dataclasses.replace(scores, of_all=scores_of_all) if has_others else scores

    def compute_batch_loss(self, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> BatchResult:
        """The loss, pixel counts and pixel sums of each sample.

        With `--batch-dice` the losses of a training batch are all that of the batch as a whole. Those of validation
        are each slice's own: what is shown is made of the sums, see `reduce_totals`.

        Args: (batch, 7, row, col) in HU and (batch, 1, row, col) bool, on any device.
        """
        ct_slices, label_mask = (x.to(self.device, non_blocking=True) for x in (ct_slices, label_mask))
        network: Callable[[torch.Tensor], torch.Tensor] = self.evaluated_model.logits
        if self.segmentation_model.training:
            # PyTorch compiles anew for each number of threads: in a trial of some the model runs as it is.
            network = self.training_model if self.train_threads.is_settled else self.segmentation_model.logits
            ct_slices, label_mask = self.augmentation_model(ct_slices, label_mask)
        with autocast(self.device, self.dtype):
            logits = network(ct_slices)  # (batch, 1, row, col), float32
        config = self.config
        sums = sum_pixels(logits, label_mask, with_entropy=config.cross_entropy > 0)
        over_batch = config.batch_dice and self.segmentation_model.training
        losses = losses_of_batch(sums, config.fn_weight, over_batch, config.cross_entropy)
        return BatchResult(losses, count_pixels(logits > NODULE_LOGIT, label_mask), sums)

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
            logits = self.evaluated_model.logits(ct_slices.to(self.device))
        return logits > NODULE_LOGIT

    def init_report(self) -> AbstractContextManager[TensorBoardReport | None]:
        """The run's TensorBoard folders; None in all processes but the first."""
        if not self.launch.is_first:
            return nullcontext()
        return TensorBoardReport(
            self.runs_dir, self.run.time_str, self.config.comment, first_step=self.run.samples_count + 1
        )

    def log_metrics(self, report: TensorBoardReport | None, epoch_ndx: int, mode: str, scores: Scores) -> Scores:
        log.info(f"E{epoch_ndx} {mode} {scores}")
        if scores.of_all is not None:
            log.info(f"E{epoch_ndx} {mode} with slices that hold no nodule: {describe_all(scores.of_all)}")
        if report:
            samples_count = epoch_ndx * self.config.samples_per_epoch
            report.log_scores(mode, scores, samples_count)
            if mode == "trn":
                report.log_learning_rate(float(self.optimizer.param_groups[0]["lr"]), samples_count)
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

    def resume(self, index: ScanIndex) -> None:
        """Go on with the run that `--resume` names; or, if torchrun has started its processes anew, with theirs."""
        path, state = self.resumed_path, self.resumed
        if last := copy_from_first(self.run.find_last_of_launch() if self.launch.is_first else None):
            path, state = last, copy_from_first(load_checkpoint(last) if self.launch.is_first else None)
        if path is not None and state is not None:
            series_list = [*self.run.series["trn"], *self.run.series["val"]]
            saved, current = state["data_fingerprint"], self.run.data_fingerprint
            state["data_fingerprint"] = renew_fingerprint(saved, current, index, series_list)
            self.go_on_from(path, state)
        self.run.dtype = self.dtype
        if self.launch.is_first:
            self.run.note_launch()

    def go_on_from(self, path: Path, state: dict[str, Any]) -> None:
        if state["step"] and not self.launch.is_alone:
            raise InputError("--resume: this run was stopped by one process in the middle of an epoch; go on with one")
        self.run.load(state)
        self.keep_dtype(state.get("dtype"))
        log.info(f"Going on from {path}: after epoch {state['epoch']}, step {state['step']} of the next")
        if copy_from_first(self.launch.is_first and self.run.is_ahead_of(path, state)):
            if self.launch.is_first:
                self.run.branch_off(path, state)
            self.run.best_score, self.run.validations_since_best = copy_from_first(
                (self.run.best_score, self.run.validations_since_best)
            )
            log.info(f"The run has come further than that since, and keeps its files; these go to {self.run.last_path}")

    def keep_dtype(self, began_in: str | None) -> None:
        """Go on in the number format that a run of `--precision auto` has been in, where the processor can."""
        if self.config.precision != "auto" or began_in in (None, str(self.dtype).removeprefix("torch.")):
            return
        if began_in == "float32":
            self.dtype = torch.float32
        else:
            log.warning(f"The run has been in {began_in}, which this processor does not calculate in: float32 from now")

    def log_settings(self, report: TensorBoardReport | None) -> None:
        if report:
            origin = {"versions": get_versions(), "commit": get_commit(), "data": self.run.data_fingerprint}
            report.log_settings(self.config.as_dict(), {**origin, "series": self.run.series})

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
        self.run.forget_launch()
        for line in describe_end(self.run, best):
            log.info(line)
