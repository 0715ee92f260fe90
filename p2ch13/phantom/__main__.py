"""Write synthetic chest CT scans with nodules (phantoms) in the LUNA16 layout, as a demo data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.util.errors import run_command
from p2ch13.util.options import REQUIRED, CommandParser, Options, add_options, merge, option
from p2ch13.util.threads import available_cores


@dataclass(frozen=True)
class PhantomOptions(Options):
    """Phantoms."""

    out_dir: Path = option(REQUIRED, "output folder; must hold no scans yet", positional=True, metavar="OUT_DIR")
    scans: int = option(20, "number of scans, each some 30 MB", low=1)
    seed: int = option(0, "another seed gives other patients", low=0)
    num_workers: int = option(available_cores, "processes; files do not depend on it", low=1, shown="all cores")


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Write the data set and say what to do with it."""
    parser = CommandParser(prog=spell("phantom"), description=__doc__)
    add_options(parser, PhantomOptions)
    options = merge(PhantomOptions, vars(parser.parse_args(sys_argv)))
    from p2ch13.phantom.dataset import write_phantoms  # imports NumPy

    done = write_phantoms(options.out_dir, options.scans, options.seed, options.num_workers)
    print(f"{done.scans} scans with {done.nodules} nodules, {done.megabytes:.0f} MB, in {done.seconds:.0f} s")
    print(f"Next: {spell('precache', '--data-dir', str(options.out_dir))}")


if __name__ == "__main__":
    run_command(main)
