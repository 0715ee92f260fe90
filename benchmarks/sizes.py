"""Measure how far sizes and kinds of findings are from those of phantoms' nodules, whose shapes are known."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.kept import FORMAT_VERSION
from benchmarks.labels import split_by_nodule
from benchmarks.synthetic import SMOKE_NOTE
from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.detection.findings import find_largest_fragment
from p2ch13.detection.measure import KINDS, find_axes, measure
from p2ch13.evaluation.external import find_mask
from p2ch13.evaluation.size_classes import SIZE_CLASSES, name_class
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.mask import read_mask
from p2ch13.labels.regions import split_mask
from p2ch13.phantom.nodules import LEAST_SHARE, TEXTURES, Nodule, draw_diameter, draw_nodule, paint_nodule
from p2ch13.phantom.painting import Grid
from p2ch13.phantom.scan import Phantom, make_phantom
from p2ch13.phantom.scanner import draw_protocol
from p2ch13.util.boxes import BoxMask
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.files import atomic_write
from p2ch13.util.options import non_negative_int, positive_int

OUTPUT = Path("docs/sizes.json")
FINE_STEPS = 50  # voxels to a nodule's diameter, of the grid on which its true size is measured
BODY_MM = (170.0, 110.0)  # half width and half depth, for which protocols are drawn


class Sizes(NamedTuple):
    """Sizes of a mask."""

    long_mm: float
    short_mm: float
    mm3: float

    @property
    def mean_mm(self) -> float:
        return (self.long_mm + self.short_mm) / 2


class Pair(NamedTuple):
    """The sizes of a mask and the true ones, and the diameter of the nodule's size class."""

    measured: Sizes
    true: Sizes
    diameter_mm: float


def main(sys_argv: Sequence[str] | None = None) -> None:
    """Print tables: errors of sizes by size class, and kinds by texture; write them as JSON."""
    args = build_parser().parse_args(sys_argv)
    nodules, scans, scan_size = (6, 1, (128, 16)) if args.smoke else (args.nodules, args.scans, (None, None))
    results = {"measuring": by_class(list(pair_nodules(nodules, args.seed)))}
    if args.predicted is not None:
        results["predicted"] = by_class(list(pair_predictions(args.data_dir, args.predicted)))
    kinds = count_kinds(scans, args.seed, *scan_size)
    if args.smoke:
        print(f"{SMOKE_NOTE}\n")
    for title, rows in results.items():
        print_sizes(title, rows)
    print_kinds(kinds)
    if not args.smoke:
        values = {"format_version": FORMAT_VERSION, "seed": args.seed, "scans": scans, **results, "kinds": kinds}
        with atomic_write(args.output) as file:
            file.write(json.dumps(values, indent=1, allow_nan=False).encode() + b"\n")


def pair_nodules(count: int, seed: int) -> Iterator[Pair]:
    """Draw nodules and scanners as phantoms do, and measure the mask of each nodule on the scanner's grid.

    The true sizes are measured on a grid of `FINE_STEPS`. Spicules are left out: how much of them counts depends on the
    voxels.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        protocol = draw_protocol(rng, 512, 48, BODY_MM)
        spacing_xyz = np.array([protocol.pixel_mm, protocol.pixel_mm, protocol.slice_mm])
        nodule = draw_nodule(rng, rng.uniform(-0.5, 0.5, 3) * spacing_xyz, draw_diameter(rng))
        nodule = replace(nodule, spikes=np.empty((0, 4), np.float32))
        fine_xyz = np.array([1, 1, 2]) * nodule.diameter_mm / FINE_STEPS
        yield Pair(measure_on(nodule, spacing_xyz, rng), measure_on(nodule, fine_xyz, rng), nodule.diameter_mm)


def measure_on(nodule: Nodule, spacing_xyz: NDArray[np.float64], rng: np.random.Generator) -> Sizes:
    """Measure a nodule's mask on a grid of this spacing: the voxels that it fills to at least a half."""
    counts = np.ceil(nodule.diameter_mm / spacing_xyz).astype(int) + 4
    axes = [
        (np.arange(-count, count + 1) * size).astype(np.float32)
        for count, size in zip(counts, spacing_xyz, strict=True)
    ]
    grid = Grid(*axes)
    _, filled = paint_nodule(np.full(grid.shape, -860, np.float32), grid, nodule, rng)
    return sizes_of(filled >= min(LEAST_SHARE, float(filled.max())), spacing_xyz)


def sizes_of(mask: NDArray[np.bool_], vx_size_xyz: NDArray[np.float64]) -> Sizes:
    """Measure a mask (index, row, col) as findings are measured, see `measure`."""
    axes = find_axes(find_largest_fragment(crop(mask)), vx_size_xyz)
    mm3 = float(np.count_nonzero(mask) * np.prod(vx_size_xyz))
    return Sizes(axes.long.length_mm, axes.short.length_mm, mm3)


