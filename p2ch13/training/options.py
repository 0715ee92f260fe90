"""Options of a run, from a command line, another run's config.json, a preset, or the run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2ch13.commands import spell
from p2ch13.config import (
    BOOK_AUGMENTATION,
    PRESETS,
    NetworkOptions,
    SplitOptions,
    TrainingCommand,
    TrainingConfig,
    make_parser,
    with_current_names,
)
from p2ch13.network.latest import find_checkpoint
from p2ch13.util.errors import InputError, one_line
from p2ch13.util.options import as_flag, list_options, merge, read_values
from p2ch13.util.outcome import OutcomeOptions

FIND_RUN = ("resume", "models_dir", "tb_prefix", "comment")  # options that say which run to resume


def parse_config(sys_argv: Sequence[str] | None = None) -> TrainingConfig:
    """Read the options of a new run; with `--resume`, only those that find the run, see `resume_config`.

    Options that are given take precedence over `--augmented`, these over `--config`, and these over `--preset`.
    Raises: InputError for a file or options that cannot be used.
    """
    given = given_options(sys_argv)
    config_path = given.pop("config", None)
    of_file = without_other_split({} if config_path is None else read_config(config_path), given)
    if {**of_file, **given}.get("resume") is not None:
        if config_path is not None:
            raise InputError("a resumed run keeps its own options; leave out --config", option="--resume")
        if "init_from" in given:
            raise InputError("a resumed run keeps its own weights; give one or the other", option="--init-from")
        return merge(TrainingConfig, {name: given[name] for name in FIND_RUN if name in given})
    preset = given.get("preset", of_file.get("preset", TrainingConfig.preset))
    config = merge(TrainingConfig, PRESETS[preset], find_chosen(of_file), {"preset": preset}, given)
    if config.init_from is not None:
        config = replace(config, init_from=find_checkpoint(config.init_from, config.models_dir))
    if config.deterministic and config.compile == "yes":
        raise InputError("compiled code makes no such promise; leave out --compile", option="--deterministic")
    return config


def without_other_split(of_file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's options without those of a split that given ones replace: strides and folds, or another file.

    Raises: InputError for both kinds on the command line.
    """
    strides = [name for name in list_options(SplitOptions) if name != "splits"]
    given_strides = [name for name in strides if name in given]
    if "splits" in given and given_strides:
        raise InputError("--splits has the whole split; leave out one of them", option=as_flag(given_strides[0]))
    replaced = strides if "splits" in given else ["splits"] if given_strides else []
    return {name: value for name, value in of_file.items() if name not in replaced}


def given_options(sys_argv: Sequence[str] | None) -> dict[str, Any]:
    """Return the run's options that a command line, or this process's, names; `--augmented` as what it stands for."""
    given = parse_command(sys_argv)
    given.pop("json", None)
    of_book = dict.fromkeys((f"augment_{name}" for name in BOOK_AUGMENTATION), True)
    return {**(of_book if given.pop("augmented", False) else {}), **given}


def parse_command(sys_argv: Sequence[str] | None) -> dict[str, Any]:
    parser = make_parser(TrainingCommand, spell("train"), "Train the U-Net that marks lung nodules.")
    return vars(parser.parse_args(sys_argv))


def parse_output(sys_argv: Sequence[str] | None) -> OutcomeOptions:
    """Return the options that are the command's own, and not the run's."""
    given = parse_command(sys_argv)
    return merge(OutcomeOptions, {name: given[name] for name in list_options(OutcomeOptions) if name in given})


def chosen_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command line, and those that its `--config` has of its own."""
    return {**(find_chosen(read_config(given["config"])) if "config" in given else {}), **given}


def find_chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a file's options that its preset does not imply: they hold with another preset too."""
    of_preset = {**vars(TrainingConfig()), **PRESETS[options.get("preset", TrainingConfig.preset)]}
    return {name: value for name, value in options.items() if value != of_preset[name]}


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a JSON file, such as a run's config.json.

    Raises: InputError, naming file and option, if it cannot be read or names no option or a value that is not allowed.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError("no such file; give a run's config.json", path=path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON ({one_line(error)}); give a run's config.json", path=path) from None
    if not isinstance(content, dict):
        raise InputError("holds no options; give a run's config.json", path=path)
    try:
        return read_values(TrainingConfig, with_current_names(content))
    except InputError as error:
        raise InputError(f"{error}; correct it", path=path, option=error.option) from None


def init_config(
    config: TrainingConfig, network: NetworkOptions, slice_spacing_mm: float, chosen: Mapping[str, Any]
) -> TrainingConfig:
    """Return the options of a run that begins with the weights of a network.

    Args: network, slice_spacing_mm: that network's; chosen: see `chosen_options`.
    Raises: InputError for a chosen option that contradicts the network.
    """
    for name, option in list_options(NetworkOptions).items():
        own = getattr(network, name)
        if chosen.get(name, own) != own:
            raise InputError(
                f"the network of --init-from has {own!r}, which cannot become {chosen[name]!r}; leave one out",
                option=option.flag,
            )
    spacing = {"slice_spacing_mm": slice_spacing_mm, **chosen}["slice_spacing_mm"]
    return replace(config, **{**network.as_dict(), "slice_spacing_mm": spacing})


def resume_config(saved: TrainingConfig, given: Mapping[str, Any]) -> TrainingConfig:
    """Return the options of a resumed run: its own, and what may be changed of them.

    Args: given: options of the command line.
    Raises: InputError for options that contradict what the run has been so far.
    """
    for name, option in list_options(TrainingConfig).items():
        before = getattr(saved, name)
        if not option.spec.get("on_resume") and given.get(name, before) != before:
            raise InputError(
                f"this run has {before!r}, which cannot become {given[name]!r}; leave it out, or start a new run",
                option=option.flag,
            )
    for name, fixed, reason in (
        ("threads", saved.deterministic, "the sums of a --deterministic run depend on it"),
        ("epochs", saved.lr_schedule == "cosine", "the cosine decay of this run's --lr-schedule ends with its epochs"),
    ):
        if fixed and given.get(name, getattr(saved, name)) != getattr(saved, name):
            message = f"{reason}, {getattr(saved, name)}; leave it out, or start a new run"
            raise InputError(message, option=as_flag(name))
    return replace(saved, **{**given, "resume": None})
