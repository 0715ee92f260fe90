"""The options of a command line that say what counts as nodule in a whole scan: the same for predict and evaluate."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from p2ch13.config import AUTO_THREADS, MIN_DIAMETER_MM, NODULE_THRESHOLD, PRECISIONS, THREADS_HELP
from p2ch13.util.options import non_negative_number, probability, thread_count


class DetectionOptions(Protocol):
    """What `add_detection_options` gives, as predict and evaluate hold it."""

    @property
    def threshold(self) -> float: ...
    @property
    def min_diameter(self) -> float: ...
    @property
    def lung_mask(self) -> bool: ...
    @property
    def tta(self) -> bool: ...
    @property
    def precision(self) -> str: ...


def detection_arguments(options: DetectionOptions) -> dict[str, Any]:
    """The arguments of `segmentation.detect` that a command line decides."""
    return {
        "threshold": options.threshold,
        "min_diameter_mm": options.min_diameter,
        "lung_mask": options.lung_mask,
        "tta": options.tta,
        "precision": options.precision,
    }


def add_detection_options(parser: argparse.ArgumentParser, without_model: str = "") -> None:
    """Args: without_model: what `--min-diameter` is where no model is used; it then is None if it was not given."""
    search = parser.add_argument_group("what counts as nodule")
    search.add_argument(
        "--threshold",
        type=probability,
        default=NODULE_THRESHOLD,
        help="probability of its voxels (default: %(default)s)",
    )
    search.add_argument(
        "--min-diameter",
        type=non_negative_number,
        metavar="MM",
        default=None if without_model else MIN_DIAMETER_MM,
        help="of the sphere of its volume; smaller ones are left out "
        f"(default: {MIN_DIAMETER_MM:g}{without_model and f', {without_model}'})",
    )
    search.add_argument(
        "--lung-mask",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search the lungs only, and keep what lies in them or touches them (default: yes)",
    )
    search.add_argument("--tta", action="store_true", help="average over flipped slices; takes four times as long")
    search.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of convolutions; auto is bf16 where the processor calculates in it (default: %(default)s)",
    )
    parser.add_argument(
        "--network",
        metavar="MODULE:CLASS",
        help="the checkpoint's network, if it is not the package's: its code is imported for this option alone",
    )
    parser.add_argument(
        "--threads",
        type=thread_count,
        metavar="auto|N",
        default=AUTO_THREADS,
        help=f"{THREADS_HELP} (default: %(default)s)",
    )
