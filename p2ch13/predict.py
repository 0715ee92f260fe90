"""Find the lung nodules of whole scans."""

from __future__ import annotations

from collections.abc import Sequence

from p2ch13.config import PredictOptions, parse
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Predict as a command line says. Raises: SystemExit for --help and a mistyped option, else see `predict`."""
    options = parse(PredictOptions, "python -m p2ch13.predict", __doc__, sys_argv)
    from p2ch13.detection.pipeline import predict  # imports torch, which takes seconds

    set_up_logging()
    return predict(options)


if __name__ == "__main__":
    run_command(main)
