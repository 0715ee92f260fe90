"""Find the lung nodules of whole scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.config import PredictOptions, parse
from p2ch13.network.latest import find_checkpoints
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.process_rank import ProcessRank
from p2ch13.weights import WEIGHTS, find_weights


def main(sys_argv: Sequence[str] | None = None, weights: Path = WEIGHTS) -> int:
    """Predict as a command line says.

    Args: weights: the .state file that is used without --checkpoint.
    Raises: SystemExit for --help and a mistyped option, else see `predict`.
    """
    options = parse(PredictOptions, spell("predict"), __doc__, sys_argv)
    checkpoints = find_checkpoints(options.checkpoint) or (find_weights(weights),)
    options = replace(options, checkpoint=checkpoints)
    from p2ch13.detection.pipeline import predict  # imports torch, which takes seconds

    process = ProcessRank.from_environment()
    set_up_logging(process.is_first, to_stderr=options.json)
    outcome = predict(options, process)
    return outcome.finish(options.json) if process.is_first else outcome.status


if __name__ == "__main__":
    run_command(main)
