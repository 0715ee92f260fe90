"""The command line of training. Nothing here imports torch: --help and a mistyped option are answered at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from p2ch13.config import AUGMENTATION, COMPILE_CHOICES, PRECISIONS, TrainingConfig
from p2ch13.label_options import add_label_options
from util.options import name_part, non_negative_int, positive_int


def parse_config(sys_argv: Sequence[str] | None = None) -> TrainingConfig:
    """The options of a command line, or of this process's. `--augmented` stands for all five `--augment-...`."""
    options = vars(build_parser().parse_args(sys_argv))
    if options.pop("augmented", False):
        options |= {f"augment_{name}": True for name in AUGMENTATION}
    return TrainingConfig(**options)


def build_parser() -> argparse.ArgumentParser:
    default = TrainingConfig
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.training",
        description="Train the U-Net that marks lung nodules.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive_int, default=default.epochs, help="epochs to train for")
    parser.add_argument(
        "--batch-size", type=positive_int, default=default.batch_size, help="crops per optimizer step of a process"
    )
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
    parser.add_argument(
        "--compile",
        choices=COMPILE_CHOICES,
        default=default.compile,
        help="fuse the network's operations, on one GPU replay whole steps; auto: in runs of 300,000 samples or more",
    )
    parser.add_argument(
        "--sync-batchnorm",
        action="store_true",
        help="batch statistics over all GPUs of a torchrun instead of each one's own",
    )
    parser.add_argument("--seed", type=non_negative_int, default=default.seed, help="fixes weights and samples")

    add_augmentation_options(parser)
    add_label_options(parser)
    add_folder_options(parser)
    parser.add_argument(
        "comment", type=name_part, nargs="?", default=default.comment, help="last part of the run's file names"
    )
    return parser


def add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    augmentation = parser.add_argument_group("augmentation of the training crops, drawn anew for each one")
    for option, help_text in {"augmented": "all of these", **AUGMENTATION_HELP}.items():
        augmentation.add_argument(f"--{option}", action="store_true", default=argparse.SUPPRESS, help=help_text)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    folders = parser.add_argument_group("folders")
    folders.add_argument("--data-dir", default=default.data_dir, help="LUNA16's subset*/ and CSV files")
    folders.add_argument("--cache-dir", default=default.cache_dir, help="what precache.py filled")
    folders.add_argument("--models-dir", default=default.models_dir, help="for .state files")
    folders.add_argument("--runs-dir", default=default.runs_dir, help="for TensorBoard")
    folders.add_argument(
        "--tb-prefix", type=name_part, default=default.tb_prefix, help="folder below --models-dir and --runs-dir"
    )


AUGMENTATION_HELP = {
    "augment-flip": "mirror rows and columns, each one time in two",
    "augment-offset": f"move by up to {AUGMENTATION['offset']:.0%}% of half the crop's size",
    "augment-scale": f"shrink or enlarge by up to {AUGMENTATION['scale']:.0%}%",
    "augment-rotate": "turn by any angle about the head-foot axis",
    "augment-noise": f"add noise with a standard deviation of {AUGMENTATION['noise']:.0f} HU",
}
