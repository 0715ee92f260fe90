"""Splits of the scans into training, validation and test, by patient."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from p2ch13.config import SplitOptions
from p2ch13.util.errors import InputError, errors_naming
from p2ch13.util.files import atomic_write
from p2ch13.volumes.files import no_such_series

log = logging.getLogger(__name__)

SPLITS_FILE = "splits.json"
FOLD_COUNT = 10  # LUNA16's


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
    else:
        # The test scans first, so that they are the same in all folds.
        if options.test_fold is None:
            test, rest = take_every(list(scans), patients, options.test_stride)
        else:
            test, rest = take_test_fold(scans, patients, options.test_fold)
        if options.fold is None:
            validation, training = take_every(rest, patients, options.val_stride)
        else:
            validation, training = take_fold({uid: scans[uid] for uid in rest}, patients, options.fold)
        splits = Splits(training, validation, test)
    if not splits.training or not splits.validation:
        counts = f"{len(splits.training)} training and {len(splits.validation)} validation scans of {len(scans)}"
        patient_count = len({patients[series_uid] for series_uid in scans})
        message = f"{counts}, of {patient_count} patients: choose another split, add scans, or correct patients.csv"
        raise InputError(message, option=option_of(options, splits))
    return splits


def option_of(options: SplitOptions, splits: Splits) -> str:
    """Return the option that decides a split, or its part for testing, if that has taken all."""
    if options.splits is not None:
        return "--splits"
    if not splits.training and not splits.validation:
        return "--test-stride" if options.test_fold is None else "--test-fold"
    return "--val-stride" if options.fold is None else "--fold"


def take_fold(scans: Mapping[str, Path], patients: Mapping[str, str], fold: int) -> tuple[list[str], list[str]]:
    """Take the scans of one of LUNA16's subsets.

    Returns: their series, and those of other patients.
    Raises: InputError if there is none in `subset<fold>`.
    """
    taken = [series_uid for series_uid, path in scans.items() if subset_of(path) == fold]
    if not taken:
        found = sorted({number for path in scans.values() if (number := subset_of(path)) is not None})
        here = f"the scans are in {', '.join(f'subset{number}' for number in found)}" if found else "there is no subset"
        raise InputError(f"no scan in subset{fold}; {here}", option="--fold")
    return taken, without_patients_of(taken, scans, patients)


def without_patients_of(taken: Iterable[str], scans: Iterable[str], patients: Mapping[str, str]) -> list[str]:
    """List the scans of other patients than those of the taken ones."""
    taken_patients = {patients[series_uid] for series_uid in taken}
    return [series_uid for series_uid in scans if patients[series_uid] not in taken_patients]


def find_folds(scans: Mapping[str, Path], patients: Mapping[str, str]) -> dict[int, list[str]]:
    """Find the folds of a cross-validation: LUNA16's subsets; of scans in fewer than two, every tenth patient each.

    Returns: number -> its series. Scans in folders without a number beside subsets are in no fold.
    """
    folds: dict[int, list[str]] = {}
    numbers = {series_uid: subset_of(path) for series_uid, path in scans.items()}
    if not has_subsets(scans):
        order = list(dict.fromkeys(patients[series_uid] for series_uid in scans))
        numbers = {series_uid: order.index(patients[series_uid]) % FOLD_COUNT for series_uid in scans}
    for series_uid, number in numbers.items():
        if number is not None:
            folds.setdefault(number, []).append(series_uid)
    return dict(sorted(folds.items()))


def has_subsets(scans: Mapping[str, Path]) -> bool:
    """Whether scans lie in two of LUNA16's subsets or more."""
    return len({subset_of(path) for path in scans.values()} - {None}) > 1


def take_test_fold(scans: Mapping[str, Path], patients: Mapping[str, str], fold: int) -> tuple[list[str], list[str]]:
    """Take a fold's series. Returns: them, and those of other patients. Raises: InputError if there is no such fold."""
    folds = find_folds(scans, patients)
    if fold not in folds:
        message = f"no fold {fold}; there are {', '.join(map(str, folds)) or 'none'}"
        raise InputError(message, option="--test-fold")
    return folds[fold], without_patients_of(folds[fold], scans, patients)


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
    if not path.is_file():
        raise InputError(f"no such file; name the {SPLITS_FILE} of a run", path=path)
    with errors_naming(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        parts = parse_splits(json.loads(text))
    except (ValueError, RecursionError):
        message = f"no {SPLITS_FILE}: lists of series UIDs named {', '.join(Splits._fields)}"
        raise InputError(message, path=path) from None
    check_disjoint(path, parts, patients)
    splits = Splits(*([uid for uid in part if uid in scans] for part in parts))
    missing_count = sum(map(len, parts)) - sum(map(len, splits))
    if missing_count:
        log.warning(f"{path}: {missing_count} of its {sum(map(len, parts))} series are not on disk.")
    return splits


def parse_splits(content: Any) -> Splits:
    """Read the parts of a split, of which some may be missing. Raises: ValueError for anything else."""
    if not isinstance(content, dict) or content.keys().isdisjoint(Splits._fields):
        raise ValueError("no parts of a split")
    parts = [content.get(name, []) for name in Splits._fields]
    if not all(isinstance(part, list) and all(isinstance(uid, str) for uid in part) for part in parts):
        raise ValueError("parts that are no lists of series UIDs")
    return Splits(*map(sorted, parts))


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
