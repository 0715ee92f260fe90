"""Checkpoints to score: what their training saw, which scans to score them on, and which of them scores a scan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2ch13.config import BEST_STATE, EvaluationOptions, LabelOptions, TrainingConfig
from p2ch13.data.index import ScanIndex
from p2ch13.data.layouts import find_layout, has_luna16_annotations
from p2ch13.data.splits import read_splits, split_series
from p2ch13.evaluation.external import read_series_file
from p2ch13.network.card import TRAINED_SERIES, Card, read_card, read_trained_series
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.errors import InputError, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Labels and split of a model's training; the default ones for the book's files."""

    path: Path
    labels: LabelOptions = field(default_factory=LabelOptions)
    val_stride: int = TrainingConfig.val_stride
    training: frozenset[str] = frozenset()  # series UIDs, of the networks that it began from as well
    validation: frozenset[str] = frozenset()
    test: frozenset[str] = frozenset()
    is_released: bool = False  # for all scans that it was not trained on, not only for those of its run
    card: Card | None = None

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Raises: InputError if the file cannot be read."""
        state = load_checkpoint(path)
        training, card = read_trained_series(path, state), read_card(path, state)
        try:
            config, series = TrainingConfig.from_dict(state.get("config", {})), state.get("series", {})
            labels = config.label_options
            threshold_hu = None if labels.threshold_hu is None else int(labels.threshold_hu)
            return cls(
                path,
                replace(labels, threshold_hu=threshold_hu),
                int(config.val_stride),
                training,
                frozenset(series.get("val", ())),
                frozenset(state.get("splits", {}).get("test", ())),
                TRAINED_SERIES in state,
                card,
            )
        except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise InputError(f"invalid settings ({one_line(error)}); it is corrupt", path=path) from None


def choose_labels(checkpoints: Sequence[Checkpoint], changes: Mapping[str, Any]) -> LabelOptions:
    """Return the labels that checkpoints were trained with, or the default ones, with changes.

    Raises: InputError if checkpoints differ, and the changes do not say which labels to score by.
    """
    if not checkpoints:
        return LabelOptions().changed(changes)
    chosen = [each.labels.changed(changes) for each in checkpoints]
    for each, labels in zip(checkpoints, chosen, strict=True):
        if labels != chosen[0]:
            message = f"trained with other labels than {checkpoints[0].path}; say which ones to score by"
            raise InputError(message, path=each.path, option="--labels")
    return chosen[0]


def fit_labels(labels: LabelOptions, changes: Mapping[str, Any], data_dir: Path) -> LabelOptions:
    """Return labels that a data folder has: refined ones, if nobody asks for the masks that it lacks.

    Args: labels: of the checkpoints; changes: those of the command line.
    """
    if labels.labels != "mask" or "labels" in changes or not has_luna16_annotations(data_dir):
        return labels
    if find_layout(data_dir).masks.path.is_dir():
        return labels
    log.info(
        "Labels: annotations, as --labels refined marks them; the network was trained with masks, and here are none."
    )
    return LabelOptions(labels="refined")


def choose_unseen(checkpoints: Sequence[Checkpoint], series_uid: str) -> list[Checkpoint]:
    """Choose the checkpoints that a scan says most about.

    These are those whose run kept it for testing; else those that were neither trained nor selected on it; else those
    that were not trained on it; else all.
    """
    held_out = [each for each in checkpoints if series_uid in each.test]
    untrained = [each for each in checkpoints if series_uid not in each.training]
    unseen = [each for each in untrained if series_uid not in each.validation]
    return held_out or unseen or untrained or list(checkpoints)


def name_networks(checkpoints: Sequence[Checkpoint], series_list: Sequence[str]) -> dict[str, list[str]]:
    """Return for each series the names of the networks that score it: their files', or their paths if names repeat."""
    names = {each.path: each.path.stem for each in checkpoints}
    if len(set(names.values())) < len(names):
        names = {path: str(path) for path in names}
    return {uid: [names[each.path] for each in choose_unseen(checkpoints, uid)] for uid in series_list}


