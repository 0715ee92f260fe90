"""Train a preset with one option left out at a time, and compare: which of them earn their place?"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from p2ch13.config import AUGMENTATION, BOOK_AUGMENTATION, PRESETS, LabelOptions, TrainingConfig
from p2ch13.training.options import parse_config
from p2ch13.util.errors import run_command
from p2ch13.util.files import atomic_write, make_writable_folder
from p2ch13.util.launch import Launch
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import non_negative_int, positive_int

log = logging.getLogger(__name__)

# What the table shows: a column's name, where a run's scores have it, decimals.
COLUMNS: tuple[tuple[str, tuple[str, str], int], ...] = (
    ("nodules found", ("nodules", "recall"), 2),
    ("false positives a scan", ("findings", "false_positives_per_scan"), 1),
    ("CPM", ("froc", "cpm"), 2),
    ("voxel recall", ("voxels", "recall"), 2),
    ("voxel precision", ("voxels", "precision"), 2),
    ("voxel Dice", ("voxels", "dice"), 2),
)


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Train and score every variant with every seed; print and write one table.

    A run's scores are kept: a study that was stopped goes on when it is started again.
    Raises: InputError for folders or data that cannot be used.
    """
    args = build_parser().parse_args(sys_argv)
    set_up_logging(Launch())
    make_writable_folder(args.output, "--output")
    variants = list_variants(args.preset)
    code = describe_code()
    if is_changed(code) and not args.any_commit:
        log.warning("The code has changes that are not committed: scores are not reused, neither old ones nor these.")
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    runs = [(name, seed) for seed in range(args.first_seed, args.first_seed + args.seeds) for name in variants]
    for ndx, (name, seed) in enumerate(runs, start=1):
        log.info(f"Run {ndx} of {len(runs)}: {name}, seed {seed}")
        records[name].append(get_record(args, name, variants[name], seed, code))
        with atomic_write(args.output / "ablation.md") as file:
            file.write(format_report(records).encode())
    print(format_report(records))
    log.info(f"Written to {args.output / 'ablation.md'}, the scores of each run beside it")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m p2ch13.ablation",
        description=f"{__doc__} All are scored by the preset's labels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--preset", choices=[name for name in PRESETS if PRESETS[name]], default="strong")
    parser.add_argument("--data-dir", default=TrainingConfig.data_dir, help="LUNA16's subset*/ and CSV files")
    parser.add_argument("--cache-dir", default=TrainingConfig.cache_dir, help="what precache.py --preset strong filled")
    parser.add_argument(
        "--val-stride", type=positive_int, default=TrainingConfig.val_stride, help="every such series is for validation"
    )
    parser.add_argument(
        "--any-commit",
        action="store_true",
        help="use scores of other commits of the code, too; the table names them",
    )
    parser.add_argument("--seeds", type=positive_int, default=3, help="runs of each variant")
    parser.add_argument("--first-seed", type=non_negative_int, default=0)
    parser.add_argument("--epochs", type=positive_int, default=1, help="of each run")
    parser.add_argument(
        "--samples-per-epoch", type=positive_int, default=TrainingConfig.samples_per_epoch, help="random crops in each"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("data/ablation"), help="for the table and each run's scores"
    )
    return parser


def list_variants(preset: str) -> dict[str, list[str]]:
    """Name -> options of training: the preset, the preset without each of its options, and the book's.

    What augmentation the book has is one option here, what it has not is another, and the shape of the network a third.
    """
    in_book = [f"augment_{name}" for name in BOOK_AUGMENTATION]
    not_in_book = [f"augment_{name}" for name in AUGMENTATION if name not in BOOK_AUGMENTATION]
    network = ["filters", "space_to_depth"]  # so many filters for all pixels would take several times as long
    groups = {
        "blocks of pixels and filters": network,
        "the book's augmentation": in_book,
        "further augmentation": not_in_book,
    }
    # Not what chooses the best model, since all runs end with their last one.
    left_alone = {*network, *in_book, *not_in_book, "val_negatives", "best_metric"}
    singles = [field for field in PRESETS[preset] if field not in left_alone]
    groups |= {option_name(field): [field] for field in singles}
    base = ["--preset", preset]
    without = {f"without {name}": [*base, *map(leave_out, group)] for name, group in groups.items()}
    return {preset: base, **without, "book": ["--preset", "book", "--augmented"]}


def leave_out(field: str) -> str:
    """The option that gives a field of `TrainingConfig` the book's value, whatever the preset says."""
    default = next(f.default for f in fields(TrainingConfig) if f.name == field)
    return f"--no-{option_name(field)}" if default is False else f"--{option_name(field)}={default}"


def option_name(field: str) -> str:
    return field.replace("_", "-")


def get_record(
    args: argparse.Namespace, name: str, options: Sequence[str], seed: int, code: Mapping[str, Any]
) -> dict[str, Any]:
    """A run's scores and all that they depend on; from its file if there is one of the same run, see `is_reusable`."""
    data = ["--data-dir", args.data_dir, "--cache-dir", args.cache_dir, "--val-stride", str(args.val_stride)]
    length = ["--epochs", str(args.epochs), "--samples-per-epoch", str(args.samples_per_epoch)]
    command_line = [*options, *data, *length, "--seed", str(seed)]
    path = args.output / f"{file_name(name)}_{seed}.json"
    record = {**describe_run(command_line, args.preset), **code}
    stored = read_json(path)
    if is_reusable(stored, record, args.any_commit):
        log.info(f"Scored before, in {path}")
        return stored
    record["scores"] = train_and_score(command_line, args.preset)
    with atomic_write(path) as file:
        file.write(json.dumps(record, indent=1, allow_nan=False).encode())
    return record