def pair_predictions(data_dir: Path, predicted: Path) -> Iterator[Pair]:
    """Measure the findings of predicted masks that overlap a phantom's nodule, beside the nodule's own mask.

    Args: data_dir: phantoms; predicted: the output folder of predict, for some of them.
    """
    index = ScanIndex(data_dir, LabelOptions("mask"))
    for series_uid in sorted(index.layout.scans):
        if not any(predicted.glob(f"{series_uid}_mask.*")):
            continue
        ct = index.get_ct(series_uid)
        findings = split_mask(read_mask(find_mask(predicted, series_uid), ct))
        for nodule, truth in zip(ct.nodules, split_by_nodule(ct.positive_mask, ct, ct.nodules), strict=True):
            found = np.zeros_like(truth)
            for part in findings:
                if truth[part.box][part.mask].any():
                    found[part.box] |= part.mask
            if found.any():
                yield Pair(sizes_of(found, ct.vx_size_xyz), sizes_of(truth, ct.vx_size_xyz), nodule.diameter_mm)


def by_class(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of the errors of each size class that has nodules."""
    rows = []
    for low, high in SIZE_CLASSES:
        members = [pair for pair in pairs if low <= pair.diameter_mm < high]
        if not members:
            continue
        errors = {
            "long_mm": [pair.measured.long_mm - pair.true.long_mm for pair in members],
            "short_mm": [pair.measured.short_mm - pair.true.short_mm for pair in members],
            "mean_mm": [pair.measured.mean_mm - pair.true.mean_mm for pair in members],
            "volume": [pair.measured.mm3 / pair.true.mm3 - 1 for pair in members],
        }
        row: dict[str, Any] = {"class": name_class(low, None if np.isinf(high) else high), "nodules": len(members)}
        for name, values in errors.items():
            row[f"{name}_bias"], row[f"{name}_spread"] = float(np.mean(values)), float(np.std(values))
        rows.append(row)
    return rows


def count_kinds(scan_count: int, seed: int, pixels: int | None, slice_count: int | None) -> dict[str, dict[str, int]]:
    """Count the kinds that are measured in phantoms' own masks, by the texture that a nodule was painted with."""
    counts = {texture: dict.fromkeys(KINDS, 0) for texture in TEXTURES}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(scan_count):
            phantom = make_phantom(seed, index, pixels, slice_count)
            ct, mask = open_phantom(phantom, Path(folder) / f"{index}.mha")
            for nodule, part in zip(phantom.nodules, split_by_nodule(mask, ct, ct.nodules), strict=True):
                if part.any():
                    counts[nodule.texture][measure(ct, crop(part)).kind] += 1
    return counts


def open_phantom(phantom: Phantom, path: Path) -> tuple[Ct, NDArray[np.bool_]]:
    """Write a phantom as a file in axial order, and open it. Returns: the scan with its nodules; its mask."""
    turn = phantom.direction_xy
    image = sitk.GetImageFromArray(np.ascontiguousarray(phantom.hu[:, ::turn, ::turn]))
    last_xyz = phantom.origin_xyz + phantom.spacing_xyz * (turn, turn, 1) * (np.array(phantom.hu.shape[::-1]) - 1)
    image.SetOrigin(np.minimum(phantom.origin_xyz, last_xyz).tolist())
    image.SetSpacing(phantom.spacing_xyz.tolist())
    sitk.WriteImage(image, str(path))
    nodules = [
        CandidateInfoTuple(True, True, False, nodule.diameter_mm, path.stem, XyzTuple(*center.tolist()))
        for nodule, center in zip(phantom.nodules, phantom.nodule_xyz, strict=True)
    ]
    return Ct(path, nodules), phantom.mask[:, ::turn, ::turn]


def crop(mask: NDArray[np.bool_]) -> BoxMask:
    """Reduce a mask (index, row, col) that is not empty to its bounding box."""
    (box,) = ndimage.find_objects(np.ascontiguousarray(mask).view(np.uint8))
    return BoxMask(box, mask[box])


def print_sizes(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"| {title} | nodules | long axis, mm | short axis, mm | mean of both, mm | volume |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        lengths = " | ".join(
            f"{row[f'{name}_bias']:+.2f} ± {row[f'{name}_spread']:.2f}" for name in ("long_mm", "short_mm", "mean_mm")
        )
        volume = f"{row['volume_bias']:+.1%} ± {row['volume_spread']:.1%}"
        print(f"| {row['class']} | {row['nodules']} | {lengths} | {volume} |")
    print()


def print_kinds(kinds: dict[str, dict[str, int]]) -> None:
    print(f"| painted as | {' | '.join(KINDS)} |")
    print(f"| --- |{' ---: |' * len(KINDS)}")
    for texture, counts in kinds.items():
        print(f"| {texture} | {' | '.join(str(counts[kind]) for kind in KINDS)} |")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--nodules", type=positive_int, default=200, help="drawn to measure sizes")
    parser.add_argument("--scans", type=positive_int, default=10, help="phantoms whose nodules' kinds are measured")
    parser.add_argument("--seed", type=non_negative_int, default=8, help="of nodules and phantoms")
    parser.add_argument("--data-dir", type=Path, default=Path("data/phantoms"), help="phantoms that --predicted is of")
    parser.add_argument("--predicted", type=Path, help="output folder of predict, whose masks are measured")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="written as JSON (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="run all of it on tiny data, and measure nothing")
    return parser


if __name__ == "__main__":
    main()
