"""Train the U-Net that marks lung nodules: SegmentationTrainingApp, the loop of chapter 13."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader

from p2ch13.augmentation import SegmentationAugmentation
from p2ch13.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.compute import PRECISIONS, autocast, get_device, get_dtype, get_slice_batch_size
from p2ch13.config import AUGMENTATION, NODULE_THRESHOLD, TrainingConfig
from p2ch13.datasets import Batch, Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.losses import segmentation_loss
from p2ch13.metrics import EpochTotals, Scores, count_pixels
from p2ch13.model import BOOK_MODEL, UNetWrapper
from p2ch13.reporting import TensorBoardReport, draw_findings, write_png
from util.errors import InputError, run_command
from util.files import make_writable_folder
from util.logconf import set_up_logging
from util.options import name_part, non_negative_int, positive_int
from util.progress import progress_bar

log = logging.getLogger(__name__)


class SegmentationTrainingApp:
    """One training run, from the options of a command line to its best model.

    Args: sys_argv: the command line's arguments; None takes those of the process.
    """

    def __init__(self, sys_argv: Sequence[str] | None = None) -> None:
        self.sys_argv = list(sys.argv[1:] if sys_argv is None else sys_argv)
        self.config = parse_config(self.sys_argv)
        self.time_str = datetime.datetime.now().strftime("%Y-%m-%d_%H.%M.%S")
        self.total_training_samples_count = 0
        self.best_recall = 0.0  # a model that finds nothing is not the best of anything
        torch.manual_seed(self.config.seed)
        self.device = get_device()
        self.dtype = get_dtype(self.config.precision, self.device)
        self.segmentation_model, self.augmentation_model = self.init_model()
        self.optimizer = self.init_optimizer()

    def init_model(self) -> tuple[UNetWrapper, SegmentationAugmentation]:
        segmentation_model = UNetWrapper(**BOOK_MODEL).to(self.device)
        segmentation_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions are fastest in
        return segmentation_model, SegmentationAugmentation(**self.config.augmentation)

    def init_optimizer(self) -> Optimizer:
        return Adam(self.segmentation_model.parameters())

    def init_train_ds(self) -> TrainingLuna2dSegmentationDataset:
        return TrainingLuna2dSegmentationDataset(
            self.config.val_stride,
            is_val_set=False,
            samples_per_epoch=self.config.samples_per_epoch,
            seed=self.config.seed,
            device=self.device,
            folders=self.config.folders,
        )

    def init_val_ds(self) -> Luna2dSegmentationDataset:
        val_ds = Luna2dSegmentationDataset(self.config.val_stride, is_val_set=True, folders=self.config.folders)
        if not val_ds.sample_list:
            raise InputError(
                f"none of the {len(val_ds.series_list)} validation series has a nodule, so that there is nothing to "
                "score; choose another split with --val-stride"
            )
        return val_ds

    def init_val_dl(self, val_ds: Luna2dSegmentationDataset) -> DataLoader[Any]:
        return DataLoader(
            val_ds,
            batch_sampler=val_ds.group_by_series(get_slice_batch_size(self.device)),
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def main(self) -> None:
        """Train, validate, save. Raises: InputError for data, folders or options that cannot be used."""
        train_ds, val_ds = self.init_train_ds(), self.init_val_ds()
        make_writable_folder(self.models_dir, "--models-dir")
        make_writable_folder(self.runs_dir, "--runs-dir")
        self.log_start(train_ds, val_ds)
        with TensorBoardReport(self.runs_dir, self.time_str, self.config.comment) as report:
            for epoch_ndx in range(1, self.config.epochs + 1):
                self.log_metrics(report, epoch_ndx, "trn", self.do_training(epoch_ndx, train_ds))
                if self.is_validation_epoch(epoch_ndx):
                    scores = self.log_metrics(report, epoch_ndx, "val", self.do_validation(epoch_ndx, val_ds))
                    self.save_model(epoch_ndx, scores)
                    self.log_pictures(report, epoch_ndx, {"trn": train_ds, "val": val_ds})
        self.log_end(val_ds)

    def is_validation_epoch(self, epoch_ndx: int) -> bool:
        """The first, every `validation_cadence`-th, and the last, whose model would otherwise never be saved."""
        return epoch_ndx in (1, self.config.epochs) or epoch_ndx % self.config.validation_cadence == 0

    def do_training(self, epoch_ndx: int, train_ds: TrainingLuna2dSegmentationDataset) -> Scores:
        self.segmentation_model.train()
        train_ds.shuffle_samples()
        totals = EpochTotals(self.device)
        with progress_bar(len(train_ds), f"E{epoch_ndx} training", "sample") as bar:
            for batch in train_ds.batches(self.config.batch_size):
                self.optimizer.zero_grad()
                losses, counts = self.compute_batch_loss(batch)
                losses.mean().backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                totals.add(losses, counts)
                bar.update(len(losses))
        self.total_training_samples_count += len(train_ds)
        return totals.scores()

    def do_validation(self, epoch_ndx: int, val_ds: Luna2dSegmentationDataset) -> Scores:
        self.segmentation_model.eval()
        totals = EpochTotals(self.device)
        with torch.inference_mode(), progress_bar(len(val_ds), f"E{epoch_ndx} validation", "slice") as bar:
            for batch in self.init_val_dl(val_ds):
                losses, counts = self.compute_batch_loss(batch)
                totals.add(losses, counts)
                bar.update(len(losses))
        return totals.scores()

    def compute_batch_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each sample, (batch,), and the batch's pixel counts; both stay on the device."""
        ct_slices, label_mask = (x.to(self.device, non_blocking=True) for x in batch[:2])  # HU; bool
        if self.segmentation_model.training:
            ct_slices, label_mask = self.augmentation_model(ct_slices, label_mask)
        nodule_prob = self.compute_nodule_prob(ct_slices)
        return segmentation_loss(nodule_prob, label_mask), count_pixels(nodule_prob > NODULE_THRESHOLD, label_mask)

    def compute_nodule_prob(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """(batch, 7, row, col) in HU -> (batch, 1, row, col), each 0..1."""
        with autocast(self.device, self.dtype):
            prob: torch.Tensor = self.segmentation_model(ct_slices.contiguous(memory_format=torch.channels_last))
        return prob

    @torch.inference_mode()
    def predict(self, ct_slices: torch.Tensor) -> torch.Tensor:
        """(batch, 7, row, col) in HU -> (batch, 1, row, col), bool, with the model as it is in use."""
        self.segmentation_model.eval()
        return self.compute_nodule_prob(ct_slices.to(self.device)) > NODULE_THRESHOLD

    def log_pictures(
        self, report: TensorBoardReport, epoch_ndx: int, datasets: Mapping[str, Luna2dSegmentationDataset]
    ) -> None:
        for mode, dataset in datasets.items():
            report.log_pictures(
                mode, dataset, self.predict, self.total_training_samples_count, with_labels=epoch_ndx == 1
            )

    def log_metrics(self, report: TensorBoardReport, epoch_ndx: int, mode: str, scores: Scores) -> Scores:
        log.info(f"E{epoch_ndx} {mode} {scores}")
        if not math.isfinite(scores.loss):
            raise InputError(f"the {mode} loss of epoch {epoch_ndx} is {scores.loss}; try --precision fp32")
        report.log_scores(mode, scores, self.total_training_samples_count)
        return scores

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

    def save_model(self, epoch_ndx: int, scores: Scores) -> None:
        """Write this epoch's .state file, and the best one anew if its recall is higher than any before.

        Keys are the book's, and `model_args`, `config` and `scores` are added.
        """
        state = {
            "sys_argv": self.sys_argv,
            "time": str(datetime.datetime.now()),
            "model_state": self.segmentation_model.state_dict(),
            "model_name": type(self.segmentation_model).__name__,
            "model_args": BOOK_MODEL,
            "optimizer_state": self.optimizer.state_dict(),
            "optimizer_name": type(self.optimizer).__name__,
            "epoch": epoch_ndx,
            "totalTrainingSamples_count": self.total_training_samples_count,
            "config": dataclasses.asdict(self.config),
            "scores": dataclasses.asdict(scores),
        }
        path = self.model_path(f"{self.total_training_samples_count}.state")
        save_checkpoint(path, state)
        log.info(f"E{epoch_ndx} saved {path}")
        if scores.recall > self.best_recall:
            self.best_recall = scores.recall
            save_checkpoint(self.best_path, state)

    def log_start(self, train_ds: TrainingLuna2dSegmentationDataset, val_ds: Luna2dSegmentationDataset) -> None:
        config = self.config
        log.info(
            f"Training on {len(train_ds.series_list)} series with {len(train_ds.pos_list)} nodules, validation on "
            f"{len(val_ds.series_list)} series with {len(val_ds)} slices that hold nodule."
        )
        log.info(
            f"{config.epochs} epochs of {config.samples_per_epoch:,} samples in batches of {config.batch_size}; "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}; "
            f"augmentation: {', '.join(config.augmentation) or 'none'}."
        )

    def log_end(self, val_ds: Luna2dSegmentationDataset) -> None:
        """Say where everything is, and draw what the best model finds."""
        if self.best_recall == 0:
            log.info("No best model: in no epoch did it find a pixel of a nodule. More samples or epochs may help.")
        else:
            best = load_checkpoint(self.best_path)
            self.segmentation_model.load_state_dict(best["model_state"])
            picture_path = self.model_path("best.png")
            write_png(picture_path, draw_findings(val_ds, self.predict))
            log.info(f"Best model, by recall: {self.best_path}")
            log.info(f"Its scores, epoch {best['epoch']}: {Scores(**best['scores'])}")
            log.info(f"Picture (green: found, orange: missed, red: false alarm): {picture_path}")
        log.info(f"Curves and pictures: tensorboard --logdir {self.config.runs_dir}")