def is_reusable(stored: Mapping[str, Any], record: Mapping[str, Any], any_commit: bool) -> bool:
    """Whether stored scores are of the same options, data, versions and commit.

    Code with uncommitted changes is never the same, since nobody knows which they were. With `any_commit` the commit
    does not matter. Files that do not say all of this are of no use.
    """
    if is_changed(record) and not any_commit:
        return False
    keys = [key for key in record if not (any_commit and key == "commit")]
    return {"commit", "scores"} <= stored.keys() and all(stored.get(key) == record[key] for key in keys)


def describe_code() -> dict[str, Any]:
    """The commit of the code and the versions of what it stands on, as plain values."""
    from p2ch13.training.provenance import get_commit, get_versions  # imports torch

    return {"commit": get_commit(), "versions": get_versions()}


def is_changed(code: Mapping[str, Any]) -> bool:
    """Whether the code is not as it was committed. Code that is in no repository passes for its version's."""
    return str(code["commit"]).endswith("+changes")


def describe_run(command_line: Sequence[str], preset: str) -> dict[str, Any]:
    """The options of a run and the data that it is trained and scored on, as plain values."""
    from p2ch13.data.index import ScanIndex
    from p2ch13.labels.candidates import find_excluded_file
    from p2ch13.training.provenance import fingerprint_data

    config = parse_config(command_line)
    data_dir = config.folders.data_dir
    trained_on, scored_by = (ScanIndex(data_dir, labels) for labels in (config.label_options, labels_of(preset)))
    excluded_file = find_excluded_file(data_dir)
    return {
        "settings": {**asdict(config), **AUGMENTATION, "scored_by": PRESETS[preset]["labels"]},
        "data": [
            fingerprint_data(trained_on, trained_on.series_list, config.crop_choice),
            fingerprint_data(scored_by, scored_by.series_list),
        ],
        "excluded": hashlib.sha256(excluded_file.read_bytes()).hexdigest() if excluded_file else None,
    }


def labels_of(preset: str) -> LabelOptions:
    """How nodules are marked by which all variants are scored."""
    return TrainingConfig(**PRESETS[preset]).label_options


def read_json(path: Path) -> dict[str, Any]:
    """A file's content; nothing if it is not there or holds something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def train_and_score(command_line: Sequence[str], preset: str) -> dict[str, Any]:
    """Train, and score the last model on the validation series' whole scans, by the rules of `p2ch13.evaluate`.

    The last one, since the best one would be chosen on the scans that it is then scored on. All variants are scored by
    the preset's labels, whatever they were trained with.
    """
    # Imported here: torch takes seconds, which a mistyped option should not.
    from p2ch13.data.index import ScanIndex
    from p2ch13.detection.segment import detect
    from p2ch13.evaluation.external import read_excluded_by_series
    from p2ch13.evaluation.scoring import score_scan
    from p2ch13.evaluation.summary import summarize
    from p2ch13.labels.candidates import find_excluded_file
    from p2ch13.training.app import SegmentationTrainingApp

    app = SegmentationTrainingApp(command_line)
    train_ds, val_ds = app.init_train_ds(), app.init_val_ds()
    for epoch_ndx in range(1, app.config.epochs + 1):
        log.info(f"E{epoch_ndx} trn {app.do_training(epoch_ndx, train_ds)}")
    app.set_evaluating()
    index = ScanIndex(app.config.folders.data_dir, labels_of(preset))
    excluded = read_excluded_by_series(find_excluded_file(app.config.folders.data_dir))
    scans = []
    for series_uid in val_ds.series_list:
        ct = index.get_ct(series_uid)
        found = detect(ct, app.evaluated_model)
        scans.append(score_scan(ct, found.labels, found.findings, excluded.get(series_uid, ())))
    scores: dict[str, Any] = summarize(scans).as_dict()
    return scores


def format_report(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The table of all runs, and below it the commits that they were scored by, if these are several."""
    table = format_table({name: [record["scores"] for record in runs] for name, runs in records.items()})
    commits = sorted({str(record["commit"]) for runs in records.values() for record in runs})
    return (
        table if len(commits) < 2 else f"{table}\nScores of {len(commits)} commits of the code: {', '.join(commits)}.\n"
    )


def format_table(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A Markdown table: mean and standard deviation over the seeds."""
    lines = [["", *(name for name, _, _ in COLUMNS)], ["---", *("---:" for _ in COLUMNS)]]
    for name, runs in scores.items():
        if runs:
            lines.append([name, *(format_values([run[a][b] for run in runs], digits) for _, (a, b), digits in COLUMNS)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def format_values(values: Sequence[float | None], digits: int) -> str:
    """`mean ± standard deviation` of those that are defined."""
    defined = [value for value in values if value is not None]
    if len(defined) < 2:
        return f"{defined[0]:.{digits}f}" if defined else "-"
    return f"{statistics.mean(defined):.{digits}f} ± {statistics.stdev(defined):.{digits}f}"


if __name__ == "__main__":
    run_command(main)
