"""Export the network of a checkpoint for other programs: ONNX, torch.export or safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.config import ExportOptions, parse
from p2ch13.network.latest import find_checkpoint
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.weights import WEIGHTS, find_weights


def main(sys_argv: Sequence[str] | None = None, weights: Path = WEIGHTS) -> int:
    """Export as a command line says.

    Args: weights: the .state file that is used without --checkpoint.
    Raises: SystemExit for --help and a mistyped option, else see `export_network`.
    """
    options = parse(ExportOptions, spell("export"), __doc__, sys_argv)
    checkpoint = find_checkpoint(options.checkpoint) if options.checkpoint else find_weights(weights)
    from p2ch13.network.export import export_network  # imports torch, which takes seconds

    set_up_logging(to_stderr=options.json)
    outcome = export_network(checkpoint, options.output, options.stage, options.network)
    return outcome.finish(options.json)


if __name__ == "__main__":
    run_command(main)
