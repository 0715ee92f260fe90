"""What tables and scores of the page mean, in a line each."""

from __future__ import annotations

# Table of `report.make_tables` -> its heading on the page, in this order; then others, with their names.
HEADINGS = {
    "operating_point": "At the operating point",
    "froc": "Sensitivity against false positives (FROC)",
    "networks": "Each network on scans that it has not seen",
    "nodules": "Nodules",
    "sizes": "By size of the nodule",
    "voxels": "Outlines, voxel by voxel",
    "readers": "Agreement with radiologists",
    "calibration": "Are the probabilities right?",
}
FOUND = ("found", "nodules with the center of a finding less than their radius from their own (LUNA16's rule)")
FALSE_POSITIVES = ("false positives", "findings that hit no nodule and no excluded finding")
CPM = ("CPM", "mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan; 1 is perfect")
INTERVAL = (
    "95% CI",
    "confidence interval: the range of the middle 95% of scores of randomly drawn sets of these scans",
)
DICE = ("Dice", "overlap of what is marked and what is annotated: 1 if equal, 0 if apart")
# Table -> its scores and what they mean.
MEANINGS: dict[str, list[tuple[str, str]]] = {
    "nodules": [
        FOUND,
        ("touched", "nodules of which at least a voxel is marked"),
        ("mean Dice", "mean over nodules of the overlap with the findings that touch them; 1 is perfect, 0 none"),
        ("findings", "all candidates of a second stage, however improbable; else all places that are marked or listed"),
        FALSE_POSITIVES,
        INTERVAL,
    ],
    "networks": [
        ("network", "the name of its file; each scores the scans that its training kept for testing, as in folds"),
        FOUND,
        CPM,
        ("mean Dice", "mean over nodules of the overlap with the findings that touch them; 1 is perfect, 0 none"),
        INTERVAL,
    ],
    "sizes": [
        ("volume bias", "how much larger (+) or smaller (-) than annotated what is marked is, on average"),
        ("spread", "standard deviation of that over nodules"),
        ("surface distance", "mean distance of the marked and the annotated surface; 0 is perfect"),
    ],
    "operating_point": [
        ("operating point", "the probability from which on findings are shown"),
        ("sensitivity", "share of nodules that findings shown there hit"),
    ],
    "froc": [
        ("FROC", "sensitivity at rising numbers of false positives a scan, as the threshold falls"),
        ("sensitivity", "share of annotated nodules that are found"),
        CPM,
        INTERVAL,
    ],
    "voxels": [
        ("precision", "share of marked voxels that are annotated"),
        ("recall", "share of annotated voxels that are marked"),
        DICE,
        INTERVAL,
    ],
    "readers": [("mean Dice of two readers", "how far radiologists agree with each other: the most to be expected")],
    "calibration": [
        (
            "ECE",
            "expected calibration error: mean distance of a probability and the share of nodules at it; 0 is perfect",
        ),
        ("before, after", "the second stage's own probability, and the one that is reported"),
        INTERVAL,
    ],
}
