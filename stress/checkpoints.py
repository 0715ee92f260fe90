"""Small valid .state files, and how to read them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from p2ch13.detection.detector import load_detector
from p2ch13.evaluation.checkpoints import Checkpoint
from p2ch13.network.card import log_card, read_card
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.network.finding_scorer import SECOND_STAGE
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.network.second_stage import CHANNEL_COUNT, CUBE_SIZE, CUBE_SPACINGS_MM
from p2ch13.util.logits import to_probability
from tests.support.networks import CARD, make_finding_scorer


def write_state(folder: Path, **more: Any) -> list[Path]:
    """Args: more: further keys of the file."""
    path = folder / "seg.state"
    arguments = {**BOOK_MODEL, "depth": 2, "wf": 1}
    torch.manual_seed(0)
    model = UNetWrapper(**arguments)
    save_checkpoint(
        path,
        {
            "model_state": model.state_dict(),
            "model_args": arguments,
            "config": {"slice_spacing_mm": 2.0, "labels": "refined", "val_stride": 10, "threshold_hu": -600},
            "series": {"trn": ["1.2.0"], "val": ["1.2.1"]},
            "epoch": 3,
            **more,
        },
    )
    return [path]


def write_both_stages(folder: Path) -> list[Path]:
    second_stage = make_finding_scorer().as_state()
    return write_state(folder, **{SECOND_STAGE: second_stage, "card": CARD, "trained_series": ["1.2.0", "1.2.3"]})


def read_state(folder: Path) -> None:
    """Load all stages that a file has, as prediction and evaluation do, and run them."""
    path = folder / "seg.state"
    detector = load_detector(path)
    Checkpoint.read(path)
    log_card(path, read_card(path, load_checkpoint(path)))
    detector.describe(detector.choose_threshold())
    with torch.inference_mode():
        detector.network(torch.zeros(1, 7, 16, 16))
    for scorer in detector.scorers:
        cubes = torch.zeros(1, len(CUBE_SPACINGS_MM), CHANNEL_COUNT, *[CUBE_SIZE] * 3)
        _, calibrated = scorer.score(cubes, [0.0], [5.0])
        to_probability(float(calibrated[0]))
        detector.choose_threshold(sensitivity=0.5)


def write_unpacked_state(folder: Path, write: Callable[[Path], Sequence[Path]] = write_state) -> list[Path]:
    """Unpack the files of a checkpoint, so that a mutated one is packed again with a valid checksum."""
    (path,) = write(folder)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    path.unlink()
    return sorted(folder.rglob("*.pkl"))


def read_unpacked_state(folder: Path) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with zipfile.ZipFile(folder / "seg.state", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    read_state(folder)
