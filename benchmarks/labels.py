"""Measure how well labels mark nodules, on synthetic scans that come with exact masks."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.synthetic import SMOKE_NOTE
from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.evaluation.external import find_mask
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.mask import read_mask
from p2ch13.labels.rules import Labels
from p2ch13.phantom.dataset import MASK_FOLDER, write_scan
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.options import non_negative_int, positive_int

KINDS = ("box", "refined")


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Print a table: Dice of each kind of labels with the painted nodules."""
    args = build_parser().parse_args(sys_argv)
    scan_count, pixels, slice_count = (1, 128, 16) if args.smoke else (args.scans, None, None)
    dice: dict[str, list[float]] = {kind: [] for kind in KINDS}
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for index in range(scan_count):
        with tempfile.TemporaryDirectory() as folder:
            _, record = write_scan(Path(folder), args.seed, pixels, slice_count, index)
            rows: list[Any] = record.nodules  # series UID, center, diameter and more
            (path,) = Path(folder).glob("subset*/*.mhd")
            nodules = [
                CandidateInfoTuple(True, True, False, diameter_mm, path.stem, XyzTuple(x, y, z))
                for x, y, z, diameter_mm in (row[1:5] for row in rows)
            ]
            for kind in KINDS:
                ct = Ct(path, nodules, Labels(LabelOptions(kind), [path.stem]).rule_of(path.stem))
                mask = read_mask(find_mask(Path(folder) / MASK_FOLDER, path.stem), ct)
                for nodule, truth in zip(nodules, split_by_nodule(mask, ct, nodules), strict=True):
                    label = ct.build_annotation_mask([nodule])
                    dice[kind].append(2 * (truth & label).sum() / (truth.sum() + label.sum()))
                    shares[kind].append(label.sum() / truth.sum())
    if args.smoke:
        print(f"{SMOKE_NOTE}\n")
    print("| labels | nodules | mean Dice | 10th percentile | median size / painted |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in KINDS:
        print(
            f"| {kind} | {len(dice[kind])} | {np.mean(dice[kind]):.3f} | {np.quantile(dice[kind], 0.1):.3f} | "
            f"{np.median(shares[kind]):.2f} |"
        )


def split_by_nodule(
    mask: NDArray[np.bool_], ct: Ct, nodules: Sequence[CandidateInfoTuple]
) -> Iterator[NDArray[np.bool_]]:
    """Yield each nodule's part of a scan's mask, (index, row, col): the voxels that are nearest to its surface."""
    voxels = np.nonzero(mask)
    voxel_xyz = [ct.to_xyz(voxel_irc) for voxel_irc in np.transpose(voxels)]
    surface_mm = [
        np.linalg.norm(np.subtract(voxel_xyz, nodule.center_xyz), axis=1) - nodule.diameter_mm / 2 for nodule in nodules
    ]  # per nodule (voxel,), negative inside
    nearest = np.argmin(surface_mm, axis=0)
    for ndx in range(len(nodules)):
        part = np.zeros_like(mask)
        part[voxels] = nearest == ndx
        yield part


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels", description=__doc__)
    parser.add_argument("--scans", type=positive_int, default=8)
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the scans")
    parser.add_argument("--smoke", action="store_true", help="run all of it on tiny data, and measure nothing")
    return parser


if __name__ == "__main__":
    main()
