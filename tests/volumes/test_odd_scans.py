"""Unusual scans, through the cache, training's data, and prediction."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13 import precache
from p2ch13.config import Folders
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.predict import main as predict
from p2ch13.util.coordinates import AxialOrder, irc2xyz
from tests.support.checks import refused
from tests.support.commands import exit_status
from tests.support.networks import write_pixel_network
from tests.support.scan_files import (
    IDENTITY,
    LUNG_HU,
    ORIGIN_XYZ,
    POSITION,
    VX_SIZE_XYZ,
    Ball,
    ball_mask,
    make_hu,
    write_csv,
    write_scan,
)


class Odd(NamedTuple):
    shape_irc: tuple[int, int, int] = (9, 100, 104)
    dtype: Any = np.int16
    vx_size_xyz: tuple[float, float, float] = VX_SIZE_XYZ
    direction: tuple[float, ...] = IDENTITY
    lung: float = LUNG_HU
    tissue: float = 0


ODD_SCANS = {
    "one slice": Odd(shape_irc=(1, 100, 104)),
    "fewer slices than the context": Odd(shape_irc=(3, 100, 104)),
    "more cols than rows": Odd(shape_irc=(9, 70, 130)),
    "smaller than a crop": Odd(shape_irc=(9, 40, 44)),
    "float HU": Odd(dtype=np.float32, lung=-900.4, tissue=0.4),
    "HU outside of int16": Odd(dtype=np.int32, lung=-70_000, tissue=70_000),
    "float HU outside of int16": Odd(dtype=np.float64, lung=-1e30, tissue=1e30),
    "1 mm": Odd(vx_size_xyz=(1.0, 1.0, 1.0)),
    "5 mm": Odd(vx_size_xyz=(0.7, 0.7, 5.0)),
    "two axes turned": Odd(direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
}


def write_data(tmp_path, odd):
    """A data folder with one scan of one ball in its middle. Returns: folders, the scan's file, where the ball is."""
    ball = Ball(tuple(size // 2 for size in odd.shape_irc), 5)
    is_ball = ball_mask(ball, odd.shape_irc)
    data_dir = tmp_path / "luna"
    hu = np.where(is_ball, odd.tissue, odd.lung).astype(odd.dtype)
    scan = data_dir / "subset0" / "1.2.0.mhd"
    write_scan(scan, hu, direction=odd.direction, vx_size_xyz=odd.vx_size_xyz)
    center_xyz = irc2xyz(ball.center_irc, ORIGIN_XYZ, odd.vx_size_xyz, np.reshape(odd.direction, (3, 3)))
    write_csv(data_dir / "annotations.csv", [*POSITION, "diameter_mm"], [("1.2.0", *center_xyz, 7.0)])
    write_csv(data_dir / "candidates.csv", [*POSITION, "class"], [("1.2.0", *center_xyz, 1)])
    return Folders(data_dir, tmp_path / "cache"), scan, is_ball


def run_precache(folders):
    options = ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir)]
    return exit_status(lambda: precache.main(options))


@pytest.mark.parametrize("name", ODD_SCANS)
def test_the_right_slices_crops_and_masks(tmp_path, name):
    odd = ODD_SCANS[name]
    folders, scan, is_ball = write_data(tmp_path, odd)
    slice_count = odd.shape_irc[0]
    stored_ball, is_ball = is_ball, AxialOrder.of(np.reshape(odd.direction, (3, 3))).to_axial(is_ball)
    hu = np.where(is_ball, min(odd.tissue, 1000), max(odd.lung, -1000)).round()  # as the network sees it
    assert run_precache(folders) == 0

    val_ds = Luna2dSegmentationDataset(folders=folders, slice_spacing_mm=2.0)
    assert [slice_ndx for _, slice_ndx in val_ds.sample_list] == np.flatnonzero(is_ball.any(axis=(1, 2))).tolist()
    step = {1.0: 2, 1.5: 1, 5.0: 1}[odd.vx_size_xyz[2]]
    for ct_slices, mask, _, slice_ndx in val_ds:
        context = [min(max(slice_ndx + step * away, 0), slice_count - 1) for away in range(-3, 4)]
        np.testing.assert_array_equal(ct_slices, hu[context])
        np.testing.assert_array_equal(mask[0], is_ball[slice_ndx])

    train_ds = TrainingLuna2dSegmentationDataset(samples_per_epoch=20, folders=folders)
    ct_slices, masks, _, slice_ndxs = next(train_ds.batches(20))
    assert set(slice_ndxs.tolist()) == {slice_count // 2}
    assert masks.sum(dim=(1, 2, 3)).tolist() == [is_ball[slice_count // 2].sum()] * 20  # the whole ball, in each crop
    np.testing.assert_array_equal(masks[:, 0], ct_slices[:, 3] > -700)

    checkpoint = write_pixel_network(tmp_path / "seg.state", -700)
    out = tmp_path / "out"
    assert predict([str(scan), "--checkpoint", str(checkpoint), "--output", str(out), "--no-lung-mask"]) == 0
    marked = sitk.ReadImage(str(out / "1.2.0_mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(marked), stored_ball)
    assert marked.GetDirection() == pytest.approx(odd.direction)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number(tmp_path, capsys, value):
    folders, scan, _ = write_data(tmp_path, Odd(dtype=np.float32))
    hu = make_hu([Ball((4, 50, 52), 5)], (9, 100, 104)).astype(np.float32)
    hu[2, 3, 4] = value
    write_scan(scan, hu)
    write_scan(scan.with_name("1.2.1.mhd"), make_hu([]))
    assert run_precache(folders) == 1
    assert f"{scan}: " in capsys.readouterr().out
    for dataset in (Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset):
        with refused(scan):
            dataset(series_uid="1.2.0", folders=folders)
    checkpoint = write_pixel_network(tmp_path / "seg.state", -700)
    with refused(scan):
        predict([str(scan), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--no-lung-mask"])
