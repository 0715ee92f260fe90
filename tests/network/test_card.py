"""What a .state file says about its network."""

import pytest

from p2ch13.network.card import Card, read_card, read_trained_series
from p2ch13.phantom.uids import series_uid
from tests.support.checks import refused


def test_read_card(tmp_path):
    card = {"name": "a 1", "trained_on": "two\n  scans", "limits": "", "author": "unknown to this version"}
    assert read_card(tmp_path, {"card": card}) == Card("a 1", "two scans")
    assert read_card(tmp_path, {}) is None


PHANTOMS, LUNAS = [series_uid(0, ndx) for ndx in range(3)], ["1.3.6.1", "1.3.6.2"]


@pytest.mark.parametrize(
    ("series", "trained_on", "is_synthetic"),
    [
        ({"trn": PHANTOMS[:2], "val": PHANTOMS[2:]}, "2 synthetic scans (phantoms) alone, by the recipe strong", True),
        ({"trn": LUNAS}, "2 annotated scans, by the recipe strong", False),
        (
            {"trn": PHANTOMS, "init": LUNAS},
            "3 synthetic scans (phantoms) and 2 annotated scans, by the recipe strong",
            False,
        ),
        (
            {"trn": PHANTOMS, "backgrounds": ["a"]},
            "3 synthetic scans (phantoms) and 1 lungs with painted nodules, by the recipe strong",
            False,
        ),
    ],
)
def test_the_card_of_a_run(tmp_path, series, trained_on, is_synthetic):
    """A training's own file has no card, but says what the network was trained on."""
    card = read_card(tmp_path, {"series": series, "config": {"preset": "strong"}})
    assert (card.name, card.trained_on, bool(card.limits)) == ("", trained_on, is_synthetic)


@pytest.mark.parametrize("series", [None, 3, {}, {"trn": 3}, {"trn": []}])
def test_a_file_that_names_no_series(tmp_path, series):
    assert read_card(tmp_path, {"series": series, "config": {}}) is None


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
