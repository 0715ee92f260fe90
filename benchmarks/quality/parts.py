"""The parts of the table: figures of the test scans, each with its target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.quality.scans import QualityScans, ScoredSet
from benchmarks.quality.scores import (
    Estimate,
    at_rate,
    compare_kinds,
    compare_sizes,
    is_large,
    is_small,
    measure_cpm,
    measure_false_positives,
    measure_froc,
    measure_sensitivity,
    select_nodules,
)
from p2ch13.evaluation.calibration import CALIBRATIONS, measure_calibration
from p2ch13.evaluation.scoring import ScanScores
from p2ch13.evaluation.summary import summarize
from p2ch13.network.checkpoint import build_finding_scorer, load_checkpoint
from p2ch13.network.finding_scorer import DEFAULT

Rows = list[dict[str, Any]]  # of a table: its columns, in their order, and their values


@dataclass(frozen=True)
class Figure:
    """A line of the table. The target is met by a value of at least, or else of at most `target`.

    Attributes: on: scans; value: NaN where it is not defined; interval: its 95% CI.
    """

    on: str
    name: str
    value: float
    target: float
    at_least: bool = True
    interval: list[float] | None = None

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Part:
    """Figures of a part, and what the model card shows beside them. Attributes: tables: by their names in the card."""

    figures: list[Figure]
    tables: dict[str, Rows] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def at_least(on: str, name: str, estimate: Estimate, target: float) -> Figure:
    return Figure(on, name, estimate.value, target, True, estimate.interval)


def at_most(on: str, name: str, estimate: Estimate, target: float) -> Figure:
    return Figure(on, name, estimate.value, target, False, estimate.interval)


def score_lidc(scans: QualityScans) -> Part | None:
    """A real scan with one nodule, whole."""
    lidc = scans.lidc
    if lidc is None:
        return None
    (scan,) = lidc.scans
    (nodule,) = scan.nodules
    return Part(
        [
            Figure(lidc.title, "nodule found at the default threshold", scan.shows(nodule.probability), 1),
            Figure(lidc.title, "its rank among the findings", find_rank(scan), 1, at_least=False),
            Figure(lidc.title, "Dice with the readers' consensus", nodule.dice, 0.90),
            at_most(lidc.title, "false positives at the default threshold", measure_false_positives(lidc.scans), 1),
        ],
        {"operating_points": compare_points(lidc, scans.setup.checkpoint)},
    )


def find_rank(scan: ScanScores) -> float:
    """Find the rank of a scan's only nodule among its false positives; NaN for a missed one."""
    (best,) = scan.match.best_hits.tolist()
    if best < 0:
        return math.nan
    return 1 + int((scan.match.scores[scan.match.is_false_positive] > scan.match.scores[best]).sum())


def score_phantoms(scans: QualityScans) -> Part:
    """Phantoms of another seed, with exact masks."""
    phantoms = scans.phantoms
    on, froc, values = phantoms.title, measure_froc(phantoms.scans), summarize(phantoms.scans).as_dict()
    dice, mean_dice = (Estimate(math.nan if each is None else each) for each in dices(values))
    return Part(
        [
            at_least(on, "sensitivity at 1 false positive a scan", at_rate(froc, 1.0), 0.92),
            at_least(on, "sensitivity at 4", at_rate(froc, 4.0), 0.95),
            at_least(on, "CPM", measure_cpm(froc), 0.90),
            at_least(on, "sensitivity at the default threshold", measure_sensitivity(phantoms.scans), 0.85),
            at_most(on, "false positives a scan at it", measure_false_positives(phantoms.scans), 2),
            at_least(on, "voxel Dice over all scans", dice, 0.88),
            at_least(on, "mean Dice of nodules", mean_dice, 0.80),
        ],
        describe_set(phantoms, scans.setup.checkpoint),
    )


def dices(values: dict[str, Any]) -> tuple[float | None, float | None]:
    """Return the Dice of all voxels and the mean Dice of nodules of a summary."""
    return values["voxels"]["dice"], values["nodules"]["mean_dice"]


def score_painted(scans: QualityScans) -> Part | None:
    """Painted nodules in lungs of other collections."""
    painted = scans.painted
    if painted is None:
        return None
    return Part(measure_lungs(painted.title, painted.scans), describe_set(painted, scans.setup.checkpoint))


def score_left_out(scans: QualityScans) -> Iterator[tuple[str, Part]]:
    """Painted nodules in each training lung, by a network trained without it. Yields: a part for each lung."""
    for lung, scored in scans.score_left_out():
        sizes = [{"test": scored.title, **row} for row in compare_sizes(scored.scans)]
        yield f"{LEFT_OUT} {lung}", Part(measure_lungs(scored.title, scored.scans), {"by_size": sizes})


