import json
import math

import nibabel as nib
import numpy as np
import pytest

from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.mask import MaskFolder, MaskRule, find_nodules
from p2ch13.labels.rules import Labels
from tests.support.checks import refused
from tests.support.mask_files import label_balls, write_image_and_mask
from tests.support.scan_files import (
    ORIENTATIONS,
    SHAPE_IRC,
    VX_SIZE_XYZ,
    Ball,
    as_nodule,
    ball_mask,
    make_hu,
    to_xyz,
    write_scan,
)

LARGE, SMALL = Ball((8, 50, 52), 5), Ball((4, 20, 30), 3)
VOXEL_MM3 = math.prod(VX_SIZE_XYZ)


def open_ct(tmp_path, mask, nodules=(), values=()):
    path = write_scan(tmp_path / "1.2.mha", make_hu([LARGE, SMALL]))
    return Ct(path, nodules, MaskRule(write_scan(tmp_path / "masks" / "1.2.nii.gz", mask), values))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_in_another_order_of_axes(tmp_path, orientation):
    """The scan is sagittal; the mask's order is any."""
    scan, mask = tmp_path / "1.2.nii.gz", tmp_path / "masks" / "1.2.nrrd"
    write_image_and_mask(scan, mask, [LARGE, SMALL], ("PIR", orientation))
    ct = Ct(scan, (), MaskRule(mask))
    np.testing.assert_array_equal(ct.positive_mask, label_balls([LARGE, SMALL]))
    assert ct.positive_indexes == [*range(1, 14)]
    large, small = find_nodules(ct)
    for nodule, ball in ((large, LARGE), (small, SMALL)):
        assert nodule.center_xyz == pytest.approx(to_xyz(ball.center_irc), abs=1e-3)
        volume = np.count_nonzero(ball_mask(ball)) * VOXEL_MM3
        assert math.pi / 6 * nodule.diameter_mm**3 == pytest.approx(volume)
        assert nodule[:3] == (True, True, None)
        assert nodule.series_uid == "1.2"
        np.testing.assert_array_equal(ct.build_annotation_mask([nodule]), ball_mask(ball))


def test_values_choose_what_is_nodule(tmp_path):
    mask = label_balls([LARGE, SMALL], values=(3, 7))
    for values, expected in (((), [LARGE, SMALL]), ((7,), [SMALL]), ((3, 7), [LARGE, SMALL]), ((1,), [])):
        ct = open_ct(tmp_path, mask, values=values)
        np.testing.assert_array_equal(ct.positive_mask, label_balls(expected))
        assert len(find_nodules(ct)) == len(expected)


def test_large_values_are_refused_where_they_matter(tmp_path):
    mask = label_balls([LARGE]).astype(np.uint16) * 40_000
    np.testing.assert_array_equal(open_ct(tmp_path, mask).positive_mask, ball_mask(LARGE))
    for value in (40_000, 32_767, 1):
        ct = open_ct(tmp_path, mask, values=(value,))
        with refused(path=ct.rule.mask_path):
            ct.positive_mask  # noqa: B018  # computed at its first use


@pytest.mark.parametrize("values", [(1, 2), (255, 255), (3, 1)])
def test_a_mask_without_a_background_is_refused(tmp_path, values):
    """Such as background 1 and nodule 2, unless the nodule's value is chosen."""
    background, nodule = values
    mask = np.where(label_balls([LARGE]) > 0, nodule, background).astype(np.uint8)
    ct = open_ct(tmp_path, mask)
    with refused(path=ct.rule.mask_path, option="--mask-label"):
        ct.positive_mask  # noqa: B018  # computed at its first use
    if nodule != background:
        np.testing.assert_array_equal(open_ct(tmp_path, mask, values=(nodule,)).positive_mask, ball_mask(LARGE))


def test_an_inverted_mask_is_warned_of(tmp_path, caplog):
    mask = np.where(label_balls([LARGE]) > 0, 0, 255).astype(np.uint8)
    ct = open_ct(tmp_path, mask)
    np.testing.assert_array_equal(ct.positive_mask, ~ball_mask(LARGE))
    (line,) = caplog.messages
    assert str(ct.rule.mask_path) in line
    assert "99.7%" in line


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("name", ["1.2.nii.gz", "1.2.nii", "1.2.mha", "1.2.mhd", "1.2.NRRD"])
def test_masks_of_every_type_and_format(tmp_path, dtype, name):
    """They are no HU of a chest, and no check of scans is made of them."""
    mask = write_scan(tmp_path / "masks" / name.lower(), label_balls([LARGE, SMALL]).astype(dtype))
    mask = mask.rename(mask.with_name(name))
    ct = Ct(write_scan(tmp_path / "1.2.mha", make_hu([LARGE, SMALL])), (), MaskRule(mask))
    np.testing.assert_array_equal(ct.positive_mask, label_balls([LARGE, SMALL]) > 0)


