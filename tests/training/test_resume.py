"""A run that was stopped and resumed equals one that was not."""

import datetime
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from p2ch13.config import PRESETS, Folders
from p2ch13.evaluation.metrics import Scores
from p2ch13.network import compute
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from p2ch13.training import app as training_app
from p2ch13.training import learner as learner_module
from p2ch13.training import run_files
from p2ch13.training.__main__ import main
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.provenance import get_commit
from p2ch13.training.resume import choose_dtype, read_settings, resume_run
from p2ch13.training.run_files import CLAIM
from p2ch13.training.tensorboard import TensorBoardReport
from p2ch13.util.errors import Stopped, name_signal, run_command
from tests.support.checks import assert_one_line
from tests.support.scan_files import TINY_SCANS, write_luna

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="bit for bit on a CPU")


@pytest.fixture
def options(folders, tmp_path):
    return [*make_options(folders), *folder_options(tmp_path)]


def make_options(folders):
    """With all that changes from step to step: averaged weights, a schedule, augmentation."""
    return [
        *("--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir), "--val-stride", "2"),
        *("--preset", "strong", "--depth", "1", "--epochs", "2", "--samples-per-epoch", "20", "--precision", "fp32"),
        *("--threads", "1"),
    ]


@pytest.fixture(scope="module")
def whole_dir(tmp_path_factory):
    """The folder of a run that was not stopped."""
    path = tmp_path_factory.mktemp("whole")
    folders = Folders(write_luna(path / "luna", TINY_SCANS), path / "cache")
    SegmentationTrainingApp([*make_options(folders), *folder_options(path)]).main()
    return path


@pytest.fixture(scope="module")
def whole(whole_dir):
    """Its last state."""
    return last_state(whole_dir)


def folder_options(path):
    return ["--models-dir", str(path / "models"), "--runs-dir", str(path / "runs")]


def run(*options):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: main([*map(str, options)]))
    return end.value.code


def stop_in(monkeypatch, owner, function, after, stop=lambda: os.kill(os.getpid(), signal.SIGTERM)):
    """Stop in the `after`-th call of a function of a module or an object; returns a list with an item for each call."""
    calls = []
    original = getattr(owner, function)

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == after:
            stop()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, function, call)
    return calls


def kill():
    raise RuntimeError("killed")


def last_state(folder):
    (path,) = (folder / "models" / "p2ch13").glob("*.last.state")
    return load_checkpoint(path)


def read_loss_curve(folder):
    """Steps and values, in the order in which TensorBoard shows them."""
    (path,) = (folder / "runs" / "p2ch13").glob("*_trn_*")
    return [(event.step, event.value) for event in EventAccumulator(str(path)).Reload().Scalars("loss/within_epoch")]


def assert_same_state(state, expected):
    """All of it, but for when and how it was made."""
    for name in ("model_state", "trained_state"):
        assert all(torch.equal(state[name][key], value) for key, value in expected[name].items())
    moments, expected_moments = (s["optimizer_state"]["state"] for s in (state, expected))
    for ndx, values in expected_moments.items():
        assert all(torch.equal(moments[ndx][key], value) for key, value in values.items())
    for key in ("epoch", "step", "totalTrainingSamples_count", "best_score", "validations_since_best", "series"):
        assert state[key] == expected[key]


@pytest.mark.parametrize(
    ("function", "after", "signal_number", "position"),
    [
        ("train_step", 2, signal.SIGTERM, (0, 2, 16)),  # in the middle of the first epoch, of three steps
        ("validate", 1, signal.SIGINT, (0, 3, 20)),  # in its validation: its training is not done again
        ("log_images", 1, signal.SIGTERM, (1, 1, 28)),  # after its validation
    ],
)
def test_stopped_and_resumed_is_bit_for_bit_the_same(
    options, tmp_path, monkeypatch, whole_dir, whole, function, after, signal_number, position
):
    app = SegmentationTrainingApp(options)
    owner = {"train_step": learner_module, "validate": training_app, "log_images": TensorBoardReport}[function]
    stop_in(monkeypatch, owner, function, after, lambda: os.kill(os.getpid(), signal_number))
    with pytest.raises(Stopped) as stopped:
        app.main()
    assert stopped.value.signal_number == signal_number
    state = last_state(tmp_path)
    assert (state["epoch"], state["step"], state["totalTrainingSamples_count"]) == position
    command = str(stopped.value).partition("To resume: python -m p2ch13.training ")[2].split()
    assert command == ["--resume", str(app.run.files.last)]
    torch.manual_seed(99)
    resumed = SegmentationTrainingApp(command)
    taken = stop_in(monkeypatch, learner_module, "train_step", math.inf)
    resumed.main()
    assert len(taken) == 2 * 3 - (3 * state["epoch"] + state["step"])
    assert_same_state(last_state(tmp_path), whole)
    folders = list((tmp_path / "runs" / "p2ch13").iterdir())
    assert sorted(folder.name.partition("_seg_")[0][-3:] for folder in folders) == ["trn", "val"]
    (val_folder,) = (folder for folder in folders if "_val_" in folder.name)
    events = EventAccumulator(str(val_folder)).Reload()
    assert [event.step for event in events.Scalars("loss/all")] == [20, 40]
    curve = read_loss_curve(tmp_path)
    assert [step for step, _ in curve] == [8, 16, 20, 28, 36, 40]  # each once, and forward
    assert curve == read_loss_curve(whole_dir)


