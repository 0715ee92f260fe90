import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.data.workers import count_fitting, find_largest, fit_workers
from tests.support.commands import REPOSITORY


def test_the_largest_batch(folders):
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders)
    # Scans of 100 x 104 pixels: 7 slices of float32 and a mask.
    assert find_largest(val_ds, val_ds.group_by_series(4)) == 4 * 100 * 104 * (7 * 4 + 1)


def test_workers_fit_into_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert count_fitting(200, tmp_path) == 2  # two batches each, and one in use
    assert count_fitting(201, tmp_path) == 1
    assert count_fitting(500, tmp_path) == 0
    assert count_fitting(2000, tmp_path) == 0
    assert count_fitting(1, tmp_path / "none") > 1000


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_no_more_workers_than_wanted_and_no_word_if_they_fit(folders, tmp_path, caplog, wanted):
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders)
    assert fit_workers(val_ds, val_ds.group_by_series(1), wanted, tmp_path) == wanted
    assert fit_workers(val_ds, [], wanted, tmp_path) == wanted
    assert not any("Shared memory" in text for text in caplog.messages)


def test_training_in_a_container_with_little_shared_memory(data_options, tmp_path):
    """Of a slice with its context slices and mask, 0.3 MB."""
    folders = ["--models-dir", tmp_path / "models", "--runs-dir", tmp_path / "runs"]
    command = ["-m", "p2ch13.training", *data_options, *folders]
    command += ["--samples-per-epoch", "16", "--depth", "2", "--precision", "fp32", "--num-workers", "2"]
    shell = 'mount -t tmpfs -o size=500k tmpfs /dev/shm && exec "$@"'
    limited = ["unshare", "-m", "sh", "-c", shell, "sh"]
    if os.geteuid() or subprocess.run([*limited, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    done = subprocess.run(
        [*limited, sys.executable, *map(str, command)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "Shared memory" in line]
    assert "0 of 2 workers" in line
    assert list(Path(tmp_path / "models").rglob("*.last.state"))
