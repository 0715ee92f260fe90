"""SegmentationTrainingApp: one training run of chapter 13."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial

import torch
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from p2ch13.data.crop_store import Batch
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.workers import fit_workers
from p2ch13.evaluation.metrics import Scores
from p2ch13.network.compute import Compute, get_device, get_dtype, get_slice_batch_size, keep_freed_memory
from p2ch13.network.model import SegmentationNetwork, build_network
from p2ch13.training.background_samples import BackgroundSamples
from p2ch13.training.distributed import copy_buffers_from_first, sync_batchnorm
from p2ch13.training.graphs import enable_determinism, is_recorded, seed_epoch
from p2ch13.training.learner import Learner
from p2ch13.training.loop import train_one_epoch, validate
from p2ch13.training.loss_curve import LossCurve
from p2ch13.training.losses import segmentation_loss
from p2ch13.training.messages import STOPPING, conclude, finish_files, log_images, log_metrics, log_start, stopped
from p2ch13.training.non_finite import NonFiniteLossMonitor
from p2ch13.training.optimizers import build_optimizer, set_learning_rate
from p2ch13.training.resume import load_init_weights, read_settings, resume_run
from p2ch13.training.run import RunState, model_args_of
from p2ch13.training.run_files import RunFiles, make_folders, models_dir_of
from p2ch13.training.samples import (
    RunData,
    name_data,
    open_backgrounds,
    open_data,
    open_mining,
    open_train_ds,
    open_val_ds,
)
from p2ch13.training.tensorboard import TensorBoardReport, open_report
from p2ch13.training.totals import EpochTotals, StepResult, reduce_validation
from p2ch13.util.errors import Stopped
from p2ch13.util.interruption import Interruption
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)


class SegmentationTrainingApp:
    """One training run, from the options of a command line to its best model.

    Started by torchrun, it is one of the processes that train one model together: each with its share of every step's
    samples and of the validation series. The first one (rank 0) writes for all of them.

    Args: sys_argv: the command line's arguments; None takes those of the process.
    """

    def __init__(self, sys_argv: Sequence[str] | None = None) -> None:
        sys_argv = list(sys.argv[1:] if sys_argv is None else sys_argv)
        self.settings = read_settings(sys_argv)
        config = self.config = self.settings.config
        self.process = ProcessRank.from_environment()
        if config.deterministic:
            enable_determinism()
        torch.manual_seed(config.seed)
        device = get_device(config.device, self.process)
        self.compute = Compute(device, get_dtype(config.precision, device))
        self.segmentation_model = self.init_model()
        self.optimizer = self.init_optimizer()
        threads = (self.settings.state or {}).get("threads")
        self.learner = Learner(self.segmentation_model, self.optimizer, config, self.compute, self.process, threads)
        files = RunFiles.unused(models_dir_of(config), config.comment)
        self.run = RunState(config, sys_argv, files, self.process.world_size, self.settings.init_series)
        self.totals = EpochTotals(device)
        self.non_finite = NonFiniteLossMonitor(device, config.skip_non_finite)
        self.interruption: Interruption | None = None
        self.report: TensorBoardReport | None = None
        self.backgrounds: BackgroundSamples | None = None

    def init_model(self) -> SegmentationNetwork:
        model = build_network(self.config.network, model_args_of(self.config))
        load_init_weights(model, self.settings)
        if self.config.sync_batchnorm:
            model = sync_batchnorm(model, self.compute.device)
        model.to(self.compute.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the fastest for convolutions
        return model

    def init_optimizer(self) -> Optimizer:
        config, parameters = self.config, self.segmentation_model.parameters()
        recorded = is_recorded(config, self.compute.device, self.process)
        return build_optimizer(config.optimizer, parameters, config.learning_rate, recorded)

    @cached_property
    def data(self) -> RunData:
        return open_data(self.config, self.settings.path, self.settings.state)

    def init_train_ds(self) -> TrainingLuna2dSegmentationDataset:
        return open_train_ds(self.config, self.data, self.compute.device, self.process.world_size)

    def init_val_ds(self) -> Luna2dSegmentationDataset:
        return open_val_ds(self.config, self.data)

    def main(self) -> Outcome:
        """Train, validate, save. Returns: what is reached, in the first process.

        Raises: InputError for data, folders or options that cannot be used.
        """
        keep_freed_memory()
        with self.learner.training_together() as self.run.launch_id:
            train_ds, val_ds = self.init_train_ds(), self.init_val_ds()
            datasets = {"trn": train_ds, "val": val_ds}
            if self.process.is_first:
                make_folders(self.config)
            self.backgrounds = open_backgrounds(self.config, self.learner)
            name_data(self.run, self.data, datasets, self.backgrounds)
            resume_run(self.run, self.settings, self.learner, train_ds.index)
            log_start(self.run, train_ds, val_ds, self.compute)
            files = self.run.own_files() if self.process.is_first else nullcontext()
            signals = Interruption(STOPPING) if self.process.is_alone else nullcontext()
            with files, open_report(self.run, self.process.is_first) as self.report, signals as self.interruption:
                for epoch_ndx in range(self.run.epoch + 1, self.config.epochs + 1):
                    if self.run.should_stop():
                        log.info(f"No better model in {self.config.early_stop} validations; --early-stop ends the run.")
                        break
                    log_metrics(self.report, self.run, "trn", self.do_training(epoch_ndx, train_ds), self.learner)
                    val_scores = None
                    if self.run.is_validation_epoch(epoch_ndx):
                        val_scores = self.do_validation(epoch_ndx, val_ds)
                        log_metrics(self.report, self.run, "val", val_scores, self.learner)
                        log_images(self.report, self.run, datasets, self.learner)
                    self.run.end_epoch(self.totals.skipped_count)
                    self.save_model(val_scores, is_best=val_scores is not None and self.run.update_best(val_scores))
            if self.process.is_first:
                finish_files(self.run, self.learner, val_ds)
        return self.conclude() if self.process.is_first else Outcome([], {})

    def conclude(self, stopped: Stopped | None = None) -> Outcome:
        """Say what the run has reached, and where everything is."""
        return conclude(self.run, stopped)

    def do_training(self, epoch_ndx: int, train_ds: TrainingLuna2dSegmentationDataset) -> Scores:
        """Train for an epoch, or for the rest of the one in which a run was stopped."""
        self.learner.training_model.train()
        seed_epoch(self.config.seed, epoch_ndx, self.process.rank)
        train_ds.shuffle_samples(epoch_ndx)
        self.totals = self.run.begin_epoch(self.compute.device)
        loss_curve = LossCurve(self.run, self.totals, self.report)
        mining = open_mining(train_ds, self.backgrounds, self.learner, self.run, self.settings.path)
        batches = train_ds.batches(self.config.batch_size, self.process, self.run.step, mining.hardness)
        if self.backgrounds:
            batches = self.backgrounds.mix_in(batches, epoch_ndx, self.run.step)
        done = self.run.count_samples(0, self.run.step)
        with progress_bar(len(train_ds), f"E{epoch_ndx} training", "sample", done=done) as bar:

            def step(ct_slices: torch.Tensor, label_mask: torch.Tensor) -> StepResult:
                loss_curve.begin_step()
                set_learning_rate(self.optimizer, self.run.learning_rate(epoch_ndx))
                return self.learner.train_step(ct_slices, label_mask)

            def after_step(batch: Batch, result: StepResult) -> None:
                self.run.step += 1
                self.learner.update_average(result.faults.any())
                self.non_finite.add(f"epoch {epoch_ndx}, step {self.run.step}", result.faults, *batch[2:])
                bar.update(len(batch[0]) * self.process.world_size)
                mining.follow(self.run.count_samples(epoch_ndx - 1, self.run.step))
                self.run.mining = mining.state_dict()
                self.pause(f"in epoch {epoch_ndx}, after {self.run.step} steps")
                loss_curve.end_step()

            train_one_epoch(step, batches, self.totals, after_step, self.learner.train_threads)
        self.non_finite.check()
        return self.totals.reduce(self.config, f"epoch {epoch_ndx} (trn)")

    def do_validation(self, epoch_ndx: int, val_ds: Luna2dSegmentationDataset) -> Scores:
        """Score the slices that hold nodule, and all slices together if there are others."""
        model = self.learner.evaluated_model.eval()
        copy_buffers_from_first(model)
        batches = val_ds.group_by_series(get_slice_batch_size(self.compute.device), self.process)
        with progress_bar(sum(map(len, batches)), f"E{epoch_ndx} validation", "slice") as bar:

            def after_step(batch: Batch, result: StepResult) -> None:
                self.non_finite.add(f"the validation of epoch {epoch_ndx}", result.faults, *batch[2:])
                bar.update(len(batch[0]))
                self.pause(f"in the validation of epoch {epoch_ndx}")

            on_gpu = self.compute.device.type == "cuda"
            worker_count = fit_workers(val_ds, batches, self.config.num_workers)
            loader = DataLoader(val_ds, batch_sampler=batches, num_workers=worker_count, pin_memory=on_gpu)
            loss = partial(segmentation_loss, options=self.config)
            totals = validate(model, loader, loss, self.compute, after_step, self.learner.val_threads)
        self.non_finite.check()
        return reduce_validation(totals, self.config, f"epoch {epoch_ndx} (val)")

    def pause(self, where: str) -> None:
        """Between two batches: write the last state if it is due, and stop the run on a signal.

        Several processes would have to do so after the same step, and each has random numbers of its own: they save at
        the end of an epoch alone, and a signal ends them at once.
        """
        if self.interruption is None:
            return
        signal_number = self.interruption.signal_number
        if signal_number is not None or self.run.is_save_due():
            self.non_finite.check()
            self.run.save(self.learner, totals=self.totals)
        if signal_number is not None:
            raise stopped(self.run, signal_number, where)

    def save_model(self, scores: Scores | None, is_best: bool) -> None:
        if self.process.is_first:
            self.run.save(self.learner, scores, is_best)
