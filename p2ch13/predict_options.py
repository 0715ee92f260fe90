"""The command line of prediction. Nothing here imports torch: --help and a mistyped option are answered at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ch13.config import AUTO_THREADS, MIN_DIAMETER_MM, NODULE_THRESHOLD, PRECISIONS
from p2ch13.detection_options import add_detection_options

FORMATS = ("nii.gz", "mha", "nrrd")


@dataclass(frozen=True)
class PredictOptions:
    """What to search for nodules, with which model, and what to write; see `build_parser`."""

    scans: tuple[Path, ...]
    checkpoint: Path
    network: str | None
    output: Path
    format: str = FORMATS[0]
    probability: bool = False
    dicom_seg: bool = False
    lung_mask: bool = True
    tta: bool = False
    threshold: float = NODULE_THRESHOLD
    min_diameter: float = MIN_DIAMETER_MM
    series_uid: str | None = None
    precision: str = PRECISIONS[0]
    threads: int | str = AUTO_THREADS


def parse_options(sys_argv: Sequence[str] | None = None) -> PredictOptions:
    """The options of a command line, or of this process's."""
    options = vars(build_parser().parse_args(sys_argv))
    return PredictOptions(**{**options, "scans": tuple(options["scans"])})


def build_parser() -> argparse.ArgumentParser:
    default = PredictOptions
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.predict",
        description="Mark the lung nodules of whole scans.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "scans",
        type=Path,
        nargs="+",
        metavar="SCAN",
        help=".mhd, .mha, .nii, .nii.gz or .nrrd; a folder with a DICOM series; a folder of any of these",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .state file of training, or of the book")
    parser.add_argument("--output", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--series-uid", help="which DICOM series, where a folder has several (default: the largest)")

    add_detection_options(parser)
    outputs = parser.add_argument_group("what is written, besides nodules.csv and pictures")
    outputs.add_argument("--format", choices=FORMATS, default=default.format, help="of masks and probability maps")
    outputs.add_argument("--probability", action="store_true", help="a map of each voxel's probability, too")
    outputs.add_argument(
        "--dicom-seg", action="store_true", help="a DICOM Segmentation object for each DICOM series, too"
    )
    return parser
