"""Networks as OpenVINO computes them: the same logits and findings."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.data.ct import Ct
from p2ch13.detection.detector import detect, load_detector
from p2ch13.network import engine
from p2ch13.network.average import AveragedNetworks
from p2ch13.network.checkpoint import load_model
from p2ch13.network.engine import OpenVinoNetwork, choose_engine
from p2ch13.network.model import BOOK_MODEL, build_network
from p2ch13.weights import WEIGHTS
from tests.support.checks import refused
from tests.support.commands import run_python
from tests.support.networks import write_pixel_network
from tests.support.scan_files import Ball, make_hu, write_scan

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
SIZES = [(1, 64, 96), (1, 67, 121), (2, 33, 40)]  # batch, rows, cols


def make_slices(batch, rows, cols):
    noise = np.random.default_rng(0).normal(-400, 800, (batch, 7, rows, cols))
    return torch.from_numpy(noise.clip(HU_MIN, HU_MAX).astype(np.float32)).to(memory_format=torch.channels_last)


@torch.inference_mode()
def compute(network, slices, dtype=torch.float32):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        return network.logits(slices).float()


def test_logits_in_float32():
    network = load_model(WEIGHTS)
    fast = choose_engine(network, "openvino")
    for size in SIZES:
        slices = make_slices(*size)
        torch.testing.assert_close(compute(fast, slices), compute(network, slices), rtol=0, atol=2e-3)


def test_logits_in_bfloat16():
    """As near to those in float32 as PyTorch's, where the processor has bfloat16; elsewhere it computes in float32."""
    network, slices = load_model(WEIGHTS), make_slices(*SIZES[0])
    exact = compute(network, slices)
    own, fast = (
        (compute(each, slices, torch.bfloat16) - exact).abs().mean() for each in (network, OpenVinoNetwork(network))
    )
    assert fast <= 3 * own


def test_results_stay_when_the_next_are_computed():
    fast = OpenVinoNetwork(load_model(WEIGHTS))
    slices = make_slices(*SIZES[0])
    first = compute(fast, slices)
    before = first.clone()
    compute(fast, slices + 100)
    assert torch.equal(first, before)


def test_it_is_compiled_for_sizes_formats_and_threads(monkeypatch):
    compiled = []
    monkeypatch.setattr(engine, "compile_program", lambda network, key: compiled.append(key) or (lambda x: x))
    fast = OpenVinoNetwork(build_network("unet", BOOK_MODEL))
    for size, dtype, threads in [(8, "f32", 1), (8, "f32", 1), (16, "f32", 1), (16, "bf16", 1), (16, "bf16", 2)]:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        compute(fast, torch.zeros(1, 7, size, size), torch.bfloat16 if dtype == "bf16" else torch.float32)
    assert compiled == [
        ((1, 7, 8, 8), "f32", 1), ((1, 7, 16, 16), "f32", 1), ((1, 7, 16, 16), "bf16", 1), ((1, 7, 16, 16), "bf16", 2)
    ]  # fmt: skip


def test_it_is_like_its_network():
    network = load_model(WEIGHTS)
    fast = OpenVinoNetwork(network)
    for name in ("slice_spacing_mm", "in_channels", "n_classes", "has_padding", "size_multiple", "receptive_field"):
        assert getattr(fast, name) == getattr(network, name)
    slices = make_slices(*SIZES[2])
    mean = compute(AveragedNetworks([fast, fast]), slices)
    torch.testing.assert_close(mean, compute(fast, slices))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_findings(tmp_path, precision):
    scan = write_scan(tmp_path / "scan.mhd", make_hu([Ball((5, 20, 22), 4), Ball((3, 8, 9), 2)], (10, 40, 44)))
    checkpoint = write_pixel_network(tmp_path / "a.state", -700)
    own, fast = (
        detect(Ct(scan), load_detector(checkpoint, engine=name), lung_mask=False, precision=precision)
        for name in ("torch", "openvino")
    )
    assert len(own.findings) == 2
    assert [each.center_xyz for each in fast.findings] == [each.center_xyz for each in own.findings]
    np.testing.assert_array_equal(fast.labels, own.labels)


def test_where_it_cannot_be_used(monkeypatch):
    network = build_network("unet", BOOK_MODEL)
    assert choose_engine(network, "torch") is network
    with refused(option="--engine"):
        OpenVinoNetwork(build_network("unet", BOOK_MODEL).to("meta"))
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with refused(option="--engine") as caught:
        choose_engine(network, "openvino")
    assert "pip install 'p2ch13[openvino]'" in str(caught.value)


@pytest.mark.slow
def test_it_does_not_report_to_its_maker():
    code = (
        "import sys; from p2ch13.network.engine import import_openvino; import_openvino(); "
        "print(sys.modules['openvino_telemetry'], [name for name in sys.modules if name.startswith('openvino_telem')])"
    )
    assert run_python("-c", code).stdout == "None ['openvino_telemetry']\n"
