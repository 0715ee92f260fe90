"""Whole scans with painted nodules, as a data folder that all commands read."""

import csv

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.config import LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.evaluate import main as evaluate
from p2ch13.paint import main
from p2ch13.precache import main as precache
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.backgrounds import read_backgrounds
from p2ch13.training.painted_scans import count_nodules, is_apart, paint_scan, write_painted_scans
from p2ch13.training.painter import Painter
from p2ch13.training.shapes import make_shapes
from tests.support.background_files import LUNG_IRC, read_one, to_xyz, write_backgrounds, write_lesions
from tests.support.checks import refused

PAINTER = Painter(make_shapes(30, seed=0))


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_image(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def lungs(tmp_path):
    folder = write_backgrounds(tmp_path / "lungs")
    write_lesions(folder, [("a", LUNG_IRC, 20.0)])
    return folder


def test_painted_nodules_are_where_they_are_said_to_be(tmp_path):
    """Each center is that of the mask's voxels around it; single voxels of spicules may lie apart."""
    background = read_one(tmp_path)
    painted = paint_scan(background, PAINTER, np.random.default_rng(0), [12.0, 24.0, 18.0])
    hidden = [nodule.diameter_mm / drawn for nodule, drawn in zip(painted.nodules, (24.0, 18.0, 12.0), strict=True)]
    assert all(0.5 ** (1 / 3) <= share <= 1 for share in hidden)  # at most half of the volume lies in the wall
    voxels_xyz = np.array([to_xyz(irc) for irc in np.argwhere(painted.mask)])
    centers_xyz = np.array([nodule.center_xyz for nodule in painted.nodules])
    away_mm = np.linalg.norm(voxels_xyz[:, None] - centers_xyz, axis=-1)  # (voxel, nodule)
    nearest = away_mm.argmin(axis=1)
    for ndx, nodule in enumerate(painted.nodules):
        own_xyz = voxels_xyz[nearest == ndx]
        assert own_xyz.mean(axis=0) == pytest.approx(nodule.center_xyz, abs=0.01)
        assert len(own_xyz) * 27 <= 1.5 * np.pi / 6 * nodule.diameter_mm**3
        assert nodule.series_uid == "a"
    changed = painted.hu != background.hu
    assert changed[painted.mask].mean() > 0.95
    changed_xyz = np.array([to_xyz(irc) for irc in np.argwhere(changed)])
    reach_mm = 1.5 * np.array([nodule.diameter_mm for nodule in painted.nodules])  # of spicules
    assert (np.linalg.norm(changed_xyz[:, None] - centers_xyz, axis=-1) < reach_mm).any(axis=1).all()


def test_known_lesions_stay_as_they_are(tmp_path):
    background = read_one(tmp_path, [(LUNG_IRC, 30.0)])
    painted = paint_scan(background, PAINTER, np.random.default_rng(0), [10.0] * 12)
    z, y, x = np.ogrid[:8, :96, :128]
    away_mm = 3 * np.sqrt((z - 4.0) ** 2 + (y - 40.0) ** 2 + (x - 42.0) ** 2)
    assert len(painted.nodules) > 4
    assert not painted.mask[away_mm < 15].any()
    change_hu = np.abs(painted.hu.astype(int) - background.hu)
    assert change_hu[away_mm < 12].max() == 0
    assert change_hu[away_mm < 15].max() < 20  # the blur of a spicule


def test_nodules_without_a_place_are_left_out(tmp_path):
    background = read_one(tmp_path, [((4, 40, 64), 600.0)])
    painted = paint_scan(background, PAINTER, np.random.default_rng(0), [10.0])
    assert painted.nodules == []
    assert np.array_equal(painted.hu, background.hu)


def test_nodules_are_apart():
    """Of 10 and 6 mm: 14 mm and more from center to center; slices are 2 mm apart."""
    places, vx_size = [(np.array([5.0, 10, 10]), 10.0)], np.array([2.0, 1, 1])
    assert not is_apart(np.array([11.9, 10, 10]), 6.0, places, vx_size)
    assert is_apart(np.array([12.1, 10, 10]), 6.0, places, vx_size)
    assert not is_apart(np.array([5.0, 10, 23]), 6.0, places, vx_size)


def test_larger_lungs_have_more_nodules(tmp_path):
    """Two ellipses of 120 x 72 mm and 24 mm high are 326 ml, less a little at the wall: 3 nodules at 120 ml each."""
    assert count_nodules(read_one(tmp_path)) == 3


def test_a_data_folder(tmp_path, lungs):
    output = tmp_path / "painted"
    main([str(lungs), str(output), "--copies", "2", "--smallest", "9", "--largest", "20"])
    names = ["a_0", "a_1", "b_0", "b_1"]
    assert sorted(path.name for path in (output / "images").iterdir()) == [f"{name}.nii" for name in names]
    rows = read_rows(output / "annotations.csv")
    assert {row["seriesuid"] for row in rows} == set(names)
    assert all(9 <= float(row["diameter_mm"]) <= 20 for row in rows)
    assert [row["seriesuid"] for row in read_rows(output / "annotations_excluded.csv")] == ["a_0", "a_1"]
    patients = {row["seriesuid"]: row["patient"] for row in read_rows(output / "patients.csv")}
    assert patients == {"a_0": "0", "a_1": "0", "b_0": "1", "b_1": "1"}
    images = {name: read_image(output / "images" / f"{name}.nii") for name in names}
    assert not np.array_equal(images["a_0"], images["a_1"])
    index = ScanIndex(output, LabelOptions(labels="mask"))
    assert len(index.scans) == 4
    for name in names:
        mask = read_image(output / "masks" / f"{name}.nii.gz")
        assert set(np.unique(mask)) == {0, 1}
        for nodule in index.nodules[name]:
            image = sitk.ReadImage(str(output / "images" / f"{name}.nii"))
            col, row, ndx = image.TransformPhysicalPointToIndex(nodule.center_xyz)
            assert mask[max(ndx - 1, 0) : ndx + 2, row - 1 : row + 2, col - 1 : col + 2].any()


def test_a_copy_depends_on_its_number_and_seed_alone(tmp_path, lungs):
    """Not on what was painted before it: other sizes of the first background leave the second as it is."""
    backgrounds = read_backgrounds(lungs, tmp_path / "maps", 0.0)

    def painted(name, of, copies=1, seed=0):
        output = tmp_path / name
        write_painted_scans(of, PAINTER, output, copies, (9.0, 20.0), seed)
        return {path.name: read_image(path) for path in sorted((output / "images").iterdir())}

    one, two, other = painted("1", backgrounds), painted("2", backgrounds, copies=2), painted("3", backgrounds, seed=1)
    assert all(np.array_equal(voxels, two[name]) for name, voxels in one.items())
    assert not any(np.array_equal(voxels, other[name]) for name, voxels in one.items())
    backgrounds[0].places = backgrounds[0].places[:0]
    backgrounds[0].lesion_irc, backgrounds[0].lesion_mm = np.array([[4.0, 40, 64]]), np.array([600.0])
    backgrounds[0].places = np.array([[4, 40, 42]])
    backgrounds[0].depths_mm = np.array([15.0])
    assert np.array_equal(painted("4", backgrounds)["b_0.nii"], one["b_0.nii"])


def test_held_out_shapes_give_other_nodules(tmp_path, lungs):
    for name, choice in (("in", []), ("out", ["--held-out"])):
        main([str(lungs), str(tmp_path / name), *choice])
    images = [read_image(tmp_path / name / "images" / "b_0.nii") for name in ("in", "out")]
    assert not np.array_equal(*images)


def test_output_that_cannot_be_used(tmp_path, lungs):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with refused(path=tmp_path / name):
            main([str(lungs), str(tmp_path / name)])
    with refused(option="--largest"):
        main([str(lungs), str(tmp_path / "out"), "--smallest", "9", "--largest", "5"])
    with refused(path=tmp_path / "none"):
        main([str(tmp_path / "none"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_other_commands_read_it(tmp_path, lungs):
    """precache, training and evaluate, with the masks as labels."""
    data_dir, models, cache = (tmp_path / name for name in ("painted", "models", "cache"))
    main([str(lungs), str(data_dir), "--copies", "2", "--smallest", "9", "--largest", "20"])
    data = ["--data-dir", str(data_dir), "--labels", "mask"]
    assert precache([*data, "--cache-dir", str(cache), "--num-workers", "1"]) == 0
    folders = ["--cache-dir", str(cache), "--models-dir", str(models), "--runs-dir", str(tmp_path / "runs")]
    app = SegmentationTrainingApp([*data, *folders, "--val-stride", "2", "--samples-per-epoch", "16"])
    app.main()
    assert (app.run.series["trn"], app.run.series["val"]) == (["b_0", "b_1"], ["a_0", "a_1"])
    evaluate([*data, "--all", "--checkpoint", str(app.run.files.last), "--output", str(tmp_path / "scores")])
    assert (tmp_path / "scores" / "metrics.json").is_file()
