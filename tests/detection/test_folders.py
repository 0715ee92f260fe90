"""A scan's own folder: the output of a search that names none."""

import shutil

import numpy as np
import pytest

from p2ch13.data.ct import Ct
from p2ch13.detection.folders import choose_folder
from p2ch13.predict import main
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.dicom_files import SERIES_UID, write_series
from tests.support.networks import write_released_network
from tests.support.scan_files import Ball, make_hu, write_scan

SHAPE_IRC = (10, 40, 44)
HU = make_hu([Ball((5, 20, 22), 4)], SHAPE_IRC)
ENDINGS = ("findings.mrk.json", "mask.nii.gz", "overlay.png", "report.html", "report.json", "scan.txt")
OF_A_SCAN = {"nodules.csv", *(f"a_{ending}" for ending in ENDINGS)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, empty, beside the scans."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def search(tmp_path, here):
    """Run `main` with a network that takes the place of the package's; return the exit status."""
    weights = write_released_network(tmp_path / "nodules.state")

    def run(*arguments):
        return exit_status(lambda: main([*map(str, arguments), "--no-lung-mask"], weights))

    return run


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_without_an_output(tmp_path, here, search, capsys):
    scan = write_scan(tmp_path / "a.mha", HU)
    assert search(scan) == 0
    assert names_in(here) == {"a_nodules"}
    assert names_in(here / "a_nodules") == OF_A_SCAN
    lines = capsys.readouterr().out.splitlines()
    assert sum("tiny 1" in line and "two lungs" in line for line in lines) == 1
    assert lines[-1].endswith(" a_nodules/a_report.html")
    csv = (here / "a_nodules" / "nodules.csv").read_bytes()

    assert search(scan, "--probability", "--format", "mha") == 0  # its own folder, by now
    assert names_in(here / "a_nodules") == OF_A_SCAN | {"a_mask.mha", "a_probability.mha"}
    assert search(scan) == 0
    assert (here / "a_nodules" / "nodules.csv").read_bytes() == csv


def test_each_of_several_scans_has_its_own(tmp_path, here, search):
    scans = [write_scan(tmp_path / f"{name}.mha", HU) for name in "ab"]
    (here / "b_nodules").mkdir()  # empty, so as good as new
    assert search(*scans) == 0
    for name in "ab":
        rows = (here / f"{name}_nodules" / "nodules.csv").read_text().splitlines()[1:]
        assert [row.partition(",")[0] for row in rows] == [name]


@pytest.mark.parametrize("other", ["notes.txt", "b_mask.nii.gz", "nodules.csv", "a_overlay.png/"])
def test_a_folder_with_other_files(tmp_path, here, search, capsys, other):
    """A list of nodules without a mask is another program's."""
    scans = [write_scan(tmp_path / f"{name}.mha", HU) for name in "ab"]
    path = here / "a_nodules" / other
    path.mkdir(parents=True) if other.endswith("/") else path.parent.mkdir()
    if not other.endswith("/"):
        path.write_text("mine")
    assert search(scans[0]) == 2
    assert_one_line(capsys, "a_nodules: ", "--output")
    assert search(*scans) == 1  # the other one is searched
    assert names_in(here) == {"a_nodules", "b_nodules"}
    assert names_in(here / "a_nodules") == {path.name}
    assert search(scans[0], "--output", "a_nodules") == (0 if path.is_file() else 2)


def test_another_scan_of_the_same_name(tmp_path, here, search, capsys):
    """Such as `ct.nii.gz` of another patient: its size or its place tells."""
    assert search(write_scan(tmp_path / "one" / "a.mha", HU)) == 0
    before = (here / "a_nodules" / "a_mask.nii.gz").read_bytes()
    sizes = [write_scan(tmp_path / "two" / "a.mha", HU[1:])]
    sizes.append(write_scan(tmp_path / "three" / "a.mha", HU, vx_size_xyz=(0.7, 0.7, 1.25)))
    for scan in sizes:
        assert search(scan) == 2
        assert_one_line(capsys, "a_nodules: ", "a_mask.nii.gz", "--output")
    assert (here / "a_nodules" / "a_mask.nii.gz").read_bytes() == before


def test_a_scan_that_fails_leaves_no_folder(tmp_path, here, search, capsys):
    constant = write_scan(tmp_path / "a.mha", np.zeros(SHAPE_IRC, np.int16))
    assert search(constant) == 2
    assert search(write_scan(tmp_path / "b.mha", HU), "--dicom-seg") == 2
    assert names_in(here) == set()
    (here / "b_nodules").write_text("a file")
    capsys.readouterr()
    assert search(tmp_path / "b.mha") == 2
    assert_one_line(capsys, "b_nodules: ", "--output")


def test_hidden_files_are_the_systems(tmp_path, here):
    (here / "a_nodules").mkdir()
    (here / "a_nodules" / ".DS_Store").write_text("")
    scan = Ct(write_scan(tmp_path / "a.mha", HU))
    assert str(choose_folder("a", scan)) == "a_nodules"
    for name in ("../a", "b/a", "/a"):
        with refused(path=tmp_path / "a.mha"):
            choose_folder(name, scan)


def test_dicom_is_searched_again_where_its_objects_lie(here, search):
    pytest.importorskip("highdicom")
    write_series(here / "ct", HU)
    folder = here / f"{SERIES_UID}_nodules"
    for _ in range(2):
        assert search(here, "--dicom-seg", "--rtstruct", "--dicom-sr") == 0
        assert names_in(here) == {"ct", folder.name}
        assert {f"{SERIES_UID}_{kind}.dcm" for kind in ("seg", "rtstruct", "sr")} <= names_in(folder)
    shutil.rmtree(here / "ct")
    assert search(here) == 2


def test_without_a_network_in_the_package(tmp_path, here, capsys):
    scan = write_scan(tmp_path / "a.mha", HU)
    assert exit_status(lambda: main([str(scan)], tmp_path / "none.state")) == 2
    assert_one_line(capsys, "none.state: ", "--checkpoint")
    assert names_in(here) == set()
