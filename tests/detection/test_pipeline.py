import csv
import math
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image as PillowImage
from pydicom import dcmread

from p2ch13.detection import pipeline as app
from p2ch13.detection.detector import Detection
from p2ch13.detection.dicom import writer
from p2ch13.detection.pictures import CAPTION_MARGIN, LINE_PIXELS
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.predict import main
from p2ch13.util.errors import InputError
from tests.support.checks import Intruder, assert_one_line
from tests.support.commands import exit_status
from tests.support.dicom_files import ABSENT, SERIES_UID, rewrite, rewrite_all, write_series
from tests.support.hold import start_held
from tests.support.networks import (
    PIXEL_MODEL,
    make_finding_scorer,
    make_pixel_network,
    write_pixel_network,
    write_two_stages,
)
from tests.support.scan_files import IDENTITY, Ball, ball_mask, make_chest, make_hu, to_xyz, write_luna, write_scan

REPOSITORY = Path(__file__).parents[2]
PROGRAM = "from p2ch13.predict import main; from p2ch13.util.errors import run_command; run_command(main)"
SHAPE_IRC = (10, 40, 44)
BALLS = [Ball((5, 20, 22), 4), Ball((3, 8, 9), 2)]
DICOM_OPTIONS = ("--dicom-seg", "--rtstruct", "--dicom-sr")
TURNED = (0, 0, 1, 1, 0, 0, 0, -1, 0)


@pytest.fixture
def checkpoint(tmp_path):
    return write_pixel_network(tmp_path / "models" / "seg.state", -700)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def predict(checkpoint, out):
    """Run `main`; return the exit status that a shell would see."""

    def run(*arguments, checkpoint=checkpoint, out=out):
        return exit_status(lambda: main(options_of(checkpoint, out, *arguments)))

    return run


ENDINGS = ("findings.mrk.json", "mask.nii.gz", "overlay.png", "report.html", "report.json", "scan.txt")


def options_of(checkpoint, out, *arguments):
    return [str(part) for part in ("--checkpoint", checkpoint, "--output", out, *arguments)]


