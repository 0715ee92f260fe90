"""The options of a command line that say how nodules are marked. Nothing here imports more than they need."""

from __future__ import annotations

import argparse
from pathlib import Path

from p2ch13.config import LABEL_KINDS, MASK_THRESHOLD_HU, MISSING_XML_CHOICES, REFINED_THRESHOLD_HU, LabelOptions


def add_label_options(parser: argparse.ArgumentParser, default: str | None = LabelOptions.kind) -> None:
    """The same options for every command that needs masks; those that are not given are left out of the result.

    Args: default: the kind of labels if none is named; None leaves it to the command.
    """
    labels = parser.add_argument_group("labels: what is taken for the outline of a nodule")
    labels.add_argument(
        "--labels",
        choices=LABEL_KINDS,
        default=default,
        help="the book's box, the same without attached vessels, or what at least half of LIDC-IDRI's readers outlined"
        + (" (default: those that the checkpoint was trained with)" if default is None else ""),
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
        default=LabelOptions.missing_xml,
        help="for lidc: mark scans without XML with the book's box, or leave them out",
    )


def label_options_of(args: argparse.Namespace) -> LabelOptions:
    """What a command line says. Raises: InputError if that makes no sense."""
    given = vars(args)
    lidc_xml = Path(given["lidc_xml"]) if "lidc_xml" in given else None
    return LabelOptions(args.labels or LabelOptions.kind, given.get("threshold_hu"), lidc_xml, args.missing_xml)
