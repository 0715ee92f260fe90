import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from p2ch13.config import SecondStageOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.detection.detector import detect, load_detector
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.second_stage import main
from p2ch13.training.backgrounds import read_backgrounds
from p2ch13.training.painter import Painter
from p2ch13.training.shapes import make_shapes
from p2ch13.training.two_stages import add_second_stage, list_scans, spread_over
from tests.support.checks import assert_one_line, refused
from tests.support.commands import REPOSITORY, exit_status
from tests.support.networks import write_pixel_network
from tests.support.scan_files import Ball, make_chest, make_hu, write_csv, write_luna, write_scan

FALSE_POSITIVE = Ball((5, 20, 90), 3)
SCANS = {"1.2.3": [Ball((8, 30, 30), 4), Ball((8, 70, 60), 5)], "1.2.4": [Ball((7, 50, 40), 6)]}


@pytest.fixture
def options(tmp_path):
    """Annotated balls and a false positive in each scan, a first stage that marks all that is dense, two lungs."""
    data_dir = write_luna(tmp_path / "luna", SCANS)
    for series_uid, balls in SCANS.items():
        write_scan(data_dir / "subset0" / f"{series_uid}.mhd", make_hu([*balls, FALSE_POSITIVE]))
    checkpoint = write_pixel_network(tmp_path / "first.state", -700, series={"trn": ["1.2.3"], "val": ["1.2.9"]})
    lungs = tmp_path / "lungs"
    lungs.mkdir()
    for ndx in range(2):
        write_scan(lungs / f"lung{ndx}.mha", make_chest((12, 96, 128)), vx_size_xyz=(3.0, 3.0, 3.0))
    return {
        "checkpoint": checkpoint,
        "output": tmp_path / "both.state",
        "data_dir": data_dir,
        "cache_dir": tmp_path / "cache",
        "backgrounds": lungs,
        "copies": 1,
        "steps": 2,
        "threads": 1,
    }


def test_both_stages_in_one_file(options):
    add_second_stage(SecondStageOptions(**options))
    state, first = load_checkpoint(options["output"]), load_checkpoint(options["checkpoint"])
    assert state["trained_series"] == ["1.2.3", "1.2.4", "1.2.9", "lung0", "lung1"]
    assert state["shape_donors"] == []
    assert "2 annotated scans and 2 lungs" in state["card"]["trained_on"]
    for name, weight in first["model_state"].items():
        assert torch.equal(state["model_state"][name], weight)
    detector = load_detector(options["output"])
    (scorer,) = detector.scorers
    assert scorer.validation.scan_count == 2 + 2 * 2  # lungs in slices of 3 mm, and of 6 mm
    assert scorer.candidate_threshold == 0.1
    assert len(scorer.validation.nodules) >= 3
    scan = Ct(options["data_dir"] / "subset0" / "1.2.3.mhd")
    found = detect(scan, detector, threshold=0.0, lung_mask=False).findings
    assert len(found) == 3
    assert np.isfinite([finding.logit for finding in found]).all()


def test_scans_of_an_earlier_second_stage_stay_listed(options):
    """A file of both stages gets another second stage, from other scans."""
    series = {"trn": ["1.2.5"], "val": ["1.2.9"]}
    write_pixel_network(options["checkpoint"], -700, series=series, trained_series=["1.2.7"], shape_donors=["1.2.8"])
    add_second_stage(SecondStageOptions(**options))
    state = load_checkpoint(options["output"])
    names = ["1.2.3", "1.2.4", "1.2.5", "1.2.7", "1.2.8", "1.2.9", "lung0", "lung1"]
    assert state["trained_series"] == names
    assert state["shape_donors"] == ["1.2.8"]


def test_again_the_same(options, tmp_path):
    add_second_stage(SecondStageOptions(**options))
    add_second_stage(SecondStageOptions(**{**options, "output": tmp_path / "again.state"}))
    first, again = load_checkpoint(options["output"]), load_checkpoint(tmp_path / "again.state")
    assert first["second_stage"]["calibration"] == again["second_stage"]["calibration"]
    assert first["second_stage"]["validation"] == again["second_stage"]["validation"]


def test_output_may_not_be_the_checkpoint(options):
    before = options["checkpoint"].read_bytes()
    with refused(path=options["checkpoint"], option="--output"):
        add_second_stage(SecondStageOptions(**{**options, "output": options["checkpoint"]}))
    assert options["checkpoint"].read_bytes() == before


def test_output_is_checked_before_the_work(options, tmp_path):
    """A folder, and a file in place of the folder."""
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "both.state"):
        with refused(option="--output"):
            add_second_stage(SecondStageOptions(**{**options, "output": output}))
    assert not options["cache_dir"].exists()


def test_scans_of_a_patient_share_a_group(options):
    write_csv(options["data_dir"] / "patients.csv", ["seriesuid", "patient"], [("1.2.3", 1), ("1.2.4", 1)])
    index = ScanIndex(options["data_dir"])
    assert [scan.group for scan in list_scans(index, index.series_list, [], None, 1, None)] == [0, 0]
    backgrounds = read_backgrounds(options["backgrounds"], options["cache_dir"], 0, thickened=True)
    painter = Painter(make_shapes(20, seed=0))
    scans = list(list_scans(index, index.series_list, backgrounds, painter, 2, np.random.default_rng(0)))
    assert [scan.group for scan in scans] == [0, 0, *4 * [1], *4 * [2]]
    assert [scan.ct.vx_size_xyz[2] for scan in scans[2:6]] == [3, 3, 6, 6]
    assert all(scan.ct.shape_irc == scan.mask.shape == scan.ct.hu.shape for scan in scans[2:])


def test_without_a_nodule_there_is_nothing_to_learn(options, tmp_path):
    """The first stage marks nothing."""
    blind = write_pixel_network(tmp_path / "blind.state", -700, weight=0.0, bias=-9.0)
    with refused(option="--candidate-threshold"):
        add_second_stage(SecondStageOptions(**{**options, "checkpoint": blind}))
    assert not options["output"].exists()


def as_arguments(options):
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def test_command(options, capsys):
    arguments = as_arguments(options)
    assert exit_status(lambda: main(arguments)) in (0, None)
    assert options["output"].is_file()
    save_checkpoint(options["checkpoint"], {"no": "model"})
    assert exit_status(lambda: main(arguments)) == 2
    assert_one_line(capsys, str(options["checkpoint"]))


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(options):
    """While the second stage is trained, with its examples on disk."""
    command = [sys.executable, "-m", "p2ch13.second_stage", *as_arguments({**options, "steps": 100_000})]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        for line in process.stdout:
            if "candidates" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "Stopped by Ctrl-C."
    assert not options["output"].exists()
    assert list(options["cache_dir"].iterdir()) == []


@pytest.mark.parametrize(("count", "chosen"), [(None, "abcdefg"), (9, "abcdefg"), (7, "abcdefg"), (3, "ace"), (1, "a")])
def test_some_scans_are_spread_over_all(count, chosen):
    assert spread_over("abcdefg", count) == list(chosen)
