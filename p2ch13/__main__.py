"""Run a command by its name: `p2ch13 NAME`, or `python -m p2ch13 NAME`."""

from __future__ import annotations

import hashlib
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from typing import NoReturn

from p2ch13 import __version__
from p2ch13.commands import COMMANDS, PROGRAM
from p2ch13.util.errors import EXIT_USER_MISTAKE, InputError, run_command
from p2ch13.util.options import CommandParser, suggest
from p2ch13.util.outcome import Outcome
from p2ch13.weights import WEIGHTS

MODULES_WITH_MAIN = ("phantom", "training")  # packages, whose command is their `__main__`


def main(sys_argv: Sequence[str] | None = None) -> int | None:
    """Run the command that the arguments begin with. Returns: its exit status.

    Raises: InputError for an unknown command; SystemExit for --help and --version; see the command's own `main`.
    """
    arguments = list(sys.argv[1:] if sys_argv is None else sys_argv)
    own = list(takewhile(lambda each: each.startswith("-"), arguments))
    parser = build_parser()
    given = parser.parse_args(own)
    if given.version:
        return describe_version().finish(given.json)
    if len(own) == len(arguments):
        parser.print_help()
        return EXIT_USER_MISTAKE
    name, *rest = arguments[len(own) :]
    if name not in COMMANDS:
        raise InputError(
            f"{name}: there is no such command; {suggest(name, COMMANDS) or f'{PROGRAM} --help lists all'}"
        )
    status: int | None = import_module(find_module(name)).main(rest)
    return status


def build_parser() -> CommandParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.text}" for name, command in COMMANDS.items()]
    parser = CommandParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND ...",
        description="Find and segment lung nodules in chest CT; train and score networks that do. For research only.",
        epilog="\n".join(["commands:", *lines, "", f"{PROGRAM} COMMAND --help lists a command's options."]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="version of the package and of the network in it")
    parser.add_argument("--json", action="store_true", help="with --version: print it as one JSON object")
    return parser


def find_module(name: str) -> str:
    module = COMMANDS[name].module
    return f"{PROGRAM}.{module}.__main__" if module in MODULES_WITH_MAIN else f"{PROGRAM}.{module}"


def describe_version() -> Outcome:
    """Return the package's version, and the SHA-256 of the network in it."""
    sha256 = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() if WEIGHTS.is_file() else None
    network = f"{WEIGHTS.name}, SHA-256 {sha256}" if sha256 else "none"
    lines = [f"{PROGRAM} {__version__}", f"network in the package: {network}"]
    return Outcome(lines, {"version": __version__, "network": {"file": WEIGHTS, "sha256": sha256} if sha256 else None})


def run() -> NoReturn:
    """Run the program, as the installed script does."""
    run_command(main)


if __name__ == "__main__":
    run()
