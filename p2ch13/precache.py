"""Fill the cache before training, so that training never waits for a scan."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.commands import spell
from p2ch13.config import PRESETS, PrecacheOptions, make_parser
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import list_options, merge
from p2ch13.util.process_rank import ProcessRank


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Cache what training and validation read, as a command line says. Returns, Raises: see `prepare`."""
    options = parse_options(sys_argv)
    from p2ch13.data.prepare import prepare  # imports SimpleITK

    set_up_logging(to_stderr=options.json)
    return prepare(options, ProcessRank.from_environment()).finish(options.json)


def parse_options(sys_argv: Sequence[str] | None = None) -> PrecacheOptions:
    """Read the options of a command line; a preset gives those of its options that decide what is cached."""
    given = vars(make_parser(PrecacheOptions, spell("precache"), __doc__).parse_args(sys_argv))
    preset = PRESETS[given.get("preset", PrecacheOptions.preset)]
    return merge(
        PrecacheOptions, {name: preset[name] for name in list_options(PrecacheOptions) if name in preset}, given
    )


if __name__ == "__main__":
    run_command(main)
