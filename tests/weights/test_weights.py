"""The network that comes with the package."""

import pytest

from p2ch13.network.card import read_card, read_trained_series
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.weights import WEIGHTS, find_weights
from tests.support.checks import refused
from tests.support.commands import REPOSITORY
from tests.support.networks import write_released_network

HELD_OUT = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001, of the quality table
MOST_BYTES = 5_000_000


def test_find_weights(tmp_path):
    path = tmp_path / "nodules.state"
    with refused(path=path, option="--checkpoint"):
        find_weights(path)
    assert find_weights(write_released_network(path)) == path
    assert WEIGHTS.parent == REPOSITORY / "p2ch13" / "weights"


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="make weights has not been run here")
def test_the_file():
    assert find_weights().stat().st_size < MOST_BYTES
    state = load_checkpoint(find_weights())
    trained = read_trained_series(find_weights(), state)
    assert set(state["trained_series"]) == trained
    assert trained
    assert HELD_OUT not in trained
    card = read_card(find_weights(), state)
    assert card is not None
    assert all((card.name, card.trained_on, card.limits, card.operating_point))