def read_mask(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def read_rows(out):
    with (out / "nodules.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_line(tmp_path, checkpoint, out):
    hu = make_hu(BALLS, SHAPE_IRC)
    scan = write_scan(tmp_path / "scans" / "1.2.3.mhd", hu)
    options = options_of(checkpoint, out, scan, "--probability", "--no-lung-mask")
    command = [sys.executable, "-m", "p2ch13.predict", *options]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr
    assert "10/10" in run.stderr  # slices
    names = [*(f"1.2.3_{ending}" for ending in sorted((*ENDINGS, "probability.nii.gz"))), "nodules.csv"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert str(out / "1.2.3_report.html") in run.stdout.splitlines()[-1]
    mask = read_mask(out / "1.2.3_mask.nii.gz")
    assert mask.dtype == np.uint8
    for number, ball in enumerate(BALLS, 1):  # by falling size, as their probabilities are equal
        np.testing.assert_array_equal(mask == number, ball_mask(ball, SHAPE_IRC))
    probability = read_mask(out / "1.2.3_probability.nii.gz")
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability > 0.5, hu > -700)

    first, second = read_rows(out)
    for row, ball in ((first, BALLS[0]), (second, BALLS[1])):
        position = [float(row[column]) for column in ("coordX", "coordY", "coordZ")]
        assert position == pytest.approx(to_xyz(ball.center_irc), abs=1e-3)
        volume_mm3 = ball_mask(ball, SHAPE_IRC).sum() * 0.7 * 0.7 * 1.5
        assert float(row["volume_mm3"]) == pytest.approx(volume_mm3, abs=0.1)
        assert float(row["diameter_mm"]) == pytest.approx((6 / math.pi * volume_mm3) ** (1 / 3), abs=0.01)
        assert row["seriesuid"] == "1.2.3"
    assert [row["finding"] for row in (first, second)] == ["1", "2"]
    assert (second["first_slice"], second["last_slice"]) == ("1", "5")
    # A row for each finding: the slice, 40 x 44, and two enlarged pictures of 512 x 512, below captions of one line.
    assert PillowImage.open(out / "1.2.3_overlay.png").size == (3 * 512, 2 * (2 * CAPTION_MARGIN + LINE_PIXELS + 512))


@pytest.mark.parametrize("direction", [IDENTITY, TURNED, (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)])
@pytest.mark.parametrize(("name", "file_format"), [("a.nii.gz", "nii.gz"), ("a.mha", "mha"), ("a.nrrd", "nrrd")])
def test_masks_and_positions_are_exact(tmp_path, predict, out, direction, name, file_format):
    hu = make_hu(BALLS, SHAPE_IRC)
    path = write_scan(tmp_path / name, hu, direction)
    assert predict(path, "--format", file_format, "--no-lung-mask") == 0
    np.testing.assert_array_equal(read_mask(out / f"a_mask.{file_format}") > 0, hu > -700)
    row = read_rows(out)[0]
    position = [float(row[column]) for column in ("coordX", "coordY", "coordZ")]
    assert position == pytest.approx(to_xyz(BALLS[0].center_irc, direction), abs=2e-3)


def test_lung_mask(tmp_path, predict, out):
    """Denser than 50 HU: a nodule in a lung, a spot in the breast, the shell of the table."""
    hu = make_chest()
    hu[3:5, 40:43, 40:43] = 200
    hu[6, 10:12, 64:67] = 200
    path = write_scan(tmp_path / "a.mha", hu, vx_size_xyz=(3.0, 3.0, 3.0))
    checkpoint = write_pixel_network(tmp_path / "dense.state", 50)
    assert predict(path, "--no-lung-mask", checkpoint=checkpoint) == 0
    assert len(read_rows(out)) == 3
    assert predict(path, checkpoint=checkpoint) == 0
    assert [float(row["volume_mm3"]) for row in read_rows(out)] == [2 * 3 * 3 * 27]
    expected = np.zeros(hu.shape, dtype=bool)
    expected[3:5, 40:43, 40:43] = True
    np.testing.assert_array_equal(read_mask(out / "a_mask.nii.gz"), expected)


def test_a_folder_in_luna16s_layout(tmp_path, predict, out):
    scans = {f"1.2.{ndx}": [Ball((5, 20, 22), radius)] for ndx, radius in enumerate((3, 1))}
    data_dir = write_luna(tmp_path / "luna", scans, SHAPE_IRC)
    assert predict(data_dir, "--no-lung-mask") == 0
    assert not read_mask(out / "1.2.1_mask.nii.gz").any()
    assert [row["seriesuid"] for row in read_rows(out)] == ["1.2.0"]
    assert PillowImage.open(out / "1.2.1_overlay.png").size == (256, 2 * CAPTION_MARGIN + LINE_PIXELS + 40)


def test_a_folder_of_images_names_its_cases(tmp_path, predict, out):
    for name in ("case1_0000.nii.gz", "case2_0000.mha"):
        write_scan(tmp_path / "own" / "imagesTr" / name, make_hu([Ball((2, 10, 10), 3)], (4, 20, 22)))
    assert predict(tmp_path / "own", "--no-lung-mask") == 0
    assert {path.name for path in out.glob("*_mask.nii.gz")} == {"case1_mask.nii.gz", "case2_mask.nii.gz"}


def test_a_checkpoint_among_the_scans(tmp_path, predict, checkpoint, out, capsys):
    write_scan(tmp_path / "a.mha", make_hu([Ball((2, 10, 10), 3)], (4, 20, 22)))
    assert predict(checkpoint, tmp_path / "a.mha") == 2
    assert_one_line(capsys, f"{checkpoint}: ")
    assert not out.exists()


def test_threshold_and_min_diameter(tmp_path, predict, out):
    path = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    # The smaller ball has 33 voxels, 24 mm3, as a sphere of 3.6 mm.
    assert predict(path, "--no-lung-mask", "--min-diameter", "3.7") == 0
    assert len(read_rows(out)) == 1
    assert predict(path, "--no-lung-mask", "--min-diameter", "3.5", "--tta") == 0
    assert len(read_rows(out)) == 2
    # Lung has a probability of 0.5.
    assert predict(path, "--no-lung-mask", "--threshold", "0.49") == 0
    assert read_mask(out / "a_mask.nii.gz").all()


def test_several_checkpoints(tmp_path, checkpoint, predict, out):
    """Balls of 0 HU have a logit of 700 by the first network, of -900 by the second, and of -100 by both."""
    scan = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    other = write_pixel_network(tmp_path / "other.state", -450, -2)
    for paths, found in (((checkpoint,), 2), ((other,), 0), ((checkpoint, other), 0), ((checkpoint, checkpoint), 2)):
        more = [part for path in paths[1:] for part in ("--checkpoint", path)]
        assert predict(*more, scan, "--no-lung-mask", checkpoint=paths[0]) == 0
        assert len(read_rows(out)) == found
    assert predict("--checkpoint", tmp_path / "missing.state", scan) == 2


def test_dicom(tmp_path, predict, out, capsys):
    hu = make_hu(BALLS, SHAPE_IRC)
    write_series(tmp_path / "patient" / "study" / "ct", hu, step_xyz=(0, 0, -2.5))
    write_series(tmp_path / "patient" / "study" / "ct", hu[:3], series_uid="1.2.9", names=["x", "y", "z"])
    assert predict(tmp_path / "patient", "--no-lung-mask", "--dicom-seg") == 0
    mask = sitk.ReadImage(str(out / f"{SERIES_UID}_mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask) > 0, hu[::-1] > -700)
    assert mask.GetOrigin() == pytest.approx((-30, -40, 200 - 9 * 2.5))
    assert (out / f"{SERIES_UID}_seg.dcm").is_file()
    row = read_rows(out)[0]
    assert row["seriesuid"] == SERIES_UID
    assert float(row["coordZ"]) == pytest.approx(200 - 5 * 2.5)

    assert predict(tmp_path / "patient" / "study" / "ct", "--no-lung-mask", "--series-uid", "1.2.9") == 0
    assert [row["seriesuid"] for row in read_rows(out)] == ["1.2.9"]
    assert predict(tmp_path / "patient" / "study" / "ct" / "y", "--no-lung-mask") == 0  # one of its files
    assert [row["seriesuid"] for row in read_rows(out)] == ["1.2.9"]
    capsys.readouterr()
    assert predict(tmp_path / "patient", "--series-uid", "1.2.8") == 2
    assert_one_line(capsys, "patient: ", "1.2.8")


def test_output_below_the_dicom_folder(tmp_path, predict, capsys):
    """A second call does not read the first one's DICOM segmentation as a scan."""
    write_series(tmp_path / "patient" / "ct", make_hu(BALLS, SHAPE_IRC))
    for _ in range(2):
        out = tmp_path / "patient" / "found"
        assert predict(tmp_path / "patient", "--no-lung-mask", "--dicom-seg", out=out) == 0
    assert len(read_rows(out)) == 2


def test_unreadable_scans_are_reported_and_skipped(tmp_path, predict, out, capsys):
    good = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    hu = make_hu([], SHAPE_IRC)
    missing = tmp_path / "series"
    write_series(missing, hu)[4].unlink()
    again = write_scan(tmp_path / "b" / "a.mha", hu)
    constant = write_scan(tmp_path / "c.mha", hu)
    not_a_number = write_scan(tmp_path / "d.mha", np.where(hu < 0, np.nan, hu).astype(np.float32))
    nowhere = tmp_path / "nowhere.mhd"
    bad = [tmp_path / "bad.nii.gz", missing, again, constant, not_a_number, nowhere]
    assert predict(good, *bad, "--no-lung-mask") == 1
    skipped = [line for line in capsys.readouterr().out.splitlines() if "Skipped: " in line]
    assert len(skipped) == 6
    for name in ("nowhere.mhd", str(again), "bad.nii.gz", "005.dcm", "c.mha", "d.mha"):
        assert sum(f"{name}: " in line for line in skipped) == 1, name
    assert {row["seriesuid"] for row in read_rows(out)} == {"a"}


def test_only_unreadable_scans(tmp_path, predict, out, capsys):
    (tmp_path / "a.mha").write_text("hello")
    assert predict(tmp_path / "a.mha") == 2
    assert_one_line(capsys, "a.mha, line 1: ")
    (tmp_path / "b.mha").write_text("hello")
    assert predict(tmp_path / "a.mha", tmp_path / "b.mha") == 2
    assert_one_line(capsys, "2 scans")
    assert not (out / "nodules.csv").exists()


def test_mistakes_end_in_one_line(tmp_path, predict, out, capsys):
    scan = write_scan(tmp_path / "scans" / "a.mha", make_hu(BALLS, SHAPE_IRC))
    (tmp_path / "empty").mkdir()
    for arguments, out_path, *parts in (
        ([scan, "--dicom-seg"], out, "a.mha: ", "--dicom-seg"),
        ([scan], scan / "out", "a.mha/out: ", "--output"),
        ([scan.parent], scan.parent, "scans: ", "--output"),
        ([tmp_path / "empty"], out, "empty: "),
    ):
        assert predict(*arguments, out=out_path) == 2
        assert_one_line(capsys, *parts)


def test_without_highdicom(tmp_path, predict, monkeypatch, capsys):
    monkeypatch.setattr(writer, "find_spec", lambda name: None)
    assert predict(tmp_path, "--dicom-seg", "--rtstruct") == 2
    assert_one_line(capsys, "--dicom-seg: ", "highdicom")


def test_unusable_checkpoints(tmp_path, predict, out, capsys):
    scan = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    five_channels, unpadded = {**PIXEL_MODEL, "in_channels": 5}, {**BOOK_MODEL, "padding": False}
    states = [
        {"weights": torch.zeros(3)},
        {"model_state": Intruder(tmp_path / "intruder")},
        {"model_state": {"fc.weight": torch.zeros(3)}},
        {"model_state": make_pixel_network(-700).state_dict(), "model_args": {**BOOK_MODEL, "levels": 3}},
        {"model_state": UNetWrapper(**five_channels).state_dict(), "model_args": five_channels},
        {"model_state": UNetWrapper(**unpadded).state_dict(), "model_args": unpadded},
    ]
    paths = [tmp_path / f"{ndx}.state" for ndx in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path)
    text = tmp_path / "text.state"
    text.write_text("seriesuid,coordX\n")  # "s" is a pickle opcode that needs a stack
    for path in (tmp_path / "none.state", scan, text, *paths):
        assert predict(scan, checkpoint=path) == 2
        assert_one_line(capsys, f"{path.name}: ")
    assert not out.exists()
    assert not (tmp_path / "intruder").exists()  # no code was run


@pytest.mark.parametrize("series_uid", ["../../escaped", "/tmp/escaped", "1.2/../../3", ".."])
def test_a_series_uid_does_not_lead_out_of_the_output(tmp_path, predict, out, series_uid):
    with warnings.catch_warnings():  # pydicom's, about this UID
        warnings.simplefilter("ignore")
        write_series(tmp_path / "ct", make_hu(BALLS, SHAPE_IRC), series_uid=series_uid)
    before = {path for path in tmp_path.parent.rglob("*") if out not in path.parents}
    assert predict(tmp_path / "ct", "--no-lung-mask") in (0, 2)
    after = {path for path in tmp_path.parent.rglob("*") if out not in path.parents}
    assert after - before <= {out}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--threshold", value) for value in ("1.5", "0", "nan", "high")),
        *(("--sensitivity", value) for value in ("1", "0", "sensitive")),
        *(("--min-diameter", "-1"), ("--format", "png"), ("--thershold", "1")),
    ],
)
def test_mistyped_options(capsys, option, value):
    assert exit_status(lambda: main(["scan.mha", "--checkpoint", "a.state", "--output", "out", option, value])) == 2
    assert option in capsys.readouterr().err.splitlines()[-1]


def test_a_threshold_or_a_sensitivity(capsys):
    options = ["--checkpoint", "a.state", "--output", "out", "--threshold", "0.5", "--sensitivity", "0.9"]
    assert exit_status(lambda: main(["scan.mha", *options])) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_options_reach_the_search(tmp_path, predict, monkeypatch):
    calls = []

    def detect(ct, model, threshold, min_diameter_mm, **options):
        calls.append((threshold, min_diameter_mm, options))
        return Detection(np.zeros(ct.shape_irc, np.float16), np.zeros(ct.shape_irc, np.int32), [])

    monkeypatch.setattr(app, "detect", detect)
    path = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    assert predict(path) == 0
    options = (
        "--tta",
        "--no-lung-mask",
        "--precision",
        "bf16",
        "--threshold",
        "0.9999",
        "--threads",
        "2",
        "--min-diameter",
        "5",
        "--pixel-mm",
        "0.6",
    )
    assert predict(path, *options) == 0
    assert [call[2].pop("threads").counts for call in calls] == [(1,), (2,)]  # OMP_NUM_THREADS limits `auto` here
    assert calls == [
        (0.5, None, {"lung_mask": True, "tta": False, "pixel_mm": None, "precision": "auto", "show_progress": True}),
        (0.9999, 5.0, {"lung_mask": False, "tta": True, "pixel_mm": 0.6, "precision": "bf16", "show_progress": True}),
    ]


@pytest.mark.parametrize("limit", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_full_disk(tmp_path, checkpoint, predict, out, limit):
    """Limit the size of files, below the mask's or only below the overlay's: the files of an earlier run stay."""
    scan = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    other = write_pixel_network(tmp_path / "models" / "other.state", 9999)  # finds nothing
    assert predict(scan, "--no-lung-mask", checkpoint=other) == 0
    before = read_files(out)
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n{PROGRAM}"
    command = [sys.executable, "-c", code, *options_of(checkpoint, out, scan, "--no-lung-mask")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert f"{out / 'a_'}" in line
    assert read_files(out) == before


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("no overlay"), 2), (OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)],
)
@pytest.mark.parametrize("function", ["write_png", "write_rows"])
def test_a_scan_that_fails_keeps_the_files_of_an_earlier_run(
    tmp_path, predict, out, monkeypatch, function, error, status
):
    scan = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    other = write_pixel_network(tmp_path / "models" / "other.state", 9999)
    assert predict(scan, "--no-lung-mask", "--probability", checkpoint=other) == 0
    before = read_files(out)
    assert read_rows(out) == []

    def fail(*arguments):
        raise error

    monkeypatch.setattr(app, function, fail)
    assert predict(scan, "--no-lung-mask", "--probability") == status
    assert read_files(out) == before
    monkeypatch.undo()
    assert predict(scan, "--no-lung-mask", "--probability") == 0
    assert len(read_rows(out)) == len(BALLS)
    assert read_files(out).keys() == before.keys()


def test_one_of_several_scans_fails(tmp_path, predict, out, monkeypatch):
    """The list has the scans that are done; the failed one has no files."""
    scans = [write_scan(tmp_path / f"{name}.mha", make_hu(BALLS, SHAPE_IRC)) for name in "abc"]
    write_png = app.write_png

    def fail_once(path, image):
        if path.name == "b_overlay.png":
            raise InputError("no", path=path)
        write_png(path, image)

    monkeypatch.setattr(app, "write_png", fail_once)
    assert predict(*scans, "--no-lung-mask") == 1
    of_scans = {name: [f"{name}_{ending}" for ending in ENDINGS] for name in "abc"}
    assert sorted(path.name for path in out.glob("[!.]*")) == sorted(["nodules.csv", *of_scans["a"], *of_scans["c"]])
    assert [row["seriesuid"] for row in read_rows(out)] == ["a", "a", "c", "c"]
    done = {name: (out / name).stat().st_mtime_ns for name in of_scans["a"]}
    monkeypatch.undo()
    assert predict(*scans, "--no-lung-mask") == 0  # the one that is missing
    assert {name: (out / name).stat().st_mtime_ns for name in of_scans["a"]} == done
    assert [row["seriesuid"] for row in read_rows(out)] == [*"aabbcc"]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    "options", [DICOM_OPTIONS[:1], DICOM_OPTIONS[1:2], DICOM_OPTIONS[2:], DICOM_OPTIONS], ids=" ".join
)
def test_objects_that_cannot_be_made_are_refused_before_the_search(
    tmp_path, predict, out, monkeypatch, capsys, options
):
    """Of other formats than DICOM, and of a series that no object can refer to."""

    def fail(*arguments, **keywords):
        raise AssertionError("searched")

    monkeypatch.setattr(app, "detect", fail)
    scan = write_scan(tmp_path / "a.mha", make_hu(BALLS, SHAPE_IRC))
    assert predict(scan, *options) == 2
    assert_one_line(capsys, "a.mha: ", *options)
    write_series(tmp_path / "patient", make_hu(BALLS, SHAPE_IRC), FrameOfReferenceUID=ABSENT)
    assert predict(tmp_path / "patient", *options) == 2
    assert_one_line(capsys, "patient: ", "FrameOfReferenceUID", *options)
    assert read_files(out) == {}


