"""The options of a command line that say how nodules are marked. Nothing here imports more than they need."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from p2ch13.config import LABEL_KINDS, MASK_THRESHOLD_HU, MISSING_XML_CHOICES, REFINED_THRESHOLD_HU, LabelOptions


def add_label_options(parser: argparse.ArgumentParser, of_checkpoint: bool = False) -> None:
    """The same options for every command that needs masks.

    Args: of_checkpoint: those that are not given are left out of the result, and are the checkpoint's.
    """
    labels = parser.add_argument_group("labels: what is taken for the outline of a nodule")
    unless_given = " (default: as the checkpoint was trained)" if of_checkpoint else ""
    labels.add_argument(
        "--labels",
        choices=LABEL_KINDS,
        default=argparse.SUPPRESS if of_checkpoint else LabelOptions.kind,
        help="the book's box, the same without what is attached to the nodule, or what at least half of LIDC-IDRI's "
        f"readers outlined{unless_given}",
    )
    labels.add_argument(
        "--threshold-hu",
        type=int,
        default=argparse.SUPPRESS,
        help=f"border between lung and tissue (default: {MASK_THRESHOLD_HU}, for refined {REFINED_THRESHOLD_HU})",
    )
    labels.add_argument(
        "--lidc-xml", metavar="DIR", default=argparse.SUPPRESS, help="the readers' XML files, anywhere below, for lidc"
    )
    labels.add_argument(
        "--missing-xml",
        choices=MISSING_XML_CHOICES,
        default=argparse.SUPPRESS if of_checkpoint else LabelOptions.missing_xml,
        help="for lidc: mark scans without XML with the book's box, or leave them out",
    )


def label_options_of(args: argparse.Namespace) -> LabelOptions:
    """What a command line says. Raises: InputError if that makes no sense."""
    return LabelOptions(**label_changes_of(args))


def label_changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of LabelOptions that a command line has given."""
    given = {"kind" if name == "labels" else name: value for name, value in vars(args).items()}
    changes = {field.name: given[field.name] for field in fields(LabelOptions) if field.name in given}
    if "lidc_xml" in changes:
        changes["lidc_xml"] = Path(changes["lidc_xml"])
    return changes


def change_labels(labels: LabelOptions, changes: Mapping[str, Any]) -> LabelOptions:
    """Other labels; threshold and files of one kind mean nothing to another. Raises: InputError for no sense."""
    if changes.get("kind", labels.kind) != labels.kind:
        labels = LabelOptions(missing_xml=labels.missing_xml)
    return replace(labels, **changes)
