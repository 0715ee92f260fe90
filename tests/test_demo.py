"""The demo on tiny scans: its end, and that it goes on where it was stopped."""

import json
from pathlib import Path

import pytest

from p2ch13 import demo
from p2ch13.labels.candidates import get_nodule_info_list
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.util.errors import Stopped
from tests.support.commands import exit_status

TINY = demo.DemoSize(scans=2, samples=16, minutes=1, rest=1, pixels=128, slice_count=12)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "demo"


def run(folder, *options):
    return exit_status(lambda: demo.main(["--output", str(folder), *options], TINY))


@pytest.mark.slow
def test_stopped_and_started_again(folder, monkeypatch, capsys):
    pause = SegmentationTrainingApp.pause

    def stop(app, where):
        pause(app, where)
        app.run.save(app.learner, totals=app.totals)
        raise Stopped("Stopped by Ctrl-C, with another program's advice.")

    monkeypatch.setattr(SegmentationTrainingApp, "pause", stop)
    assert run(folder) == 130
    assert "same command" in capsys.readouterr().err.splitlines()[-1]
    scans = {path: path.stat().st_mtime_ns for path in (folder / "scans").rglob("*.mhd")}
    assert len(scans) == TINY.scans and not folder.with_name("scans.unfinished").exists()
    (state,) = (folder / "models" / "demo").glob("*.last.state")
    assert load_checkpoint(state)["step"] == 1

    monkeypatch.setattr(SegmentationTrainingApp, "pause", pause)
    assert run(folder) == 0
    assert {path: path.stat().st_mtime_ns for path in scans} == scans  # none is generated anew
    assert list((folder / "models" / "demo").glob("*.last.state")) == [state]
    assert (load_checkpoint(state)["epoch"], load_checkpoint(state)["step"]) == (1, 0)
    lines = capsys.readouterr().out.splitlines()
    pages = [line.split()[0] for line in lines[lines.index("Open in a browser:") + 1 : -1]]
    assert len(pages) == 3 and all(Path(page).is_file() for page in pages)

    written = state.stat().st_mtime_ns
    assert run(folder, "--json") == 0
    assert state.stat().st_mtime_ns == written  # it is not trained again
    values = json.loads(capsys.readouterr().out)
    nodules = [each for each in get_nodule_info_list(folder / "scans") if each.series_uid == Path(values["scan"]).stem]
    for name in ("package", "own"):
        metrics = json.loads((folder / f"{name}-scores" / "metrics.json").read_text())
        assert values[name]["nodules"] == len(nodules) == metrics["nodules"]["count"]
        assert values[name]["found"] == metrics["nodules"]["found"]
        assert values[name]["false_positives"] == metrics["findings"]["false_positives"]
    trained_on = load_checkpoint(Path(values["checkpoint"]))["series"]["trn"]
    assert Path(values["scan"]).stem not in trained_on


@pytest.mark.parametrize(("options", "expected"), [([], "data/demo"), (["--fast"], "data/demo-fast")])
def test_its_folder(monkeypatch, options, expected):
    done = []
    monkeypatch.setattr(demo, "demonstrate", lambda folder, size: done.append((folder, size)) or stopped())
    assert exit_status(lambda: demo.main(options)) == 130
    assert done == [(Path(expected), demo.FAST if options else demo.FULL)]


def stopped():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("seconds", "minutes"), [(1, "a minute"), (20, "a minute"), (60, "3 minutes")])
def test_the_rest_is_estimated_by_the_scans(seconds, minutes):
    from p2ch13.phantom import Summary

    size = demo.DemoSize(scans=2, samples=1, minutes=1, rest=3)
    assert f"the rest takes about {minutes}." in demo.describe_pace(Summary(2, 5, 10.0, seconds), size)