def test_all_dicom_objects_of_an_anonymized_series(tmp_path, predict, out, capfd):
    """Segments are the mask, measurements are those of the list of nodules; a second run takes no object for a scan."""
    highdicom = pytest.importorskip("highdicom")
    hu = make_hu(BALLS, SHAPE_IRC)
    write_series(tmp_path / "patient", hu, PatientBirthDate=ABSENT, StudyID=ABSENT, ReferringPhysicianName=ABSENT)
    with zipfile.ZipFile(tmp_path / "patient.zip", "w") as archive:
        for file in (tmp_path / "patient").iterdir():
            archive.write(file, f"ct/{file.name}")
    found = tmp_path / "patient" / "found"
    for scan, folder in (("patient", found), ("patient", found), ("patient.zip", out)):
        assert predict(tmp_path / scan, "--no-lung-mask", *DICOM_OPTIONS, out=folder) == 0
        files = {kind: folder / f"{SERIES_UID}_{kind}.dcm" for kind in ("seg", "rtstruct", "sr")}
        segmentation = highdicom.seg.segread(files["seg"])
        instances = [f"{SERIES_UID}.{ndx}" for ndx in range(1, len(hu) + 1)]
        segments = segmentation.get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)
        mask = read_mask(folder / f"{SERIES_UID}_mask.nii.gz")
        rois = dcmread(files["rtstruct"]).StructureSetROISequence
        groups = highdicom.sr.srread(files["sr"]).content.get_volumetric_roi_measurement_groups()
        rows = read_rows(folder)
        assert len(rows) == segments.shape[-1] == len(rois) == len(groups) == 2
        for row, roi, group in zip(rows, rois, groups, strict=True):
            number = int(row["finding"])
            np.testing.assert_array_equal(segments[..., number - 1], mask == number)
            assert roi.ROINumber == number
            assert group.tracking_identifier == f"Nodule {number}"
            values = [measurement.value for measurement in group.get_measurements()]
            names = ("long_axis_mm", "short_axis_mm", "mean_axis_mm", "volume_mm3", "mean_hu")
            assert values[:-1] == [float(row[name]) for name in names]
            assert values[-1] == pytest.approx(100 * float(row["probability"]))
    said = capfd.readouterr()
    assert "Warning" not in said.err
    assert "copy" not in said.out  # of each attribute, by highdicom


