"""A network of the user's own, by its name, through training, resuming, prediction and evaluation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from p2ch13.evaluate import main as evaluate
from p2ch13.network.checkpoint import load_checkpoint, load_model, save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper, build_network
from p2ch13.predict import main as predict
from p2ch13.training.__main__ import main as train
from p2ch13.training.resume import read_settings
from p2ch13.util.errors import InputError
from tests.support.checks import refused
from tests.support.tiny_network import TinyNetwork

NAME = "tests.support.tiny_network:TinyNetwork"
REPOSITORY = Path(__file__).parents[2]


def test_a_ten_line_network_through_all_commands(folders, tmp_path):
    data = ["--data-dir", str(folders.data_dir)]
    network = ["--network", NAME]
    own = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    length = ["--val-stride", "2", "--samples-per-epoch", "32", "--slice-spacing-mm", "2", "--threads", "1"]
    train([*data, "--cache-dir", str(folders.cache_dir), *own, *length, *network])
    with pytest.raises(InputError):
        train(["--resume", *own, "--epochs", "2"])
    train(["--resume", *own, "--epochs", "2", *network])
    (path,) = tmp_path.rglob("*.last.state")
    state = load_checkpoint(path)
    assert (state["epoch"], state["network"], state["model_name"]) == (2, NAME, "TinyNetwork")
    assert state["model_args"] == {"slice_spacing_mm": 2.0}
    checkpoint = ["--checkpoint", str(path), "--threads", "1", *network]
    scan = str(folders.data_dir / "subset0" / "1.2.0.mhd")
    assert predict([scan, *checkpoint, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "1.2.0_mask.nii.gz").exists()
    assert evaluate([*data, *checkpoint, "--series-uid", "1.2.0", "--output", str(tmp_path / "scores")]) == 0
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["scans"] == 1


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "seg.state"
    save_checkpoint(path, {"model_state": TinyNetwork().state_dict(), "model_args": {}, "network": NAME})
    return path


def test_a_file_imports_only_what_the_user_names(path):
    """In a process of its own, which has not imported the network."""
    code = (
        "import sys; from pathlib import Path; from p2ch13.network.checkpoint import load_model\n"
        f"for network in (None, 'unet', {NAME!r}):\n"
        f"    try: print(type(load_model(Path({str(path)!r}), network)).__name__)\n"
        "    except ValueError as error: print(error.path.name, 'tests.support.tiny_network' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.splitlines() == ["seg.state False", "seg.state False", "TinyNetwork"], done.stderr


def test_a_config_file_imports_nothing_either(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"network": NAME}))
    with refused(path=path):
        read_settings(["--config", str(path)])
    assert read_settings(["--config", str(path), "--network", NAME]).config.network == NAME


def test_the_error_says_which_option_allows_it(path):
    with pytest.raises(InputError, match=f"--network {NAME}$"):
        load_model(path)


@pytest.mark.parametrize("name", [["no", "name"], None, 7, "unet:", "os:system", ""])
def test_names_that_no_file_may_have(path, name):
    save_checkpoint(path, {**load_checkpoint(path), "network": name})
    with refused(path=path):
        load_model(path)


@pytest.mark.parametrize(
    "name", ["nowhere.nets:Big", "json:Big", "os:getcwd", "collections:Counter", "vnet", "a b:c", ":"]
)
def test_what_is_no_network(name):
    with refused(option="--network"):
        build_network(name, {})


def test_a_networks_own_mistake_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        build_network("broken_network:Net", {})


def test_slice_spacing_is_the_constructors(tmp_path):
    """Files of before have it among the options of the run."""
    state = {"model_state": UNetWrapper(**BOOK_MODEL).state_dict(), "model_args": BOOK_MODEL}
    for more, expected in (
        ({}, 0.0),
        ({"config": {"slice_distance": 2.0}}, 2.0),
        ({"model_args": {**BOOK_MODEL, "slice_spacing_mm": 1.5}, "config": {"slice_spacing_mm": 1.5}}, 1.5),
    ):
        save_checkpoint(tmp_path / "seg.state", {**state, **more})
        assert load_model(tmp_path / "seg.state").slice_spacing_mm == expected


def test_probabilities_are_the_sigmoid_of_logits():
    network, ct_slices = TinyNetwork().eval(), torch.randn(2, 7, 8, 9)
    assert torch.equal(network(ct_slices), network.logits(ct_slices).sigmoid())
