"""Masks of phantoms: their files, and the voxels that they mark."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from p2ch13.data.ct import Ct
from p2ch13.evaluation.external import find_mask
from p2ch13.labels.mask import read_mask
from p2ch13.phantom import dataset, scan, write_phantoms
from p2ch13.phantom.anatomy import Chest, draw_chest
from p2ch13.phantom.nodules import draw_nodule, mark_nodule, paint_nodule
from p2ch13.phantom.painting import Grid
from p2ch13.phantom.scan import Phantom, make_phantom
from p2ch13.phantom.uids import series_uid
from tests.support.checks import refused

SMALL = {"pixels": 96, "slice_count": 12}
SCAN_COUNT, SEED = 2, 3  # the first of them is turned
LUNG_HU = -700  # and below


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks") / "data"
    write_phantoms(folder, SCAN_COUNT, SEED, num_workers=2, **SMALL)
    return folder


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """The same scans."""
    return [make_phantom(SEED, index, **SMALL) for index in range(SCAN_COUNT)]


def list_scans(data_dir: Path) -> list[tuple[Path, Path]]:
    """Pair headers with masks."""
    headers = sorted(data_dir.glob("subset*/*.mhd"))
    return [(header, data_dir / "masks" / f"{header.stem}.nii.gz") for header in headers]


def test_each_scan_has_a_mask_in_its_geometry(data_dir):
    pairs = list_scans(data_dir)
    assert {mask for _, mask in pairs} == set((data_dir / "masks").iterdir()) and len(pairs) == SCAN_COUNT
    directions = set()
    for header, path in pairs:
        image, mask = sitk.ReadImage(str(header)), sitk.ReadImage(str(path))
        assert mask.GetSize() == image.GetSize() and mask.GetPixelID() == sitk.sitkUInt8
        assert mask.GetDirection() == image.GetDirection()
        np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing(), rtol=1e-6)  # float32 in the file
        np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)
        directions.add(image.GetDirection())
    assert len(directions) == 2


def test_masks_hold_zeros_and_ones_that_lie_in_tissue(data_dir):
    for header, path in list_scans(data_dir):
        hu, mask = (sitk.GetArrayFromImage(sitk.ReadImage(str(name))) for name in (header, path))
        assert set(np.unique(mask)) == {0, 1}
        assert hu[mask == 1].mean() > LUNG_HU


def test_evaluation_reads_masks(data_dir):
    for header, path in list_scans(data_dir):
        assert read_mask(find_mask(path.parent, header.stem), Ct(header, [])).any()


def test_the_file_is_the_mask(data_dir, phantoms):
    for index, phantom in enumerate(phantoms):
        path = data_dir / "masks" / f"{series_uid(SEED, index)}.nii.gz"
        assert phantom.mask.dtype == bool and phantom.mask.shape == phantom.hu.shape
        assert (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) == phantom.mask).all()
        assert len(gzip.decompress(path.read_bytes())) == 352 + phantom.mask.size
        assert path.read_bytes()[4:8] == bytes(4)  # no time of writing


def test_masks_lie_where_nodules_are_annotated(phantoms):
    """Annotated centers are in the mask or a voxel beside it, although those in noise have moved to tissue."""
    for phantom in phantoms:
        voxel_irc = np.argwhere(phantom.mask)
        turn = np.array([phantom.direction_xy, phantom.direction_xy, 1])
        voxel_xyz = phantom.origin_xyz + turn * phantom.spacing_xyz * voxel_irc[:, ::-1]
        for center_xyz in phantom.nodule_xyz:
            nearest_mm = np.linalg.norm(voxel_xyz - center_xyz, axis=1).min()
            assert nearest_mm <= np.linalg.norm(phantom.spacing_xyz)


def test_marking_changes_neither_voxels_nor_random_numbers(phantoms, monkeypatch):
    phantom = phantoms[1]
    monkeypatch.setattr(scan, "mark_nodule", lambda filled, *_: np.zeros(filled.shape, bool))
    unmarked = make_phantom(SEED, 1, **SMALL)
    assert phantom.mask.any() and not unmarked.mask.any()
    for name in ("hu", "nodule_xyz", "positive_xyz", "negative_xyz"):
        assert (getattr(phantom, name) == getattr(unmarked, name)).all()


def test_equivalent_diameters():
    """Components of the mask have the annotated diameter, of nodules inside the lung and the scan.

    The outline is r (1 + w) with a wave field w of deviation s <= 0.14. A wave of length l has the mean sin(k) / k over
    the unit sphere, k = 2 pi / l; over the wavelengths that is 0.16, root mean square, so that the mean of w deviates
    by 0.16 s = 0.022, and its square adds s^2 = 0.02 to the diameter: 3 * 0.022 + 0.02 = 0.09. Of voxels with edges h,
    pi (d / h)^2 are cut by the surface; each is right within 1 / sqrt(12) of its volume, which deviates the diameter by
    0.33 (h / d)^2: three times that is (h / d)^2.
    """
    phantom = make_phantom(11, 6, pixels=256, slice_count=32)  # none of its nodules is at the pleura or the border
    components, _ = ndimage.label(phantom.mask, np.ones((3, 3, 3)))
    voxel_mm = float(phantom.spacing_xyz.prod()) ** (1 / 3)
    for nodule, center_xyz in zip(phantom.nodules, phantom.nodule_xyz, strict=True):
        col, row, slice_ndx = np.rint((center_xyz - phantom.origin_xyz) / phantom.spacing_xyz).astype(int)
        assert phantom.mask[slice_ndx, row, col]
        voxel_count = (components == components[slice_ndx, row, col]).sum()
        diameter_mm = voxel_mm * (6 / math.pi * voxel_count) ** (1 / 3)
        assert diameter_mm == pytest.approx(nodule.diameter_mm, rel=0.09 + (voxel_mm / nodule.diameter_mm) ** 2)


@pytest.fixture(scope="module")
def chest() -> Chest:
    return draw_chest(np.random.default_rng(0))


def find_lung(chest: Chest, depth_mm: float) -> np.ndarray:
    """Find a point (3,) at about this depth in the lung."""
    places = np.random.default_rng(0).uniform(-100, 100, (20000, 3)).astype(np.float32)
    return places[np.abs(chest.lung_depth(*places.T) - depth_mm).argmin()].astype(float)


def make_grid(center_xyz: np.ndarray, end_mm: float, spacing_xyz: tuple[float, float, float]) -> Grid:
    """Make a grid around a point, with a voxel at the point."""
    counts = [int(end_mm / step) for step in spacing_xyz]
    return Grid(
        *(center + step * np.arange(-n, n + 1) for center, step, n in zip(center_xyz, spacing_xyz, counts, strict=True))
    )


def test_the_smallest_nodules_are_marked_in_thick_slices(chest):
    rng = np.random.default_rng(0)
    for _ in range(20):
        center_xyz = find_lung(chest, 25.0)
        grid = make_grid(center_xyz + rng.uniform(-0.5, 0.5, 3) * (0.8, 0.8, 3.0), 12.0, (0.8, 0.8, 3.0))
        nodule = draw_nodule(rng, center_xyz, 3.2)
        box, filled = paint_nodule(np.full(grid.shape, -850, np.float32), grid, nodule, rng)
        mask = mark_nodule(filled, grid.part(box), chest, nodule)
        marked = np.argwhere(mask)
        assert 1 <= len(marked) <= math.pi / 6 * 4.5**3 / (0.8 * 0.8 * 3)
        assert filled[mask].min() >= 0.5 or len(marked) == 1


@pytest.mark.parametrize(
    ("filled_by_col", "marked_cols"),
    [
        ([0.2, 0.5, 0.4, 1.0, 0.6], [1, 3, 4]),
        ([0.1, 0.3, 0.2, 0.4, 0.1], [3]),  # none is half full: the fullest
        ([0.4, 0.4, 0.2, 0.4, 0.1], [1]),  # the fullest that is nearest to the center
        ([0.0, 0.0, 0.0, 0.0, 0.0], [2]),  # so small that it fills none, between the centers of huge voxels
    ],
)
def test_marked_voxels(chest, filled_by_col, marked_cols):
    center_xyz = find_lung(chest, 25.0)
    x = np.arange(-2, 3) + center_xyz[0]
    nodule = draw_nodule(np.random.default_rng(0), center_xyz - (0.1, 0, 0), 4.0)
    mask = mark_nodule(
        np.array(filled_by_col, np.float32).reshape(1, 1, 5), Grid(x, center_xyz[1:2], center_xyz[2:]), chest, nodule
    )
    assert np.flatnonzero(mask).tolist() == marked_cols


def test_no_more_than_lung_is_marked(chest):
    center_xyz = find_lung(chest, 2.0)
    grid = make_grid(center_xyz, 8.0, (1.0, 1.0, 1.0))
    mask = mark_nodule(
        np.ones(grid.shape, np.float32), grid, chest, draw_nodule(np.random.default_rng(0), center_xyz, 9.0)
    )
    z, y, x = (axis.ravel() for axis in np.meshgrid(grid.z, grid.y, grid.x, indexing="ij"))
    assert (mask.ravel() == (chest.lung_depth(x, y, z) > 0)).all()
    assert 0.1 < mask.mean() < 0.9


@pytest.mark.parametrize("texture", ["solid", "part-solid", "ground-glass"])
@pytest.mark.parametrize("tissue_hu", [-850, 50])
def test_a_nodule_counts_whole(chest, texture, tissue_hu):
    """With its cavity, whatever its texture, and with the vessels in it."""
    rng, center_xyz = np.random.default_rng(2), find_lung(chest, 25.0)
    nodule = draw_nodule(rng, center_xyz, 14.0)
    nodule = replace(nodule, texture=texture, cavity=0.5, spikes=np.zeros((0, 4), np.float32))
    grid = make_grid(center_xyz, 15.0, (0.7, 0.7, 0.7))
    box, filled = paint_nodule(np.full(grid.shape, tissue_hu, np.float32), grid, nodule, rng)
    mask = mark_nodule(filled, grid.part(box), chest, nodule)
    assert (ndimage.binary_fill_holes(mask) == mask).all()
    assert (6 / math.pi * mask.sum()) ** (1 / 3) * 0.7 == pytest.approx(14.0, rel=0.09)


def test_no_header_without_a_mask(tmp_path, monkeypatch):
    def write_but_no_mask(path: Path):
        if path.name.endswith(".nii.gz"):
            raise OSError("no space left")
        return atomic_write(path)

    atomic_write = dataset.atomic_write
    monkeypatch.setattr(dataset, "atomic_write", write_but_no_mask)
    with pytest.raises(OSError, match="no space left"):
        dataset.write_scan(tmp_path, SEED, SMALL["pixels"], SMALL["slice_count"], 0)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".raw"}


def test_refuses_a_folder_with_masks(tmp_path):
    (tmp_path / "masks").mkdir()
    with refused(tmp_path):
        write_phantoms(tmp_path, scan_count=1, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
