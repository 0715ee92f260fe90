"""Splits of the scans into training, validation and test, by patient."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from p2ch13.config import SplitOptions
from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import atomic_write
from p2ch13.volumes.files import no_such_series

log = logging.getLogger(__name__)

SPLITS_FILE = "splits.json"


class Splits(NamedTuple):
    """Series UIDs of the three parts, sorted; no patient is in two of them."""

    training: list[str]
    validation: list[str]
    test: list[str]


def make_splits(scans: Mapping[str, Path], patients: Mapping[str, str], options: SplitOptions) -> Splits:
    """Split scans by a file, by a subset of LUNA16, or by strides.

    Args: scans: series UID -> file, sorted by UID; patients: series UID -> patient.
    Raises: InputError if a part that is asked for has no series.
    """
    if options.splits is not None:
        splits = read_splits(options.splits, scans, patients)
    elif options.fold is not None:
        splits = split_by_fold(scans, patients, options.fold, options.test_stride)
    else:
        test, rest = take_every(list(scans), patients, options.test_stride)
        validation, training = take_every(rest, patients, options.val_stride)
        splits = Splits(training, validation, test)
    if not splits.training or not splits.validation:
        counts = f"{len(splits.training)} training and {len(splits.validation)} validation scans of {len(scans)}"
        raise InputError(f"{counts}: choose another split, or add scans", option=option_of(options))
    return splits


def option_of(options: SplitOptions) -> str:
    """Return the option that decides the split."""
    if options.splits is not None:
        return "--splits"
    return "--val-stride" if options.fold is None else "--fold"


def split_by_fold(scans: Mapping[str, Path], patients: Mapping[str, str], fold: int, test_stride: int) -> Splits:
    """Take the scans of one of LUNA16's subsets for validation; its patients' other scans are in no part."""
    validation = [series_uid for series_uid, path in scans.items() if subset_of(path) == fold]
    known = {patients[series_uid] for series_uid in validation}
    others = [series_uid for series_uid in scans if patients[series_uid] not in known]
    test, training = take_every(others, patients, test_stride)
    return Splits(training, validation, test)


def subset_of(path: Path) -> int | None:
    """Return the number of the subset in whose folder a scan lies."""
    match = re.fullmatch(r"subset([0-9]+)", path.parent.name)
    return int(match[1]) if match else None


def take_every(series_list: Sequence[str], patients: Mapping[str, str], stride: int) -> tuple[list[str], list[str]]:
    """Take every `stride`-th patient, from the first; patients are in the order of their first series. 0 takes none.

    Returns: their series, and the others.
    """
    order = list(dict.fromkeys(patients[series_uid] for series_uid in series_list))
    taken = set(order[::stride]) if stride else set()
    return (
        [series_uid for series_uid in series_list if patients[series_uid] in taken],
        [series_uid for series_uid in series_list if patients[series_uid] not in taken],
    )


def split_series(
    series_list: Sequence[str],
    patients: Mapping[str, str],
    val_stride: int,
    is_val_set: bool | None,
    series_uid: str | None = None,
) -> list[str]:
    """Select one side of the book's split: every `val_stride`-th patient, from the first, is for validation; 0: all.

    Raises: InputError if no series is left, ValueError for contradictory arguments.
    """
    if is_val_set and val_stride <= 0:
        raise ValueError("a validation set needs a val_stride of at least 1")
    chosen = [uid for uid in series_list if series_uid in (None, uid)]
    if series_uid is not None and not chosen:
        raise no_such_series(series_uid)
    validation, training = take_every(chosen, patients, val_stride)
    chosen = validation if is_val_set else training
    if not chosen:
        raise InputError(
            f"a stride of {val_stride} leaves none of the {len(series_list)} scans for training; choose another, or "
            "add scans",
            option="--val-stride",
        )
    return chosen


def write_splits(path: Path, splits: Splits) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(splits._asdict(), indent=1).encode())


def read_splits(path: Path, scans: Mapping[str, Path], patients: Mapping[str, str]) -> Splits:
    """Read the splits that a run has written; those of its series that are not on disk are skipped with a warning.

    Raises: InputError if this is no such file, or a series or patient is in two parts.
    """
    with errors_naming(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
        parts = [content.get(name, []) for name in Splits._fields]
        is_valid = all(isinstance(part, list) and all(isinstance(uid, str) for uid in part) for part in parts)
    except (ValueError, AttributeError):
        is_valid = False
    if not is_valid:
        raise InputError(f"no {SPLITS_FILE}: lists of series UIDs named {', '.join(Splits._fields)}", path=path)
    check_disjoint(path, parts, patients)
    splits = Splits(*(sorted(uid for uid in part if uid in scans) for part in parts))
    missing_count = sum(map(len, parts)) - sum(map(len, splits))
    if missing_count:
        log.warning(f"{path}: {missing_count} of its {sum(map(len, parts))} series are not on disk.")
    return splits


def check_disjoint(path: Path, parts: Sequence[Sequence[str]], patients: Mapping[str, str]) -> None:
    """Raises: InputError if a series is listed twice, or a patient in two parts."""
    part_of: dict[str, tuple[str, str]] = {}  # patient -> part and series
    listed: set[str] = set()
    for name, part in zip(Splits._fields, parts, strict=True):
        for series_uid in part:
            if series_uid in listed:
                raise InputError(f"series {series_uid} is listed twice; remove one", path=path)
            listed.add(series_uid)
            other_name, other = part_of.setdefault(patients.get(series_uid, series_uid), (name, series_uid))
            if other_name != name:
                message = f"{series_uid} of {name} and {other} of {other_name} are of one patient; move one of them"
                raise InputError(message, path=path)
