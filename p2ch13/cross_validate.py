"""Train and score a network for each of LUNA16's ten folds: each is tested on a subset that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.commands import spell
from p2ch13.config import CrossValidationOptions, TrainingCommand, make_parser
from p2ch13.training.options import parse_config
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import as_arguments, list_options, merge


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Train, score and merge as a command line says. Returns, Raises: see `cross_validate`."""
    given = vars(make_parser(CrossValidationOptions, spell("cross-validate"), __doc__).parse_args(sys_argv))
    options = merge(CrossValidationOptions, given)
    shared = list_options(TrainingCommand).keys() - {"fold", "json"}  # training's --fold is another
    recipe = as_arguments({name: value for name, value in given.items() if name in shared})
    parse_config(recipe)  # before torch is imported, which takes seconds
    from p2ch13.training.cross_validation import cross_validate

    set_up_logging(to_stderr=options.json)
    return cross_validate(options, recipe, spell("cross-validate", *as_arguments(given))).finish(options.json)


if __name__ == "__main__":
    run_command(main)