def measure_lungs(on: str, scans: Sequence[ScanScores]) -> list[Figure]:
    """Measure the figures of painted nodules in real lungs."""
    froc_of_small = measure_froc(select_nodules(scans, is_small))
    return [
        at_least(on, "CPM", measure_cpm(measure_froc(scans)), 0.92),
        at_least(
            on,
            "sensitivity at the default threshold, 6 mm and more",
            measure_sensitivity(select_nodules(scans, is_large)),
            0.93,
        ),
        at_most(on, "false positives a scan at it", measure_false_positives(scans), 1),
        at_least(on, "sensitivity at 4 false positives a scan, under 6 mm", at_rate(froc_of_small, 4.0), 0.80),
    ]


def score_calibration(scans: QualityScans) -> Part | None:
    """Probabilities of all findings in the test scans above."""
    sets = [each for each in (scans.lidc, scans.phantoms, scans.painted) if each is not None]
    measured = {each.title: measure_calibration(each.scans) for each in sets}
    on = "all test scans"
    measured = {on: measure_calibration(list(chain.from_iterable(each.scans for each in sets))), **measured}
    together = measured[on]
    if together is None:
        return None
    after = together["after"]
    return Part(
        [
            Figure(on, "findings with a probability", after["findings"], 100),
            Figure(on, "ECE of probabilities", after["ece"], 0.05, False, [after["ece_low"], after["ece_high"]]),
        ],
        {"calibration": [row for title, values in measured.items() if values for row in as_rows(title, values)]},
        {"calibration": measured},
    )


def as_rows(title: str, values: dict[str, Any]) -> Rows:
    """Make the rows of a set's ECE, before and after calibration. Args: values: of `measure_calibration`."""
    return [
        {
            "test": title,
            "findings": values[key]["findings"],
            "nodules": values[key]["nodules"],
            "calibration": name,
            "ECE": values[key]["ece"],
            "95% CI": [values[key]["ece_low"], values[key]["ece_high"]] if values["scans"] > 1 else None,
        }
        for name, key in CALIBRATIONS.items()
    ]


def describe_set(scored: ScoredSet, checkpoint: Path) -> dict[str, Rows]:
    """Make the tables of a set: by size, by kind, and at the operating points."""
    return {
        "by_size": [{"test": scored.title, **row} for row in compare_sizes(scored.scans)],
        "by_kind": [{"test": scored.title, **row} for row in compare_kinds(scored.scans, scored.data_dir)],
        "operating_points": compare_points(scored, checkpoint),
    }


def compare_points(scored: ScoredSet, checkpoint: Path) -> Rows:
    """Score a set at the operating points of a network; without a second stage, at the threshold of its voxels."""
    scorer = build_finding_scorer(checkpoint, load_checkpoint(checkpoint))
    points: dict[str, float | None] = {DEFAULT: None} if scorer is None else dict(scorer.operating_points)
    rows = []
    for name, threshold in points.items():
        sensitivity, false_positives = (
            measure(scored.scans, threshold) for measure in (measure_sensitivity, measure_false_positives)
        )
        rows.append(
            {
                "test": scored.title,
                "operating point": name,
                "probability": threshold,
                "sensitivity": sensitivity.value,
                "95% CI": sensitivity.interval,
                "false positives a scan": false_positives.value,
                "its 95% CI": false_positives.interval,
            }
        )
    return rows


LEFT_OUT = "left-out"
SCORES: dict[str, Callable[[QualityScans], Part | None]] = {
    "lidc-idri-0001": score_lidc,
    "phantoms": score_phantoms,
    "painted": score_painted,
    "calibration": score_calibration,
}
PARTS = ("lidc-idri-0001", "phantoms", "painted", LEFT_OUT, "calibration")
NEEDS = {
    "lidc-idri-0001": "--real DIR",
    "painted": "--real DIR",
    LEFT_OUT: "--real DIR and --left-out NAME=STATE, for each scan of its training/",
    "calibration": "a network with a second stage",
}


def measure_part(name: str, scans: QualityScans) -> Iterator[tuple[str, Part]]:
    """Measure a part, if all that it needs is given. Yields: the entries of the file of scores as they are done."""
    if name == LEFT_OUT:
        yield from score_left_out(scans)
    else:
        part = SCORES[name](scans)
        if part is not None:
            yield name, part


def find_order(entry: str) -> int:
    """Find the place of an entry of the file of scores: `left-out` has one for each lung."""
    return PARTS.index(entry.partition(" ")[0])


def is_entry(name: str) -> bool:
    return name.partition(" ")[0] in PARTS
