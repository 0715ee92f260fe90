"""The options that say how nodules are marked, from the command lines to the masks that training reads."""

import json
import os
from csv import DictReader
from pathlib import Path

import numpy as np
import pytest

from p2ch13.config import CROP_WIDTH_IRC, LabelOptions, TrainingConfig
from p2ch13.data.cache import CtCache
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.evaluate import main as evaluate
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.precache import parse_options
from p2ch13.training.__main__ import main as train
from p2ch13.training.options import parse_config
from tests.data.test_precache import run
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.lidc_files import block, block_mask, install_database, write_readings
from tests.support.scan_files import TINY_SCANS, make_hu, write_scan

# A reader's outline around the nodules of two of the four scans, smaller than they are, and one that no CSV file has.
IN_FIRST = [((7, 9), (48, 52), (50, 54)), ((4, 4), (19, 21), (29, 31)), ((12, 12), (80, 83), (80, 83))]
FIRST = [block(*ends) for ends in IN_FIRST]
SECOND = [block((6, 8), (38, 42), (58, 62))]


@pytest.fixture
def xml_dir(tmp_path):
    write_readings(tmp_path / "xml" / "a.xml", "1.2.0", [FIRST, FIRST, [], []])
    write_readings(tmp_path / "xml" / "b.xml", "1.2.1", [SECOND])
    return tmp_path / "xml"


def lidc(xml_dir, missing_xml="box"):
    return LabelOptions("lidc", lidc_xml=xml_dir, missing_xml=missing_xml)


def parse(*arguments):
    return parse_options(arguments).part(LabelOptions)


def test_command_line():
    assert parse() == LabelOptions()
    assert parse("--labels", "refined", "--threshold-hu", "-650") == LabelOptions("refined", -650)
    given = ["--labels", "lidc", "--lidc-xml", "x", "--missing-xml", "leave-out"]
    assert parse(*given) == lidc(Path("x"), "leave-out")
    assert parse_config(given).label_options == lidc(Path("x"), "leave-out")
    assert parse_config([]).label_options == LabelOptions()


def test_each_kind_of_labels_has_its_own_keys(folders, xml_dir):
    choices = [LabelOptions(), LabelOptions(threshold_hu=-600), LabelOptions("refined"), LabelOptions("refined", -700)]
    for count, labels in enumerate([*choices, lidc(xml_dir)], start=1):
        ct_cache = CtCache.open(folders, labels)
        assert not ct_cache.is_complete("1.2.1")
        ct_cache.fill("1.2.1")
        assert len(ct_cache._disk) == 2 * count  # the slices, and one crop
    # A scan without XML is marked with the box: what is there of that can be used.
    CtCache.open(folders).fill("1.2.2")
    assert CtCache.open(folders, lidc(xml_dir)).is_complete("1.2.2")


def test_changed_contours_are_read_again(folders, xml_dir):
    CtCache.open(folders, lidc(xml_dir)).fill("1.2.1")
    assert CtCache.open(folders, lidc(xml_dir)).get_ct_sample_size("1.2.1") == (16, [6, 7, 8])
    write_readings(xml_dir / "b.xml", "1.2.1", [[block((6, 9), (38, 42), (58, 62))]])
    ct_cache = CtCache.open(folders, lidc(xml_dir))
    assert not ct_cache.is_complete("1.2.1")
    assert ct_cache.get_ct_sample_size("1.2.1") == (16, [6, 7, 8, 9])


def test_threshold_changes_the_cached_mask(folders):
    """Balls of 0 HU in lung of -900 HU: at -950 HU all is denser than lung, and the box grows over the whole scan."""
    crops = [
        CtCache.open(folders, LabelOptions(threshold_hu=threshold_hu)).get_ct_raw_candidate(
            "1.2.1", CtCache.open(folders).index.nodules["1.2.1"][0].center_xyz, CROP_WIDTH_IRC
        )[1]
        for threshold_hu in (-700, -950)
    ]
    assert crops[0].any() and not crops[0].all()
    assert crops[1].all()