def test_a_mask_with_nan_is_refused(tmp_path):
    mask = label_balls([LARGE]).astype(np.float32)
    mask[-1, -1, -1] = np.nan
    ct = open_ct(tmp_path, mask)
    with refused(path=ct.rule.mask_path):
        ct.positive_mask  # noqa: B018  # computed at its first use


@pytest.mark.parametrize(("factor", "is_read"), [(1, True), (0.5, True), (0.9, True), (0.4, False), (1 / 255, False)])
def test_a_mask_of_fractions(tmp_path, factor, is_read):
    """A mask of 0 and 255 that was divided twice would mark nothing, as that of a scan without a nodule."""
    balls = label_balls([LARGE])
    ct = open_ct(tmp_path, (balls > 0).astype(np.float32) * (factor + 1e-6))
    if is_read:
        np.testing.assert_array_equal(ct.positive_mask, balls > 0)
    else:
        with refused(path=ct.rule.mask_path):
            ct.positive_mask  # noqa: B018


def test_a_scan_in_place_of_a_mask(tmp_path):
    noise = np.random.default_rng(0).normal(0, 60, SHAPE_IRC)
    ct = open_ct(tmp_path, (make_hu([LARGE]) + noise).astype(np.int16))
    with refused(path=ct.rule.mask_path):
        ct.positive_mask  # noqa: B018


def test_a_mask_that_was_resampled_beyond_its_border(tmp_path):
    """Programs that resample scans fill up with -1024."""
    mask = label_balls([LARGE]).astype(np.int16)
    mask[:2] = -1024
    np.testing.assert_array_equal(open_ct(tmp_path, mask).positive_mask, label_balls([LARGE]) > 0)


def test_a_mask_that_nibabel_has_turned(tmp_path):
    """As `ToCanonical` and `Orientationd` do, too: the same voxels at the same places, in RAS order."""
    ct = open_ct(tmp_path, label_balls([LARGE, SMALL]))
    path = ct.rule.mask_path
    nib.save(nib.as_closest_canonical(nib.load(path)), path)
    assert nib.aff2axcodes(nib.load(path).affine) == ("R", "A", "S")
    np.testing.assert_array_equal(ct.positive_mask, label_balls([LARGE, SMALL]) > 0)


def test_components_touch_by_corners(tmp_path):
    mask = np.zeros(SHAPE_IRC, dtype=np.uint8)
    mask[2, 2, 2] = mask[3, 3, 3] = mask[9, 9, 9] = 1
    pair, single = find_nodules(open_ct(tmp_path, mask))
    assert pair.center_xyz == pytest.approx(to_xyz((2.5, 2.5, 2.5)))
    assert pair.diameter_mm**3 == pytest.approx(2 * single.diameter_mm**3)


def test_an_annotated_nodule_takes_the_nearest_component(tmp_path):
    """Its center may lie beside the component, as far as its radius plus a voxel."""
    beside = CandidateInfoTuple(True, True, None, 2.0, "1.2", to_xyz((8, 50, 59)))  # 1.4 mm from the surface
    far = beside._replace(center_xyz=to_xyz((8, 50, 70)))
    ct = open_ct(tmp_path, label_balls([LARGE, SMALL]), [as_nodule("1.2", SMALL), beside, far])
    small, near, none = (ct.build_annotation_mask([nodule]) for nodule in ct.nodules)
    np.testing.assert_array_equal(small, ball_mask(SMALL))
    np.testing.assert_array_equal(near, ball_mask(LARGE))
    assert not none.any()
    np.testing.assert_array_equal(ct.positive_mask, label_balls([LARGE, SMALL]))  # annotated or not


def test_a_nodule_within_a_ring_is_another_one(tmp_path):
    """Both have the same center, but for a voxel: each is its own."""
    mask = np.zeros(SHAPE_IRC, dtype=np.uint8)
    mask[8, 30:51, 30:51] = 1
    mask[8, 31:50, 31:50] = 0
    mask[8, 40, 40:42] = 1
    ct = open_ct(tmp_path, mask)
    sizes = [np.count_nonzero(ct.build_annotation_mask([nodule])) for nodule in find_nodules(ct)]
    assert sizes == [80, 2]


def test_a_mask_that_is_not_the_scans_is_refused_by_name(tmp_path):
    ct = open_ct(tmp_path, np.zeros((5, 20, 22), dtype=np.uint8))
    with refused(path=ct.rule.mask_path):
        ct.positive_indexes  # noqa: B018  # computed at its first use


def test_a_key_names_the_file_and_the_values(tmp_path):
    ct = open_ct(tmp_path, label_balls([LARGE]), values=(2,))
    threshold_hu, (kind, ((name, size, _),), values) = ct.rule.key([])
    assert (threshold_hu, kind, name, values) == (None, "mask", "1.2.nii.gz", [2])
    assert size == ct.rule.mask_path.stat().st_size
    assert ct.rule.key([as_nodule("1.2", LARGE)]) == ct.rule.key([])


