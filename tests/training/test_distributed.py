"""Two processes on this machine, started by torchrun itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from p2ch13.config import Folders
from p2ch13.data.cache import CtCache
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.training.app import SegmentationTrainingApp
from tests.support.checks import refused
from tests.support.hold import wait_for
from tests.support.processes import compute_gradients, validate
from tests.support.scan_files import TINY_SCANS, write_luna

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compares float32 on a CPU")

REPOSITORY = Path(__file__).parents[2]
PROCESSES = REPOSITORY / "tests" / "support" / "processes.py"
EPOCHS, SAMPLES = 4, 48


@pytest.fixture
def options(folders):
    return options_of(folders)


def options_of(folders, *others):
    return [
        *("--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir), "--val-stride", "2"),
        *("--samples-per-epoch", str(SAMPLES), "--batch-size", "8", "--precision", "fp32", *others),
    ]


def start(*command, **more):
    """torchrun with two processes; its messages and theirs come in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        **more,
    )


def run(*command, **more):
    process = start(*command, **more)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    return output


def train(models_dir, runs_dir, *options, held=REPOSITORY):
    """`held`: a file that the second process makes before its third epoch, to wait to be killed, if there is none."""
    return (
        *("--max-restarts=1", PROCESSES, "train", held, "--models-dir", models_dir, "--runs-dir", runs_dir),
        *(f"--epochs={EPOCHS}", "--validation-cadence=99", "--augmented", "--lr-schedule=cosine", "--ema", *options),
    )


LOSS = ("--fn-weight", "0.5", "--cross-entropy", "2")
UNEVEN = ("--samples-per-epoch", "5")  # 2 and 3 of them, which weigh alike
MEASURED = {
    "gradients": ("gradients", ()),
    "gradients, over the batch": ("gradients", (*LOSS, "--batch-dice")),
    "gradients, uneven": ("gradients", UNEVEN),
    "gradients, uneven, over the batch": ("gradients", (*LOSS, "--batch-dice", *UNEVEN)),
    "scores": ("validate", ("--val-negatives", "1", "--batch-dice", *LOSS)),
    "weights": ("weights", ("--samples-per-epoch=56", "--lr-schedule=cosine", "--ema")),
    "bad step": ("bad step", ("--skip-non-finite", "--ema")),
}


@pytest.fixture(scope="module")
def shared_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return Folders(write_luna(folder / "luna", TINY_SCANS), folder / "cache")


@pytest.fixture(scope="module")
def measured(shared_folders, tmp_path_factory):
    """What two processes return for each of `MEASURED`; all in one start, which takes longer than they do."""
    folder = tmp_path_factory.mktemp("measured")
    jobs = {name: [what, options_of(shared_folders, *options)] for name, (what, options) in MEASURED.items()}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run(PROCESSES, "measure", folder / "jobs.json", folder)
    return {name: torch.load(folder / f"{name}.pt") for name in MEASURED}


@pytest.fixture
def alone(shared_folders):
    """Make an app of the measurement's options in this process."""
    return lambda name: SegmentationTrainingApp(options_of(shared_folders, *MEASURED[name][1]))


