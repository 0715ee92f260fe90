"""Score a model, or masks or findings of any other program, on whole scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p2ch13.commands import spell
from p2ch13.config import OF_CHECKPOINT, EvaluationOptions, LabelOptions, make_parser
from p2ch13.network.latest import find_checkpoint, find_checkpoints
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.options import add_options, list_options, merge
from p2ch13.util.process_rank import ProcessRank
from p2ch13.weights import WEIGHTS, find_weights

SUBJECTS = ("checkpoint", "mask", "findings")


def main(sys_argv: Sequence[str] | None = None, weights: Path = WEIGHTS) -> int:
    """Score what a command line names. Returns: the exit status, 1 if a scan was skipped because it cannot be read.

    Args: weights: the .state file that is scored if nothing is named.
    Raises: SystemExit for --help and a mistyped option, InputError for what cannot be used.
    """
    options = parse_options(sys_argv, weights)
    from p2ch13.evaluation.pipeline import evaluate  # imports torch, which takes seconds

    process = ProcessRank.from_environment()
    set_up_logging(process.is_first, to_stderr=options.json)
    outcome = evaluate(options, process)
    return outcome.finish(options.json) if process.is_first else outcome.status


def parse_options(sys_argv: Sequence[str] | None = None, weights: Path = WEIGHTS) -> EvaluationOptions:
    parser = make_parser(EvaluationOptions, spell("evaluate"), __doc__)
    add_options(parser, LabelOptions, default=OF_CHECKPOINT)
    given = vars(parser.parse_args(sys_argv))
    changes = {name: given.pop(name) for name in list_options(LabelOptions) if name in given}
    if given.keys().isdisjoint(SUBJECTS):
        given["checkpoint"] = [find_weights(weights)]
    subjects = given.get("checkpoint") or [given.get("mask") or given["findings"]]
    if "checkpoint" in given:
        subjects = [path if path.is_dir() else find_checkpoint(path) for path in subjects]
        given["checkpoint"] = find_checkpoints(subjects)
    if "checkpoint" not in given:
        given.setdefault("min_diameter", 0.0)
    elif "mask" in given or "findings" in given:
        parser.error("--checkpoint makes masks and findings of its own: no --mask and no --findings with it")
    name = subjects[0].resolve().name.removesuffix(subjects[0].suffix)
    more = f"_and_{len(subjects) - 1}_more" if len(subjects) > 1 else ""
    given.setdefault("output", Path("data/evaluation") / f"{name}{more}")
    return merge(EvaluationOptions, given, {"label_changes": changes})


if __name__ == "__main__":
    run_command(main)