def test_from_an_earlier_epoch(tmp_path, whole_dir, whole, caplog):
    """Any .state file of a run will do; its files may be somewhere else by now, and stay as they are."""
    shutil.copytree(whole_dir / "models", tmp_path / "models")
    folder = tmp_path / "models" / "p2ch13"
    (path,) = folder.glob("*.20.state")
    files = {file: file.read_bytes() for file in folder.iterdir()}
    app = SegmentationTrainingApp(["--resume", str(path), *folder_options(tmp_path)])
    with caplog.at_level("INFO"):
        app.main()
    assert {file: file.read_bytes() for file in files} == files
    assert_same_state(load_checkpoint(app.run.files.last), whole)
    assert app.run.files.last not in files
    assert all(str(name) in caplog.text for name in (path, app.run.files.last))


@pytest.mark.parametrize(
    ("scores", "best_epochs"),
    [
        ([0.25, 0.5, 0.375, 0.75], {2: 2, 3: None, 1: 1}),  # not the best of all, of epoch 4
        ([0.75, 0.5, 0.25], {2: 1}),  # the best of all
    ],
)
def test_a_branch_begins_with_the_best_until_then(options, monkeypatch, scores, best_epochs):
    """Branches of some epochs, stopped at once; if the best model until then is gone, they begin without one."""
    options = [*options, "--lr-schedule", "constant", "--validation-cadence", "1", "--keep-checkpoints", "9"]
    app = SegmentationTrainingApp([*options, "--epochs", str(len(scores))])
    left = iter(scores)
    monkeypatch.setattr(app, "do_validation", lambda *_: Scores.from_counts(1.0, 0.5, 1, 1, 1, next(left)))
    app.main()
    files = {file: file.read_bytes() for file in app.run.files.folder.iterdir()}
    states = {epoch: app.run.files.path(f"{20 * epoch}.state") for epoch in range(1, len(scores) + 1)}

    branches = []
    for epoch, best_epoch in best_epochs.items():
        branch = SegmentationTrainingApp(["--resume", str(states[epoch])])
        stop_in(monkeypatch, learner_module, "train_step", 1)
        with pytest.raises(Stopped) as stopped:
            branch.main()
        assert str(branch.run.files.last) in str(stopped.value)
        state = load_checkpoint(branch.run.files.last)
        assert (state["epoch"], state["step"]) == (epoch, 1)
        assert branch.run.files.best.exists() == (best_epoch is not None)
        assert state["best_score"] == (-math.inf if best_epoch is None else scores[best_epoch - 1])
        if best_epoch is not None:
            assert branch.run.files.best.read_bytes() == files[states[best_epoch]]
            assert state["validations_since_best"] == epoch - best_epoch
        branches.append(branch.run.files.last)
    assert len(set(branches)) == len(best_epochs)  # however fast one comes after the other
    assert {file: file.read_bytes() for file in files} == files