def parse_config(sys_argv: Sequence[str]) -> TrainingConfig:
    """The options of a command line. `--augmented` stands for all five `--augment-...`."""
    options = vars(build_parser().parse_args(sys_argv))
    if options.pop("augmented", False):
        options |= {f"augment_{name}": True for name in AUGMENTATION}
    return TrainingConfig(**options)


def build_parser() -> argparse.ArgumentParser:
    default = TrainingConfig
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.training",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive_int, default=default.epochs, help="epochs to train for")
    parser.add_argument("--batch-size", type=positive_int, default=default.batch_size, help="crops per optimizer step")
    parser.add_argument(
        "--samples-per-epoch", type=positive_int, default=default.samples_per_epoch, help="random crops in an epoch"
    )
    parser.add_argument(
        "--validation-cadence",
        type=positive_int,
        default=default.validation_cadence,
        help="validate in every such epoch, and in the first and the last",
    )
    parser.add_argument(
        "--val-stride", type=positive_int, default=default.val_stride, help="every such series is for validation"
    )
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        default=default.num_workers,
        help="processes that read validation slices ahead",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default.precision,
        help="of convolutions; auto is bf16 where the processor calculates in it",
    )
    parser.add_argument("--seed", type=non_negative_int, default=default.seed, help="fixes weights and samples")

    augmentation = parser.add_argument_group("augmentation of the training crops, drawn anew for each one")
    for option, help_text in {"augmented": "all of these", **AUGMENTATION_HELP}.items():
        augmentation.add_argument(f"--{option}", action="store_true", default=argparse.SUPPRESS, help=help_text)

    folders = parser.add_argument_group("folders")
    folders.add_argument("--data-dir", default=default.data_dir, help="LUNA16's subset*/ and CSV files")
    folders.add_argument("--cache-dir", default=default.cache_dir, help="what precache.py filled")
    folders.add_argument("--models-dir", default=default.models_dir, help="for .state files")
    folders.add_argument("--runs-dir", default=default.runs_dir, help="for TensorBoard")
    folders.add_argument(
        "--tb-prefix", type=name_part, default=default.tb_prefix, help="folder below --models-dir and --runs-dir"
    )
    parser.add_argument(
        "comment", type=name_part, nargs="?", default=default.comment, help="last part of the run's file names"
    )
    return parser


AUGMENTATION_HELP = {
    "augment-flip": "mirror rows and columns, each one time in two",
    "augment-offset": f"move by up to {AUGMENTATION['offset']:.0%}% of half the crop's size",
    "augment-scale": f"shrink or enlarge by up to {AUGMENTATION['scale']:.0%}%",
    "augment-rotate": "turn by any angle about the head-foot axis",
    "augment-noise": f"add noise with a standard deviation of {AUGMENTATION['noise']:.0f} HU",
}


def main(sys_argv: Sequence[str] | None = None) -> None:
    set_up_logging()
    SegmentationTrainingApp(sys_argv).main()


if __name__ == "__main__":
    run_command(main)
