"""Scans that processes share: those of torchrun, one of which is killed, and array jobs."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ch13.evaluate import main as evaluate
from p2ch13.import_dicom import main as import_dicom
from p2ch13.predict import main as predict
from tests.support.checks import refused
from tests.support.commands import REPOSITORY
from tests.support.dicom_files import write_series
from tests.support.hold import wait_for
from tests.support.networks import write_released_network
from tests.support.scan_files import Ball, make_hu, write_luna

SCANS = {f"1.2.{ndx:02}": [Ball((3, 20 + ndx, 30), 4)] for ndx in range(9)}
PREDICT = """
import os, sys
from tests.support.hold import hold
if os.environ["RANK"] == "1" and sys.argv[1] != "-": hold("p2ch13.detection.pipeline:write_png", sys.argv[1], 2)
from p2ch13.predict import main
from p2ch13.util.errors import run_command
run_command(lambda: main(sys.argv[2:]))
"""


@pytest.fixture
def folder(tmp_path):
    write_luna(tmp_path / "luna", SCANS, (8, 64, 68))
    write_released_network(tmp_path / "net.state")
    return tmp_path


@pytest.fixture
def predicted(folder):
    """The options of a prediction of all scans."""
    return [folder / "luna", "--checkpoint", folder / "net.state", "--no-lung-mask", "--output", folder / "out"]


@pytest.fixture
def scored(folder):
    return [
        *("--data-dir", folder / "luna", "--checkpoint", folder / "net.state", "--all", "--no-lung-mask"),
        *("--output", folder / "scores"),
    ]


def start_torchrun(folder, count, *arguments):
    program = folder / "program.py"
    program.write_text(PREDICT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [*launcher, *map(str, [program, *arguments])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"program.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def list_series(out):
    with (out / "nodules.csv").open(newline="") as file:
        return [row["seriesuid"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_next_start_goes_on_where_a_killed_process_has_ended_all(folder, predicted):
    """The second of two is killed at its second scan; torchrun then ends the first."""
    process = start_torchrun(folder, 2, folder / "reached", *predicted)
    wait_for(folder / "reached", process)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    out = folder / "out"
    done = {path: path.stat().st_mtime_ns for path in out.glob("*_report.json")}
    assert 0 < len(done) < len(SCANS)
    assert len(list(out.glob(".scans/*.done"))) == len(done)

    process = start_torchrun(folder, 2, "-", *predicted)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert list_series(out) == list(SCANS)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not list(out.glob(".*"))


def run(main, *arguments):
    return main([*map(str, arguments)])


def test_array_jobs_of_a_prediction(folder, predicted):
    for part in (3, 1):
        assert run(predict, *predicted, "--shard", f"{part}/3") == 0
    assert not (folder / "out" / "nodules.csv").exists()
    with refused(option="--shard"):
        run(predict, *predicted, "--merge")
    assert run(predict, *predicted, "--shard", "2/3") == 0
    assert run(predict, *predicted, "--merge") == 0
    assert list_series(folder / "out") == list(SCANS)
    assert len(list(folder.glob("out/*_report.html"))) == len(SCANS)
    assert not list(folder.glob("out/.*"))


def test_array_jobs_need_a_common_folder(predicted):
    with refused(option="--output"):
        run(predict, *predicted[:-2], "--shard", "1/2")


def test_array_jobs_of_an_evaluation(folder, scored):
    """A scan that cannot be read is skipped by its job, and named by the merge."""
    (folder / "luna" / "subset0" / "1.2.03.raw").unlink()
    assert [run(evaluate, *scored, "--shard", f"{part}/2") for part in (1, 2)] == [0, 1]
    assert run(evaluate, *scored, "--merge") == 1
    merged = json.loads((folder / "scores" / "metrics.json").read_text())
    assert run(evaluate, *scored[:-1], folder / "alone") == 1
    alone = json.loads((folder / "alone" / "metrics.json").read_text())
    assert merged == alone
    assert (merged["scans"], list(merged["skipped"])) == (8, ["1.2.03"])


def test_array_jobs_of_an_import(tmp_path):
    for ndx in range(3):
        hu = make_hu([], (6, 64, 64))
        write_series(tmp_path / "dicom" / str(ndx), hu, series_uid=f"1.2.{ndx}", PatientID=str(ndx // 2))
    options = [tmp_path / "dicom", "--data-dir", tmp_path / "data", "--num-workers", "1"]
    assert run(import_dicom, *options, "--shard", "2/2") == 0
    with refused(option="--shard"):
        run(import_dicom, *options, "--merge")
    assert run(import_dicom, *options, "--shard", "1/2") == 0
    assert run(import_dicom, *options, "--merge") == 0
    folder = tmp_path / "data" / "subset_dicom"
    assert len(list(folder.glob("*.mhd"))) == 3
    with (folder / "patients.csv").open() as file:
        patients = {row["seriesuid"]: row["patient"] for row in csv.DictReader(file)}
    assert patients["1.2.0"] == patients["1.2.1"] != patients["1.2.2"]
