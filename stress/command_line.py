"""The command line of a stress run: its parser, and its end in a table and an exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from stress.report import Row, collect_rows, report


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Make the parser of `python -m MODULE`. Args: description: the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, help="scans in the LUNA16 layout; default: synthetic ones")


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work-dir", type=existing_folder, help="folder for a temporary folder")


def existing_folder(text: str) -> Path:
    """Read a command line's argument."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def run_part(what: str, part: Callable[..., list[Row]], args: argparse.Namespace) -> int:
    """Run a part, whose arguments have the options' names, and print its table. Returns: 1 if anything was lost."""
    return report(collect_rows(what, lambda: part(**vars(args))))
