"""Write synthetic chest CT scans with nodules (phantoms) in the LUNA16 layout, as a demo data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.util.errors import run_command
from p2ch13.util.options import REQUIRED, CommandParser, add_options, merge, option
from p2ch13.util.outcome import Outcome, OutcomeOptions
from p2ch13.util.threads import available_cores


@dataclass(frozen=True)
class PhantomOptions(OutcomeOptions):
    """Phantoms."""

    out_dir: Path = option(REQUIRED, "output folder; must hold no scans yet", positional=True, metavar="OUT_DIR")
    scans: int = option(20, "number of scans, each some 30 MB", low=1)
    seed: int = option(0, "another seed gives other patients", low=0)
    num_workers: int = option(available_cores, "processes; files do not depend on it", low=1, shown="all cores")


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Write the data set and say what to do with it."""
    parser = CommandParser(prog=spell("phantom"), description=__doc__)
    add_options(parser, PhantomOptions)
    options = merge(PhantomOptions, vars(parser.parse_args(sys_argv)))
    from p2ch13.phantom.dataset import write_phantoms  # imports NumPy

    done = write_phantoms(options.out_dir, options.scans, options.seed, options.num_workers)
    folder = str(options.out_dir)
    lines = [
        f"{done.scans} synthetic scans with {done.nodules} nodules, {done.megabytes:.0f} MB, in {done.seconds:.0f} s.",
        f"Scans, lists of nodules, and masks: {folder}",
        f"Next: {spell('precache', '--preset', 'strong', '--data-dir', folder)}",
    ]
    return Outcome(lines, {"folder": folder, **asdict(done)}).finish(options.json)


if __name__ == "__main__":
    run_command(main)
