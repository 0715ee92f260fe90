"""The split of a run's scans."""

import json

import pytest

from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.training.app import SegmentationTrainingApp
from tests.support.checks import refused
from tests.support.scan_files import TINY_SCANS, make_hu, write_csv, write_luna, write_scan

ALL = list(TINY_SCANS)


def parts_of(app):
    return app.init_train_ds().series_list, app.init_val_ds().series_list


@pytest.mark.parametrize(
    ("choice", "training", "validation"),
    [
        ([], ["1.2.1", "1.2.3"], ["1.2.0", "1.2.2"]),
        (["--val-stride", "3"], ["1.2.1", "1.2.2"], ["1.2.0", "1.2.3"]),
        (["--test-stride", "3"], ["1.2.2"], ["1.2.1"]),  # 1.2.0 and 1.2.3 are for the test
    ],
)
def test_strides(options, choice, training, validation):
    assert parts_of(SegmentationTrainingApp([*options, *choice])) == (training, validation)


def test_patients_stay_together(options, luna_dir):
    write_csv(luna_dir / "patients.csv", ["seriesuid", "patient"], [("1.2.0", 7), ("1.2.3", 7)])
    assert parts_of(SegmentationTrainingApp(options)) == (["1.2.1"], ["1.2.0", "1.2.2", "1.2.3"])


def test_a_subset_is_a_fold(options, luna_dir):
    (luna_dir / "subset1").mkdir()
    for path in (luna_dir / "subset0").glob("1.2.2.*"):
        path.rename(luna_dir / "subset1" / path.name)
    assert parts_of(SegmentationTrainingApp([*options, "--fold", "1"])) == (["1.2.0", "1.2.1", "1.2.3"], ["1.2.2"])
    with refused(option="--fold"):
        parts_of(SegmentationTrainingApp([*options, "--fold", "2"]))


def test_a_run_writes_the_split_that_another_one_reads(options, tmp_path):
    SegmentationTrainingApp([*options, "--test-stride", "4", "first"]).main()
    (path,) = (tmp_path / "runs").rglob("*_first/splits.json")
    assert json.loads(path.read_text()) == {
        "training": ["1.2.2"], "validation": ["1.2.1", "1.2.3"], "test": ["1.2.0"]
    }  # fmt: skip
    without_stride = [*options[:4], *options[6:]]
    app = SegmentationTrainingApp([*without_stride, "--splits", str(path), "second"])
    assert parts_of(app) == (["1.2.2"], ["1.2.1", "1.2.3"])
    with refused(option="--val-stride"):
        SegmentationTrainingApp([*options, "--splits", str(path)])
    # The file takes the place of another run's strides, and a stride that of another run's file.
    config_path = path.with_name("config.json")
    app = SegmentationTrainingApp([*without_stride, "--config", str(config_path), "--splits", str(path)])
    assert (app.config.splits, app.config.val_stride, app.config.test_stride) == (path, 10, 0)
    config_path.write_text(json.dumps({"splits": str(path)}))
    app = SegmentationTrainingApp([*options, "--config", str(config_path)])
    assert (app.config.splits, app.config.val_stride) == (None, 2)
    (state_path,) = (tmp_path / "models").rglob("*_first.last.state")
    assert load_checkpoint(state_path)["splits"]["test"] == ["1.2.0"]


def test_labels_do_not_change_the_split(options, tmp_path):
    """A scan that has no mask is for training with one kind of labels and in no part with another: the rest stays."""
    data_dir = write_luna(tmp_path / "masked", TINY_SCANS)
    for series_uid in ("1.2.1", "1.2.2", "1.2.3"):
        write_scan(
            data_dir / "masks" / f"{series_uid}.nii.gz", (make_hu(TINY_SCANS[series_uid]) > -700).astype("uint8")
        )
    app = SegmentationTrainingApp([*options, "--data-dir", str(data_dir), "--labels", "mask"])
    assert parts_of(app) == (["1.2.1", "1.2.3"], ["1.2.2"])
    assert app.data.splits.validation == ["1.2.0", "1.2.2"]


def test_a_resumed_run_keeps_its_split(options, tmp_path, luna_dir):
    """Whatever has come to the folder since; states of earlier versions have no `splits`."""
    app = SegmentationTrainingApp([*options, "kept"])
    app.main()
    path = app.run.files.last
    state = load_checkpoint(path)
    write_scan(luna_dir / "subset0" / "1.2.00.mhd", make_hu([]))  # sorted, it is the second of five
    assert parts_of(SegmentationTrainingApp(options))[0] != app.run.series["trn"]
    for corrupt in ([1], {"training": "1.2.1"}, {"training": [1]}):
        save_checkpoint(path, {**state, "splits": corrupt})
        with refused(path=path):
            parts_of(SegmentationTrainingApp([*options[:4], *options[6:10], "--resume", str(path), "--epochs", "2"]))
    for saved in (state, {key: value for key, value in state.items() if key != "splits"}):
        save_checkpoint(path, saved)
        resumed = SegmentationTrainingApp([*options[:4], *options[6:10], "--resume", str(path), "--epochs", "2"])
        resumed.main()
        assert resumed.run.epoch == 2
        assert resumed.run.series == app.run.series
