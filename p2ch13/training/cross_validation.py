"""Cross-validation: a network for each fold, scored on the fold that its training has not seen; then all together."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from p2ch13.config import CrossValidationOptions, EvaluationOptions, TrainingConfig
from p2ch13.data.index import ScanIndex
from p2ch13.data.splits import FOLD_COUNT, find_folds, has_subsets
from p2ch13.evaluation.pipeline import evaluate, evaluate_scans
from p2ch13.network.card import read_trained_series
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.network.latest import name_fold
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.options import parse_config
from p2ch13.training.run_files import find_last_states
from p2ch13.util.errors import InputError, Stopped
from p2ch13.util.files import atomic_write, make_writable_folder
from p2ch13.util.options import as_flag, list_options
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank

log = logging.getLogger(__name__)

PLAN_FILE = "cross_validation.json"
TRAINING, LOGS, LOCKS = "training", "runs", ".locks"  # folders
OF_NEW_RUNS = ("--config=", "--init-from=")  # a resumed run has what they led to
OF_ONE_FOLD = ("test_fold", "tb_prefix")


@dataclass(frozen=True)
class CrossValidation:
    """Folds, and what trains and scores each.

    Attributes: folds: number -> series; recipe: arguments of training that all folds share; config: what they mean.
    """

    output: Path
    folds: Mapping[int, Sequence[str]]
    recipe: Sequence[str]
    config: TrainingConfig

    def network(self, fold: int) -> Path:
        """The file of a fold's network; it is there once its training is done."""
        return name_fold(self.output, fold)

    def arguments(self, fold: int) -> list[str]:
        """The command line that trains a fold from the beginning."""
        folders = [f"--models-dir={self.output / TRAINING}", f"--runs-dir={self.output / LOGS}"]
        return [*self.recipe, f"--test-fold={fold}", *folders, f"--tb-prefix={name_run(fold)}"]

    def evaluation(self, folds: Sequence[int]) -> EvaluationOptions:
        """The options that score folds, each scan by the network that kept it for testing."""
        own = self.config
        return EvaluationOptions(
            data_dir=own.data_dir,
            checkpoint=tuple(map(self.network, folds)),
            split="test",
            output=self.output,
            device=own.device,
            precision=own.precision,
            threads=own.threads,
            network=own.network if ":" in own.network else None,
        )


def cross_validate(options: CrossValidationOptions, recipe: Sequence[str], command: str) -> Outcome:
    """Train and score the folds that are not done, then merge the scores if all are.

    Args: recipe: arguments of training that all folds share; command: that goes on if this is stopped.
    Returns: the scores of all folds, or which are still to be done; exit status 1 if a scan was skipped.
    Raises: InputError for data or options that cannot be used, and for a fold that another process is at.
    """
    if not ProcessRank.from_environment().is_alone:
        message = "a fold is trained by one process; start one for each fold, with --fold K"
        raise InputError(message, option="--fold")
    make_writable_folder(options.output, "--output")
    config = parse_config(recipe)
    plan = CrossValidation(options.output, choose_folds(config), recipe, config)
    if options.fold is not None and options.fold not in plan.folds:
        raise InputError(f"no fold {options.fold}; there are {list_numbers(plan.folds)}", option="--fold")
    check_plan(plan)
    elsewhere = []
    with telling_how_to_go_on(command):
        for fold in plan.folds if options.fold is None else [options.fold]:
            try:
                with FileLock(options.output / LOCKS / name_run(fold)).acquire(blocking=False):
                    do_fold(plan, fold)
            except Timeout:
                elsewhere.append(fold)
        if elsewhere == [options.fold]:
            message = f"another process is at fold {options.fold}; wait for it, or choose another fold"
            raise InputError(message, path=options.output, option="--fold")
        return merge_folds(plan)


def choose_folds(config: TrainingConfig) -> dict[int, list[str]]:
    """Find the folds of the data folder, and say which they are. Raises: InputError if there are fewer than two."""
    index = ScanIndex(config.data_dir, config.label_options)
    folds = find_folds(index.layout.scans, index.patients)
    if len(folds) < 2:
        raise InputError("scans of one patient alone make no folds; add scans", path=config.data_dir)
    scan_count = sum(map(len, folds.values()))
    if not has_subsets(index.layout.scans):
        log.info(f"No two subsets in {config.data_dir}: {len(folds)} folds of {scan_count} scans, by patient.")
    elif len(folds) < FOLD_COUNT:
        numbers = list_numbers(folds)
        log.info(
            f"{len(folds)} of LUNA16's {FOLD_COUNT} subsets are in {config.data_dir}, as so many folds: {numbers}."
        )
    return folds


