"""The oldest Python that the package claims is the one that the checks of style and types are for."""

import re

from tests.support.commands import REPOSITORY

OLDEST = {
    "pip": r'requires-python = ">=(\d+\.\d+)"',
    "ruff": r'target-version = "py(\d)(\d+)"',
    "mypy": r'python_version = "(\d+\.\d+)"',
}


def test_all_name_the_same():
    toml = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    named = {name: ".".join(re.search(pattern, toml).groups()) for name, pattern in OLDEST.items()}
    (oldest,) = set(named.values())
    assert f"Python {oldest} or newer" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
