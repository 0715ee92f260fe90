"""--json: one object on stdout that holds what the files hold, and nothing else there."""

import csv
import functools
import hashlib
import json
from pathlib import Path

import pytest

from p2ch13 import __version__
from p2ch13.__main__ import main
from p2ch13.commands import COMMANDS
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.phantom import write_phantoms
from p2ch13.util.errors import Stopped
from p2ch13.weights import WEIGHTS
from tests.docs.world import SCANS, write_backgrounds, write_luna16, write_world
from tests.support.commands import REPOSITORY, exit_status
from tests.support.dicom_files import write_series
from tests.support.networks import write_pixel_network
from tests.support.scan_files import make_hu

TRAINING = ["--val-stride", "2", "--samples-per-epoch", "16", "--epochs", "1", "--threads", "1"]
NODULE_COUNT = len(SCANS)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An empty folder with scans where commands look for them, and a network that marks their balls."""
    monkeypatch.chdir(tmp_path)
    write_world(tmp_path, {"scan.nii.gz", "dense.state"})
    return tmp_path


@pytest.fixture
def ask(capsys):
    """Run a command with --json. Returns: its object, whose `status` is checked."""

    def ask(*arguments, status=0):
        capsys.readouterr()
        assert exit_status(lambda: main([*map(str, arguments), "--json"])) == status
        (line,) = capsys.readouterr().out.splitlines()
        values = json.loads(line)
        assert values.pop("status") == status
        return values

    return ask


def test_predict(world, ask):
    Path("broken.nii.gz").write_bytes(b"no scan")
    search = ["--checkpoint", "dense.state", "--no-lung-mask", "--threads", "1", "--output", "found"]
    values = ask("predict", "scan.nii.gz", "broken.nii.gz", *search, status=1)
    (scan,) = values["scans"]
    assert (scan["name"], scan["scan"], scan["folder"]) == ("scan", "scan.nii.gz", "found")
    assert sorted(scan["files"]) == sorted(
        each.name for each in Path("found").iterdir() if not each.name.startswith(".")
    )
    report = json.loads(Path("found/scan_report.json").read_text())
    assert (scan["summary"], scan["findings"]) == (report["summary"], report["findings"])
    with Path("found/nodules.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["probability"]) == pytest.approx(scan["findings"][0]["probability"], abs=1e-5)
    assert "broken.nii.gz" in values["skipped"][0]


def test_evaluate(world, ask):
    search = ["--checkpoint", "dense.state", "--labels", "box", "--no-lung-mask", "--threads", "1"]
    values = ask("evaluate", "--all", *search, "--output", "scores")
    metrics = json.loads(Path("scores/metrics.json").read_text())
    assert values["scores"] == {key: metrics[key] for key in values["scores"]}
    assert values["scores"]["nodules"]["count"] == NODULE_COUNT
    assert Path(values["report"]) == Path("scores/report.html") and Path(values["report"]).is_file()
    assert values["skipped"] == {}


def test_precache_and_training(world, ask):
    cached = ask("precache", "--num-workers", "1")
    assert (cached["cached"], cached["scans"], cached["nodules"], cached["skipped"]) == (4, 4, NODULE_COUNT, [])
    assert ask("precache", "--num-workers", "1")["cached"] == 0
    trained = ask("train", *TRAINING)
    state = load_checkpoint(Path(trained["best"] or trained["last"]))
    assert (trained["epochs"], trained["samples"], trained["stopped_by"]) == (1, 16, None)
    assert (state["epoch"], state["totalTrainingSamples_count"]) == (1, 16)
    assert trained["scores"] is None or trained["scores"]["recall"] == state["scores"]["recall"]


def test_a_stopped_training(world, ask, monkeypatch):
    def pause(app, where):
        app.run.save(app.learner, totals=app.totals)
        raise Stopped("Stopped by Ctrl-C.")

    monkeypatch.setattr("p2ch13.training.app.SegmentationTrainingApp.pause", pause)
    stopped = ask("train", *TRAINING, status=130)
    assert (stopped["stopped_by"], stopped["epochs"], stopped["best"]) == ("Ctrl-C", 0, None)
    assert load_checkpoint(Path(stopped["last"]))["step"] == stopped["steps_of_next_epoch"] == 1


def test_phantom(tmp_path, ask, monkeypatch):
    tiny = functools.partial(write_phantoms, pixels=96, slice_count=12)
    monkeypatch.setattr("p2ch13.phantom.dataset.write_phantoms", tiny)
    values = ask("phantom", tmp_path / "out", "--scans", "2", "--num-workers", "1")
    rows = (tmp_path / "out" / "annotations.csv").read_text().splitlines()
    assert (values["folder"], values["scans"], values["nodules"]) == (str(tmp_path / "out"), 2, len(rows) - 1)


def test_import_dicom(tmp_path, ask):
    write_series(tmp_path / "dicom", make_hu(SCANS["1.2.0"], (6, 40, 44)))
    values = ask("import-dicom", tmp_path / "dicom", "--data-dir", tmp_path / "luna", "--num-workers", "1")
    (path,) = values["imported"]
    assert Path(path).is_file() and Path(path).parent == Path(values["folder"])
    again = ask("import-dicom", tmp_path / "dicom", "--data-dir", tmp_path / "luna", "--num-workers", "1")
    assert (again["series"], again["imported"], again["skipped"]) == (1, [], [])


def test_download_verify(tmp_path, ask):
    write_luna16(tmp_path / "luna")
    values = ask("download", "--verify", "--data-dir", tmp_path / "luna", status=1)
    assert (values["scans"], values["nodules"]) == (4, NODULE_COUNT)
    assert any("annotations.csv" in problem for problem in values["problems"])


def test_view(world, ask):
    ask("predict", "scan.nii.gz", "--checkpoint", "dense.state", "--no-lung-mask", "--threads", "1")
    (page,) = ask("view", "scan_nodules")["pages"]
    assert Path(page).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("suffix", ["safetensors", pytest.param("pt2", marks=pytest.mark.slow)])
def test_export(tmp_path, ask, suffix):
    checkpoint = write_pixel_network(tmp_path / "dense.state", -700)
    values = ask("export", "--checkpoint", checkpoint, "--output", tmp_path / f"net.{suffix}")
    assert Path(values["file"]).stat().st_size == values["bytes"]
    assert (values["stage"], values["inputs"], values["outputs"]) == (1, ["hu"], ["logit"])


def test_paint(tmp_path, ask):
    write_backgrounds(tmp_path / "lungs")
    values = ask("paint", tmp_path / "lungs", tmp_path / "painted")
    assert values["scans"] == len(list((tmp_path / "painted" / "images").iterdir()))
    assert values["nodules"] == len((tmp_path / "painted" / "annotations.csv").read_text().splitlines()) - 1


def test_the_version(ask):
    values = ask("--version")
    assert values["version"] == __version__
    assert values["network"]["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


@pytest.mark.parametrize("command", [["predict", "none.nii.gz"], ["evaluate", "--mask", "none"], ["train"]])
def test_a_mistake_prints_no_object(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert exit_status(lambda: main([*command, "--json"])) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_documentation_has_each_command(name):
    assert f"\n| `{name}` | " in (REPOSITORY / "docs" / "output.md").read_text()