def test_ctrl_c_leaves_nothing_half_written(tmp_path, checkpoint, out):
    scans = [write_scan(tmp_path / f"{ndx}.mha", make_hu(BALLS, SHAPE_IRC)) for ndx in range(3)]
    options = options_of(checkpoint, out, *scans, "--no-lung-mask")
    where, in_second_scan = "p2ch13.network.model:UNetWrapper.logits", SHAPE_IRC[0] + 2
    process = start_held(PROGRAM, where, tmp_path / "reached", in_second_scan, options)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert [path.name for path in out.glob(".*")] == [".scans"]  # for the next start
    assert {row["seriesuid"] for row in read_rows(out)} == {"0"}
    assert read_mask(out / "0_mask.nii.gz").any()
    assert not list(out.glob("[12]*"))
    before = (out / "0_mask.nii.gz").stat().st_mtime_ns
    assert exit_status(lambda: main(options)) == 0
    assert (out / "0_mask.nii.gz").stat().st_mtime_ns == before
    assert {row["seriesuid"] for row in read_rows(out)} == {"0", "1", "2"}
    assert not list(out.glob(".*"))


def test_scans_without_series_uid(tmp_path, predict, out):
    """Two patients in two folders, and two in one."""
    hu = make_hu(BALLS, SHAPE_IRC)
    for folder, ndx in (("a", 0), ("b", 1), ("both", 2), ("both", 3)):
        names = [f"{ndx}-{number}" for number in range(len(hu))]
        write_series(tmp_path / "in" / folder, hu, names=names, SeriesInstanceUID=ABSENT, PatientID=f"P{ndx}")
    assert predict(tmp_path / "in", "--no-lung-mask") == 0
    assert {row["seriesuid"] for row in read_rows(out)} == {"a", "b", "both-1", "both-2"}