def test_datasets_show_the_readers_mask(folders, xml_dir):
    val_ds = Luna2dSegmentationDataset(series_uid="1.2.0", folders=folders, labels=lidc(xml_dir))
    assert [slice_ndx for _, slice_ndx in val_ds.sample_list] == [4, 7, 8, 9, 12]
    mask = np.stack([val_ds.get_full_slice("1.2.0", ndx)[1][0].numpy() for ndx in range(16)])
    np.testing.assert_array_equal(mask, sum(block_mask(*ends) for ends in IN_FIRST))

    train_ds = TrainingLuna2dSegmentationDataset(
        series_uid="1.2.1", samples_per_epoch=20, folders=folders, labels=lidc(xml_dir)
    )
    for _, masks, _, slice_ndxs in train_ds.batches(5):
        assert slice_ndxs.tolist() == [7] * 5
        assert masks.sum(dim=(1, 2, 3)).tolist() == [25] * 5  # rows 38 to 42, which every 64x64 crop holds


# The command lines


@pytest.mark.parametrize(
    ("missing_xml", "note", "cached"),
    [
        ("box", "readers' contours of 2 of 4 scans; the others are marked with the box.", list(TINY_SCANS)),
        ("leave-out", "readers' contours of 2 of 4 scans; the others are left out.", ["1.2.0", "1.2.1"]),
    ],
)
def test_precache_with_readers_contours(folders, xml_dir, capsys, missing_xml, note, cached):
    (xml_dir / "c.xml").write_text("no XML")
    command = ["--labels", "lidc", "--lidc-xml", str(xml_dir), "--missing-xml", missing_xml, "--num-workers", "2"]
    assert run(folders, *command) == 0
    output = capsys.readouterr().out
    assert output.count(note) == 1
    assert output.count("c.xml: invalid XML") == 1
    assert f"Cached {len(cached)} scans, skipped 0." in output
    ct_cache = CtCache.open(folders, lidc(xml_dir, missing_xml))
    assert ct_cache.index.series_list == cached
    assert all(ct_cache.is_complete(series_uid) for series_uid in cached)
    assert run(folders, *command) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_precache_with_the_database(folders, tmp_path, capsys, monkeypatch):
    scans = {"1.2.0": [FIRST, FIRST, [], []], "1.2.3": [], "1.9.9": [SECOND]}
    path = install_database(tmp_path / "site", scans)
    monkeypatch.syspath_prepend(tmp_path / "site")
    command = ["--labels", "lidc", "--missing-xml", "leave-out", "--num-workers", "2"]
    assert run(folders, *command) == 0
    assert "readers' contours of 2 of 4 scans; the others are left out." in capsys.readouterr().out
    labels = LabelOptions("lidc", missing_xml="leave-out")
    assert CtCache.open(folders, labels).get_ct_sample_size("1.2.0") == (16, [4, 7, 8, 9, 12])
    os.utime(path, (1, 1))
    assert CtCache.open(folders, labels).is_complete("1.2.0")
    assert run(folders, *command) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_precache_names_a_damaged_file_and_skips_its_scan(folders, xml_dir, capsys):
    path = xml_dir / "b.xml"
    os.truncate(path, path.stat().st_size - 50)
    assert run(folders, "--labels", "lidc", "--lidc-xml", str(xml_dir), "--num-workers", "1") == 1
    output = capsys.readouterr().out
    assert "b.xml: invalid XML" in output
    assert "Cached 3 scans, skipped 1." in output


