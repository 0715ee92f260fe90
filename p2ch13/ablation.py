"""Train a preset with one option left out at a time, and compare the scores, all by the same labels."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.commands import spell
from p2ch13.config import (
    AUGMENTATION,
    BOOK_AUGMENTATION,
    OF_PRESET,
    PRESETS,
    AblationOptions,
    EpochOptions,
    Folders,
    LabelOptions,
    SplitOptions,
    TrainingConfig,
    make_parser,
)
from p2ch13.training.options import parse_config
from p2ch13.util.errors import run_command
from p2ch13.util.files import atomic_write, make_writable_folder
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import add_options, as_arguments, list_options, merge
from p2ch13.util.outcome import Outcome

log = logging.getLogger(__name__)

# Columns of the table: name, keys of the value in a run's scores, decimals.
COLUMNS: tuple[tuple[str, tuple[str, str], int], ...] = (
    ("nodules found", ("nodules", "recall"), 2),
    ("false positives a scan", ("findings", "false_positives_per_scan"), 1),
    ("CPM", ("froc", "cpm"), 2),
    ("voxel recall", ("voxels", "recall"), 2),
    ("voxel precision", ("voxels", "precision"), 2),
    ("voxel Dice", ("voxels", "dice"), 2),
)


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Train and score every variant with every seed; print and write one table.

    Scores are kept: a study that was stopped continues when it is started again.
    Raises: InputError for folders or data that cannot be used.
    """
    options = parse_options(sys_argv)
    from p2ch13.training.provenance import get_commit, get_versions  # imports torch

    set_up_logging(to_stderr=options.json)
    make_writable_folder(options.output, "--output")
    variants = with_labels(list_variants(options.preset), options)
    code = {"commit": get_commit(), "versions": get_versions()}
    if is_changed(code) and not options.any_commit:
        log.warning("The code has changes that are not committed: scores are not reused, neither old ones nor these.")
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = [(name, seed) for seed in seeds for name in variants]
    for ndx, (name, seed) in enumerate(runs, start=1):
        log.info(f"Run {ndx} of {len(runs)}: {name}, seed {seed}")
        records[name].append(get_record(options, name, variants[name], seed, code))
        with atomic_write(options.output / "ablation.md") as file:
            file.write(format_report(records).encode())
    table = options.output / "ablation.md"
    lines = [format_report(records), f"Table: {table}, with the scores of each run beside it"]
    return Outcome(lines, {"table": table, "variants": scores_of(records)}).finish(options.json)


def parse_options(sys_argv: Sequence[str] | None = None) -> AblationOptions:
    parser = make_parser(AblationOptions, spell("ablation"), __doc__)
    add_options(parser, LabelOptions, default=OF_PRESET)
    given = vars(parser.parse_args(sys_argv))
    changes = {name: given.pop(name) for name in list_options(LabelOptions) if name in given}
    return merge(AblationOptions, given, {"label_changes": changes})


def list_variants(preset: str) -> dict[str, list[str]]:
    """List name -> arguments of training: the preset, the preset without each of its options, and the book's.

    The book's augmentation is one option here, further augmentation another, the shape of the network a third. The
    criterion of the best model stays, since all runs end with their last one.
    """
    in_book = [f"augment_{name}" for name in BOOK_AUGMENTATION]
    not_in_book = [f"augment_{name}" for name in AUGMENTATION if name not in BOOK_AUGMENTATION]
    network = ["filters", "space_to_depth"]  # as many filters at full resolution would take several times as long
    groups = {
        "blocks of pixels and filters": network,
        "the book's augmentation": in_book,
        "further augmentation": not_in_book,
    }
    left_alone = {*network, *in_book, *not_in_book, "val_negatives", "best_metric"}
    groups |= {name.replace("_", "-"): [name] for name in PRESETS[preset] if name not in left_alone}
    base = as_arguments({"preset": preset})
    without = {
        f"without {title}": [*base, *as_arguments({name: getattr(TrainingConfig, name) for name in group})]
        for title, group in groups.items()
    }
    return {preset: base, **without, "book": ["--preset=book", "--augmented"]}


def with_labels(variants: Mapping[str, Sequence[str]], options: AblationOptions) -> dict[str, list[str]]:
    """Give all variants the labels that the options name, if any; there is none without labels then."""
    if not options.label_changes:
        return {name: list(arguments) for name, arguments in variants.items()}
    labels = as_arguments(scoring_labels(options).as_dict())
    return {name: [*arguments, *labels] for name, arguments in variants.items() if name != "without labels"}