def test_a_broken_series_beside_a_good_one(tmp_path, predict, out, capsys):
    hu = make_hu(BALLS, SHAPE_IRC)
    write_series(tmp_path / "in" / "good", hu)
    broken = write_series(tmp_path / "in" / "broken", hu, series_uid="1.2.9")
    rewrite(broken[3], RescaleSlope=ABSENT)
    assert predict(tmp_path / "in", "--no-lung-mask") == 1
    assert f"Skipped: {broken[3]}: " in capsys.readouterr().out
    assert {row["seriesuid"] for row in read_rows(out)} == {SERIES_UID}


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "material map"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"Modality": "MR"}, "MR"),
    ],
)
def test_nothing_but_other_images(tmp_path, predict, attributes, kind, capsys):
    write_series(tmp_path / "in", make_hu(BALLS, SHAPE_IRC), **attributes)
    assert predict(tmp_path / "in") == 2
    assert_one_line(capsys, "in: ", kind)


def test_the_books_checkpoint_finds_the_real_nodule(tmp_path, luna_sample, book_checkpoint, predict, out):
    uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
    nodule = sitk.ReadImage(str(luna_sample / "subset0" / f"{uid}.mhd"))[:, :, 4:11]  # the slices that hold it
    sitk.WriteImage(nodule, str(tmp_path / "nodule.mha"))
    assert predict(tmp_path / "nodule.mha", checkpoint=book_checkpoint) == 0
    distances = [
        math.dist([float(row[column]) for column in ("coordX", "coordY", "coordZ")], (56.21, 86.34, -115.87))
        for row in read_rows(out)
    ]
    assert min(distances) < 23.35 / 2


