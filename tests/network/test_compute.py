import os
import resource
import subprocess
import sys

import pytest
import SimpleITK as sitk
import torch
import torch._dynamo

from p2ch13.network import compute
from p2ch13.network.compute import choose_threads, get_dtype, has_bfloat16_arithmetic
from p2ch13.training.graphs import CapturedStep, compile_model, should_compile
from p2ch13.util.errors import InputError
from p2ch13.util.launch import Launch

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

COMPILE = """
import sys, torch
from p2ch13.training.graphs import compile_model
model, x = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU()), torch.randn(5, 3)
print(torch.equal(compile_model(model, sys.argv[1])(x), model(x)))
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
    ("choice", "launch", "gpu", "expected"),
    [
        ("auto", Launch(), False, (1, 2, 4)),
        ("auto", Launch(), True, (4,)),
        ("auto", Launch(1, 2, 1, 2, True), False, (4,)),  # torchrun has set it
        (3, Launch(), False, (3,)),
        (3, Launch(1, 2, 1, 2, True), True, (3,)),
        (6, Launch(), False, (6,)),
    ],
)
def test_numbers_of_threads_to_choose_from(four_cores, monkeypatch, choice, launch, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_threads(choice, launch).counts == expected
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == expected[-1]


def test_a_number_of_threads_is_in_use_at_once():
    before = torch.get_num_threads()
    try:
        choose_threads(before + 1)
        assert torch.get_num_threads() == before + 1
        assert compute.get_thread_limit() <= before  # as PyTorch had it
    finally:
        choose_threads(before)


def test_the_threads_of_a_container(monkeypatch):
    compute.get_thread_limit.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(compute, "available_cores", lambda: 3)
    try:
        assert compute.get_thread_limit() == 3
    finally:
        compute.get_thread_limit.cache_clear()


def test_what_is_compiled(monkeypatch):
    assert should_compile("yes", 1)
    assert not should_compile("no", 10**9)
    monkeypatch.setattr(compute.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert should_compile("auto", 300_000)
    assert not should_compile("auto", 299_999)
    monkeypatch.setattr(compute.shutil, "which", lambda name: None)
    assert not should_compile("auto", 300_000)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="there is no compiler no-such-compiler; install it, or say --compile no"):
        compile_model(torch.nn.Linear(1, 1), "yes")


@pytest.mark.parametrize(("choice", "may_fail"), [("yes", False), ("auto", True)])
def test_a_model_is_compiled(monkeypatch, choice, may_fail):
    """And goes on without, if that fails and was not asked for."""
    monkeypatch.setattr(compute.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: ("compiled", model, dynamic))
    with torch._dynamo.config.patch(suppress_errors=not may_fail):
        assert compile_model(model := torch.nn.Linear(1, 1), choice) == ("compiled", model, False)
        assert torch._dynamo.config.suppress_errors == may_fail


@pytest.mark.slow
def test_a_compiler_that_fails_ends_a_run_only_if_it_was_asked_for(tmp_path):
    environment = {**os.environ, "CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    asked_for, automatic = (
        subprocess.run([sys.executable, "-c", COMPILE, choice], env=environment, capture_output=True, text=True)
        for choice in ("yes", "auto")
    )
    assert asked_for.returncode != 0
    assert (automatic.returncode, automatic.stdout) == (0, "True\n")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_replayed_step_is_the_step():
    weights = []
    for wrap in (lambda function: function, CapturedStep):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4).to(GPU)
        optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=True)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            losses = (model(x) ** 2).mean(dim=1)
            losses.mean().backward()
            optimizer.step()
            return losses.detach()

        step = wrap(step)
        losses = [step(torch.randn(3 if ndx == 6 else 8, 4).to(GPU)).sum().item() for ndx in range(10)]
        weights.append((losses, model.weight.detach().cpu()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-5)
    torch.testing.assert_close(weights[0][1], weights[1][1])