def test_mistakes_end_in_one_line(folders, tmp_path, capsys, monkeypatch):
    install_database(tmp_path / "site", None)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "site")
        assert run(folders, "--labels", "lidc") == 2
        assert_one_line(capsys, "--labels: ", "pip install 'p2ch13[lidc]'", "--lidc-xml FOLDER")
        path = install_database(tmp_path / "other", {"1.9.9": []})
        patch.syspath_prepend(tmp_path / "other")
        assert run(folders, "--labels", "lidc", "--missing-xml", "leave-out") == 2
        assert_one_line(capsys, f"{path}: no readings of any of the 4 scans")
    assert run(folders, "--lidc-xml", "somewhere") == 2
    assert_one_line(capsys, "--lidc-xml: ")
    assert run(folders, "--labels", "lidc", "--lidc-xml", str(tmp_path / "nowhere")) == 2
    assert_one_line(capsys, "nowhere: no such folder")
    (tmp_path / "empty").mkdir()
    assert run(folders, "--labels", "lidc", "--lidc-xml", str(tmp_path / "empty")) == 2
    assert_one_line(capsys, "empty: no XML file of LIDC-IDRI's CT scans")


def test_training_with_readers_contours(options, xml_dir, tmp_path, capsys):
    choice = ["--labels", "lidc", "--lidc-xml", str(xml_dir), "--missing-xml", "leave-out"]
    assert exit_status(lambda: train([*options, *choice])) == 0
    output = capsys.readouterr().out
    assert output.count("readers' contours of 2 of 4 scans; the others are left out.") == 1
    # 1.2.0 is for validation: slices 4, 7 to 9 and 12.
    assert "with 1 nodules" in output
    assert "5 nodule slices" in output
    (path,) = (tmp_path / "models").rglob("*.last.state")
    config = load_checkpoint(path)["config"]
    assert TrainingConfig.from_dict(config).label_options == lidc(xml_dir, "leave-out")


def test_training_with_refined_labels(options, tmp_path):
    assert exit_status(lambda: train([*options, "--labels", "refined", "--threshold-hu", "-650"])) == 0
    (path,) = (tmp_path / "models").rglob("*.last.state")
    config = load_checkpoint(path)["config"]
    assert (config["labels"], config["threshold_hu"], config["lidc_xml"]) == ("refined", -650, None)


def test_evaluation_by_readers_contours(folders, xml_dir, tmp_path, capsys):
    """A mask of what the readers agree on in 1.2.0: the outline that no CSV file has is nodule too."""
    write_scan(tmp_path / "masks" / "1.2.0.nii.gz", sum(block_mask(*ends) for ends in IN_FIRST).astype(np.uint8))
    arguments = ["--mask", str(tmp_path / "masks"), "--data-dir", str(folders.data_dir), "--series-uid", "1.2.0"]
    dices, rows = [], []
    for labels in ([], ["--labels", "lidc", "--lidc-xml", str(xml_dir)]):
        assert evaluate([*arguments, *labels, "--output", str(tmp_path / "out")]) == 0
        dices.append(json.loads((tmp_path / "out" / "metrics.json").read_text())["voxels"]["dice"])
        with (tmp_path / "out" / "per_nodule.csv").open(newline="") as file:
            rows += [[(row["readers"], row["inter_reader_dice"], row["dice_with_readers"]) for row in DictReader(file)]]
    assert dices[0] < 0.5
    assert dices[1] == 1
    assert rows == [[("", "", "")] * 2, [("2", "1.0", "1.0")] * 2]
    assert "| nodules outlined by several readers |" in capsys.readouterr().out.partition("mean Dice of")[0]


def test_evaluation_splits_before_labels_leave_scans_out(folders, tmp_path):
    """1.2.1 and 1.2.2 have contours; with a stride of 2 the series 1.2.0 and 1.2.2 are for validation."""
    for series_uid in ("1.2.1", "1.2.2"):
        write_readings(tmp_path / "xml" / f"{series_uid}.xml", series_uid, [SECOND])
        mask = make_hu(TINY_SCANS[series_uid]) > -500
        write_scan(tmp_path / "masks" / f"{series_uid}.nii.gz", mask.astype(np.uint8))
    arguments = ["--mask", str(tmp_path / "masks"), "--data-dir", str(folders.data_dir), "--val-stride", "2"]
    labels = ["--labels", "lidc", "--lidc-xml", str(tmp_path / "xml"), "--missing-xml", "leave-out"]
    assert evaluate([*arguments, *labels, "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["settings"]["series"] == ["1.2.2"]