def test_operating_points(tmp_path, predict, out, capsys):
    """The calibrated logit is the first stage's: of the boxes 3, 1 and -1, probabilities of 0.95, 0.73 and 0.27."""
    hu = make_hu([], SHAPE_IRC)
    for rows, value in ((slice(5, 12), 300), (slice(16, 23), 100), (slice(27, 34), -100)):
        hu[3:7, rows, 5:12] = value
    scan = write_scan(tmp_path / "a.mha", hu)
    scorer = make_finding_scorer(default=0.8)
    path = write_two_stages(tmp_path / "two.state", -850, scorer, weight=0.01, bias=-8.5)
    for options, expected in (
        ([], 1),  # the checkpoint's own, 0.8
        (["--threshold", "0.6"], 2),
        (["--threshold", "sensitive"], 3),  # 0.2
        (["--sensitivity", "0.6"], 2),  # 19 nodules: 8 / 20 <= 0.4, so that 7 may be missed, up to 0.3
        (["--no-second-stage"], 2),  # voxels above 0.5
    ):
        assert predict(scan, "--no-lung-mask", "--precision", "fp32", *options, checkpoint=path) == 0
        rows = read_rows(out)
        assert len(rows) == expected, options
        assert float(rows[0]["logit"]) == pytest.approx(3, abs=1e-3)
    assert "no second stage" in capsys.readouterr().out
    assert predict(scan, "--sensitivity", "0.99", checkpoint=path) == 2
    assert_one_line(capsys, "--sensitivity")
    assert predict(scan, "--threshold", "sensitive") == 2  # the other checkpoint has no second stage
    assert_one_line(capsys, "--threshold")


