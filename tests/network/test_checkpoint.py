import argparse
import datetime
import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
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


WRAPPERS = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_of_what_a_network_was_wrapped_in_do_not_count(path, model, wrapper):
    weights = {f"{wrapper}{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(path, {"model_state": weights})
    loaded = load_model(path)
    ct_slices = torch.randn(1, 7, 32, 32) * 400 - 600
    assert torch.equal(loaded(ct_slices), model(ct_slices))


def test_a_network_wrapped_by_pytorch_itself(path, model):
    model.unet = torch.compile(model.unet)  # of which nothing is compiled before it is called
    save_checkpoint(path, {"model_state": torch.nn.DataParallel(model).state_dict()})
    assert any("unet._orig_mod." in name for name in load_checkpoint(path)["model_state"])
    loaded = load_model(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name.replace("_orig_mod.", "")], tensor)


@pytest.mark.parametrize("wrapper", ["model.", "Module.", "a.module."])
def test_other_names_are_refused_in_a_short_line(path, model, wrapper):
    save_checkpoint(path, {"model_state": {f"{wrapper}{name}": each for name, each in model.state_dict().items()}})
    with refused(path=path) as caught:
        load_model(path)
    assert len(caught.value.message) < 400


def test_names_of_which_some_are_wrapped_are_refused(path, model):
    weights = dict(model.state_dict())
    name = next(iter(weights))
    weights[f"module.{name}"] = weights.pop(name)
    save_checkpoint(path, {"model_state": weights})
    with refused(path=path):
        load_model(path)


def as_zip(members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in members:
            archive.writestr(name, b"x")
    return content.getvalue()


def as_torch_script():
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), content)
    return content.getvalue()


def as_safetensors():
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


OTHER_FILES = {
    "a page": (b"<!DOCTYPE html>\n<html><head><title>404</title>", "HTML"),
    "a page without a type": (b"\n<html lang='en'><body>Sign in", "HTML"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "nothing": (b"", "empty"),
    "zeros": (bytes(5000), "zero bytes"),
    "text": (b"# README\nweights are elsewhere\n", "no checkpoint"),
    "another archive": (as_zip(["README.md", "b.txt"]), "zip archive of README.md"),
    "an archive in a folder": (as_zip(["a/b.txt"]), "zip archive of a/b.txt"),
    "half an archive": (as_zip(["archive/data.pkl"])[:-10], "cut short"),
    "a damaged archive": (as_zip(["archive/data.pkl"]), "corrupt"),
    "a script": (as_torch_script(), "TorchScript"),
    "safetensors": (as_safetensors(), "safetensors"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(20), "ONNX"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "DICOM": (bytes(128) + b"DICM" + bytes(20), "DICOM"),
}
ADVICE = ("weights_only", "Re-running", "safe_globals", "trusted", "github.com/pytorch", "likely succeed")


def assert_no_advice(message, recwarn):
    assert not any(part in message for part in ADVICE)
    assert len(message) < 400
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_another_kind_is_named(path, name, recwarn):
    content, part = OTHER_FILES[name]
    path.write_bytes(content)
    with refused(path=path) as caught:
        load_checkpoint(path)
    assert part in caught.value.message
    assert_no_advice(caught.value.message, recwarn)


class Net(torch.nn.Linear):
    pass


OTHER_TYPES = [
    ({"config": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ({"loss": np.float64(0.5)}, "numpy._core.multiarray.scalar"),
    ({"losses": np.zeros(3)}, "numpy._core.multiarray._reconstruct"),
    ({"started": datetime.datetime(2026, 1, 2)}, "datetime.datetime"),
    ({"network": Net(2, 2)}, f"{__name__}.Net"),
    ({"network": torch.nn.Linear(2, 2)}, "torch.nn.modules.linear.Linear"),
]


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(("others", "name"), OTHER_TYPES)
def test_the_type_that_stands_in_the_way_is_named(path, others, name, is_zip, recwarn):
    torch.save({"model_state": {"w": torch.zeros(2)}, **others}, path, _use_new_zipfile_serialization=is_zip)
    recwarn.clear()
    with refused(path=path) as caught:
        load_checkpoint(path)
    assert name in caught.value.message
    assert_no_advice(caught.value.message, recwarn)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_plain_pickle_of_another_type(path, protocol, recwarn):
    plain = [torch.Size([2]), torch.float32, torch.device("cpu")]
    path.write_bytes(pickle.dumps({"model_state": {}, "plain": plain, "folder": argparse.Namespace()}, protocol))
    with refused(path=path) as caught:
        load_checkpoint(path)
    assert "argparse.Namespace" in caught.value.message
    assert_no_advice(caught.value.message, recwarn)


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"state_dict": {}, "epoch": 1}, "state_dict, epoch"),
        ({"w": torch.zeros(1)}, "w"),
        ([1], "list"),
        ({}, "nothing"),
        ({"model_state": 3}, "model_state"),
    ],
)
def test_a_checkpoint_of_other_keys_says_which(path, state, part, recwarn):
    torch.save(state, path)
    with refused(path=path) as caught:
        load_checkpoint(path)
    assert part in caught.value.message
    assert_no_advice(caught.value.message, recwarn)


def test_a_folder_is_no_checkpoint(tmp_path):
    with refused(path=Path(tmp_path)):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04 no zip after all"])
def test_missing_and_other_files_are_refused(path, content):
    if content is not None:
        path.write_bytes(content)
    with refused(path=path):
        load_checkpoint(path)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_bytes_that_were_lost_on_the_way(path, model, place):
    """PyTorch itself reads them as weights."""
    save_checkpoint(path, {"model_state": model.state_dict()})
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 4000] = bytes(4000)
    path.write_bytes(content)
    with refused(path=path):
        load_checkpoint(path)


def test_a_file_without_checksums_is_read(path, model):
    has_checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(path, {"model_state": model.state_dict()})
    finally:
        torch.serialization.set_crc32_options(has_checksums)
    load_model(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["input_batchnorm.running_var", "unet.last.weight"])
def test_weights_that_are_not_finite(path, model, name, value):
    """A training that diverged leaves them: no finding would be found, or each scan be blamed."""
    weights = model.state_dict()
    weights[name].view(-1)[0] = value
    save_checkpoint(path, {"model_state": weights})
    with refused(path=path) as caught:
        load_model(path)
    assert name in str(caught.value)


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


def test_an_archive_with_a_name_that_is_no_text(tmp_path):
    """One byte of a member's name, which the archive says is UTF-8, is none."""
    path = tmp_path / "a.state"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\u00e9/data.pkl", b"")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xae\xa9"))
    with refused(path=path):
        load_checkpoint(path)