def check_plan(plan: CrossValidation) -> None:
    """Note folds and recipe at the first call. Raises: InputError if they are others than those noted."""
    config = parse_config(plan.arguments(min(plan.folds))).as_dict()
    fixed = {
        name: config[name]
        for name, option in list_options(TrainingConfig).items()
        if not option.spec.get("on_resume") and name not in OF_ONE_FOLD
    }
    wanted = {"recipe": {**fixed, "epochs": config["epochs"]}, "folds": {str(k): v for k, v in plan.folds.items()}}
    path = plan.output / PLAN_FILE
    with FileLock(plan.output / LOCKS / "plan"):
        if not path.exists():
            with atomic_write(path) as file:
                file.write(json.dumps(wanted, indent=1).encode())
    noted = read_plan(path)
    for name, value in wanted["recipe"].items():
        if noted["recipe"].get(name, value) != value:
            before = noted["recipe"][name]
            message = f"the folds there are trained with {before!r}, not {value!r}; give that, or another --output"
            raise InputError(message, path=plan.output, option=as_flag(name))
    if noted["folds"] != wanted["folds"]:
        message = "the folds there are of other scans than the data folder has now; choose another --output"
        raise InputError(message, path=plan.output, option="--output")


def read_plan(path: Path) -> dict[str, Any]:
    """Raises: InputError for another file."""
    try:
        noted = json.loads(path.read_bytes())
        if isinstance(noted["recipe"], dict) and isinstance(noted["folds"], dict):
            return noted  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError("not that of a cross-validation; choose another --output", path=path, option="--output")


def do_fold(plan: CrossValidation, fold: int) -> None:
    """Train a fold's network, unless that is done, and score the scans that have no scores yet."""
    if not plan.network(fold).exists():
        log.info(f"Fold {fold} of {list_numbers(plan.folds)}: training.")
        train_fold(plan, fold)
    log.info(f"Fold {fold}: scored with {plan.network(fold)}.")
    evaluate_scans(plan.evaluation([fold]))


def train_fold(plan: CrossValidation, fold: int) -> None:
    """Train, or resume the run that was stopped. Raises: InputError for first weights that have seen the fold."""
    folder = plan.output / TRAINING / name_run(fold)
    arguments = plan.arguments(fold)
    if find_last_states(folder):
        arguments = [each for each in arguments if not each.startswith(OF_NEW_RUNS)]
        arguments.append("--resume")
    app = SegmentationTrainingApp(arguments)
    check_unseen(plan, fold, app.run.init_series, "--init-from")
    log.info("\n".join(app.main().lines))
    files = app.run.files
    state_path = files.best if files.best.exists() else files.last
    check_unseen(plan, fold, read_trained_series(state_path, load_checkpoint(state_path)), "--backgrounds")
    with atomic_write(plan.network(fold)) as file:
        file.write(state_path.read_bytes())


def check_unseen(plan: CrossValidation, fold: int, trained: Iterable[str], option: str) -> None:
    """Raises: InputError, with the option that has brought them, if scans of the fold are among these."""
    seen = set(trained).intersection(plan.folds[fold])
    if seen:
        counts = f"{len(seen)} of the {len(plan.folds[fold])} scans of fold {fold}, such as {min(seen)}"
        raise InputError(f"holds {counts}, which are to be tested; leave it out", option=option)


def merge_folds(plan: CrossValidation) -> Outcome:
    """Write the scores of all folds, if all are done."""
    missing = [fold for fold in plan.folds if not plan.network(fold).exists()]
    if missing:
        line = f"To be done, or at work elsewhere: fold {list_numbers(missing)}. The last one writes the scores of all."
        return Outcome([line], {"folder": plan.output, "missing": missing})
    options = plan.evaluation(list(plan.folds))
    with FileLock(plan.output / LOCKS / "merge"):
        return evaluate(options, keeps_scans=True)


def name_run(fold: int) -> str:
    return f"fold{fold}"


def list_numbers(folds: Sequence[int] | Mapping[int, Any]) -> str:
    return ", ".join(map(str, folds))


@contextmanager
def telling_how_to_go_on(command: str) -> Iterator[None]:
    """Name the command that goes on when a signal ends the work inside."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        stopped = interrupt if isinstance(interrupt, Stopped) else Stopped("Stopped by Ctrl-C.")
        how, _, _ = str(stopped).partition(" To resume: ")
        raise Stopped(f"{how} What is done is kept. To go on: {command}", stopped.signal_number) from None
