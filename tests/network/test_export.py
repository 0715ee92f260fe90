"""Exported networks compute what the package's own do, for slices of any size; the files say what they are."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from p2ch13.config import HU_MAX, HU_MIN, ExportOptions
from p2ch13.data.ct import Ct
from p2ch13.export import main
from p2ch13.network.checkpoint import load_checkpoint, load_model, save_checkpoint
from p2ch13.network.export import SliceLogits, export_network
from p2ch13.network.export_formats import METADATA_FILE, NOTICE, OPSET
from p2ch13.network.model import BOOK_MODEL, UNetWrapper, build_network
from p2ch13.network.second_stage import SecondStage
from p2ch13.weights import WEIGHTS
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.networks import CARD, make_finding_scorer, write_pixel_network, write_two_stages
from tests.support.tiny_network import TinyNetwork

SMALL = {**BOOK_MODEL, "wf": 2}
STRONG = {**SMALL, "space_to_depth": 2, "intensity_projections": True, "activation": "leaky_relu"}
OTHER = {**SMALL, "depth": 2, "batch_norm": False, "up_mode": "upsample", "space_to_depth": 3}
OWN = "tests.support.tiny_network:TinyNetwork"
SIZES = [(1, 24, 48), (3, 17, 31), (1, 1, 1), (2, 8, 5)]  # batch, rows, cols
TOLERANCE = 1e-4


def settle(model):
    """Have BatchNorm normalize slices, as in a trained network: logits are of a few units."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for seed in range(3):
            model.logits(make_slices(4, 48, 48, seed).clamp(HU_MIN, HU_MAX))
    return model.eval()


def make_slices(batch, rows, cols, seed=0):
    """Noise whose values lie far beyond those of CT at either end."""
    noise = np.random.default_rng(seed).normal(-400, 800, (batch, 7, rows, cols))
    noise[..., ::5, ::3] *= 40
    return torch.from_numpy(noise.astype(np.float32))


def write_network(path, model_args, network="unet", **more):
    torch.manual_seed(0)
    model = settle(build_network(network, model_args))
    state = {"model_state": model.state_dict(), "model_args": model_args, "network": network, **more}
    save_checkpoint(path, state)
    return path


