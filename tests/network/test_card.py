"""What a .state file says about its network."""

import pytest

from p2ch13.network.card import Card, read_card, read_trained_series
from tests.support.checks import refused


def test_read_card(tmp_path):
    card = {"name": "a 1", "trained_on": "two\n  scans", "limits": "", "author": "unknown to this version"}
    assert read_card(tmp_path, {"card": card}) == Card("a 1", "two scans")
    assert read_card(tmp_path, {}) is None


@pytest.mark.parametrize("card", [None, "a", ["a"], {"name": 1}, {"limits": None}])
def test_a_corrupt_card(tmp_path, card):
    with refused(path=tmp_path):
        read_card(tmp_path, {"card": card})


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, []),  # of the book
        ({"series": {"trn": ["1"], "val": ["2"]}}, ["1"]),
        ({"series": {"trn": ["1"], "init": ["3"]}, "trained_series": ["1", "4"]}, ["1", "3", "4"]),
        ({"trained_series": ["4"]}, ["4"]),
    ],
)
def test_read_trained_series(tmp_path, state, expected):
    assert read_trained_series(tmp_path, state) == set(expected)


@pytest.mark.parametrize("state", [{"trained_series": "1.2"}, {"trained_series": None}, {"series": {"trn": 3}}])
def test_series_that_are_no_lists(tmp_path, state):
    with refused(path=tmp_path):
        read_trained_series(tmp_path, state)
