import pytest
import torch

from p2ch13.network.second_stage import SecondStage


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return SecondStage(filters=2)


@pytest.fixture
def cubes():
    return torch.randn(3, 2, 2, 32, 32, 32, generator=torch.Generator().manual_seed(1))


def test_it_is_small():
    assert sum(parameter.numel() for parameter in SecondStage().parameters()) < 300_000


def test_a_logit_for_each_finding(tiny, cubes):
    logits = tiny(cubes)
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in tiny.parameters())


def test_both_scales_and_both_channels_count(tiny, cubes):
    tiny.eval()
    changed = []
    for scale, channel in ((0, 0), (0, 1), (1, 0), (1, 1)):
        other = cubes.clone()
        other[:, scale, channel] += 1
        changed.append(tiny(other))
    assert len({values[0].item() for values in [tiny(cubes), *changed]}) == 5


def test_the_score_is_the_mean_of_all_flips(tiny, cubes):
    tiny.train()
    score = tiny.score(cubes)
    assert tiny.training  # as it was
    tiny.eval()
    total = torch.zeros(3)
    with torch.no_grad():
        for index in (1, -1):
            for row in (1, -1):
                for col in (1, -1):
                    dims = [axis for axis, sign in ((3, index), (4, row), (5, col)) if sign < 0]
                    total += tiny(cubes.flip(dims))
    torch.testing.assert_close(score, total / 8)
    torch.testing.assert_close(tiny.score(cubes.flip(3, 5)), score)


def test_many_findings_score_as_each_alone(tiny, cubes):
    torch.testing.assert_close(tiny.score(cubes.repeat(7, 1, 1, 1, 1, 1)), tiny.score(cubes).repeat(7))
    assert tiny.score(cubes[:0]).shape == (0,)


@pytest.mark.parametrize("arguments", [{"filters": 0}, {"filters": -3}, {"dropout": 1.5}])
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ValueError):
        SecondStage(**arguments)
