"""The command line of evaluation. Nothing here imports torch: --help and a mistyped option are answered at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from p2ch13.config import MIN_DIAMETER_MM, Folders
from p2ch13.detection_options import add_detection_options
from p2ch13.label_options import add_label_options, label_changes_of
from p2ch13.util.options import non_negative_int, positive_int


@dataclass(frozen=True)
class EvaluationOptions:
    """What is scored, on which scans, and how."""

    checkpoint: Path | None
    network: str | None
    mask: Path | None  # a folder
    findings: Path | None
    threshold: float
    min_diameter: float  # mm
    tta: bool
    lung_mask: bool
    precision: str
    threads: int | str
    data_dir: Path
    val_stride: int | None  # None: the checkpoint's own
    all: bool
    series_uid: str | None
    series: Path | None  # a list of UIDs
    annotations: Path | None  # None: the data folder's
    excluded: Path | None
    output: Path
    seed: int
    label_changes: dict[str, Any]  # fields of LabelOptions in place of what the checkpoint was trained with

    @property
    def folders(self) -> Folders:
        return Folders(self.data_dir)

    @property
    def marks_nothing(self) -> bool:
        """Whether a list of findings is scored, without a mask."""
        return self.checkpoint is None and self.mask is None


def parse_options(sys_argv: Sequence[str] | None = None) -> EvaluationOptions:
    parser = build_parser()
    options = parser.parse_args(sys_argv)
    subject = options.checkpoint or options.mask or options.findings
    if subject is None:
        parser.error("say what to score: --checkpoint, --mask or --findings")
    if options.checkpoint is not None and (options.mask or options.findings):
        parser.error("--checkpoint makes masks and findings of its own: no --mask and no --findings with it")
    if options.min_diameter is None:
        options.min_diameter = MIN_DIAMETER_MM if options.checkpoint else 0.0
    if options.output is None:
        options.output = Path("data/evaluation") / subject.resolve().name.removesuffix(subject.suffix)
    values = vars(options)
    own_values = {field.name: values[field.name] for field in fields(EvaluationOptions) if field.name in values}
    return EvaluationOptions(**own_values, label_changes=label_changes_of(options))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.evaluate", description="Score a model, or masks of any other program, on whole scans."
    )
    subject = parser.add_argument_group("what is scored")
    subject.add_argument("--checkpoint", type=Path, help="a model's .state file")
    subject.add_argument(
        "--mask", type=Path, metavar="DIR", help="masks of any program: <series_uid>.nii.gz or <series_uid>_mask.nii.gz"
    )
    subject.add_argument(
        "--findings",
        type=Path,
        metavar="CSV",
        help="findings in LUNA16's submission columns; with --mask in place of the mask's connected components, "
        "alone for FROC without masks, and with --annotations without scans",
    )
    add_detection_options(parser, without_model="with --mask 0")
    add_scan_options(parser)
    add_label_options(parser, of_checkpoint=True)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for tables and pictures (default: data/evaluation/<name>)"
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap (default: %(default)s)")
    return parser


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    scans = parser.add_argument_group("scans and annotations")
    scans.add_argument(
        "--data-dir",
        type=Path,
        default=Folders.data_dir,
        help="LUNA16's subset*/ and CSV files (default: %(default)s)",
    )
    which = scans.add_mutually_exclusive_group()
    which.add_argument(
        "--val-stride",
        type=positive_int,
        help="every such series, as in training (default: what the checkpoint was trained with; with --mask 10)",
    )
    which.add_argument(
        "--all",
        action="store_true",
        help="all series, also those that a model was trained on (default with --findings alone)",
    )
    which.add_argument("--series-uid", help="this series alone")
    which.add_argument("--series", type=Path, metavar="FILE", help="the series of a list, one UID a line")
    scans.add_argument(
        "--annotations", type=Path, metavar="CSV", help="the nodules, in place of those of the CSV files in --data-dir"
    )
    scans.add_argument(
        "--excluded",
        type=Path,
        metavar="CSV",
        help="findings in these places count for nothing (default: annotations_excluded.csv in --data-dir, if any)",
    )
