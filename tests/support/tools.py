"""Other programs that tests call."""

from __future__ import annotations

import os
import shutil

import pytest


def find_tool(name: str) -> str:
    """Return a program's path. A test is skipped without it, but fails where CI=true: there it has to be installed."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
