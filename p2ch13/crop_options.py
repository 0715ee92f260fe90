"""The options of a command line that decide which crops are cached: the same for precache.py and training."""

from __future__ import annotations

import argparse
import shlex

from p2ch13.config import CropChoice, Folders, LabelOptions, TrainingConfig
from p2ch13.util.options import non_negative_number, share


def add_slice_distance(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--slice-spacing-mm",
        type=non_negative_number,
        metavar="MM",
        default=TrainingConfig.slice_spacing_mm,
        help="between a slice and the next that the network sees with it; 0: those right beside it",
    )


def add_negatives(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--negatives",
        type=share,
        default=TrainingConfig.negatives,
        help="share of each batch without a nodule at its centre",
    )


def add_off_centre(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--all-nodule-slices",
        action=argparse.BooleanOptionalAction,
        default=TrainingConfig.all_nodule_slices,
        help="crops of all slices of a nodule, not of its centre alone",
    )


def precache_command(folders: Folders, labels: LabelOptions, choice: CropChoice, negatives: float) -> str:
    """What to type to have all in the cache that training with these options reads.

    Args: negatives: their share of the samples.
    """
    options = {
        "--data-dir": folders.data_dir,
        "--cache-dir": folders.cache_dir,
        "--labels": labels.kind,
        "--threshold-hu": labels.threshold_hu,
        "--lidc-xml": labels.lidc_xml,
        "--missing-xml": labels.missing_xml if labels.kind == "lidc" else None,
        "--slice-spacing-mm": choice.slice_spacing_mm or None,
        "--negatives": negatives or None,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return shlex.join(["python", "precache.py", *given, *(["--all-nodule-slices"] if choice.all_nodule_slices else [])])
