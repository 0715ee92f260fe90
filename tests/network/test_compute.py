import resource
import subprocess
import sys

import pytest
import SimpleITK as sitk
import torch
import torch._dynamo

from p2ch13.network import compute
from p2ch13.network.compute import choose_threads, get_dtype, has_bfloat16_arithmetic
from p2ch13.util.process_rank import ProcessRank
from tests.support.checks import refused

CPU, GPU = torch.device("cpu"), torch.device("cuda")

COUNT_PAGE_FAULTS = """
import resource, torch
from p2ch13.network.compute import keep_freed_memory
for prepare in (lambda: None, keep_freed_memory):
    prepare()
    for _ in range(20):  # until the heap has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)  # 64 MiB, freed at once
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(after - before)
"""


@pytest.mark.parametrize(("has_bfloat16", "automatic"), [(True, torch.bfloat16), (False, torch.float32)])
def test_precision(monkeypatch, has_bfloat16, automatic):
    monkeypatch.setattr(compute, "has_bfloat16_arithmetic", lambda device: has_bfloat16)
    assert get_dtype("fp32", CPU) == torch.float32
    assert get_dtype("bf16", CPU) == torch.bfloat16
    assert get_dtype("auto", CPU) == automatic


def test_which_processors_have_bfloat16(monkeypatch):
    for capabilities, expected in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert has_bfloat16_arithmetic(CPU) == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older PyTorch
    assert not has_bfloat16_arithmetic(CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere malloc is another")
def test_freed_memory_is_used_again():
    given_back, kept = map(int, subprocess.check_output([sys.executable, "-c", COUNT_PAGE_FAULTS]).split())
    assert kept < 2**26 // resource.getpagesize() / 100
    assert given_back > 10 * kept


@pytest.fixture
def four_cores(monkeypatch):
    """And four threads in PyTorch; what the test sets goes with it."""
    monkeypatch.setattr(compute, "get_thread_limit", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@pytest.mark.parametrize(
    ("choice", "process", "gpu", "expected"),
    [
        ("auto", ProcessRank(), False, (1, 2, 4)),
        ("auto", ProcessRank(), True, (4,)),
        ("auto", ProcessRank(1, 2, 1, 2, True), False, (4,)),  # torchrun has set it
        (3, ProcessRank(), False, (3,)),
        (3, ProcessRank(1, 2, 1, 2, True), True, (3,)),
        (6, ProcessRank(), False, (6,)),
    ],
)
def test_numbers_of_threads_to_choose_from(four_cores, choice, process, gpu, expected):
    device = GPU if gpu else CPU
    assert choose_threads(choice, device, process).counts == expected
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == expected[-1]


def test_a_number_of_threads_is_in_use_at_once():
    before = torch.get_num_threads()
    try:
        choose_threads(before + 1, CPU)
        assert torch.get_num_threads() == before + 1
        assert compute.get_thread_limit() <= before  # as PyTorch had it
    finally:
        choose_threads(before, CPU)


def test_the_threads_of_a_container(monkeypatch):
    compute.get_thread_limit.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(compute, "available_cores", lambda: 3)
    try:
        assert compute.get_thread_limit() == 3
    finally:
        compute.get_thread_limit.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs of NVIDIA; setting one is recorded. Returns: the list of those that were set."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("choice", "process", "expected"),
    [
        ("auto", ProcessRank(), "cuda:0"),
        ("cuda", ProcessRank(), "cuda:0"),
        ("cuda:1", ProcessRank(), "cuda:1"),
        ("cuda", ProcessRank(1, 2, 1, 2, True), "cuda:1"),
        ("cpu", ProcessRank(), "cpu"),
    ],
)
def test_a_device_of_two_gpus(two_gpus, choice, process, expected):
    device = torch.device(expected)
    assert compute.get_device(choice, process) == device
    assert two_gpus == ([device] if device.type == "cuda" else [])


@pytest.mark.parametrize(
    ("choice", "process", "option"),
    [
        ("cuda:2", ProcessRank(), "--device"),
        ("cuda:1", ProcessRank(0, 2, 0, 2, True), "--device"),
        ("auto", ProcessRank(2, 3, 2, 3, True), None),
    ],
)
def test_a_gpu_that_is_not_there(two_gpus, choice, process, option):
    with refused(option=option):
        compute.get_device(choice, process)
    assert not two_gpus


@pytest.mark.parametrize(
    ("choice", "found"), [("auto", "cpu"), ("cpu", "cpu"), ("cuda", None), ("cuda:0", None), ("mps", None)]
)
def test_a_device_without_a_gpu(monkeypatch, choice, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if found is not None:
        assert compute.get_device(choice).type == found
        return
    with refused(option="--device"):
        compute.get_device(choice)
