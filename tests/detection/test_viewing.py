"""The command `view`: pages of results, and of other programs' masks."""

import os
import shutil

import numpy as np
import pytest

from p2ch13.detection.outputs import read_nodules
from p2ch13.predict import main as predict_main
from p2ch13.view import main
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.dicom_files import SERIES_UID, write_series
from tests.support.networks import write_released_network
from tests.support.scan_files import Ball, ball_mask, make_hu, write_scan

SHAPE_IRC = (10, 40, 44)
BALLS = [Ball((5, 20, 22), 4), Ball((3, 8, 9), 2)]
HU = make_hu(BALLS, SHAPE_IRC)


@pytest.fixture
def predict(tmp_path):
    """Search scans with a network that finds all balls."""
    weights = write_released_network(tmp_path / "nodules.state")

    def run(*arguments):
        assert exit_status(lambda: predict_main([*map(str, arguments), "--no-lung-mask"], weights)) == 0

    return run


def view(*arguments):
    return exit_status(lambda: main([*map(str, arguments)]))


@pytest.fixture
def out(tmp_path, predict):
    """The result of one scan."""
    predict(write_scan(tmp_path / "scans" / "a.mha", HU), "--output", tmp_path / "out")
    return tmp_path / "out"


def pages_in(folder):
    return sorted(path.name for path in folder.glob("*_viewer.html"))


def test_at_once_or_later(tmp_path, predict, out):
    assert pages_in(out) == []
    assert view(out) == 0
    later = (out / "a_viewer.html").read_bytes()
    assert b"Findings (2)" in later
    predict(tmp_path / "scans" / "a.mha", "--output", tmp_path / "again", "--viewer", "--format", "nrrd")
    assert (tmp_path / "again" / "a_viewer.html").read_bytes() == later
    predict(tmp_path / "scans" / "a.mha", "--output", tmp_path / "ones", "--binary")
    assert view(tmp_path / "ones", "--output", tmp_path / "pages") == 0
    assert pages_in(tmp_path / "ones") == []
    assert (tmp_path / "pages" / "a_viewer.html").read_bytes() == later


def test_in_a_scans_own_folder(tmp_path, predict, monkeypatch):
    """Which another search may follow."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_scan(tmp_path / "here" / "a.mha", HU)
    predict("a.mha")
    assert view("a_nodules") == 0
    predict("a.mha")
    assert pages_in(tmp_path / "here" / "a_nodules") == ["a_viewer.html"]


def test_each_of_several_scans(tmp_path, predict, capsys):
    scans = [write_scan(tmp_path / "scans" / f"{name}.mha", HU) for name in "abc"]
    predict(tmp_path / "scans", "--output", tmp_path / "out")
    assert view(tmp_path / "out", "--name", "b") == 0
    assert pages_in(tmp_path / "out") == ["b_viewer.html"]
    assert view(tmp_path / "out", "--name", "d") == 2
    assert_one_line(capsys, "--name", "d has no mask")
    scans[0].unlink()
    assert view(tmp_path / "out") == 1  # a is skipped
    assert pages_in(tmp_path / "out") == ["b_viewer.html", "c_viewer.html"]
    assert "Skipped" in capsys.readouterr().out
    for scan in scans[1:]:
        scan.unlink()
    assert view(tmp_path / "out") == 2
    assert_one_line(capsys, "all 3 scans")


def test_where_the_scan_is(tmp_path, out, capsys):
    """Beside the result; the result's other files have no path, which may name a patient."""
    assert (out / "a_scan.txt").read_text() == f"..{os.sep}scans{os.sep}a.mha\n"
    with_path = [path.name for path in out.iterdir() if b"scans" in path.read_bytes()]
    assert with_path == ["a_scan.txt"]
    moved = shutil.move(tmp_path / "scans", tmp_path / "elsewhere")
    assert view(out) == 2
    assert_one_line(capsys, "a_scan.txt: ", "--scan")
    assert view(out, "--scan", moved / "a.mha") == 0
    assert view(out, "--scan", moved) == 0
    (out / "a_scan.txt").unlink()
    assert view(out) == 2
    assert_one_line(capsys, "a_scan.txt: ", "--scan")


def test_another_scan(tmp_path, out, capsys):
    other = write_scan(tmp_path / "b.mha", HU)
    assert view(out, "--scan", other) == 2
    assert_one_line(capsys, "b.mha: ", "--scan")
    write_scan(tmp_path / "scans" / "a.mha", HU, vx_size_xyz=(0.7, 0.7, 1.25))
    assert view(out) == 2
    assert_one_line(capsys, "a_mask.nii.gz: ")
    assert pages_in(out) == []


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda out: shutil.rmtree(out), "no such folder"),
        (lambda out: (out / "a_mask.nii.gz").unlink(), "no result"),
        (lambda out: (out / "nodules.csv").unlink(), "nodules.csv"),
        (lambda out: (out / "a_mask.nii.gz").write_bytes(b"no image"), "a_mask.nii.gz"),
        (lambda out: (out / "nodules.csv").write_text("seriesuid\na\n"), "nodules.csv"),
    ],
)
def test_no_result(out, make, part, capsys):
    make(out)
    assert view(out) == 2
    assert_one_line(capsys, part)


