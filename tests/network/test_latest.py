import os
from pathlib import Path

import pytest

from p2ch13.evaluate import parse_options
from p2ch13.export import main as export
from p2ch13.network.latest import find_checkpoint, find_checkpoints
from p2ch13.predict import main as predict
from p2ch13.training.options import parse_config
from tests.support.checks import refused


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    """`data/models` of the current folder, with two runs of different names; the second's best model is older."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "models"
    ages = {"p2ch13/seg_1_none.best.state": 30, "mine/seg_0_none.best.state": 60, "mine/seg_0_none.last.state": 10}
    for name, age_s in ages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no checkpoint")
        os.utime(folder / name, (1_000_000_000 - age_s,) * 2)
    return folder


@pytest.mark.parametrize("name", ["latest", "my.state", "a/latest", "latest.state"])
def test_the_word_latest_alone_stands_for_the_newest_best_model(models_dir, tmp_path, name):
    newest = models_dir / "p2ch13" / "seg_1_none.best.state"
    found = find_checkpoint(Path(name), models_dir)
    assert found == (newest if name == "latest" else Path(name))


def test_the_folder_of_a_cross_validation_stands_for_its_networks(tmp_path):
    with refused(path=tmp_path, option="--checkpoint"):
        find_checkpoints([tmp_path])
    for name in ("fold10.state", "fold2.state", "fold0.state", "fold0.best.state", "seg_1_none.best.state"):
        (tmp_path / name).touch()
    folds = [tmp_path / f"fold{number}.state" for number in (0, 2, 10)]
    assert find_checkpoints([Path("a.state"), tmp_path]) == (Path("a.state"), *folds)
    options = parse_options(["--checkpoint", str(tmp_path)])
    assert (options.checkpoint, options.output) == (tuple(folds), Path("data/evaluation") / tmp_path.name)


def test_each_command_reads_it(models_dir, tmp_path):
    newest = models_dir.relative_to(tmp_path) / "p2ch13" / "seg_1_none.best.state"
    assert parse_options(["--checkpoint", "latest"]).checkpoint == (newest,)
    assert parse_config(["--init-from", "latest"]).init_from == newest
    scan = tmp_path / "scan.mhd"
    scan.write_text("")
    for command, arguments in ((predict, [str(scan)]), (export, ["--output", "x.onnx"])):
        with refused(path=newest):
            command([*arguments, "--checkpoint", "latest"])


def test_without_a_run(tmp_path):
    with refused(path=tmp_path / "models", option="--checkpoint"):
        find_checkpoint(Path("latest"), tmp_path / "models")
