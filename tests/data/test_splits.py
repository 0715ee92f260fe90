import json
from pathlib import Path

import pytest

from p2ch13.config import SplitOptions
from p2ch13.data.splits import Splits, find_folds, make_splits, read_splits, split_series, take_every, write_splits
from p2ch13.util.errors import InputError
from tests.support.checks import refused

SERIES = [f"1.{ndx}" for ndx in range(10)]
SCANS = {uid: Path(f"luna/subset{ndx // 4}/{uid}.mhd") for ndx, uid in enumerate(SERIES)}  # 4, 4 and 2 of them
ALONE = {uid: uid for uid in SERIES}
PAIRS = {uid: str(ndx // 2) for ndx, uid in enumerate(SERIES)}  # five patients with two scans each
ENDS = {**ALONE, "1.9": "1.0"}  # the first and the last are of one patient


def named(*ndxs):
    return [f"1.{ndx}" for ndx in ndxs]


@pytest.mark.parametrize(
    ("patients", "stride", "taken"),
    [
        (ALONE, 0, ()),
        (ALONE, 3, (0, 3, 6, 9)),
        (PAIRS, 2, (0, 1, 4, 5, 8, 9)),  # patients 0, 2, 4
        (ENDS, 4, (0, 4, 8, 9)),  # patients in the order of their first scans
        (ALONE, 99, (0,)),
    ],
)
def test_every_nth_patient(patients, stride, taken):
    expected = named(*taken)
    assert take_every(SERIES, patients, stride) == (expected, [uid for uid in SERIES if uid not in expected])


@pytest.mark.parametrize(
    ("patients", "options", "training", "validation", "test"),
    [
        (ALONE, {"val_stride": 4}, (1, 2, 3, 5, 6, 7, 9), (0, 4, 8), ()),
        # The test takes 0, 5; validation every third of 1, 2, 3, 4, 6, 7, 8, 9.
        (ALONE, {"val_stride": 3, "test_stride": 5}, (2, 3, 6, 7, 9), (1, 4, 8), (0, 5)),
        (PAIRS, {"val_stride": 2, "test_stride": 3}, (4, 5), (2, 3, 8, 9), (0, 1, 6, 7)),
        (ALONE, {"fold": 1}, (0, 1, 2, 3, 8, 9), (4, 5, 6, 7), ()),
        (ENDS, {"fold": 2}, (1, 2, 3, 4, 5, 6, 7), (8, 9), ()),  # 1.0 is of a validation patient
        (ALONE, {"fold": 2, "test_stride": 4}, (1, 2, 3, 5, 6, 7), (9,), (0, 4, 8)),
        (ALONE, {"test_fold": 1, "val_stride": 3}, (1, 2, 8, 9), (0, 3), (4, 5, 6, 7)),
        (ALONE, {"test_fold": 1, "fold": 2}, (0, 1, 2, 3), (8, 9), (4, 5, 6, 7)),
        (ENDS, {"test_fold": 2, "val_stride": 4}, (2, 3, 4, 6, 7), (1, 5), (8, 9)),  # 1.0 is of a test patient
        (ALONE, {"fold": 0, "test_stride": 4}, (5, 6, 7, 9), (1, 2, 3), (0, 4, 8)),  # the same test in each fold
    ],
)
def test_splits_by_hand(patients, options, training, validation, test):
    expected = Splits(named(*training), named(*validation), named(*test))
    assert make_splits(SCANS, patients, SplitOptions(**options)) == expected


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"test_fold": 3}, "--test-fold"),
        ({"test_fold": 1, "fold": 1}, "--fold"),
        ({"val_stride": 1}, "--val-stride"),
        ({"test_stride": 1}, "--test-stride"),
        ({"fold": 7}, "--fold"),
    ],
)
def test_a_part_without_scans_is_refused(options, option):
    with refused(option=option):
        make_splits(SCANS, ALONE, SplitOptions(**options))


def test_folds():
    """LUNA16's subsets; of scans in fewer than two, every tenth patient each."""
    assert find_folds(SCANS, ALONE) == {0: named(0, 1, 2, 3), 1: named(4, 5, 6, 7), 2: named(8, 9)}
    beside = {**SCANS, "1.x": Path("luna/subset_dicom/1.x.mhd")}
    assert find_folds(beside, {uid: uid for uid in beside}) == find_folds(SCANS, ALONE)
    elsewhere = {f"2.{ndx:02}": Path(f"own/subset0/2.{ndx:02}.mhd") for ndx in range(13)}
    patients = {**{uid: uid for uid in elsewhere}, "2.01": "2.00"}  # twelve of them
    folds = find_folds(elsewhere, patients)
    assert len(folds) == 10
    assert folds[0] == ["2.00", "2.01", "2.11"]
    assert folds[1] == ["2.02", "2.12"]
    assert folds[9] == ["2.10"]


def test_a_test_is_chosen_once():
    with refused(option="--test-fold"):
        SplitOptions(test_fold=1, test_stride=2)
    with refused(option="--splits"):
        SplitOptions(test_fold=1, splits=Path("splits.json"))


def test_written_splits_are_read_again(tmp_path, caplog):
    options = SplitOptions(val_stride=3, test_stride=4)
    splits = make_splits(SCANS, PAIRS, options)
    write_splits(tmp_path / "splits.json", splits)
    by_file = SplitOptions(splits=tmp_path / "splits.json")
    assert make_splits(SCANS, PAIRS, by_file) == splits
    assert not caplog.messages
    fewer = {uid: SCANS[uid] for uid in SERIES if uid != "1.9"}
    without = make_splits(fewer, PAIRS, by_file)
    assert [set(part) - {"1.9"} for part in splits] == [set(part) for part in without]
    assert len(caplog.messages) == 1


CONTENTS = [
    "nonsense",
    "[]",
    "[" * 100_000,
    json.dumps({"trn": ["1.0"], "val": ["1.1"]}),
    json.dumps({"training": [1]}),
    json.dumps({"training": "1.0"}),
    json.dumps({"training": ["1.0", "1.0"]}),
    json.dumps({"training": ["1.0"], "test": ["1.0"]}),
    json.dumps({"training": ["1.0"], "validation": ["1.1"]}),  # one patient's
]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_is_no_split(tmp_path, content):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with refused(path=path):
        read_splits(path, SCANS, PAIRS)


def test_a_missing_file(tmp_path):
    with refused(path=tmp_path / "splits.json"):
        read_splits(tmp_path / "splits.json", SCANS, PAIRS)


def test_the_books_split():
    assert split_series(SERIES, ALONE, 0, None) == SERIES
    assert split_series(SERIES, ALONE, 3, True) == named(0, 3, 6, 9)
    assert split_series(SERIES, ALONE, 3, False) == named(1, 2, 4, 5, 7, 8)
    assert split_series(SERIES, PAIRS, 3, True) == named(0, 1, 6, 7)
    assert split_series(SERIES, ALONE, 3, True, "1.7") == ["1.7"]
    for stride, is_val_set, series_uid in ((1, False, None), (0, None, "9")):
        with pytest.raises(InputError):
            split_series(SERIES, ALONE, stride, is_val_set, series_uid)
    with pytest.raises(ValueError, match="val_stride"):
        split_series(SERIES, ALONE, 0, True)
