"""The options of a run, and the state that it resumes from or takes its first weights from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from p2ch13.config import LATEST, NetworkOptions, TrainingConfig
from p2ch13.data.index import ScanIndex
from p2ch13.network.card import read_trained_series
from p2ch13.network.checkpoint import build_model, check_allowed, load_checkpoint
from p2ch13.network.model import BOOK_NETWORK, UNNAMED_ACTIVATION, SegmentationNetwork
from p2ch13.training.distributed import copy_from_first
from p2ch13.training.learner import Learner
from p2ch13.training.options import chosen_options, given_options, init_config, parse_config, resume_config
from p2ch13.training.provenance import renew_fingerprint
from p2ch13.training.run import RunState
from p2ch13.training.run_files import find_last_of_launch, find_latest, is_name_part, models_dir_of
from p2ch13.util.errors import InputError

log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """Options of a run, and what it begins with.

    Attributes:
        path, state: file and content of the state that it resumes from; None for a new run.
        init_weights: of the network of `--init-from`, for a new run.
        init_series: see `RunState`.
    """

    config: TrainingConfig
    path: Path | None = None
    state: dict[str, Any] | None = None
    init_weights: dict[str, torch.Tensor] | None = None
    init_series: Sequence[str] = ()


def read_settings(sys_argv: Sequence[str]) -> Settings:
    """Read the options of a command line. Raises: InputError for bad options or a state that cannot be used."""
    config = parse_config(sys_argv)
    given = given_options(sys_argv)
    if config.resume is None:
        check_allowed(Path(given.get("config", "")), config.network, given.get("network"))
        return Settings(config) if config.init_from is None else read_init(config, config.init_from, given)
    comment = config.comment if config.comment != TrainingConfig.comment else None
    is_latest = config.resume in ("", LATEST)
    path = find_latest(models_dir_of(config), comment) if is_latest else Path(config.resume)
    state = load_checkpoint(path)
    if "step" not in state or not isinstance(state.get("config"), dict) or not is_name_part(state.get("time_str")):
        raise InputError("holds a model, but not the state of its training; start a new run", path=path)
    saved = read_saved_config(path, state)
    check_allowed(path, saved.network, given.get("network"))
    config = resume_config(saved, given)
    folder = models_dir_of(config)
    if path.parent.resolve() != folder.resolve():
        raise InputError(
            f"not in {folder}, where the run keeps its files; give its folder with --models-dir and --tb-prefix",
            path=path,
        )
    return Settings(config, path, state, init_series=read_init_series(path, state))


def read_init(config: TrainingConfig, path: Path, given: Mapping[str, Any]) -> Settings:
    """Read the network that a new run begins with. Raises: InputError for a file or options that cannot be used."""
    state = load_checkpoint(path)
    model = build_model(path, state, given.get("network"))
    saved = replace(read_saved_config(path, state), network=state.get("network", BOOK_NETWORK))
    config = init_config(config, saved.part(NetworkOptions), model.slice_spacing_mm, chosen_options(given))
    series = sorted(read_trained_series(path, state))
    return Settings(config, init_weights=model.state_dict(), init_series=series)


def load_init_weights(model: SegmentationNetwork, settings: Settings) -> None:
    """Load the weights that a run begins with, if it has any. Raises: InputError if the model is another network."""
    if settings.init_weights is not None:
        try:
            model.load_state_dict(settings.init_weights)
        except RuntimeError:
            raise InputError(
                "its config is not that of its network; begin from another file", path=settings.config.init_from
            ) from None


def read_saved_config(path: Path, state: Mapping[str, Any]) -> TrainingConfig:
    """Return the options of a state's run; the defaults, which are the book's, for a file of the book.

    Raises: InputError for values that are not allowed.
    """
    if "config" not in state:
        return TrainingConfig()
    try:
        return TrainingConfig.from_dict({"activation": UNNAMED_ACTIVATION, **state["config"]})
    except InputError as error:
        raise InputError(f"{error}; it is corrupt", path=path, option=error.option) from None


def read_init_series(path: Path, state: Mapping[str, Any]) -> list[str]:
    """Return the series UIDs that a run's first weights were trained on, sorted.

    Raises: InputError if they are no list.
    """
    try:
        return sorted({str(series_uid) for series_uid in state.get("series", {}).get("init", [])})
    except (AttributeError, TypeError):
        raise InputError("its series are no lists; it is corrupt", path=path) from None


def resume_run(run: RunState, settings: Settings, learner: Learner, index: ScanIndex) -> None:
    """Resume the run that `--resume` names; or, if torchrun has restarted its processes, theirs.

    Raises: InputError if the state does not fit the data or the number of processes, or is corrupt.
    """
    path, state, compute, process = settings.path, settings.state, learner.compute, learner.process
    if last := copy_from_first(find_last_of_launch(run.files.folder, run.launch_id) if process.is_first else None):
        path, state = last, copy_from_first(load_checkpoint(last) if process.is_first else None)
    if path is not None and state is not None:
        if state["step"] and not process.is_alone:
            raise InputError("this run was stopped by one process in the middle of an epoch", option="--resume")
        saved, series_list = state["data_fingerprint"], [*run.series["trn"], *run.series["val"]]
        state["data_fingerprint"] = renew_fingerprint(saved, run.data_fingerprint, index, series_list)
        run.resume(path, state, learner)
        compute.dtype = choose_dtype(run.config.precision, state.get("dtype"), compute.dtype)
        log.info(f"Resuming from {path}: after epoch {state['epoch']}, step {state['step']} of the next")
        if copy_from_first(process.is_first and run.files.is_ahead_of(path, state)):
            if process.is_first:
                run.branch_off(path, state)
            run.best_score, run.validations_since_best = copy_from_first((run.best_score, run.validations_since_best))
            log.info(f"The run has come further than that since, and keeps its files; these go to {run.files.last}")
    run.dtype = compute.dtype_name
    if process.is_first:
        run.files.note_launch(run.launch_id)


def choose_dtype(precision: str, saved: str | None, current: torch.dtype) -> torch.dtype:
    """Return the number format that a resumed run continues in: of `--precision auto` its own, where possible."""
    if precision != "auto" or saved in (None, str(current).removeprefix("torch.")):
        return current
    if saved != "float32":
        log.warning(f"The run has been in {saved}, for which this processor has no arithmetic: float32 from now on")
    return torch.float32
