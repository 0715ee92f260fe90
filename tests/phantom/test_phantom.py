"""Phantoms: the files they come in, and what can be read back from them."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.phantom import __main__ as command_line
from p2ch13.phantom import write_phantoms
from p2ch13.phantom.anatomy import draw_chest
from p2ch13.phantom.dataset import candidate_rows, header_text, nodule_rows
from p2ch13.phantom.fields import capsule_distance, coverage, draw_waves, ellipse_distance
from p2ch13.phantom.muscles import muscle_distance
from p2ch13.phantom.nodules import center_on_tissue, draw_diameter, draw_nodule, paint_nodule
from p2ch13.phantom.painting import Grid, paint_rod, splat
from p2ch13.phantom.scan import make_phantom
from p2ch13.phantom.scanner import Scanner, draw_protocol
from p2ch13.phantom.uids import series_uid
from tests.support.checks import refused
from tests.support.commands import run_python
from tests.support.hold import start_held

SMALL = {"pixels": 96, "slice_count": 12}
FROZEN = Path(__file__).with_name("frozen_phantoms.npz")  # `checksums` of two scans, at commit 9ad9bc2
FROZEN_VOXELS = {  # by `processor_rounding`: with AVX-512, with AVX2
    "7342af2194a9c4df": "eaac9d8472267471126afd1c9946a4e4e002b949398f4bdf9d13076be45e1840",
    "678ecae51f5dfb3e": "7c004cab0a46a797d854a0af918adf115c0ecd4440cf1146c8f88ba896985cf2",
}
BLOCK = 4  # rows and cols whose HU are summed for a checksum
LUNG_HU = (-990, -700)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def place(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["coordX"]), float(row["coordY"]), float(row["coordZ"])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantoms(folder, scan_count=12, seed=3, num_workers=2, **SMALL)
    return folder


@pytest.fixture(scope="module")
def images(data_dir: Path) -> dict[str, sitk.Image]:
    return {path.stem: sitk.ReadImage(str(path)) for path in sorted(data_dir.glob("subset*/*.mhd"))}


def test_layout(data_dir, images):
    assert len(images) == 12
    assert len(list(data_dir.glob("subset0/*.mhd"))) == 10
    assert len(list(data_dir.glob("subset1/*.raw"))) == 2
    assert not list(data_dir.rglob("*.tmp*"))
    for uid, image in images.items():
        assert uid.startswith("2.25.") and uid[5:].isdigit() and len(uid) <= 64
        assert image.GetSize() == (96, 96, 12)
        assert image.GetPixelID() == sitk.sitkInt16


def test_csv_columns(data_dir):
    columns = {name: (data_dir / f"{name}.csv").read_text().splitlines()[0] for name in ("annotations", "candidates")}
    assert columns["annotations"] == "seriesuid,coordX,coordY,coordZ,diameter_mm"
    assert columns["candidates"] == "seriesuid,coordX,coordY,coordZ,class"
    assert (data_dir / "annotations_with_malignancy.csv").read_text().splitlines()[0] == (
        "seriesuid,coordX,coordY,coordZ,diameter_mm,mal_bool,mal_details,"
        "bboxLowX,bboxLowY,bboxLowZ,bboxHighX,bboxHighY,bboxHighZ,len_mal_details"
    )


def test_nodules_are_in_their_scans_and_denser_than_lung(data_dir, images):
    rows = read_rows(data_dir / "annotations.csv")
    counts = Counter(row["seriesuid"] for row in rows)
    assert set(counts) == set(images) and min(counts.values()) >= 2 and max(counts.values()) <= 8
    for row in rows:
        image = images[row["seriesuid"]]
        index = image.TransformPhysicalPointToIndex(place(row))
        assert all(0 <= i < size for i, size in zip(index, image.GetSize(), strict=True))
        assert 3 <= float(row["diameter_mm"]) <= 32
        assert image[index] > -700


def test_both_annotation_files_agree(data_dir):
    rows = read_rows(data_dir / "annotations_with_malignancy.csv")
    plain = read_rows(data_dir / "annotations.csv")
    for row, short in zip(rows, plain, strict=True):
        assert all(row[name] == value for name, value in short.items())
        scores = [int(score) for score in row["mal_details"].strip("[]").split(",")]
        assert int(row["len_mal_details"]) == len(scores)
        assert row["mal_bool"] == str(len([score for score in scores if score >= 4]) >= 2)
        for axis in "XYZ":
            width = float(row[f"bboxHigh{axis}"]) - float(row[f"bboxLow{axis}"])
            assert width == pytest.approx(float(row["diameter_mm"]), abs=1e-3)


def test_candidates(data_dir, images):
    nodules, candidates = read_rows(data_dir / "annotations.csv"), read_rows(data_dir / "candidates.csv")
    for uid, image in images.items():
        mine = [row for row in candidates if row["seriesuid"] == uid]
        assert 30 <= sum(row["class"] == "0" for row in mine) <= 150
        radii = {place(row): float(row["diameter_mm"]) / 2 for row in nodules if row["seriesuid"] == uid}
        hits = set()
        for row in mine:
            index = image.TransformPhysicalPointToIndex(place(row))
            assert all(0 <= i < size for i, size in zip(index, image.GetSize(), strict=True))
            near = [center for center, radius in radii.items() if math.dist(center, place(row)) <= radius]
            assert bool(near) == (row["class"] == "1")
            hits.update(near)
        assert hits == set(radii)


def test_slices_show_lung_tissue_and_bone(images):
    for image in images.values():
        hu = sitk.GetArrayFromImage(image)
        inside = hu[:, 24:72, 24:72]  # the middle, where there is no air around the patient
        assert 0.08 < np.mean((inside > LUNG_HU[0]) & (inside < LUNG_HU[1])) < 0.95
        assert (hu > 300).any()
        assert hu.max() <= 3071


def test_outside_the_field_of_view(images):
    round_view = 0
    for image in images.values():
        hu = sitk.GetArrayFromImage(image)
        if (hu == -3024).any():
            round_view += 1
            rows, cols = np.indices((96, 96)) - 47.5
            assert ((hu == -3024) == (np.hypot(rows, cols) > 48)).all()
        else:
            assert hu.min() >= -1024
    assert 0 < round_view < len(images)


def test_same_seed_same_bytes(tmp_path, data_dir):
    write_phantoms(tmp_path / "one", scan_count=2, seed=3, num_workers=1, **SMALL)
    ours, theirs = read_bytes(tmp_path / "one"), read_bytes(data_dir)
    scans = [name for name in ours if name.startswith(("subset", "masks"))]
    assert len(scans) == 6
    assert all(ours[name] == theirs[name] for name in scans)  # neither workers nor later scans change a scan
    write_phantoms(tmp_path / "two", scan_count=2, seed=3, num_workers=2, **SMALL)
    assert read_bytes(tmp_path / "two") == ours


def make_cube(end: float, step: float = 1) -> Grid:
    """Make a grid whose three axes go from -end to end, mm."""
    axis = np.arange(-end, end + step, step, dtype=np.float32)
    return Grid(axis, axis, axis)


def checksums(seed: int, index: int) -> dict[str, np.ndarray]:
    """The sum of the HU in each block of 4x4 pixels of a slice, and all numbers of the CSV files."""
    phantom = make_phantom(seed, index, **SMALL)
    slices, rows, cols = phantom.hu.shape
    blocks = phantom.hu.astype(np.int32).reshape(slices, rows // BLOCK, BLOCK, cols // BLOCK, BLOCK)
    return {
        "hu": blocks.sum(axis=(2, 4)),  # (12, 24, 24)
        "nodules": np.array([row[1:6] for row in nodule_rows("", phantom)], dtype=float),  # x, y, z, mm, malignant
        "candidates": np.array([row[1:] for row in candidate_rows("", phantom)], dtype=float),  # x, y, z, class
    }


@pytest.mark.parametrize(("seed", "index"), [(3, 0), (0, 1)])
def test_the_generator_is_frozen(seed, index):
    """The same seed makes the scan that it made at commit 9ad9bc2, but for what processors round otherwise.

    NumPy and OpenBLAS calculate with each processor's own instructions, and where HU are rounded to integers the last
    bit shows: with those of older processors up to 72 of these 110,592 voxels were others, and one of them, at an edge,
    by 38 HU. So a checksum of the whole scan would hold on one kind of processor only. Of the sums of 6,912 blocks up
    to 44 were others, 7 by more than one HU a voxel.
    """
    with np.load(FROZEN) as arrays:
        frozen = {name: arrays[f"{name}-{seed}-{index}"] for name in ("hu", "nodules", "candidates")}
    made = checksums(seed, index)
    difference = np.abs(made["hu"] - frozen["hu"])
    assert (difference > 0).mean() < 0.02
    assert (difference > BLOCK**2).sum() < 16
    for name in ("nodules", "candidates"):
        np.testing.assert_allclose(made[name], frozen[name], rtol=0, atol=1e-3)


def processor_rounding() -> str:
    """Hash what NumPy and OpenBLAS calculate here, since processors differ in the last bits."""
    waves = draw_waves(np.random.default_rng(0), 5, 50, 2.0)
    axis = np.linspace(-90, 90, 200, dtype=np.float32)
    values = waves(axis[None, :], axis[:, None], 7.0), waves(axis, axis, axis), np.exp(axis.astype(float) / 9)
    return hashlib.sha256(b"".join(array.tobytes() for array in values)).hexdigest()[:16]


def test_the_files_are_frozen(tmp_path):
    """They are those of commit 6261c32, to the byte, where the processor rounds as one on which they were written."""
    rounding = processor_rounding()
    if rounding not in FROZEN_VOXELS:
        pytest.skip("this processor rounds otherwise; test_the_generator_is_frozen holds on all")
    write_phantoms(tmp_path, scan_count=1, seed=3, **SMALL)
    written = {path: hashlib.sha256(content).hexdigest() for path, content in read_bytes(tmp_path).items()}
    assert {path.rpartition(".")[2]: sha256 for path, sha256 in written.items() if path.startswith("subset")} == {
        "mhd": "9399ea0105152b327f65ab3c680084b3527a68e0c556cc53d2377b1b37a63424",
        "raw": FROZEN_VOXELS[rounding],
    }
    assert {path: sha256 for path, sha256 in written.items() if path.endswith(".csv")} == {
        "annotations.csv": "22efbfe605d6dc3bd7fdb19c06ed42d84abac378d53856dbfd7c7e013dac0442",
        "annotations_with_malignancy.csv": "134d343763c4a4ab1ea3c31bf1650b8dbe5c47e1ff3f2a3422ca0c683ae25499",
        "candidates.csv": "788685cf41e4366d512b6dc53901b77f55a09a9f5268df209acefed5efdab865",
    }


def test_another_seed_is_another_patient():
    first, second = make_phantom(0, 0, **SMALL), make_phantom(1, 0, **SMALL)
    assert series_uid(0, 0) != series_uid(1, 0)
    assert (first.hu != second.hu).mean() > 0.5


def test_a_turned_scan_shows_the_same_places(tmp_path):
    turned = make_phantom(3, 0, **SMALL)  # one of the few that are
    (tmp_path / "scan.raw").write_bytes(turned.hu.astype("<i2").tobytes())
    (tmp_path / "scan.mhd").write_text(header_text(turned, "scan.raw"))
    image = sitk.ReadImage(str(tmp_path / "scan.mhd"))
    assert image.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    assert image.GetOrigin() == pytest.approx(tuple(turned.origin_xyz), abs=1e-4)
    assert image.GetSpacing() == pytest.approx(tuple(turned.spacing_xyz), rel=1e-6)
    hu = sitk.GetArrayFromImage(image)

    def middle_y(voxels: np.ndarray) -> float:
        middle_row = int(np.nonzero(voxels)[1].mean())
        return image.TransformIndexToPhysicalPoint((0, middle_row, 0))[1]

    assert middle_y(hu > 400) > middle_y((hu > LUNG_HU[0]) & (hu < LUNG_HU[1])) + 5  # most bone is in the back
    for center in turned.nodule_xyz:
        col, row, slice_ndx = image.TransformPhysicalPointToIndex(center.tolist())
        around = hu[max(slice_ndx - 1, 0) : slice_ndx + 2, row - 1 : row + 2, col - 1 : col + 2]
        assert around.max() > -700  # the voxels of so small a scan are as large as the nodule


def test_refuses_a_folder_in_use(data_dir):
    before = read_bytes(data_dir)
    with refused(data_dir):
        write_phantoms(data_dir, scan_count=1, **SMALL)
    assert read_bytes(data_dir) == before


@pytest.mark.parametrize("arguments", ["new --scans 0", "new --num-workers 0", "new --seed -1", "data"])
def test_command_line_refuses(data_dir, arguments):
    """Numbers out of range, and a folder in use."""
    before = read_bytes(data_dir.parent)
    name, *options = arguments.split()
    folder = str(data_dir.with_name(name))
    error = run_python("-m", "p2ch13.phantom", folder, *options, status=2).stderr
    assert (options or [folder])[0] in error.splitlines()[-1] and "Traceback" not in error
    assert read_bytes(data_dir.parent) == before


@pytest.mark.parametrize(
    ("size", "scan_count", "widths"),
    [(SMALL, 2, {96}), pytest.param({}, 1, {384, 448, 512}, marks=pytest.mark.slow)],
)
def test_the_command_line(tmp_path, monkeypatch, capsys, size, scan_count, widths):
    monkeypatch.setattr("p2ch13.phantom.dataset.write_phantoms", partial(write_phantoms, **size))
    command_line.main([str(tmp_path), "--scans", str(scan_count), "--seed", "7", "--num-workers", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{scan_count} synthetic scans with ")
    assert lines[-1] == f"Next: python -m p2ch13.precache --preset strong --data-dir {tmp_path}"
    headers = list(tmp_path.glob("subset0/*.mhd"))
    assert len(headers) == scan_count
    assert {sitk.ReadImage(str(header)).GetSize()[0] for header in headers} <= widths


def test_ctrl_c_leaves_only_whole_scans(tmp_path):
    program = (
        "import pathlib, sys; from p2ch13.phantom import write_phantoms; from p2ch13.util.errors import run_command; "
        "run_command(lambda: write_phantoms(pathlib.Path(sys.argv[1]), 20, 0, 2, pixels=96, slice_count=12))"
    )
    reached, arguments = tmp_path / "reached", [tmp_path / "demo"]
    process = start_held(program, "tqdm:tqdm.update", reached, arguments=arguments, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and to its workers
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Stopping after the scans in progress; once more ends at once." in errors.splitlines()
    headers, masks = (list((tmp_path / "demo").glob(pattern)) for pattern in ("subset*/*.mhd", "masks/*.nii.gz"))
    assert headers and all(header.with_suffix(".raw").stat().st_size == 96 * 96 * 12 * 2 for header in headers)
    assert {header.stem for header in headers} <= {mask.name.removesuffix(".nii.gz") for mask in masks}
    assert not list((tmp_path / "demo").rglob("*.tmp*")) and not list((tmp_path / "demo").glob("*.csv"))


def test_diameters_are_distributed_as_in_luna16():
    rng = np.random.default_rng(0)
    diameters = [draw_diameter(rng) for _ in range(4000)]
    assert min(diameters) >= 3 and max(diameters) <= 32
    np.testing.assert_allclose(np.percentile(diameters, [25, 50, 75, 90]), [5.1, 6.4, 9.7, 15.5], rtol=0.08)


def test_a_nodule_has_its_diameter():
    grid, rng = make_cube(20, 0.5), np.random.default_rng(2)
    volumes = []
    while len(volumes) < 8:
        nodule = draw_nodule(rng, np.zeros(3), 12.0)
        if nodule.texture != "solid" or nodule.cavity or len(nodule.spikes):
            continue
        hu = np.full(grid.shape, -850, np.float32)
        paint_nodule(hu, grid, nodule, rng)
        volumes.append(float((hu > -400).sum() * 0.5**3))
    assert np.mean(volumes) == pytest.approx(np.pi / 6 * 12**3, rel=0.15)


@pytest.mark.parametrize(
    ("tissue_col", "center_col"),
    [
        (10, 10),  # the center shows tissue: it stays
        (12, 12),  # it does not: the nearest tissue within reach
        (18, 9),  # nothing shows tissue: the densest voxel within reach, here just beside it
    ],
)
def test_a_center_moves_to_tissue(tissue_col, center_col):
    axis = np.arange(21, dtype=np.float32)
    hu = np.full((21, 21, 21), -900)
    hu[10, 10, 9] = -800
    hu[10, 10, tissue_col] = -100
    nodule = draw_nodule(np.random.default_rng(0), np.full(3, 10.0), 12.0)
    moved = center_on_tissue(hu, Grid(axis, axis, axis), nodule)
    np.testing.assert_allclose(moved.center_xyz, [center_col, 10, 10])


def test_noise_goes_on_in_overlapping_slices():
    def likeness(overlap: float) -> float:
        protocol = draw_protocol(np.random.default_rng(0), 64, 4, (180.0, 120.0))
        scanner, rng = Scanner(replace(protocol, overlap=overlap, round_view=False)), np.random.default_rng(1)
        flat = np.zeros((64, 64), np.float32)
        first, second = (scanner.image(flat, flat, rng) for _ in range(2))
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])

    assert likeness(0.0) == pytest.approx(0, abs=0.1)
    assert likeness(0.5) == pytest.approx(0.5, abs=0.1)


def test_muscles_lie_outside_the_ribs():
    x, y = np.arange(-180, 181, 4, dtype=np.float32)[None, :], np.arange(-130, 151, 4, dtype=np.float32)[:, None]
    chest = draw_chest(np.random.default_rng(0))
    for z in (-60.0, 40.0):
        cage = chest.cage_distance(x, y, np.float32(z))
        muscle = muscle_distance(cage, x, y, z) < 0
        assert 0.05 < muscle[cage > 10].mean() < 0.9  # with fat between them
        assert muscle[(cage > -60) & (cage < 5) & (y < 60)].mean() < 0.01


def test_a_nodule_leaves_what_is_denser():
    hu, rng = np.full((21, 21, 21), 1500, np.float32), np.random.default_rng(0)
    paint_nodule(hu, make_cube(10), draw_nodule(rng, np.zeros(3), 8.0), rng)
    assert (hu == 1500).all()


def test_a_rod_fills_its_volume():
    volume = np.zeros((41, 41, 41), np.float32)
    paint_rod(volume, make_cube(10, 0.5), np.array([-5.0, 0, 0, 2]), np.array([5.0, 0, 0, 2]))
    assert volume.sum() * 0.5**3 == pytest.approx(np.pi * 2**2 * 10 + 4 / 3 * np.pi * 2**3, rel=0.03)


def test_waves_agree_between_points_and_slices():
    waves = draw_waves(np.random.default_rng(0), 5, 50, 2.0)
    x, y = np.arange(6, dtype=np.float32), np.arange(4, dtype=np.float32) + 10
    on_slice = waves(x[None, :], y[:, None], 7.0)
    rows, cols = np.indices((4, 6))
    at_points = waves(x[cols.ravel()], y[rows.ravel()], np.full(24, 7, np.float32))
    assert on_slice.shape == (4, 6)
    np.testing.assert_allclose(on_slice.ravel(), at_points, atol=1e-4)


def test_wave_deviation():
    points = np.random.default_rng(1).uniform(-500, 500, (3, 20000)).astype(np.float32)
    assert draw_waves(np.random.default_rng(0), 5, 50, 2.0)(*points).std() == pytest.approx(2.0, rel=0.05)


def test_distances_by_hand():
    assert ellipse_distance(np.float32(5), np.float32(0), 3, 3) == pytest.approx(2)
    assert ellipse_distance(np.float32(0), np.float32(4), 9, 4) == pytest.approx(0, abs=1e-6)
    rod = ((0, 0, 0, 1), (10, 0, 0, 1))
    assert capsule_distance(5.0, 3.0, 0.0, *rod) == pytest.approx(2)  # beside it
    assert capsule_distance(13.0, 4.0, 0.0, *rod) == pytest.approx(4)  # beyond its end: 5 - 1
    np.testing.assert_allclose(coverage(np.array([-2.0, 0.0, 0.5, 2.0]), 2.0), [1, 0.5, 0.25, 0])


def test_splat_keeps_matter():
    axis = np.arange(5, dtype=np.float32)
    volume = np.zeros((5, 5, 5), np.float32)
    points = np.array([[1.25, 2, 3], [9, 9, 9]], np.float32)  # the second one lies outside
    splat(volume, Grid(axis, axis, axis), points, np.array([0.8, 5.0], np.float32))
    assert volume[3, 2, 1] == pytest.approx(0.6) and volume[3, 2, 2] == pytest.approx(0.2)
    assert volume.sum() == pytest.approx(0.8)