def test_a_list_of_another_search(out, capsys):
    """Its third finding is nowhere in the mask."""
    path = out / "nodules.csv"
    header, first, second = path.read_text().splitlines()
    third = second.split(",")
    third[header.split(",").index("finding")] = "3"
    path.write_text("\n".join([header, first, second, ",".join(third), ""]))
    assert view(out) == 2
    assert_one_line(capsys, "a_mask.nii.gz: ", "finding 3")
    path.write_text(f"{header}\n")  # of other scans: this one's findings are the mask's components
    assert view(out) == 0
    assert "marked in the mask" in (out / "a_viewer.html").read_text()


def test_the_list_is_read_as_it_was_written(out):
    first, second = read_nodules(out / "nodules.csv", "a")
    assert (first.number, first.first_slice, first.last_slice) == (1, 1, 9)
    assert (second.number, second.first_slice, second.last_slice) == (2, 1, 5)
    assert first.center_xyz == pytest.approx((-30 + 22 * 0.7, -40 + 20 * 0.7, 200 + 5 * 1.5), abs=1e-3)
    assert second.volume_mm3 == pytest.approx(ball_mask(BALLS[1], SHAPE_IRC).sum() * 0.7 * 0.7 * 1.5, abs=0.1)
    assert first.logit == second.logit > 0
    assert read_nodules(out / "nodules.csv", "b") == []


def test_without_findings(tmp_path, predict):
    predict(write_scan(tmp_path / "a.mha", make_hu([Ball((5, 20, 22), 1)], SHAPE_IRC)), "--output", tmp_path / "out")
    assert view(tmp_path / "out") == 0
    assert "No findings" in (tmp_path / "out" / "a_viewer.html").read_text()


def test_another_programs_mask(tmp_path, capsys):
    """Components are numbered from the largest on; the page lies beside the mask."""
    scan = write_scan(tmp_path / "scans" / "a.mha", HU)
    mask = write_scan(tmp_path / "masks" / "nodules.nii.gz", (HU > -700).astype(np.uint8) * 7)
    assert view("--mask", mask, "--scan", scan) == 0
    page = (tmp_path / "masks" / "a_viewer.html").read_text()
    assert "Findings (2)" in page
    assert "probability" not in page.split('id="findings"')[1].split("</ol>")[0]
    assert view("--mask", mask) == 2
    assert_one_line(capsys, "--mask", "--scan")
    assert view() == 2
    assert view(tmp_path / "masks", "--mask", mask, "--scan", scan) == 2
    write_scan(tmp_path / "scans" / "b.mha", HU[1:])
    capsys.readouterr()
    assert view("--mask", mask, "--scan", tmp_path / "scans") == 2
    assert_one_line(capsys, "scans: ", "2 scans")
    assert view("--mask", mask, "--scan", tmp_path / "scans" / "b.mha") == 2
    assert_one_line(capsys, "nodules.nii.gz: ")


@pytest.mark.parametrize("is_archive", [False, True])
def test_dicom(tmp_path, predict, is_archive):
    write_series(tmp_path / "study" / "ct", HU, step_xyz=(0, 0, -2.5))
    write_series(tmp_path / "study" / "thin", HU[:3], series_uid="1.2.9")
    given = tmp_path / "study"
    if is_archive:
        given = shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "study")
    predict(given, "--output", tmp_path / "out")
    assert view(tmp_path / "out", "--name", SERIES_UID) == 0
    assert pages_in(tmp_path / "out") == [f"{SERIES_UID}_viewer.html"]


def test_a_case_of_nnunet(tmp_path, predict):
    """Its name is not its file's."""
    write_scan(tmp_path / "own" / "imagesTr" / "case1_0000.nii.gz", HU)
    predict(tmp_path / "own", "--output", tmp_path / "out")
    assert view(tmp_path / "out") == 0
    assert pages_in(tmp_path / "out") == ["case1_viewer.html"]


def test_names_of_any_bytes(tmp_path, predict):
    name = os.fsdecode(b"M\xfcller <b>")
    predict(write_scan(tmp_path / "a.mha", HU).rename(tmp_path / f"{name}.mha"), "--output", tmp_path / "out")
    assert view(tmp_path / "out") == 0
    page = (tmp_path / "out" / f"{name}_viewer.html").read_text(encoding="utf-8")
    assert "<title>Müller &lt;b&gt;</title>" in page