def test_two_runs_of_one_second_have_names_of_their_own(options, monkeypatch):
    """The second one begins after the first has saved, in the same second."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2026, 1, 1, 10, 0, 59)

    monkeypatch.setattr(run_files.datetime, "datetime", Clock)
    names = []
    for _ in range(2):
        app = SegmentationTrainingApp([*options, "--epochs", "1"])
        app.save_model(None, is_best=False)
        names.append(app.run.files.time_str)
    assert names == ["2026-01-01_10.00.59", "2026-01-01_10.01.00"]


@pytest.mark.parametrize(
    ("precision", "saved", "can", "expected"),
    [
        ("auto", "float32", True, torch.float32),  # though the processor calculates in bfloat16
        ("auto", "bfloat16", True, torch.bfloat16),
        ("auto", "bfloat16", False, torch.float32),  # said in a warning
        ("bf16", "float32", True, torch.bfloat16),
        ("auto", None, True, torch.bfloat16),  # of an older version
    ],
)
def test_the_number_format_is_kept(monkeypatch, caplog, precision, saved, can, expected):
    monkeypatch.setattr(compute, "has_bfloat16_arithmetic", lambda device: can)
    current = compute.get_dtype(precision, torch.device("cpu"))
    assert choose_dtype(precision, saved, current) == expected
    assert bool(caplog.records) == (saved == "bfloat16" and not can)


def test_the_number_format_is_saved(options, tmp_path):
    app = SegmentationTrainingApp([*options, "--epochs", "1", "--precision", "bf16"])
    resume_run(app.run, app.settings, app.learner, app.init_train_ds().index)
    app.save_model(None, is_best=False)
    assert last_state(tmp_path)["dtype"] == "bfloat16"


@pytest.mark.parametrize("saved", [3, None, "x", -1])
def test_a_deterministic_run_keeps_its_number_of_threads(options, tmp_path, monkeypatch, saved):
    """That of the machine that it began on; a state without one, of an earlier version, takes this machine's."""
    monkeypatch.setattr(learner_module, "get_thread_limit", lambda: 2)
    threads = torch.get_num_threads()
    try:
        app = SegmentationTrainingApp([*options, "--deterministic", "--threads", "auto", "--epochs", "1"])
        assert (app.learner.train_threads.counts, app.learner.val_threads.counts) == ((2,), (2,))
        app.main()
        state = last_state(tmp_path)
        assert state["threads"] == 2
        save_checkpoint(app.run.files.last, {**state, "threads": saved})
        resumed = SegmentationTrainingApp(["--resume", *folder_options(tmp_path)])
        assert resumed.learner.train_threads.counts == (3 if saved == 3 else 2,)
    finally:
        torch.set_num_threads(threads)
    assert run("--resume", app.run.files.last, "--threads", "1") == 2


def test_another_number_of_threads_from_now_on(whole_dir):
    app = SegmentationTrainingApp(["--resume", *folder_options(whole_dir), "--threads", "auto"])
    assert app.config.threads == "auto"


def test_the_latest_of_several_runs(tmp_path, whole):
    """The one that was at work last, whenever it began; or the last one of a name: `b` is neither `a_b` nor `b_a`."""
    paths = {}
    for age_s, (comment, day) in enumerate({"a": 1, "a_b": 3, "b_a": 3, "b": 3, "*": 3}.items()):
        path = paths[comment] = tmp_path / "models" / "p2ch13" / f"seg_2026-01-0{day}_10.00.00_{comment}.last.state"
        save_checkpoint(path, {**whole, "config": {**whole["config"], "comment": comment.replace("*", "c")}})
        os.utime(path, (1e9 - age_s, 1e9 - age_s))
    assert read_settings(["--resume", *folder_options(tmp_path)]).path == paths["a"]
    for comment in ("b", "a_b", "b_a"):
        assert read_settings(["--resume", *folder_options(tmp_path), comment]).path == paths[comment]


def test_each_epoch_is_kept(options, tmp_path, monkeypatch):
    """Those without a validation, too."""
    app = SegmentationTrainingApp([*options, "--epochs", "4"])
    stop_in(monkeypatch, app, "do_training", 3, kill)
    with pytest.raises(RuntimeError, match="killed"):
        app.main()
    assert (last_state(tmp_path)["epoch"], last_state(tmp_path)["scores"]) == (2, None)
    assert not list(app.run.files.folder.glob("*.40.state"))


def test_more_epochs(options, tmp_path):
    """`--resume` alone is the latest run; one of two epochs ends like one of one that is given another."""
    options = [*options, "--lr-schedule", "constant", "--validation-cadence", "1"]
    SegmentationTrainingApp([*options, *folder_options(tmp_path / "whole")]).main()
    SegmentationTrainingApp([*options, "--epochs", "1"]).main()
    app = SegmentationTrainingApp(["--resume", *folder_options(tmp_path), "--epochs", "2"])
    assert (app.config.preset, app.config.epochs, app.config.samples_per_epoch) == ("strong", 2, 20)
    app.main()
    assert_same_state(last_state(tmp_path), last_state(tmp_path / "whole"))


@pytest.mark.parametrize("ending", ["last.state", "40.state"])
def test_a_run_that_is_over_has_nothing_left_to_do(tmp_path, whole_dir, whole, ending):
    """The state of the last epoch is as far as the last state: the run keeps its name."""
    shutil.copytree(whole_dir / "models", tmp_path / "models")
    (path,) = (tmp_path / "models" / "p2ch13").glob(f"*.{ending}")
    app = SegmentationTrainingApp(["--resume", str(path), *folder_options(tmp_path)])
    outcome = app.main()
    assert app.run.files.time_str == whole["time_str"]
    assert_same_state(last_state(tmp_path), whole)
    assert outcome.values["best"] == app.run.files.best