@pytest.mark.parametrize("name", [name for name in MEASURED if name.startswith("gradients")])
def test_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(measured, alone, name):
    for together, expected in zip(measured[name], compute_gradients(alone(name), 16), strict=True):
        torch.testing.assert_close(together, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_summed_scores_are_those_of_one_process(measured, alone):
    expected = validate(alone("scores"))
    assert [pytest.approx(scores, rel=1e-5) for scores in expected] == measured["scores"]
    assert expected[0]["tp_percent"] > 0
    assert expected[0] != expected[1]


def test_weights_stay_the_same_in_all_processes(measured):
    """With a learning rate that changes from step to step, and averaged weights."""
    difference, last_rate = measured["weights"]
    assert difference == 0
    # The last of four steps begins at 48 of 56 samples: 1e-5 + 9.9e-4 * (1 + cos(pi * 0.8496)) / 2
    assert last_rate == pytest.approx(6.4217e-5, rel=1e-4)


def test_a_bad_loss_of_one_process_changes_nothing_in_any(measured):
    """Three steps of twice 8 samples; of the third, both processes' parts are skipped."""
    assert measured["bad step"] == {"unchanged": [False, False, True], "skipped": 2, "samples": 32}


@pytest.fixture(scope="module")
def whole_run(shared_folders, tmp_path_factory):
    """A run's messages and folder of checkpoints, in which others lie: a damaged one, the note of another torchrun."""
    models_dir = tmp_path_factory.mktemp("whole")
    folder = models_dir / "p2ch13"
    folder.mkdir()
    (folder / "seg_2026-01-01_10.00.00_none.last.state").write_bytes(b"damaged")
    (folder / "seg_2026-01-01_10.00.00_none.0123abc.launch").touch()
    output = run(*train(models_dir, models_dir / "runs", *options_of(shared_folders)))
    return output, folder


@pytest.mark.slow
def test_a_new_run_reads_no_other_runs_states(whole_run):
    output, folder = whole_run
    assert f"{SAMPLES} samples in batches of 8 in each of 2 processes" in output
    assert re.findall(r" E(\d+) trn", output) == list("1234")  # the first process speaks for both
    assert len(list(folder.glob("*.last.state"))) == 2
    assert len(list(folder.glob("*.launch"))) == 1  # its own is gone with its end


@pytest.mark.slow
def test_a_killed_worker_is_made_up_for(whole_run, shared_folders, tmp_path):
    """The run resumes from its last checkpoint and ends with the weights that it would have had anyway."""
    held = tmp_path / "reached"
    process = start(*train(tmp_path / "models", tmp_path / "runs", *options_of(shared_folders), held=held))
    wait_for(held, process)
    while not any(load_checkpoint(path)["epoch"] == 2 for path in tmp_path.glob("models/*/seg_*.last.state")):
        time.sleep(0.01)  # the first process saves it while the second one is ahead
    os.kill(workers_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output

    (last_epoch,) = re.findall(r"Resuming from .* after epoch (\d+)", output)
    assert int(last_epoch) == 2
    assert re.findall(r" E(\d+) trn", output) == list("1234")
    *_, whole_path = sorted(whole_run[1].glob("*.last.state"))  # by time: the damaged one is older
    (path,) = (tmp_path / "models" / "p2ch13").glob("*.last.state")
    whole, state = load_checkpoint(whole_path), load_checkpoint(path)
    assert (state["epoch"], state["totalTrainingSamples_count"]) == (EPOCHS, EPOCHS * SAMPLES)
    assert all(torch.equal(state["model_state"][name], value) for name, value in whole["model_state"].items())
    assert len(list((tmp_path / "runs" / "p2ch13").iterdir())) == 2  # one of training and one of validation


def workers_of(process):
    """The processes that torchrun has started, in the order of their ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    is_worker = {pid: b"processes.py" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [int(pid) for pid in children if is_worker[pid]]


@pytest.mark.parametrize("skipped", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_precache_shares_out_the_scans(folders, skipped):
    """A scan that one process cannot read does not end the others."""
    if skipped:
        (folders.data_dir / "subset0" / "1.2.1.raw").unlink()
    output = run(REPOSITORY / "precache.py", "--data-dir", folders.data_dir, "--cache-dir", folders.cache_dir)
    assert "Process 1 of 2: Cached 2 scans, skipped 0." in output
    assert f"Process 2 of 2: Cached {2 - skipped} scans, skipped {skipped}." in output
    ct_cache = CtCache.open(folders)
    is_complete = [ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list]
    assert is_complete == [True, not skipped, True, True]


def test_two_precaches_of_one_folder(luna_dir, tmp_path):
    folders = Folders(luna_dir, tmp_path / "cache")
    command = [sys.executable, REPOSITORY / "precache.py", "--data-dir", luna_dir, "--cache-dir", folders.cache_dir]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    ct_cache = CtCache.open(folders)
    assert all(ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list)


def test_too_few_samples_for_the_processes(options, monkeypatch):
    app = SegmentationTrainingApp([*options, "--samples-per-epoch", "3"])
    app.process = type(app.process)(world_size=4)
    with refused(option="--samples-per-epoch"):
        app.init_train_ds()


def test_sync_batchnorm_needs_gpus(options):
    with refused(option="--sync-batchnorm"):
        SegmentationTrainingApp([*options, "--sync-batchnorm"])
