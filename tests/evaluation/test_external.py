import math

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.data.ct import Ct
from p2ch13.evaluation.external import choose_values, find_mask, read_findings
from p2ch13.labels.mask import read_mask
from tests.support.checks import refused
from tests.support.scan_files import Ball, ball_mask, make_hu, write_csv, write_scan

SHAPE = (6, 20, 22)
BALL = Ball((3, 8, 9), 3)
TURNED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "probability"]


@pytest.fixture
def ct(tmp_path):
    return Ct(write_scan(tmp_path / "1.2.mhd", make_hu([BALL], SHAPE), TURNED))


def rotated_about_z(angle):
    c, s = math.cos(angle), math.sin(angle)
    return (-c, s, 0, -s, -c, 0, 0, 0, 1)


def write_mask(path, mask=None):
    return write_scan(path, ball_mask(BALL, SHAPE).astype(np.uint8) if mask is None else mask, TURNED)


@pytest.mark.parametrize("name", ["1.2.nii.gz", "1.2_mask.nii.gz", "1.2.mha", "1.2_mask.nrrd", "1.2.mhd"])
def test_masks_are_found_and_read(tmp_path, ct, name):
    write_mask(tmp_path / "masks" / name)
    path = find_mask(tmp_path / "masks", "1.2")
    assert path.name == name
    np.testing.assert_array_equal(ct.as_stored(read_mask(path, ct)), ball_mask(BALL, SHAPE))


@pytest.mark.parametrize("name", ["1.2.NII.GZ", "1.2_mask.Mha"])
def test_a_mask_whose_suffix_is_in_large_letters(tmp_path, ct, name):
    mask = write_mask(tmp_path / "masks" / name.lower())
    mask.rename(tmp_path / "masks" / name)
    assert find_mask(tmp_path / "masks", "1.2").name == name
    np.testing.assert_array_equal(ct.as_stored(read_mask(tmp_path / "masks" / name, ct)), ball_mask(BALL, SHAPE))


def test_a_missing_mask_is_named(tmp_path):
    with refused(path=tmp_path / "1.2_mask.nii.gz"):
        find_mask(tmp_path, "1.2")


def test_probabilities_are_rounded(tmp_path, ct):
    probability = np.zeros(SHAPE, dtype=np.float32)
    probability[0, 0, :3] = 0.4, 0.6, 1.0
    mask = read_mask(write_mask(tmp_path / "p.mha", probability), ct)
    assert np.argwhere(ct.as_stored(mask)).tolist() == [[0, 0, 1], [0, 0, 2]]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("origin", lambda image: image.SetOrigin([value + 0.1 for value in image.GetOrigin()])),
        ("voxel size", lambda image: image.SetSpacing((0.7, 0.7, 1.6))),
        ("origin", lambda image: image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))),  # other corners
        ("direction", lambda image: image.SetDirection(rotated_about_z(0.01))),
    ],
)
def test_another_geometry_is_refused(tmp_path, ct, what, change):
    path = write_mask(tmp_path / "m.nii.gz")
    image = sitk.ReadImage(str(path))
    change(image)
    sitk.WriteImage(image, str(path))
    with refused(path=path) as caught:
        read_mask(path, ct)
    assert what in str(caught.value)


def test_another_size_is_refused(tmp_path, ct):
    path = write_mask(tmp_path / "m.mha", np.zeros((5, 20, 22), dtype=np.uint8))
    with refused(path=path):
        read_mask(path, ct)


def test_findings_in_submission_columns(tmp_path):
    rows = [("1.2", 1, 2, 3, 0.5), ("1.3", 4, 5, 6, 0.25), ("1.2", 7, 8, 9, 1.5)]
    findings = read_findings(write_csv(tmp_path / "f.csv", COLUMNS, rows))
    assert {uid: [(f.center_xyz, f.probability) for f in some] for uid, some in findings.items()} == {
        "1.2": [((1, 2, 3), 0.5), ((7, 8, 9), 1.5)],
        "1.3": [((4, 5, 6), 0.25)],
    }
    for columns, more, line in ((COLUMNS, [("1.2", 1, 2, 3, "high")], 2), (COLUMNS[:4], [], None)):
        with refused(path=tmp_path / "g.csv", line=line):
            read_findings(write_csv(tmp_path / "g.csv", columns, more))


def test_a_column_of_logits_ranks(tmp_path):
    header = [*COLUMNS, "more", "logit"]
    rows = [("1.2", 1, 2, 3, 1, "", 30.5), ("1.2", 1, 2, 4, 1, "", "-2e1")]
    found = read_findings(write_csv(tmp_path / "f.csv", header, rows))["1.2"]
    assert [(finding.probability, finding.logit) for finding in found] == [(1, 30.5), (1, -20)]
    assert [finding.score for finding in found] == [30.5, -20]
    (without,) = read_findings(write_csv(tmp_path / "g.csv", COLUMNS, [("1.2", 1, 2, 3, 250)]))["1.2"]
    assert math.isnan(without.logit)
    assert without.score == 250
    for wrong in ("", " ", "nan", "inf", "high"):
        write_csv(tmp_path / "h.csv", header, [*rows, ("1.2", 1, 2, 3, 0.5, "", wrong)])
        with refused(path=tmp_path / "h.csv", line=4):
            read_findings(tmp_path / "h.csv")


def test_a_series_uid_is_a_text(tmp_path):
    """Not a number; not a path either, as it is only looked up among the scans on disk."""
    series_uids = ["007", "1e1", " 1.20 ", "1.2", "7", "../../secret", "/etc/passwd"]
    path = write_csv(tmp_path / "f.csv", COLUMNS, [(series_uid, 1, 2, 3, 0.5) for series_uid in series_uids])
    assert list(read_findings(path)) == ["007", "1e1", "1.20", *series_uids[3:]]


@pytest.mark.parametrize(("is_predictions", "values"), [(True, ()), (False, (1,))])
def test_values_of_predictions_masks_are_numbers_of_findings(tmp_path, is_predictions, values):
    """Another program's are those of the data folder's masks."""
    write_mask(tmp_path / "1.2_mask.nii.gz")
    if is_predictions:
        (tmp_path / "1.2_report.html").touch()
    assert choose_values(tmp_path, ["1.2"], (1,)) == values