def test_a_mass_is_kept_and_called_too_large(tmp_path, predict, out, capsys):
    """36.3 mm: a box of 36.4 x 28 x 24.75 mm."""
    hu = make_hu([], (30, 60, 60))
    hu[4:26, 4:56, 8:52] = 0
    scan = write_scan(tmp_path / "a.mha", hu)
    assert predict(scan, "--no-lung-mask") == 0
    (row,) = read_rows(out)
    volume_mm3 = 22 * 52 * 44 * 0.7 * 0.7 * 1.5
    assert float(row["diameter_mm"]) == pytest.approx((6 / math.pi * volume_mm3) ** (1 / 3), abs=0.01)
    assert "larger than what the network was made for" in capsys.readouterr().out
    assert predict(write_scan(tmp_path / "b.mha", make_hu(BALLS, SHAPE_IRC)), "--no-lung-mask") == 0
    assert "larger than" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("largest", "is_binary", "dtype"),
    [
        (0, False, np.uint8),
        (255, False, np.uint8),
        (256, False, np.uint16),
        (65536, False, np.uint32),
        (256, True, np.uint8),
    ],
)
def test_masks_have_the_smallest_type_for_their_numbers(largest, is_binary, dtype):
    mask = app.as_mask(np.array([[[0, largest]]], dtype=np.int32), is_binary)
    assert mask.dtype == dtype
    assert mask.tolist() == [[[0, min(largest, 1) if is_binary else largest]]]


