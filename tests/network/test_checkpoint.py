import pickle

import pytest
import torch

from p2ch13.network.checkpoint import load_checkpoint, load_model, save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from tests.support.checks import Intruder, refused


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    model(torch.randn(4, 7, 32, 32) * 400 - 600)  # moves the statistics of BatchNorm
    return model.eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seg.state"


def test_saved_and_loaded_it_predicts_the_same(tmp_path, model):
    path = tmp_path / "models" / "seg.state"  # in a folder that is not there yet
    save_checkpoint(path, {"model_state": model.state_dict(), "epoch": 3, "config": {"comment": "none"}})
    ct_slices = torch.randn(2, 7, 40, 40) * 400 - 600
    assert torch.equal(load_model(path)(ct_slices), model(ct_slices))
    assert load_checkpoint(path)["epoch"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["seg.state"]


def test_a_model_of_another_shape_is_rebuilt_from_its_arguments(path):
    arguments = {**BOOK_MODEL, "depth": 4, "wf": 3}
    save_checkpoint(path, {"model_state": UNetWrapper(**arguments).state_dict(), "model_args": arguments})
    assert load_model(path).unet.depth == 4


@pytest.mark.parametrize(
    ("model_args", "negative_slope"),
    [
        (None, 0.0),  # the book's files
        ({**BOOK_MODEL, "activation": "relu"}, 0.0),
        ({**BOOK_MODEL, "activation": "leaky_relu"}, 0.01),
        ({name: value for name, value in BOOK_MODEL.items() if name != "activation"}, 0.01),  # before it was named
    ],
)
def test_each_file_keeps_the_activation_it_was_trained_with(path, model, model_args, negative_slope):
    state = {"model_state": model.state_dict()} | ({} if model_args is None else {"model_args": model_args})
    save_checkpoint(path, state)
    activation = load_model(path).unet.down_path[0].block[1]
    assert activation(torch.tensor(-1.0)).item() == pytest.approx(-negative_slope)


def test_a_failed_save_leaves_the_previous_one(path, model):
    save_checkpoint(path, {"model_state": model.state_dict(), "epoch": 1})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        save_checkpoint(path, {"model_state": model.state_dict(), "epoch": 2, "code": lambda: None})
    assert load_checkpoint(path)["epoch"] == 1
    assert list(path.parent.iterdir()) == [path]


def test_code_in_a_checkpoint_does_not_run(path):
    torch.save({"model_state": Intruder(path.with_name("intruder_was_here"))}, path)
    with refused(path=path):
        load_checkpoint(path)
    assert not path.with_name("intruder_was_here").exists()


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 no zip after all"])
def test_missing_and_other_files_are_refused(path, content):
    if content is not None:
        path.write_bytes(content)
    with refused(path=path):
        load_checkpoint(path)


def test_cut_short(path, model):
    save_checkpoint(path, {"model_state": model.state_dict()})
    path.write_bytes(path.read_bytes()[:-1000])
    with refused(path=path):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("load", "state"),
    [(load_checkpoint, {"weights": torch.zeros(3)}), (load_model, {"model_state": {"weights": torch.zeros(3)}})],
)
def test_files_of_another_program(path, load, state):
    torch.save(state, path)
    with refused(path=path):
        load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {**BOOK_MODEL, "wf": 30}},  # 2**30 filters: no memory is taken for them
        {"model_args": {**BOOK_MODEL, "depth": 10**9}},
        {"model_args": ["no", "dict"]},
        {"config": {"slice_spacing_mm": float("nan")}},
        {"config": {"slice_spacing_mm": -1.0}},
        {"config": ["no", "dict"]},
    ],
)
def test_settings_that_make_no_sense(path, model, changes):
    save_checkpoint(path, {"model_state": model.state_dict(), **changes})
    with refused(path=path):
        load_model(path)
