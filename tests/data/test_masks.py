"""Data folders of images and masks: their index, their cache, and what training reads of them."""

import os
import pickle

import numpy as np
import pytest

from p2ch13.config import NEGATIVES_PER_SCAN, CropChoice, Folders, LabelOptions, SamplingOptions
from p2ch13.data.cache import CtCache
from p2ch13.data.crops import CLEARANCE_MM
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.index import ScanIndex
from p2ch13.labels import mask as mask_module
from p2ch13.labels.luna25 import LUNA25_FILE
from p2ch13.labels.mask import MaskRule
from p2ch13.precache import main as precache
from tests.support.checks import refused
from tests.support.commands import exit_status
from tests.support.mask_files import LUNA25_COLUMNS, label_balls, luna25_row, write_candidates, write_images
from tests.support.scan_files import (
    ORIENTATIONS,
    POSITION,
    TINY_SCANS,
    as_nodule,
    make_chest,
    to_xyz,
    write_csv,
    write_luna,
    write_scan,
)

MASK = LabelOptions("mask")
ALL_CROPS = CropChoice(all_nodule_slices=True, negatives=True)
LAYOUTS = {
    "images": ("images/{}.mha", "masks/{}.nii.gz"),
    "nnunet": ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
    "decathlon": ("imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz"),
    "luna25": ("luna25_images/{}.mha", "masks/{}.mha"),
    "mixed": ("images/{}.nrrd", "masks/{}.mhd"),
}


@pytest.fixture
def data_dir(tmp_path):
    return write_images(tmp_path / "data")


@pytest.fixture
def folders(data_dir, tmp_path):
    return Folders(data_dir, tmp_path / "cache")


@pytest.fixture
def read(monkeypatch):
    """List the masks that are read."""
    paths = []

    def counted(path, *arguments):
        paths.append(path.name)
        return read_mask(path, *arguments)

    read_mask = mask_module.read_mask
    monkeypatch.setattr(mask_module, "read_mask", counted)
    return paths


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nodules_are_the_components_of_masks(tmp_path, layout):
    index = ScanIndex(write_images(tmp_path, *LAYOUTS[layout]), MASK)
    assert index.all_series == index.series_list == list(TINY_SCANS)
    assert not index.has_annotations
    for series_uid, balls in TINY_SCANS.items():
        nodules = index.nodules[series_uid]
        centers = [to_xyz(ball.center_irc) for ball in sorted(balls, key=lambda ball: -ball.radius)]
        np.testing.assert_allclose([nodule.center_xyz for nodule in nodules], centers, atol=1)  # some are cut off
        assert {nodule.series_uid for nodule in nodules} == {series_uid}
        ct = index.get_ct(series_uid)
        assert (ct.series_uid, ct.nodules) == (series_uid, tuple(nodules))
        np.testing.assert_array_equal(ct.positive_mask, label_balls(balls))
        assert index.non_nodules[series_uid] == index.excluded[series_uid] == []


def test_masks_are_read_one_by_one_and_once_for_an_open_scan(data_dir, read):
    index = ScanIndex(data_dir, MASK)
    assert read == []
    ct = index.get_ct("1.2.1")
    assert len(index.nodules["1.2.1"]) == len(ct.nodules) == len(ct.parts) == 1
    assert ct.build_annotation_mask(ct.nodules).any()
    assert read == ["1.2.1.nii.gz"]


def test_a_filled_cache_reads_no_mask(folders, read):
    for _ in range(2):
        ct_cache = CtCache.open(folders, MASK)
        if not ct_cache.is_complete("1.2.0", ALL_CROPS):
            assert read == []  # to see whether it is complete
            ct_cache.fill("1.2.0", ALL_CROPS)
            filled = len(read)
        sizes = [nodule.diameter_mm for nodule in ct_cache.index.nodules["1.2.0"]]
        assert sizes == [nodule.diameter_mm for nodule in ScanIndex(folders.data_dir, MASK).nodules["1.2.0"]]
        del read[filled:]
    assert read == ["1.2.0.nii.gz"]
    assert ct_cache.is_complete("1.2.0", ALL_CROPS)
    assert not CtCache.open(folders, LabelOptions("mask", mask_label=1)).is_complete("1.2.0", ALL_CROPS)
    os.utime(folders.data_dir / "masks" / "1.2.0.nii.gz", (1, 1))
    assert not CtCache.open(folders, MASK).is_complete("1.2.0", ALL_CROPS)