def test_binary_masks(tmp_path, predict, out):
    hu = make_hu(BALLS, SHAPE_IRC)
    path = write_scan(tmp_path / "a.mha", hu)
    assert predict(path, "--no-lung-mask", "--binary") == 0
    np.testing.assert_array_equal(read_mask(out / "a_mask.nii.gz"), (hu > -700).astype(np.uint8))


def test_reports_name_nobody(tmp_path, predict, out):
    """Neither by a DICOM header nor by a path."""
    files = write_series(tmp_path / "DOE^JANE", make_hu(BALLS, SHAPE_IRC))
    rewrite_all(
        files, PatientName="DOE^JANE", PatientID="ID4711", PatientBirthDate="19520814", InstitutionName="Clinic7"
    )
    assert predict(tmp_path / "DOE^JANE", "--no-lung-mask") == 0
    written = [path for path in out.iterdir() if path.suffix in (".html", ".json", ".csv")]
    assert len(written) == 4
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in ("DOE", "JANE", "ID4711", "19520814", "Clinic7", str(tmp_path)) if word in text]


def test_a_path_without_scans_is_named_before_the_network_is_loaded(tmp_path, predict, capsys):
    assert predict(tmp_path / "nowhere", checkpoint=tmp_path / "missing.state") == 2
    assert_one_line(capsys, str(tmp_path / "nowhere"), "no such file or folder")
