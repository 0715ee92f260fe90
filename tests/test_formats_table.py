"""The tests that docs/formats.md names are there."""

import re

import pytest

from tests.support.commands import REPOSITORY

TABLE = (REPOSITORY / "docs" / "formats.md").read_text()
TESTS = REPOSITORY / "tests"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(?:tests/)?([a-z_/]+\.py)", TABLE)) - {"precache.py"}))
def test_files(name):
    assert (TESTS / name).is_file()


def test_functions():
    named = set(re.findall(r"\b(test_\w+)\b(?!\.py)", TABLE))
    present = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert named
    assert named <= present