def test_what_cannot_be_resumed(options, folders, tmp_path, capsys):
    def refused(*arguments, **changes):
        if changes:
            save_checkpoint(path, {**state, **changes})
        assert run("--resume", *arguments) == 2
        assert_one_line(capsys)

    refused(*folder_options(tmp_path))
    app = SegmentationTrainingApp([*options, "--epochs", "1"])
    app.main()
    path = app.run.files.last
    state = load_checkpoint(path)
    for changed in (("--batch-size", "4"), ("--epochs", "3"), ("--models-dir", tmp_path / "x"), ("--config", "x.json")):
        refused(path, *changed)
    refused(path, time_str="../../elsewhere")
    refused(path, config={**state["config"], "comment": "../elsewhere"})
    refused(path, totals=[0.0] * 7, random_state={}, step=1)
    refused(path, optimizer_state={"state": {}, "param_groups": []})
    save_checkpoint(path, {"model_state": state["model_state"]})
    refused(path)
    save_checkpoint(path, state)
    annotations = folders.data_dir / "annotations.csv"
    annotations.write_text("\n".join(annotations.read_text().splitlines()[:-2]))
    refused(path)


def test_checkpoints_by_the_clock(options, tmp_path, monkeypatch, whole):
    """Each step is saved; a run that is killed in its fifth resumes with the fifth."""
    app = SegmentationTrainingApp([*options, "--checkpoint-minutes", "1e-9"])
    stop_in(monkeypatch, learner_module, "train_step", 5, kill)
    with pytest.raises(RuntimeError, match="killed"):
        app.main()
    monkeypatch.undo()
    assert (last_state(tmp_path)["epoch"], last_state(tmp_path)["step"]) == (1, 1)
    SegmentationTrainingApp(["--resume", str(app.run.files.last)]).main()
    assert_same_state(last_state(tmp_path), whole)


@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_for_real(options, tmp_path, signal_number, status):
    command = [sys.executable, "-m", "p2ch13.training", *options, "--samples-per-epoch", "100000"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--checkpoint-minutes", "1e-9"], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    while not list(tmp_path.glob("models/p2ch13/*.last.state")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal_number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in error
    last_line = error.splitlines()[-1]
    assert f"Stopped by {name_signal(signal_number)} in epoch 1, after" in last_line
    assert "To resume: python -m p2ch13.training --resume " in last_line
    assert last_state(tmp_path)["step"] > 0


def test_a_second_signal_ends_training_at_once(options, tmp_path):
    """In the middle of a step, which is not waited for."""
    code = (
        "import os, signal, sys; from p2ch13.training import learner\n"
        "from p2ch13.training.__main__ import main; from p2ch13.util.errors import run_command\n"
        "def step(*batch, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('one', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('two', flush=True)\n"
        "learner.train_step = step; run_command(lambda: main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout.splitlines()[-1] == "one"
    (claim,) = tmp_path.glob("models/p2ch13/*")  # of the run's name: there was no time to give it up
    assert claim.suffix == f".{CLAIM}"
    assert claim.stat().st_size == 0


def test_the_newest_and_the_best_are_kept(options, tmp_path, monkeypatch):
    app = SegmentationTrainingApp([*options, "--epochs", "4", "--validation-cadence", "1", "--keep-checkpoints", "2"])
    monkeypatch.setattr(app.run, "update_best", lambda scores: app.run.epoch == 2)
    app.main()
    endings = sorted(path.name.split("_none.")[1] for path in app.run.files.folder.glob("*.state"))
    assert endings == ["60.state", "80.state", "best.state", "last.state"]
    assert load_checkpoint(app.run.files.best)["epoch"] == 2


def test_a_run_says_where_it_comes_from(options, tmp_path):
    app = SegmentationTrainingApp([*options, "--epochs", "1", "--seed", "7"])
    app.main()
    state = last_state(tmp_path)
    assert state["versions"]["torch"] == version("torch")
    assert set(state["versions"]) == {"python", "torch", "numpy", "SimpleITK", "p2ch13"}
    assert state["series"] == {"trn": ["1.2.1", "1.2.3"], "val": ["1.2.0", "1.2.2"]}
    assert len(state["data_fingerprint"]) == len("v2:") + 64
    assert state["commit"] == get_commit()
    (folder,) = (tmp_path / "runs" / "p2ch13").glob("*_trn_*")
    texts = EventAccumulator(str(folder)).Reload().Tensors
    shown = b"".join(
        event.tensor_proto.string_val[0] for tag in ("options", "origin") for event in texts(f"{tag}/text_summary")
    )
    origin = (f'"torch": "{version("torch")}"', f'"commit": {json.dumps(get_commit())}', state["data_fingerprint"])
    for part in ('"seed": 7', '"preset": "strong"', *origin, '"1.2.3"', '"1.2.2"'):
        assert part.encode() in shown, part
    assert json.loads((folder / "config.json").read_text()) == state["config"]
    again = SegmentationTrainingApp(["--config", str(folder / "config.json")])
    assert again.config == app.config
    assert set(PRESETS["strong"]) <= set(state["config"])