def get_record(
    options: AblationOptions, name: str, arguments: Sequence[str], seed: int, code: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a run's scores and all that they depend on, from its file if that is of the same run; see `is_reusable`.

    Args: arguments: those of training that make the variant.
    """
    split = vars(options.part(SplitOptions)) if options.splits is None else {"splits": options.splits}
    common = [vars(options.part(Folders)), vars(options.part(EpochOptions)), split]
    command_line = [*arguments, *as_arguments({name: value for part in common for name, value in part.items()})]
    command_line.append(f"--seed={seed}")
    path = options.output / (re.sub(r"\W", "_", f"{name}_{seed}") + ".json")
    record = {**describe_run(command_line, scoring_labels(options)), **code}
    stored = read_json(path)
    if is_reusable(stored, record, options.any_commit):
        log.info(f"Scored before, in {path}")
        return stored
    record["scores"] = train_and_score(command_line, scoring_labels(options))
    with atomic_write(path) as file:
        file.write(json.dumps(record, indent=1, allow_nan=False).encode())
    return record


def is_reusable(stored: Mapping[str, Any], record: Mapping[str, Any], any_commit: bool) -> bool:
    """Whether stored scores are of the same options, data, versions and commit.

    Code with uncommitted changes never is the same. With `any_commit` the commit does not matter. Incomplete files are
    not reusable.
    """
    if is_changed(record) and not any_commit:
        return False
    keys = [key for key in record if not (any_commit and key == "commit")]
    return {"commit", "scores"} <= stored.keys() and all(stored.get(key) == record[key] for key in keys)


def is_changed(code: Mapping[str, Any]) -> bool:
    """Whether the code has uncommitted changes; outside of a repository it has none."""
    return str(code["commit"]).endswith("+changes")


def describe_run(command_line: Sequence[str], labels: LabelOptions) -> dict[str, Any]:
    """Return the options of a run, its split, and fingerprints of the data that it is trained and scored on.

    Args: labels: those that it is scored by.
    """
    from p2ch13.data.index import ScanIndex
    from p2ch13.data.splits import make_splits
    from p2ch13.labels.candidates import find_excluded_file
    from p2ch13.training.provenance import fingerprint_data

    config = parse_config(command_line)
    data_dir = config.folders.data_dir
    trained_on, scored_by = (ScanIndex(data_dir, each) for each in (config.label_options, labels))
    excluded_file = find_excluded_file(data_dir)
    return {
        "settings": {**config.as_dict(), **AUGMENTATION, "scored_by": labels.labels},
        "data": [
            fingerprint_data(trained_on, trained_on.series_list, config.crop_choice),
            fingerprint_data(scored_by, scored_by.series_list),
        ],
        "splits": make_splits(trained_on.layout.scans, trained_on.patients, config)._asdict(),
        "excluded": hashlib.sha256(excluded_file.read_bytes()).hexdigest() if excluded_file else None,
    }


def scoring_labels(options: AblationOptions) -> LabelOptions:
    """Return the labels by which all variants are scored: the preset's, or those that the options name."""
    return merge(TrainingConfig, PRESETS[options.preset]).label_options.changed(options.label_changes)


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's content; nothing if it is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def train_and_score(command_line: Sequence[str], labels: LabelOptions) -> dict[str, Any]:
    """Train, and score the last model on the validation series' whole scans, by the rules of `p2ch13.evaluate`.

    The best model would be chosen on the scans that it is then scored on. All variants are scored by the same
    `labels`, whatever they were trained with.
    """
    # torch takes seconds to import
    from p2ch13.data.index import ScanIndex
    from p2ch13.detection.detector import Detector, detect
    from p2ch13.evaluation.external import read_excluded_by_series
    from p2ch13.evaluation.scoring import score_scan
    from p2ch13.evaluation.summary import summarize
    from p2ch13.labels.candidates import find_excluded_file
    from p2ch13.training.app import SegmentationTrainingApp

    app = SegmentationTrainingApp(command_line)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    for epoch_ndx in range(1, app.config.epochs + 1):
        log.info(f"E{epoch_ndx} trn {app.do_training(epoch_ndx, train_ds)}")
    index = ScanIndex(app.config.folders.data_dir, labels)
    excluded = read_excluded_by_series(find_excluded_file(app.config.folders.data_dir), index.layout.scans)
    scans = []
    for series_uid in val_ds.series_list:
        ct = index.get_ct(series_uid)
        found = detect(ct, Detector(app.learner.evaluated_model))
        scans.append(score_scan(ct, found.labels, found.findings, excluded.get(series_uid, ())))
    scores: dict[str, Any] = summarize(scans).as_dict()
    return scores


def scores_of(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    return {name: [record["scores"] for record in runs] for name, runs in records.items()}


def format_report(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Format the table of all runs, and below it the commits of their scores, if there are several."""
    table = format_table(scores_of(records))
    commits = sorted({str(record["commit"]) for runs in records.values() for record in runs})
    return (
        table if len(commits) < 2 else f"{table}\nScores of {len(commits)} commits of the code: {', '.join(commits)}.\n"
    )


def format_table(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Format a Markdown table: mean and standard deviation over the seeds."""
    lines = [["", *(name for name, _, _ in COLUMNS)], ["---", *("---:" for _ in COLUMNS)]]
    for name, runs in scores.items():
        if runs:
            lines.append([name, *(format_values([run[a][b] for run in runs], digits) for _, (a, b), digits in COLUMNS)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def format_values(values: Sequence[float | None], digits: int) -> str:
    """Format `mean ± standard deviation` of the values that are defined."""
    defined = [value for value in values if value is not None]
    if len(defined) < 2:
        return f"{defined[0]:.{digits}f}" if defined else "-"
    return f"{statistics.mean(defined):.{digits}f} ± {statistics.stdev(defined):.{digits}f}"


if __name__ == "__main__":
    run_command(main)