def choose_series(options: EvaluationOptions, index: ScanIndex, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Choose the requested series; else the checkpoints' validation series, all for findings, every tenth for masks.

    Those of released networks are all series that one of them was not trained on.
    Raises: InputError if one or all have no scan.
    """
    if options.splits is not None:
        return choose_of_file(options, index, options.splits)
    if options.series is not None:
        return choose_listed(options, index, options.series)
    is_open = options.val_stride is None and options.split is None
    if options.all or options.series_uid or (options.marks_nothing and is_open):
        return split_series(index.all_series, index.patients, 0, None, options.series_uid)
    if is_open and checkpoints and all(each.is_released for each in checkpoints):
        return choose_new(index, checkpoints)
    if options.val_stride is None:
        of_part = {uid for each in checkpoints for uid in (each.test if options.split == "test" else each.validation)}
        chosen = [series_uid for series_uid in index.all_series if series_uid in of_part]
        if chosen:
            if len(chosen) < len(of_part):
                log.warning(f"{len(of_part) - len(chosen)} of the {len(of_part)} scans of this split are not on disk.")
            return chosen
        if options.split is not None:
            message = "no checkpoint names such a scan that is on disk; name a file with --splits"
            raise InputError(message, option="--split")
    val_stride = options.val_stride or (checkpoints[0].val_stride if checkpoints else TrainingConfig.val_stride)
    log.info(f"Scoring every {val_stride}. of {len(index.all_series)} scans; --all scores all of them.")
    return split_series(index.all_series, index.patients, val_stride, True)


def choose_new(index: ScanIndex, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Choose the series that one checkpoint or more was not trained on. Raises: InputError if there is none."""
    chosen = [uid for uid in index.all_series if any(uid not in each.training for each in checkpoints)]
    if not chosen:
        message = (
            f"the network was trained on each of its {len(index.all_series)} scans; --all scores them nevertheless"
        )
        raise InputError(message, path=index.data_dir, option="--all")
    log.info(f"Scoring the {len(chosen)} of {len(index.all_series)} scans that the network was not trained on.")
    return chosen


def choose_of_file(options: EvaluationOptions, index: ScanIndex, path: Path) -> list[str]:
    """Choose a part of a splits.json. Raises: InputError if it is empty, or other series are requested as well."""
    if options.all or options.series_uid or options.series or options.val_stride:
        raise InputError("other options choose the series already; leave them out", option="--splits")
    splits = read_splits(path, index.layout.scans, index.patients)
    chosen = splits.test if options.split == "test" else splits.validation
    if not chosen:
        raise InputError(f"none of its {options.split or 'val'} scans is here; choose another --split", path=path)
    return chosen


def choose_listed(options: EvaluationOptions, index: ScanIndex, path: Path) -> list[str]:
    """Choose the series that a file lists. Raises: InputError if one of them has no scan."""
    chosen = sorted(read_series_file(path, index.layout.scans))
    missing = sorted(set(chosen).difference(index.all_series))
    if missing:
        counts = f"{len(missing)} of its {len(chosen)} series have no scan in {options.data_dir}"
        raise InputError(f"{counts}, such as {missing[0]}", path=path)
    return chosen


def describe_used_scans(checkpoints: Sequence[Checkpoint], chosen: Sequence[str]) -> list[str]:
    """Warn of scans that every network was trained on, and of those that one scores that was selected on them.

    Returns: a sentence for each kind of them that is there.
    """
    subject = f"{checkpoints[0].path} was" if len(checkpoints) == 1 else f"These {len(checkpoints)} networks were"
    scored_by = {uid: choose_unseen(checkpoints, uid) for uid in chosen}
    trained_on = [uid for uid, some in scored_by.items() if any(uid in each.training for each in some)]
    selected_on = [
        uid
        for uid, some in scored_by.items()
        if any(uid in each.validation and each.path.name.endswith(BEST_STATE) for each in some)
    ]
    warnings = []
    if trained_on:
        warnings.append(
            f"{subject} trained on {len(trained_on)} of these {len(chosen)} scans: scores on them say little about "
            "other scans."
        )
    if selected_on:
        warnings.append(
            f"{subject} selected on {len(selected_on)} of these {len(chosen)} scans as the best of a run, and likely "
            "to score better on them than on others. A run's last state was not selected."
        )
    return warnings