def test_a_worker_gets_the_cache_and_its_nodules(folders):
    ct_cache = CtCache.open(folders, MASK)
    nodules = ct_cache.index.nodules["1.2.0"]
    copy = pickle.loads(pickle.dumps(ct_cache))
    assert copy.index.nodules["1.2.0"] == nodules
    assert copy.index.nodules["1.2.1"] == ct_cache.index.nodules["1.2.1"]
    assert copy.index.nodules.find.__self__ is copy


def test_precache_and_training(folders, read):
    options = ["--data-dir", folders.data_dir, "--cache-dir", folders.cache_dir, "--labels=mask", "--preset=strong"]
    write_candidates(folders.data_dir)
    (folders.data_dir / "masks" / "1.2.3.nii.gz").unlink()
    write_scan(folders.data_dir / "masks" / "1.2.2.nii.gz", np.zeros((5, 20, 22), dtype=np.uint8))
    assert exit_status(lambda: precache([*map(str, options), "--num-workers=1"])) == 1
    write_scan(folders.data_dir / "masks" / "1.2.2.nii.gz", label_balls(TINY_SCANS["1.2.2"]))
    assert exit_status(lambda: precache([*map(str, options), "--num-workers=2"])) == 0
    read.clear()
    sampling = SamplingOptions(slice_spacing_mm=2.0, negatives=0.5, all_nodule_slices=True)
    train_ds = TrainingLuna2dSegmentationDataset(
        2, False, folders=folders, labels=MASK, sampling=sampling, samples_per_epoch=4
    )
    assert train_ds.series_list == ["1.2.1"]  # the split is of all scans, with a mask or without
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders, labels=MASK)
    assert val_ds.series_list == ["1.2.0", "1.2.2"]
    assert len(val_ds.pos_list) == 3
    assert read == []
    assert all(mask.any() for _, mask, _, _ in val_ds)


def test_negatives_without_candidates(tmp_path):
    """Random voxels of a chest, none of them beside its mask."""
    hu = make_chest((12, 96, 128))
    mask = np.zeros(hu.shape, dtype=np.uint8)
    mask[4:7, 40:43, 40:44] = 1
    for name, voxels in (("images/1.2.mha", hu), ("masks/1.2.mha", mask)):
        write_scan(tmp_path / name, voxels, vx_size_xyz=(3, 3, 3))
    ct_cache = CtCache.open(Folders(tmp_path, tmp_path / "cache"), MASK)
    negatives = ct_cache.get_crop_centers("1.2").negatives
    assert len(negatives) == NEGATIVES_PER_SCAN
    marked = np.argwhere(ct_cache.index.get_ct("1.2").positive_mask)
    voxels = [ct_cache.index.get_ct("1.2").locate(center_xyz) for center_xyz in negatives]
    away_mm = 3 * np.linalg.norm(marked - np.array(voxels)[:, np.newaxis], axis=2)
    assert away_mm.min() > CLEARANCE_MM


def test_the_same_crops_in_any_order_of_axes(tmp_path):
    """Of images and masks that are stored differently."""
    crops = []
    for name, turned in (("axial", [("LPS", "LPS")]), ("any", list(zip(ORIENTATIONS[4:], ORIENTATIONS, strict=False)))):
        data_dir = write_images(tmp_path / name, *LAYOUTS["nnunet"], orientations=turned)
        dataset = TrainingLuna2dSegmentationDataset(
            folders=Folders(data_dir, tmp_path / f"{name} cache"), labels=MASK, samples_per_epoch=8
        )
        crops.append([(hu.numpy(), mask.numpy(), uid, ndx) for hu, mask, uid, ndx in (dataset[n] for n in range(8))])
    for one, other in zip(*crops, strict=True):
        assert one[2:] == other[2:]
        for values, others in zip(one[:2], other[:2], strict=True):
            np.testing.assert_array_equal(values, others)


def test_other_labels_need_annotations(data_dir):
    for kind in ("box", "refined"):
        with refused(path=data_dir, option="--labels"):
            ScanIndex(data_dir, LabelOptions(kind))


