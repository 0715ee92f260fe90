from functools import partial

import pytest
import torch
from torch import nn

from p2ch13 import config
from p2ch13.training.optimizers import STEP_RMS, Muon, build_optimizer, orthogonalize, step_unless, warm_up_cosine


def take_steps(optimizer, *grads):
    """Take a step with each gradient of an optimizer's only parameter, which is returned."""
    ((parameter,),) = (group["params"] for group in optimizer.param_groups)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


def zeros(*shape):
    return [nn.Parameter(torch.zeros(shape))]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_singular_values_come_near_one(shape):
    """The directions stay: compared with those of a singular value decomposition."""
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)
    result = u.T @ orthogonalize([u @ torch.diag(values) @ vh])[0] @ vh.T
    assert result.diagonal().min() > 0.65
    assert result.diagonal().max() < 1.25
    torch.testing.assert_close(result, torch.diag(result.diagonal()))


def test_a_row_gets_length_one():
    assert orthogonalize([torch.tensor([[3.0, 4.0]])])[0].tolist() == [pytest.approx([0.6, 0.8])]


def test_matrices_of_one_size_together_are_as_alone():
    torch.manual_seed(0)
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in [(4, 9), (7, 4), (1, 5), (3, 3), (4, 6)]]
    for together, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        torch.testing.assert_close(together, orthogonalize([matrix])[0])


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6, 2, 2), (5, 3), (7,)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_step_does_not_depend_on_the_order_in_memory(shape, memory_format):
    """A singular value decomposition of the weight as (out, in * height * width) gives the directions of a step."""
    torch.manual_seed(0)
    grad = torch.randn(shape)
    layout = memory_format if len(shape) == 4 else torch.contiguous_format
    (parameter,) = zeros(*shape)
    parameter.data = parameter.data.contiguous(memory_format=layout)
    step = -take_steps(Muon([parameter], lr=1.0), grad)
    rows = shape[0] if len(shape) > 1 else 1
    u, _, vh = torch.linalg.svd(grad.reshape(rows, -1), full_matrices=False)
    values = u.T @ step.reshape(rows, -1) @ vh.T / (STEP_RMS * max(rows, grad.numel() // rows) ** 0.5)
    assert 0.65 < values.diagonal().min() <= values.diagonal().max() < 1.25
    torch.testing.assert_close(values, torch.diag(values.diagonal()), atol=1e-3, rtol=0)


def test_a_step_of_a_vector_by_hand():
    """Momentum 0.5: the average is half the gradient, looked ahead 3/4 of it; its direction is (0.6, 0.8)."""
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = Muon([parameter], lr=0.1, momentum=0.5)
    take_steps(optimizer, torch.tensor([3.0, 4.0]))
    length = 0.1 * STEP_RMS * 2**0.5
    assert parameter.tolist() == pytest.approx([1 - 0.6 * length, 2 - 0.8 * length])
    # The average is (1.5, 2) and then (0.75, 1) + (0, -2), the gradient ahead (0.375, -0.5) + (0, -2).
    parameter.data.zero_()
    take_steps(optimizer, torch.tensor([0.0, -4.0]))
    norm = (0.375**2 + 2.5**2) ** 0.5
    assert parameter.tolist() == pytest.approx([-0.375 / norm * length, 2.5 / norm * length])


def test_a_step_is_as_long_as_adams():
    """The root mean square of a step's elements, of a small convolution and of a large one."""
    torch.manual_seed(0)
    for shape in [(8, 4, 3, 3), (16, 64, 3, 3)]:
        step = take_steps(Muon(zeros(*shape), lr=1.0), torch.randn(shape))
        assert step.square().mean().sqrt().item() == pytest.approx(STEP_RMS, rel=0.35)  # singular values, see above


def test_the_learning_rate_may_be_a_tensor():
    grad = torch.arange(12.0).reshape(4, 3)
    torch.testing.assert_close(*(take_steps(Muon(zeros(4, 3), lr=lr), grad) for lr in (0.25, torch.tensor(0.25))))


OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=0.1),
    "fused adam": partial(torch.optim.Adam, lr=0.1, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1, amsgrad=True),
    "nadam": partial(torch.optim.NAdam, lr=0.1),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.5),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "sgd with momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "muon": Muon,
}


