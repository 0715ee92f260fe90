"""Files about the project name the version that is built."""

import re

import pytest

from p2ch13 import __version__
from tests.support.commands import REPOSITORY


@pytest.mark.parametrize(
    ("name", "line"), [("CITATION.cff", f"version: {__version__}"), ("CHANGELOG.md", rf"## {__version__}.*")]
)
def test_version(name, line):
    assert re.search(rf"^{line}$", (REPOSITORY / name).read_text(), re.MULTILINE)
