import os
import subprocess
import sys

import pytest
import torch
import torch._dynamo

from p2ch13.config import TrainingConfig
from p2ch13.training import graphs
from p2ch13.training.graphs import CapturedStep, compile_model, is_compiled, is_recorded
from p2ch13.util.process_rank import ProcessRank
from tests.support.checks import refused

CPU, GPU = torch.device("cpu"), torch.device("cuda")
COMPILE = """
import sys, torch
from p2ch13.training.graphs import compile_model
model, x = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU()), torch.randn(5, 3)
print(torch.equal(compile_model(model, sys.argv[1])(x), model(x)))
"""


def test_what_is_compiled(monkeypatch):
    monkeypatch.setattr(graphs.shutil, "which", lambda name: f"/usr/bin/{name}")
    for device in CPU, GPU:
        assert is_compiled(TrainingConfig(compile="yes", samples_per_epoch=1), device)
        assert not is_compiled(TrainingConfig(compile="yes", deterministic=True), device)
        assert not is_compiled(TrainingConfig(compile="no", samples_per_epoch=10**9), device)
    assert is_compiled(TrainingConfig(epochs=2, samples_per_epoch=25_000), CPU)
    assert not is_compiled(TrainingConfig(samples_per_epoch=49_999), CPU)
    assert not is_compiled(TrainingConfig(samples_per_epoch=10**9), GPU)
    monkeypatch.setattr(graphs.shutil, "which", lambda name: None)
    assert not is_compiled(TrainingConfig(samples_per_epoch=10**9), CPU)


def test_what_is_recorded():
    config, alone = TrainingConfig(compile="yes"), ProcessRank()
    assert is_recorded(config, GPU, alone)
    assert not is_recorded(config, CPU, alone)
    assert not is_recorded(config, GPU, ProcessRank(world_size=2))
    assert not is_recorded(TrainingConfig(samples_per_epoch=10**9), GPU, alone)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with refused(option="--compile"):
        compile_model(torch.nn.Linear(1, 1), "yes")


@pytest.mark.parametrize(("choice", "may_fail"), [("yes", False), ("auto", True)])
def test_a_model_is_compiled(monkeypatch, choice, may_fail):
    """With `auto` a failure falls back to the model as it is."""
    monkeypatch.setattr(graphs.shutil, "which", lambda name: f"/usr/bin/{name}")
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
        model = torch.nn.Linear(4, 4).to("cuda")
        optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=True)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            losses = (model(x) ** 2).mean(dim=1)
            losses.mean().backward()
            optimizer.step()
            return losses.detach()

        step = wrap(step)
        losses = [step(torch.randn(3 if ndx == 6 else 8, 4).to("cuda")).sum().item() for ndx in range(10)]
        weights.append((losses, model.weight.detach().cpu()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-5)
    torch.testing.assert_close(weights[0][1], weights[1][1])