def run_onnx(path, *inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    arrays = [np.asarray(each, dtype=np.float32) for each in inputs]
    outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    return {each.name: torch.from_numpy(array) for each, array in zip(session.get_outputs(), outputs, strict=True)}


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE


def expect_logits(model, ct_slices):
    """The logits of slices as detection cuts them: clipped."""
    with torch.no_grad():
        return model.logits(ct_slices.clamp(HU_MIN, HU_MAX))


@pytest.mark.parametrize("model_args", [SMALL, STRONG, OTHER])
def test_padding_in_the_graph_is_that_of_the_network(model_args):
    model = settle(build_network("unet", model_args))
    for size in SIZES:
        ct_slices = make_slices(*size)
        with torch.no_grad():
            assert_close(SliceLogits(model)(ct_slices), expect_logits(model, ct_slices))


@pytest.mark.slow
@pytest.mark.parametrize(("model_args", "network"), [(SMALL, None), (OTHER, None), ({"slice_spacing_mm": 2.0}, OWN)])
def test_onnx_agrees(tmp_path, model_args, network):
    checkpoint = write_network(tmp_path / "a.state", model_args, network or "unet", card=CARD)
    export_network(checkpoint, tmp_path / "a.onnx", network=network)
    model = load_model(checkpoint, network)
    for size in SIZES:
        ct_slices = make_slices(*size)
        assert_close(run_onnx(tmp_path / "a.onnx", ct_slices)["logit"], expect_logits(model, ct_slices))


@pytest.mark.slow
def test_what_an_onnx_file_says(tmp_path, capfd):
    """Its names and metadata; and nothing of the code that it was made by."""
    onnx = pytest.importorskip("onnx")
    checkpoint = write_pixel_network(tmp_path / "a.state", -700, card=CARD, pixel_mm=0.5)
    export_network(checkpoint, tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    for value, name, channels in ((model.graph.input[0], "hu", 7), (model.graph.output[0], "logit", 1)):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, dims) == (name, ["batch", channels, "rows", "cols"])
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["notice"] == model.doc_string == NOTICE
    assert (metadata["stage"], metadata["pixel_mm"], metadata["slice_spacing_mm"]) == ("1", "0.5", "0.0")
    assert metadata["trained_on"] == "two lungs"
    assert b".py" not in (tmp_path / "a.onnx").read_bytes()


@pytest.mark.slow
def test_program_agrees(tmp_path):
    checkpoint = write_network(tmp_path / "a.state", STRONG, card=CARD)
    export_network(checkpoint, tmp_path / "a.PT2")
    assert b'.py", line' not in (tmp_path / "a.PT2").read_bytes()
    files = {METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "a.PT2", extra_files=files).module()
    assert json.loads(files[METADATA_FILE])["limits"] == CARD["limits"]
    model = load_model(checkpoint)
    for size in SIZES:
        ct_slices = make_slices(*size)
        with torch.no_grad():
            assert_close(program(ct_slices), expect_logits(model, ct_slices))


@pytest.fixture
def two_stages(tmp_path):
    """The checkpoint of a second stage, and cubes, first stage's logits and diameters of three findings."""
    scorer = make_finding_scorer((0.7, 0.4, -0.3), -1.5)
    checkpoint = write_two_stages(tmp_path / "two.state", -700, scorer)
    cubes = torch.randn(3, 2, 2, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    return checkpoint, scorer, (cubes, torch.tensor([-2.0, 0.5, 9.0]), torch.tensor([3.0, 8.0, 35.0]))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_second_stage_agrees(tmp_path, two_stages, suffix):
    checkpoint, scorer, findings = two_stages
    output = tmp_path / f"a.{suffix}"
    export_network(checkpoint, output, stage=2)
    for count in (1, 3):
        some = [each[:count] for each in findings]
        if suffix == "onnx":
            logits = run_onnx(output, *some)
        else:
            with torch.no_grad():
                program = torch.export.load(output).module()
                logits = dict(zip(("logit", "second_stage_logit"), program(*some), strict=True))
        second_stage, calibrated = map(torch.from_numpy, scorer.score(*some))
        assert_close(logits["logit"].double(), calibrated)
        assert_close(logits["second_stage_logit"].double(), second_stage)


def test_weights_as_safetensors(tmp_path, two_stages):
    safetensors = pytest.importorskip("safetensors")
    checkpoint = write_network(tmp_path / "a.state", STRONG, card=CARD)
    for path, stage in ((checkpoint, 1), (two_stages[0], 2)):
        output = tmp_path / "new" / f"{stage}.safetensors"
        export_network(path, output, stage)
        with safetensors.safe_open(output, "pt") as file:
            metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert metadata["notice"] == NOTICE
        arguments, state = json.loads(metadata["model_args"]), load_checkpoint(path)
        network = SecondStage(**arguments) if stage == 2 else build_network(metadata["network"], arguments)
        network.load_state_dict(weights)
        expected = state["second_stage"]["model_state"] if stage == 2 else state["model_state"]
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
        if stage == 1:
            assert (metadata["name"], metadata["trained_on"]) == (CARD["name"], "two lungs")
            assert arguments == {**STRONG, "slice_spacing_mm": 0.0}
        else:
            assert json.loads(metadata["operating_points"]) == dict(two_stages[1].operating_points)
            assert json.loads(metadata["calibration"])["bias"] == -1.5


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    path = tmp_path_factory.mktemp("packaged") / "model.onnx"
    main(["--output", str(path)])
    return path


@pytest.mark.slow
def test_the_network_in_the_package(packaged):
    model = load_model(WEIGHTS)
    for size in [(3, 67, 121), (1, 64, 96)]:
        ct_slices = make_slices(*size)
        assert_close(run_onnx(packaged, ct_slices)["logit"], expect_logits(model, ct_slices))


@pytest.mark.slow
def test_a_real_slice(packaged, luna_sample):
    model = load_model(WEIGHTS)
    ct = Ct(sorted(luna_sample.rglob("*.mhd"))[0])
    ndx = ct.shape_irc[0] // 2
    context = ct.context_slices([ndx], 3, model.slice_spacing_mm)
    assert context.max() > 100  # HU of a chest
    ct_slices = torch.from_numpy(context).float()
    assert_close(run_onnx(packaged, ct_slices)["logit"], expect_logits(model, ct_slices))
    unclipped = torch.from_numpy(ct.hu[ct.context_indexes(ndx, 3, model.slice_spacing_mm)]).float()[None]
    assert_close(run_onnx(packaged, unclipped)["logit"], expect_logits(model, ct_slices))


@pytest.mark.parametrize("name", ["a.tar", "onnx", "a.onnx.gz", "a"])
def test_another_suffix(tmp_path, name, capsys):
    with refused(option="--output"):
        ExportOptions(output=tmp_path / name)
    assert exit_status(lambda: main(["--output", str(tmp_path / name)])) == 2
    assert_one_line(capsys, "--output", ".safetensors")


@pytest.mark.parametrize(
    ("suffix", "package"), [("onnx", "onnx"), ("ONNX", "onnxscript"), ("safetensors", "safetensors")]
)
def test_without_a_package(tmp_path, suffix, package, monkeypatch):
    """It is missed before the checkpoint is."""
    monkeypatch.setitem(sys.modules, package, None)
    with refused(option="--output") as caught:
        export_network(tmp_path / "missing.state", tmp_path / f"a.{suffix}")
    assert "pip install 'p2ch13[export]'" in str(caught.value)


def test_checkpoints_that_cannot_be_exported(tmp_path):
    without_padding = tmp_path / "without-padding.state"
    model_args = {**SMALL, "depth": 2, "padding": False}
    save_checkpoint(without_padding, {"model_state": UNetWrapper(**model_args).state_dict(), "model_args": model_args})
    one_stage = write_pixel_network(tmp_path / "one.state", -700)
    own = write_network(tmp_path / "own.state", {}, OWN)
    assert isinstance(load_model(own, OWN), TinyNetwork)
    output = tmp_path / "a.pt2"
    output.write_text("earlier")
    for checkpoint, stage in [(without_padding, 1), (one_stage, 2), (tmp_path / "missing.state", 1), (own, 1)]:
        with refused(path=checkpoint):
            export_network(checkpoint, output, stage)
    assert output.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a.pt2", "one.state", "own.state", "without-padding.state"]
    )


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(option="--output"):
        export_network(tmp_path / "missing.state", tmp_path / "file" / "a.pt2")
