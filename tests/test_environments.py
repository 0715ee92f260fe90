"""Commands in a C locale, with names that are no UTF-8, without terminal or streams, and as on other systems."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from p2ch13.config import COMMANDS
from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.detection.outputs import write_image, write_nodules
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.util.coordinates import XyzTuple
from p2ch13.util.disk import encode
from stress.commands import read_values
from tests.support.commands import run_python
from tests.support.environments import C_LOCALE, UTF_8, run_in
from tests.support.networks import write_pixel_network
from tests.support.other_systems import SYSTEMS, run_all
from tests.support.scan_files import LUNG_HU, POSITION, TINY_SCANS, to_xyz, write_csv

LATIN_1 = os.fsdecode(b"M\xfcller")  # no UTF-8
LETTERS = os.fsdecode("Müller ß 肺".encode())
HELPS = "; ".join(
    f"subprocess.run([sys.executable, '-m', 'p2ch13.{name}', '--help'], check=True)" for name in (*COMMANDS, "phantom")
)


def assert_no_traceback(done):
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    assert b"Logging error" not in done.stderr


@pytest.fixture
def precache_options(folders):
    return ["-m", "p2ch13.precache", "--data-dir", folders.data_dir, "--num-workers", "1"]


@pytest.mark.parametrize("closed", ["", ">&- 2>&- <&-"])
def test_helps_of_all_commands_in_a_c_locale(closed):
    done = run_in(C_LOCALE, "-c", f"import subprocess, sys; {HELPS}", closed=closed)
    assert done.returncode == 0, done.stderr
    assert_no_traceback(done)


@pytest.mark.parametrize(
    ("name", "closed"),
    [("cache", "2>&-"), (LATIN_1, ""), (LETTERS, ""), (LATIN_1, ">&-"), (LETTERS, ">&- 2>&- <&-")],
)
@pytest.mark.parametrize("environment", [C_LOCALE, UTF_8], ids=["C", "UTF-8"])
def test_precache_into_a_folder_of_any_name(precache_options, tmp_path, environment, name, closed):
    cache_dir = tmp_path / name
    done = run_in(environment, *precache_options, "--cache-dir", cache_dir, closed=closed)
    assert done.returncode == 0, done.stderr
    assert_no_traceback(done)
    assert list(cache_dir.glob("*/cache.db"))
    assert (b"Cached 4 scans" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("environment", [C_LOCALE, UTF_8], ids=["C", "UTF-8"])
@pytest.mark.parametrize("name", [LATIN_1, LETTERS])
def test_a_mistake_with_a_name_of_any_bytes_is_one_line(tmp_path, environment, name):
    done = run_in(environment, "-m", "p2ch13.precache", "--data-dir", tmp_path / name)
    assert done.returncode == 2
    assert_no_traceback(done)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
    assert b"no such folder" in line


def test_scoring_with_files_of_any_name(folders, tmp_path):
    folder = tmp_path / LATIN_1
    folder.mkdir()
    rows = [(uid, *to_xyz(ball.center_irc), 0.9) for uid, balls in TINY_SCANS.items() for ball in balls]
    findings = write_csv(folder / f"{LETTERS}.csv", [*POSITION, "probability"], rows)
    options = ["--data-dir", folders.data_dir, "--findings", findings, "--output", folder / "out"]
    done = run_in(C_LOCALE, "-m", "p2ch13.evaluate", *options)
    assert done.returncode == 0, done.stderr
    assert_no_traceback(done)
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["nodules"]["found"], metrics["findings"]["false_positives"]) == (6, 0)


def test_prediction_into_a_folder_of_any_name(folders, tmp_path):
    folder = tmp_path / LATIN_1
    checkpoint = write_pixel_network(folder / "net.state", LUNG_HU, weight=0.1, bias=-5)
    scan = folders.data_dir / "subset0" / "1.2.1.mhd"
    options = ["--checkpoint", checkpoint, "--output", folder / "out", "--no-lung-mask", "--precision", "fp32"]
    done = run_in(C_LOCALE, "-m", "p2ch13.predict", scan, *options)
    assert done.returncode == 0, done.stderr
    assert_no_traceback(done)
    mask = (folder / "out" / "1.2.1_mask.nii.gz").rename(tmp_path / "mask.nii.gz")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).any()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("name", [LATIN_1, f"a.b{LATIN_1}.c", LETTERS])
def test_images_are_written_under_any_name(folders, tmp_path, name, suffix):
    ct = Ct(folders.data_dir / "subset0" / "1.2.1.mhd")
    mask = np.zeros(ct.shape_irc, np.uint8)
    mask[3, 4, 5] = 1
    folder = tmp_path / LATIN_1
    write_image(folder / f"{name}{suffix}", mask, ct)
    assert [path.name for path in folder.iterdir()] == [f"{name}{suffix}"]
    plain = (folder / f"{name}{suffix}").rename(tmp_path / f"plain{suffix}")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(plain))), mask)


def test_a_table_of_scans_of_any_name_is_utf_8(tmp_path):
    findings = [Finding(name, 1, XyzTuple(1, 2, 3), 0.0, 0.5, 5, 65, 0, 1) for name in (LATIN_1, LETTERS)]
    write_nodules(tmp_path / "nodules.csv", findings)
    with Path(tmp_path / "nodules.csv").open(encoding="utf-8", newline="") as file:
        assert [row["seriesuid"] for row in csv.DictReader(file)] == ["Müller", "Müller ß 肺"]


def test_tensorboard_needs_a_name_in_utf_8(folders, tmp_path):
    options = ["--data-dir", folders.data_dir, "--cache-dir", tmp_path / "cache", "--models-dir", tmp_path / "models"]
    done = run_in(UTF_8, "-m", "p2ch13.training", *options, "--runs-dir", tmp_path / LATIN_1, "--val-stride", "2")
    assert done.returncode == 2
    assert_no_traceback(done)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
    assert b"--runs-dir" in line


@pytest.mark.slow
def test_other_systems_give_the_same_results(luna_dir, tmp_path):
    """What macOS and Windows lack is taken away; each file that a command wrote without it is the same."""
    run_all(luna_dir, tmp_path / "linux")
    expected = list_results(tmp_path / "linux")
    assert len(expected) > 20
    for system in SYSTEMS:
        options = [system, luna_dir, tmp_path / system]
        run_python("-X", "warn_default_encoding", "-m", "tests.support.other_systems", *options)
        assert list_results(tmp_path / system) == expected, system


def list_results(output):
    """Name -> content of cached values, trained parameters, and all files of a search and a scoring."""
    (last,) = output.rglob("*.last.state")
    results = {key: encode(value) for key, value in read_values(output / "cache").items()}
    results |= {name: values.numpy().tobytes() for name, values in load_checkpoint(last)["model_state"].items()}
    files = [path for name in ("found", "scores") for path in (output / name).iterdir()]
    return results | {path.name: path.read_bytes().replace(os.fsencode(output), b"OUTPUT") for path in files}
