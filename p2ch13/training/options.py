"""The command line of training. Nothing here imports torch: --help and a mistyped option are answered at once."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from p2ch13.config import (
    ACTIVATIONS,
    AUGMENTATION,
    BEST_METRICS,
    BOOK_AUGMENTATION,
    COMPILE_CHOICES,
    LR_SCHEDULES,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    THREADS_HELP,
    TrainingConfig,
    with_current_names,
)
from p2ch13.crop_options import add_negatives, add_off_centre, add_slice_distance
from p2ch13.label_options import add_label_options
from p2ch13.util.errors import InputError, one_line
from p2ch13.util.options import (
    name_part,
    non_negative_int,
    non_negative_number,
    positive_int,
    positive_number,
    share,
    thread_count,
)

# What a run that goes on may be given anew; all else stays as it began.
CHANGEABLE = frozenset(
    {
        *("epochs", "num_workers", "validation_cadence", "early_stop", "compile", "threads", "resume"),
        *("skip_non_finite", "checkpoint_minutes", "keep_checkpoints"),
        *("data_dir", "cache_dir", "lidc_xml", "models_dir", "runs_dir", "tb_prefix"),
    }
)
JSON_TYPES = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}


def parse_config(sys_argv: Sequence[str] | None = None) -> TrainingConfig:
    """The options of a command line, or of this process's.

    What `--config`, `--preset` and `--augmented` (the book's five `--augment-...`) stand for can still be named, or not
    be wanted. With `--resume` the options that count are those of the run; see `resume_config`.
    Raises: InputError for a file or options that make no sense.
    """
    given = given_options(sys_argv)
    config_path = given.pop("config", None)
    of_file = {} if config_path is None else read_config(config_path)
    preset = given.get("preset", of_file.get("preset", TrainingConfig.preset))
    chosen = {**find_chosen(of_file), "preset": preset}
    config = TrainingConfig(**{**PRESETS[preset], **chosen, **expand(given)})
    if config.resume is not None and config_path is not None:
        raise InputError("--resume goes on with the run's own options; leave out --config")
    if config.deterministic and config.compile == "yes":
        raise InputError("--deterministic: compiled code makes no such promise; leave out --compile")
    return config


def find_chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a file's options that are not as its preset has them.

    A run's config.json names every option, those of its preset too: these give way to the ones of another preset.
    """
    of_preset = {**vars(TrainingConfig()), **PRESETS[options.get("preset", TrainingConfig.preset)]}
    return {name: value for name, value in options.items() if value != of_preset[name]}


def given_options(
    sys_argv: Sequence[str] | None, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> dict[str, Any]:
    """The options that a command line names, without those that are left to their defaults."""
    parser = build_parser(parser_class)
    not_given = object()
    names = vars(parser.parse_args([]))
    values = vars(parser.parse_args(sys_argv, argparse.Namespace(**dict.fromkeys(names, not_given))))
    if values["comment"] == TrainingConfig.comment:  # argparse sets a place without a name in any case
        del values["comment"]
    return {name: value for name, value in values.items() if value is not not_given}


def expand(given: Mapping[str, Any]) -> dict[str, Any]:
    """`--augmented` as what it stands for."""
    options = dict(given)
    if options.pop("augmented", False):
        return {**{f"augment_{name}": True for name in BOOK_AUGMENTATION}, **options}
    return options


def read_config(path: str) -> dict[str, Any]:
    """The options in a JSON file, such as a run's config.json.

    Raises: InputError, naming the file, if it cannot be read or has a key or value that is no option's.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a run's config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as options ({one_line(error)}); give a run's config.json") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no options; give a run's config.json")
    content = with_current_names(content)
    check_options(path, content)
    return content


def check_options(path: str | Path, options: Mapping[str, Any]) -> None:
    """See that values from a file are such as a command line could have. Raises: InputError, naming the file."""
    types = {field.name: str(field.type) for field in fields(TrainingConfig)}
    for name, value in options.items():
        if name not in types:
            similar = difflib.get_close_matches(name, types, 1)
            raise InputError(f"{path}: there is no option {name}; {f'is it {similar[0]}?' if similar else 'remove it'}")
        if not is_of_type(value, types[name]):
            raise InputError(f"{path}: {name} is {value!r}, not {JSON_TYPES[types[name].split()[0]]}; correct it")
    try:
        given_options(as_command_line(options), StrictParser)  # choices and ranges
    except InputError as error:
        raise InputError(f"{path}: {error}; correct it") from None


def is_of_type(value: Any, type_name: str) -> bool:
    """Whether a JSON value is one of a field's type, `int` or `str | None` and so on; any number can be a float."""
    names = type_name.split(" | ")
    return type(value).__name__.replace("NoneType", "None") in (*names, *(["int"] if "float" in names else []))


def as_command_line(options: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif name != "comment" and value is not None:
            arguments.append(f"--{option}={value}")
    return [*arguments, "--", str(options.get("comment", TrainingConfig.comment))]


class StrictParser(argparse.ArgumentParser):
    """Raises an InputError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def resume_config(saved: TrainingConfig, given: Mapping[str, Any]) -> TrainingConfig:
    """The options of a run that goes on: its own, and what may be changed of them.

    Args: given: what the command line names.
    Raises: InputError if that contradicts what the run has been so far.
    """
    given = expand(given)
    for name, value in given.items():
        if name not in CHANGEABLE and value != getattr(saved, name):
            raise InputError(
                f"--resume: {name} of this run is {getattr(saved, name)!r} and cannot become {value!r}; leave it out, "
                "or start a new run"
            )
    if saved.deterministic and given.get("threads", saved.threads) != saved.threads:
        raise InputError(
            f"--resume: this run is --deterministic, and its sums depend on --threads {saved.threads}; leave out "
            "--threads, or start a new run"
        )
    if saved.lr_schedule == "cosine" and given.get("epochs", saved.epochs) != saved.epochs:
        raise InputError(
            f"--resume: the learning rate of this run decays until the end of epoch {saved.epochs} (--lr-schedule "
            "cosine); leave out --epochs, or start a new run"
        )
    return replace(saved, **{**given, "resume": None})


def build_parser(parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    default = TrainingConfig
    parser = parser_class(
        prog="python -m p2ch13.training",
        description="Train the U-Net that marks lung nodules.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=positive_int, default=default.epochs, help="epochs to train for")
    parser.add_argument(
        "--batch-size", type=positive_int, default=default.batch_size, help="crops per optimizer step of a process"
    )
    parser.add_argument(
        "--samples-per-epoch", type=positive_int, default=default.samples_per_epoch, help="random crops in an epoch"
    )
    parser.add_argument(
        "--validation-cadence",
        type=positive_int,
        default=default.validation_cadence,
        help="validate in every such epoch, and in the first and the last",
    )
    parser.add_argument(
        "--val-stride", type=positive_int, default=default.val_stride, help="every such series is for validation"
    )
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        default=default.num_workers,
        help="processes that read validation slices ahead",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default.precision,
        help="of convolutions; auto is bf16 where the processor calculates in it",
    )
    parser.add_argument("--threads", type=thread_count, metavar="auto|N", default=default.threads, help=THREADS_HELP)
    parser.add_argument(
        "--compile",
        choices=COMPILE_CHOICES,
        default=default.compile,
        help="fuse the network's operations, on one GPU replay whole steps; auto: in runs of 300,000 samples or more",
    )
    add_switch(parser, "sync-batchnorm", "batch statistics over all GPUs of a torchrun instead of each one's own")

    add_run_options(parser)
    add_recipe_options(parser)
    add_augmentation_options(parser)
    add_label_options(parser)
    add_folder_options(parser)
    parser.add_argument(
        "comment", type=name_part, nargs="?", default=default.comment, help="last part of the run's file names"
    )
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    run = parser.add_argument_group("repeating a run, and going on with it")
    run.add_argument("--seed", type=non_negative_int, default=default.seed, help="fixes weights and samples")
    add_switch(run, "deterministic", "the same bits from every run on a machine, in more time on a GPU")
    run.add_argument(
        "--config",
        metavar="FILE",
        help="options of another run: config.json in its --runs-dir folder; those that it had from its preset give way "
        "to another --preset, those that are named here count before all",
    )
    run.add_argument(
        "--resume",
        metavar="STATE",
        nargs="?",
        const="",
        default=default.resume,
        help="go on with a run as if it had never ended: from a .state file of it, or with the latest run; from a file "
        "that the run has gone on from since, under a new name",
    )
    run.add_argument(
        "--checkpoint-minutes",
        type=positive_number,
        default=default.checkpoint_minutes,
        help="how often last.state is written, besides at the end of each epoch",
    )
    run.add_argument(
        "--keep-checkpoints",
        type=positive_int,
        default=default.keep_checkpoints,
        help="how many .state files of validated epochs are kept, the newest; the best one is kept in any case",
    )
    add_switch(
        run, "skip-non-finite", "leave out a batch whose loss or gradient is not finite, instead of ending the run"
    )


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=TrainingConfig.preset,
        help=f"the chapter as it stands, or what marks fewer vessels: {describe_preset('strong')}",
    )
    add_network_options(parser)
    add_sample_options(parser)
    add_learning_options(parser)
    add_choice_options(parser)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    network = parser.add_argument_group("the network, and what it sees")
    network.add_argument(
        "--network",
        metavar="NAME",
        default=default.network,
        help="unet, whose shape the next options give, or package.module:Class, a subclass of "
        "p2ch13.network.model.SegmentationNetwork",
    )
    network.add_argument("--depth", type=int, choices=range(1, 6), default=default.depth, help="levels of the U-Net")
    network.add_argument(
        "--filters",
        type=int,
        choices=[2**power for power in range(2, 7)],
        default=default.filters,
        help="of its first level; each further one has twice as many",
    )
    network.add_argument(
        "--space-to-depth",
        type=positive_int,
        default=default.space_to_depth,
        help="rows and cols of pixels that the network takes as one",
    )
    network.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default=default.activation,
        help="after each convolution; relu is the book's",
    )
    add_switch(network, "intensity-projections", "show the network the highest and the lowest of its slices, too")
    add_slice_distance(network)


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    samples = parser.add_argument_group("what it learns from")
    add_negatives(samples)
    samples.add_argument(
        "--hard-negative-candidates",
        type=positive_int,
        default=default.hard_negative_candidates,
        help="places that are drawn for each of these; the one in which the model sees most nodule is taken",
    )
    add_off_centre(samples)
    add_switch(samples, "weight-by-diameter", "draw a nodule the more often, the larger it is")


def add_learning_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    learning = parser.add_argument_group("how it learns")
    learning.add_argument(
        "--fn-weight", type=non_negative_number, default=default.fn_weight, help="of the false negatives in the loss"
    )
    add_switch(learning, "batch-dice", "Dice loss of the batch as a whole, over all processes, instead of each crop's")
    learning.add_argument(
        "--cross-entropy",
        type=non_negative_number,
        default=default.cross_entropy,
        help="weight of the pixels' cross-entropy in the loss",
    )
    learning.add_argument("--optimizer", choices=OPTIMIZERS, default=default.optimizer)
    learning.add_argument(
        "--learning-rate", type=positive_number, default=default.learning_rate, help="of the optimizer, either of them"
    )
    learning.add_argument(
        "--lr-schedule",
        choices=LR_SCHEDULES,
        default=default.lr_schedule,
        help="cosine: linear warm-up, then cosine decay to the end of the run",
    )
    of_before: dict[str, Any] = {"dest": "lr_schedule", "action": "store_const", "default": default.lr_schedule}
    learning.add_argument("--warm-up-cosine", const="cosine", help=argparse.SUPPRESS, **of_before)
    learning.add_argument("--no-warm-up-cosine", const="constant", help=argparse.SUPPRESS, **of_before)
    add_switch(learning, "ema", "score and save a moving average of the weights")


def add_choice_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    choice = parser.add_argument_group("which model is the best, and when to end")
    choice.add_argument(
        "--val-negatives",
        type=non_negative_number,
        default=default.val_negatives,
        help="validation slices without nodule, for each with one: the same in each epoch, from all over each scan, at "
        "least four of each; 0: none",
    )
    choice.add_argument(
        "--best-metric",
        choices=BEST_METRICS,
        default=default.best_metric,
        help="what the best model is chosen by, on the validation slices; dice is the mean of the slices'; in slice-f1 "
        "a slice with nodule is found as far as its dice goes, one without is a false positive if anything is marked",
    )
    choice.add_argument(
        "--precision-floor", type=share, default=default.precision_floor, help="for --best-metric recall-at-precision"
    )
    choice.add_argument(
        "--early-stop",
        type=non_negative_int,
        default=default.early_stop,
        help="end after so many validations without a better one; 0: never",
    )


def describe_preset(name: str) -> str:
    """The options that a preset stands for, as one would type them."""
    options = []
    for field, value in PRESETS[name].items():
        option = f"--{field.replace('_', '-')}"
        options.append(option if value is True else f"{option} {value}")
    return " ".join(options)


def add_switch(group: argparse._ActionsContainer, name: str, help_text: str) -> None:
    """An option that is off unless a preset or its name turns it on; `--no-...` turns it off again."""
    group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False, help=help_text)


def add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    augmentation = parser.add_argument_group("augmentation of the training crops, drawn anew for each one")
    augmentation.add_argument("--augmented", action="store_true", help="the first five, as in the book")
    for name, help_text in AUGMENTATION_HELP.items():
        add_switch(augmentation, name, help_text)


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig
    folders = parser.add_argument_group("folders")
    folders.add_argument("--data-dir", default=default.data_dir, help="LUNA16's subset*/ and CSV files")
    folders.add_argument("--cache-dir", default=default.cache_dir, help="what precache.py filled")
    folders.add_argument("--models-dir", default=default.models_dir, help="for .state files")
    folders.add_argument("--runs-dir", default=default.runs_dir, help="for TensorBoard")
    folders.add_argument(
        "--tb-prefix", type=name_part, default=default.tb_prefix, help="folder below --models-dir and --runs-dir"
    )


AUGMENTATION_HELP = {
    "augment-flip": "mirror rows and columns, each one time in two",
    "augment-offset": f"move by up to {AUGMENTATION['offset']:.0%}% of half the crop's size",
    "augment-scale": f"shrink or enlarge by up to {AUGMENTATION['scale']:.0%}%",
    "augment-rotate": "turn by any angle about the head-foot axis",
    "augment-noise": f"add noise with a standard deviation of {AUGMENTATION['noise']:.0f} HU",
    "augment-intensity": f"change contrast and level by up to {AUGMENTATION['intensity']:.0%}%",
    "augment-blur": "blur or sharpen slices",
    "augment-resolution": "larger pixels, thinner slices",
}