def test_a_librarys_optimizer_needs_its_name_alone(monkeypatch):
    for name in ("SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"):
        monkeypatch.setitem(config.OPTIMIZERS, "new", f"torch.optim:{name}")
        parameter = nn.Parameter(torch.ones(3))
        parameter.grad = torch.ones(3)
        optimizer = build_optimizer("new", [parameter], 0.125)
        assert (type(optimizer).__name__, optimizer.param_groups[0]["lr"]) == (name, 0.125)
        step_unless(torch.tensor(False), optimizer)
        assert (parameter < 1).all()
    for name in ("adam", "muon"):
        assert torch.is_tensor(build_optimizer(name, [parameter], 0.125, is_recorded=True).param_groups[0]["lr"])


def train(optimizer_class, grads, is_bad):
    parameters = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4))]
    optimizer = optimizer_class(parameters)
    for grad, bad in zip(grads, is_bad, strict=True):
        parameters[0].grad, parameters[1].grad = grad.clone(), grad[:, 0].clone()
        if bad:
            parameters[0].grad[1, 2] = bad
        step_unless(torch.tensor(bool(bad)), optimizer)
    return parameters, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad_ndx", [0, 1, 2])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_step_changes_nothing(name, bad_ndx, value):
    """Neither parameters nor state: all is as in a run without that step, be it the first, one of many, or the last."""
    torch.manual_seed(0)
    grads = list(torch.randn(3, 4, 6))
    is_bad = [value if ndx == bad_ndx else None for ndx in range(3)]
    parameters, optimizer = train(OPTIMIZERS[name], grads, is_bad)
    others = [grad for grad, bad in zip(grads, is_bad, strict=True) if not bad]
    expected_parameters, expected_optimizer = train(OPTIMIZERS[name], others, [None, None])
    assert all(torch.equal(*pair) for pair in zip(parameters, expected_parameters, strict=True))
    state, expected_state = (each.state_dict()["state"] for each in (optimizer, expected_optimizer))
    assert state.keys() == expected_state.keys()
    for ndx, values in expected_state.items():
        assert state[ndx].keys() == values.keys()
        for key, tensor in values.items():
            assert torch.equal(state[ndx][key], tensor) if torch.is_tensor(tensor) else state[ndx][key] == tensor


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_good_step_is_the_optimizers(name):
    torch.manual_seed(0)
    grads = list(torch.randn(3, 4, 6))
    parameters, _ = train(OPTIMIZERS[name], grads, [None] * 3)
    assert torch.equal(parameters[0], take_steps(OPTIMIZERS[name]([nn.Parameter(torch.ones(4, 6))]), *grads))


def test_goes_on_from_its_state():
    torch.manual_seed(0)
    grads = torch.randn(4, 5, 7)
    whole = take_steps(Muon(zeros(5, 7)), *grads)
    before = Muon(zeros(5, 7))
    after = Muon([nn.Parameter(take_steps(before, *grads[:2]).clone())])
    after.load_state_dict(before.state_dict())
    assert torch.equal(take_steps(after, *grads[2:]), whole)


def test_warm_up_and_cosine():
    rates = [0.01 * warm_up_cosine(samples_count / 128) for samples_count in (0, 2, 64, 128)]
    # 1/64 of the run is 0.3125 of the warm-up; its middle 0.45/0.95 of the descent, where the cosine is at 0.5413.
    assert rates == pytest.approx([1e-4, 1e-4 + 0.3125 * 9.9e-3, 1e-4 + 9.9e-3 * 0.5413, 1e-4], rel=1e-3)