NNUNET = {"background": 0, "nodule": 1}
CHOICES = [
    (None, None, ()),  # no file
    (None, 5, (5,)),
    ({}, None, ()),
    (NNUNET, None, (1,)),  # others are not nodule
    (NNUNET, 1, (1,)),
    ({**NNUNET, "ignore": 2}, None, (1,)),  # voxels that nobody labeled are no nodule
    ({**NNUNET, "vessel": 2}, 2, (2,)),
    ({"background": 0, "nodule": [1, 2]}, None, (1, 2)),
    ({"background": 0, "whole": [1, 2], "core": 2}, 2, (2,)),
    ({"0": "background", "1": "cancer"}, None, (1,)),
    ({"0": "background", "1": "edema", "2": "tumor"}, 2, (2,)),
    ({"0": "background", "1": "tumor", "2": "tumor"}, None, (1, 2)),
]


@pytest.mark.parametrize(("labels", "mask_label", "values"), CHOICES)
def test_values_of_a_dataset_file(tmp_path, labels, mask_label, values):
    path = None if labels is None else write_dataset(tmp_path, labels)
    assert MaskFolder(tmp_path, path).choose_values(mask_label) == values


REFUSED = [
    ({**NNUNET, "vessel": 2}, None, ["1 (nodule)", "2 (vessel)"]),
    ({"background": 0, "whole": [1, 2], "core": 2}, None, ["1 (whole)", "2 (whole)", "2 (core)"]),
    ({"0": "background", "1": "edema", "2": "tumor"}, None, ["1 (edema)", "2 (tumor)"]),
    (NNUNET, 2, ["1 (nodule)"]),
    ({**NNUNET, "ignore": 2}, 2, ["1 (nodule)"]),
]


@pytest.mark.parametrize(("labels", "mask_label", "listed"), REFUSED)
def test_several_labels_need_a_choice(tmp_path, labels, mask_label, listed):
    path = write_dataset(tmp_path, labels)
    with refused(path=path, option="--mask-label") as caught:
        MaskFolder(tmp_path, path).choose_values(mask_label)
    assert all(each in str(caught.value) for each in listed)


BROKEN = ["{", pytest.param("[" * 100_000, id="nested"), "[]", '{"labels": 3}', '{"labels": ["a"]}']
BROKEN += [f'{{"labels": {{"nodule": {value}}}}}' for value in ('"b"', "null", "1e400", "NaN", "[1, {}]")]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_dataset_file(tmp_path, text):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with refused(path=path) as caught:
        MaskFolder(tmp_path, path).choose_values(None)
    assert not any(word in str(caught.value) for word in ("object", "int()", "attribute"))


def write_dataset(folder, labels):
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": labels}))
    return path


def test_scans_without_a_mask_are_left_out(tmp_path):
    for name in ("1.1.nii.gz", "1.9.mha", "._1.2.nii.gz", "1.3.txt"):
        (tmp_path / name).touch()
    labels = Labels(LabelOptions("mask", mask_label=2), ["1.1", "1.2", "1.3"], MaskFolder(tmp_path))
    assert labels.series_list == ["1.1"]
    assert labels.rule_of("1.1") == MaskRule(tmp_path / "1.1.nii.gz", (2,))
    assert "masks of 1 of 3 scans" in labels.notes[0]
    assert ["2, " in labels.notes[1], "1.2" in labels.notes[1], "1.9.mha" in labels.notes[2]] == [True] * 3
    with refused(path=tmp_path, option="--labels"):
        Labels(LabelOptions("mask"), ["1.2"], MaskFolder(tmp_path))
    (tmp_path / "1.1.mha").touch()
    with refused(path=tmp_path / "1.1.nii.gz"):
        Labels(LabelOptions("mask"), ["1.1"], MaskFolder(tmp_path))


@pytest.mark.parametrize("mask_label", [None, 3])
@pytest.mark.parametrize("values", [(3, 7), (1,)])
def test_several_values_are_noted(tmp_path, values, mask_label):
    write_scan(tmp_path / "1.1.nii.gz", label_balls([LARGE, SMALL][: len(values)], values))
    labels = Labels(LabelOptions("mask", mask_label=mask_label), ["1.1"], MaskFolder(tmp_path))
    is_noted = any("3, 7" in note and "--mask-label" in note for note in labels.notes)
    assert is_noted == (len(values) > 1 and mask_label is None)
    assert len(labels.notes) == 1 + is_noted


def test_the_label_is_for_masks_alone():
    for kind in ("box", "refined"):
        with refused(option="--mask-label"):
            LabelOptions(kind, mask_label=1)
    with refused(option="--mask-label"):
        LabelOptions("mask", mask_label=0)
    assert LabelOptions("mask", mask_label=3).changed({"labels": "box"}) == LabelOptions()
    assert LabelOptions("mask", mask_label=3).changed({"labels": "mask"}).mask_label == 3