def test_annotations_beside_images_and_masks(data_dir):
    """A CSV file gives the nodules, by any rule; candidates and excluded findings are read if they are there."""
    ball = TINY_SCANS["1.2.0"][1]
    rows = [(uid, *to_xyz(ball.center_irc), 4.2) for uid in ("1.2.0", "1.9.9")]
    write_csv(data_dir / "annotations.csv", [*POSITION, "diameter_mm"], rows)
    for labels in (LabelOptions(), LabelOptions("refined"), MASK):
        index = ScanIndex(data_dir, labels)
        assert index.has_annotations
        assert [nodule.center_xyz for nodule in index.nodules["1.2.0"]] == [to_xyz(ball.center_irc)]
        assert index.nodules["1.2.1"] == index.non_nodules["1.2.1"] == []
    np.testing.assert_array_equal(index.get_ct("1.2.0").positive_mask, label_balls(TINY_SCANS["1.2.0"]))
    write_csv(data_dir / "candidates.csv", [*POSITION, "class"], [("1.2.1", *to_xyz((8, 20, 90)), 0)])
    write_csv(data_dir / "annotations_excluded.csv", POSITION, [("1.2.1", *to_xyz((8, 20, 90)))])
    index = ScanIndex(data_dir, MASK)
    assert len(index.non_nodules["1.2.1"]) == len(index.excluded["1.2.1"]) == 1
    replaced = ScanIndex(data_dir, MASK, [as_nodule("1.2.2", ball)])
    assert len(replaced.nodules["1.2.2"]) == 1
    assert replaced.nodules["1.2.0"] == []


@pytest.mark.parametrize("preset", ["book", "strong"])
def test_annotations_without_a_component_are_named(folders, capsys, preset):
    write_candidates(folders.data_dir)
    rows = [("1.2.0", *to_xyz(ball.center_irc), 4.2) for ball in TINY_SCANS["1.2.0"]]
    rows += [(uid, *to_xyz((15, 90, 90)), 4.2) for uid in ("1.2.1", "1.2.2")]
    write_csv(folders.data_dir / "annotations.csv", [*POSITION, "diameter_mm"], rows)
    options = ["--data-dir", folders.data_dir, "--cache-dir", folders.cache_dir, "--labels=mask", "--num-workers=1"]
    for _ in range(2):  # the second time with a filled cache
        assert exit_status(lambda: precache([*map(str, options), "--preset", preset])) == 0
        assert "near 2 annotated nodules, such as 1.2.1 at (" in capsys.readouterr().out


def test_luna16_with_masks(tmp_path, read):
    """Masks beside LUNA16's scans are ignored without --labels mask; with it the CSV files still list the nodules."""
    data_dir = write_luna(tmp_path, TINY_SCANS)
    before = ScanIndex(data_dir)
    write_scan(data_dir / "masks" / "1.2.0.nii.gz", label_balls(TINY_SCANS["1.2.0"][:1]))
    after = ScanIndex(data_dir)
    assert (after.scans, after.nodules, after.labels.notes) == (before.scans, before.nodules, before.labels.notes)
    index = ScanIndex(data_dir, MASK)
    assert index.series_list == ["1.2.0"]
    assert index.all_series == before.all_series
    assert index.nodules["1.2.0"] == before.nodules["1.2.0"]
    assert len(index.non_nodules["1.2.0"]) == 2
    ct = index.get_ct("1.2.0")
    assert [ct.build_annotation_mask([nodule]).any() for nodule in ct.nodules] == [True, False]
    assert read == ["1.2.0.nii.gz"]
    for name in ("annotations.csv", "annotations_with_malignancy.csv", "candidates.csv"):
        (data_dir / name).unlink()
    with refused(path=data_dir / "annotations.csv"):
        ScanIndex(data_dir)
    index = ScanIndex(data_dir, MASK)
    assert len(index.nodules["1.2.0"]) == 1
    assert index.non_nodules["1.2.0"] == []


def test_luna25(tmp_path):
    data_dir = write_images(tmp_path, *LAYOUTS["luna25"])
    balls = TINY_SCANS["1.2.0"]
    rows = [luna25_row("1.2.0", to_xyz(ball.center_irc), ndx) for ndx, ball in enumerate(balls)]
    csv_path = write_csv(data_dir / LUNA25_FILE, LUNA25_COLUMNS, rows)
    for labels in (LabelOptions(), MASK):
        index = ScanIndex(data_dir, labels)
        assert [nodule.is_mal for nodule in index.nodules["1.2.0"]] == [False, True]
        assert index.nodules["1.2.1"] == []
        ct = index.get_ct("1.2.0")
        assert all(ct.build_annotation_mask([nodule]).any() for nodule in ct.nodules)
    with refused(path=csv_path, option="--labels"):
        ScanIndex(data_dir, LabelOptions("refined"))


def test_the_rule_of_each_scan(data_dir):
    index = ScanIndex(data_dir, LabelOptions("mask", mask_label=3))
    assert index.labels.rule_of("1.2.0") == MaskRule(data_dir / "masks" / "1.2.0.nii.gz", (3,))
    assert index.nodules["1.2.0"] == []
