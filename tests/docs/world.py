"""The files that commands and Python code of the documentation name, with tiny scans in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.support.background_files import write_backgrounds
from tests.support.dicom_files import write_series
from tests.support.mask_files import LUNA25_COLUMNS, luna25_row
from tests.support.networks import CARD, write_pixel_network
from tests.support.scan_files import POSITION, Ball, ball_mask, make_hu, to_xyz, write_csv, write_scan, write_subsets

SHAPE_IRC = (6, 40, 44)
SCANS = {f"1.2.{ndx}": [Ball((2 + ndx % 2, 16 + ndx, 20), 4)] for ndx in range(4)}
NODULES = [(uid, *to_xyz(ball.center_irc), ball.diameter_mm) for uid, balls in SCANS.items() for ball in balls]


def write_mask(path: Path, uid: str = "1.2.0") -> None:
    mask = np.zeros(SHAPE_IRC, np.uint8)
    for ball in SCANS[uid]:
        mask[ball_mask(ball, SHAPE_IRC)] = 1
    write_scan(path, mask)


def write_masks(folder: Path) -> None:
    for uid in SCANS:
        write_mask(folder / f"{uid}.nii.gz", uid)


def write_candidates(folder: Path) -> None:
    write_csv(folder / "candidates.csv", [*POSITION, "class"], [(uid, *to_xyz((3, 30, 36)), 0) for uid in SCANS])


def write_luna16(folder: Path) -> None:
    """Write scans in two subsets, for folds."""
    write_subsets(folder, SCANS, 2, SHAPE_IRC)
    write_candidates(folder)


def write_luna_with_masks(folder: Path) -> None:
    write_luna16(folder)
    write_masks(folder / "masks")


def write_images(folder: Path, image: str = "images/{}.nii.gz", masks: str = "masks") -> None:
    for uid, balls in SCANS.items():
        write_scan(folder / image.format(uid), make_hu(balls, SHAPE_IRC))
    write_masks(folder / masks)
    write_candidates(folder)


def write_luna25(folder: Path) -> None:
    for uid, balls in SCANS.items():
        write_scan(folder / "luna25_images" / f"{uid}.mha", make_hu(balls, SHAPE_IRC))
    rows = [luna25_row(uid, center, 1, patient) for patient, (uid, *center, _) in enumerate(NODULES)]
    write_csv(folder / "LUNA25_Public_Training_Development_Data.csv", LUNA25_COLUMNS, rows)
    write_candidates(folder)


def write_findings(path: Path) -> None:
    write_csv(path, [*POSITION, "probability"], [(*row[:4], 0.9) for row in NODULES])


def write_network(path: Path) -> None:
    """A network that marks all balls, and says that it was trained on nothing of this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pixel_network(path, -700, card=CARD, trained_series=[])


def name_as_pages_do() -> None:
    """Copy the latest run's files to the names that pages have for them, such as `seg_....best.state`."""
    models = Path("data/models/p2ch13")
    shutil.copy(find_newest(models, "seg_2*.best.state"), models / "seg_....best.state")
    shutil.copy(find_newest(models, "seg_2*.last.state"), models / "seg_....last.state")
    shutil.copy(find_newest(Path("runs"), "*/*/splits.json"), "splits.json")


def find_newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


# What pages name -> what writes it.
WORLD: dict[str, Callable[[Path], object]] = {
    "data/part2/luna": write_luna16,
    "data/demo/scans": write_luna16,
    "data/phantoms": write_luna_with_masks,
    "data/own": write_images,
    "data/Dataset101_Nodules": lambda path: write_images(path, "imagesTr/{}_0000.nii.gz", "labelsTr"),
    "data/luna25": write_luna25,
    "lungs": write_backgrounds,
    "LIDC-IDRI": lambda path: write_series(path / "a", make_hu(SCANS["1.2.0"], SHAPE_IRC)),
    "series": lambda path: write_series(path, make_hu(SCANS["1.2.0"], SHAPE_IRC)),
    "results": write_masks,
    "nnunet_predictions": write_masks,
    "scan.nii.gz": lambda path: write_scan(path, make_hu(SCANS["1.2.0"], SHAPE_IRC)),
    "scan.mhd": lambda path: write_scan(path, make_hu(SCANS["1.2.0"], SHAPE_IRC)),
    "mask.nii.gz": write_mask,
    "second scan.mhd": lambda path: write_scan(path, make_hu(SCANS["1.2.1"], SHAPE_IRC)),
    "nodules.csv": write_findings,
    "submission.csv": write_findings,
    "annotations.csv": lambda path: write_csv(path, [*POSITION, "diameter_mm"], NODULES),
    "annotations_excluded.csv": lambda path: write_csv(path, POSITION, [("1.2.0", 0, 0, 0)]),
    "seriesuids.csv": lambda path: path.write_text("\n".join(SCANS) + "\n"),
}


def write_world(folder: Path, words: set[str]) -> None:
    """Write what the words of a page's commands name into a folder, and LUNA16 where commands look for it."""
    for name, write in WORLD.items():
        if name in words or name == "data/part2/luna":
            path = folder / name
            (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
            write(path)
    for word in words:
        if word.endswith(".state"):
            write_network(folder / word)
