"""Try everything on synthetic scans: search one with the network in the package, train another, compare both."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2ch13.commands import spell
from p2ch13.config import DemoOptions, EvaluationOptions, PredictOptions, parse
from p2ch13.precache import parse_options as parse_precache_options
from p2ch13.util.errors import Stopped, name_signal, run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.outcome import Outcome
from p2ch13.util.process_rank import ProcessRank
from p2ch13.weights import find_weights

if TYPE_CHECKING:
    from p2ch13.phantom import Summary

log = logging.getLogger(__name__)

TB_PREFIX = "demo"
RUN_NAME = f"--tb-prefix={TB_PREFIX}"
# So short a training misses less with a little more weight on what is missed.
RECIPE = ("--preset=strong", "--fn-weight=0.4", "--val-stride=4", "--epochs=1", RUN_NAME)


@dataclass(frozen=True)
class DemoSize:
    """How much a demo does.

    Attributes:
        samples: of the training.
        minutes: on two free cores; rest: how many times as long as the generation of the scans all that follows takes.
        pixels, slice_count: of the scans; None draws sizes as in LUNA16.
    """

    scans: int
    samples: int
    minutes: int
    rest: float
    pixels: int | None = None
    slice_count: int | None = None


# `rest` was measured on two cores, busy ones for the first: 2.4 and 7.
FULL = DemoSize(scans=16, samples=15_000, minutes=5, rest=2.5)
FAST = DemoSize(scans=5, samples=2_000, minutes=1, rest=7.0, pixels=352, slice_count=40)


@dataclass(frozen=True)
class Searched:
    """How a network did on the scan: its findings, as a page, and what the evaluation says."""

    report: Path
    evaluation: Path
    scores: Mapping[str, Any]

    @property
    def as_dict(self) -> dict[str, Any]:
        return {
            "found": self.scores["nodules"]["found"],
            "nodules": self.scores["nodules"]["count"],
            "false_positives": self.scores["findings"]["false_positives"],
            "report": self.report,
            "evaluation": self.evaluation,
        }

    def __str__(self) -> str:
        nodules, false_positives = self.scores["nodules"], self.scores["findings"]["false_positives"]
        wrong = f"{false_positives} false positive{'' if false_positives == 1 else 's'}"
        return f"{nodules['found']} of {nodules['count']} nodules found, {wrong}"


def main(sys_argv: Sequence[str] | None = None, size: DemoSize | None = None) -> int:
    """Run the demo as a command line says. Started again, it goes on where it was stopped.

    Args: size: None: that of the options.
    Raises: SystemExit for --help and a mistyped option; InputError for a folder that cannot be used; Stopped.
    """
    options = parse(DemoOptions, spell("demo"), __doc__, sys_argv)
    set_up_logging(to_stderr=options.json)
    try:
        return demonstrate(options.folder, size or (FAST if options.fast else FULL)).finish(options.json)
    except Stopped as stopped:
        message = f"Stopped by {name_signal(stopped.signal_number)}. The same command goes on from here."
        raise Stopped(message, stopped.signal_number) from None
    except KeyboardInterrupt:
        raise Stopped("Stopped by Ctrl-C. The same command goes on from here.") from None


def demonstrate(folder: Path, size: DemoSize) -> Outcome:
    """Generate scans, search one with the network in the package, train another, search with that, compare."""
    log.info(f"This takes about {describe_minutes(size.minutes)} on two free cores. All files go to {folder}.")
    log.info(f"1 of 4: generate {size.scans} synthetic scans.")
    scan = generate_scans(folder / "scans", size)
    log.info("2 of 4: the network in the package searches a scan that it was not trained on.")
    package = search(find_weights(), scan, folder, "package")
    log.info(f"The network in the package: {package}.")
    log.info("3 of 4: train a network on other scans. The bar says how long that takes.")
    checkpoint = train(folder, size)
    log.info("4 of 4: that network searches the same scan.")
    own = search(checkpoint, scan, folder, "own")
    return conclude(scan, checkpoint, package, own)


def describe_minutes(minutes: float) -> str:
    """Round up: to minutes."""
    rounded = max(1, round(minutes))
    return "a minute" if rounded == 1 else f"{rounded} minutes"


def generate_scans(folder: Path, size: DemoSize) -> Path:
    """Generate the scans, unless they are there. Returns: the one that is searched, which no training uses."""
    if not folder.exists():
        from p2ch13.phantom import write_phantoms  # imports NumPy
        from p2ch13.util.threads import available_cores

        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        workers = available_cores()
        done = write_phantoms(unfinished, size.scans, 0, workers, size.pixels, size.slice_count)
        unfinished.rename(folder)
        log.info(describe_pace(done, size))
    from p2ch13.data.layouts import find_layout

    scans = find_layout(folder).scans
    return scans[min(scans)]


def describe_pace(done: Summary, size: DemoSize) -> str:
    """Say how long the rest will take here: generating scans keeps all cores busy, as the rest does."""
    rest = f"At this machine's present pace the rest takes about {describe_minutes(done.seconds * size.rest / 60)}."
    return f"{done.scans} scans with {done.nodules} nodules, in {done.seconds:.0f} s. {rest}"


def train(folder: Path, size: DemoSize) -> Path:
    """Train a network, or the rest of it if an earlier demo was stopped. Returns: its checkpoint."""
    from p2ch13.data.prepare import prepare  # imports SimpleITK
    from p2ch13.network.checkpoint import load_checkpoint
    from p2ch13.training.app import SegmentationTrainingApp
    from p2ch13.training.run_files import find_last_states

    data = [f"--data-dir={folder / 'scans'}", f"--cache-dir={folder / 'cache'}"]
    folders = [*data, f"--models-dir={folder / 'models'}", f"--runs-dir={folder / 'runs'}"]
    begun = find_last_states(folder / "models" / TB_PREFIX)
    if begun and is_finished(load_checkpoint(begun[0])):
        log.info(f"Trained before: {begun[0]}; to train again, delete {folder}.")
        return choose_checkpoint(begun[0])
    prepare(parse_precache_options([*data, "--preset=strong"]), ProcessRank())
    new = [*RECIPE, f"--samples-per-epoch={size.samples}"]
    app = SegmentationTrainingApp([*folders, *([f"--resume={begun[0]}", RUN_NAME] if begun else new)])
    app.main()
    return choose_checkpoint(app.run.files.last)


def is_finished(state: Mapping[str, Any]) -> bool:
    return bool(state["epoch"] >= state["config"]["epochs"])


def choose_checkpoint(last: Path) -> Path:
    """Return the best model of a run, or the last if its validation found nothing."""
    best = last.with_name(last.name.replace(".last.", ".best."))
    return best if best.exists() else last


def search(checkpoint: Path, scan: Path, folder: Path, name: str) -> Searched:
    """Search the scan, and score what is found."""
    from p2ch13.detection.pipeline import predict  # imports torch
    from p2ch13.evaluation.pipeline import evaluate

    found = folder / name
    options = PredictOptions(scans=(scan,), checkpoint=(checkpoint,), output=found)
    predicted = predict(options).values["scans"][0]
    evaluation = EvaluationOptions(
        data_dir=folder / "scans",
        mask=found,
        findings=found / "nodules.csv",
        series_uid=predicted["name"],
        min_diameter=0.0,
        output=folder / f"{name}-scores",
        label_changes={"labels": "refined"},
    )
    scored = evaluate(evaluation).values
    return Searched(found / f"{predicted['name']}_report.html", scored["report"], scored["scores"])


def conclude(scan: Path, checkpoint: Path, package: Searched, own: Searched) -> Outcome:
    """Compare both networks, and say what to open and to do next."""
    values = {"scan": scan, "checkpoint": checkpoint, "package": package.as_dict, "own": own.as_dict}
    lines = [
        "",
        "Both networks searched the same synthetic scan, which neither was trained on:",
        f"  the network in the package:  {package}",
        f"  the network of this demo:    {own}",
        "Open in a browser:",
        f"  {package.report}  (what the network in the package found)",
        f"  {own.report}  (what this one found)",
        f"  {own.evaluation}  (what this one missed, with pictures)",
        f"Next, on a CT of your own: {spell('predict')} SCAN",
    ]
    return Outcome(lines, values)


if __name__ == "__main__":
    run_command(main)
