"""Programs of others that tests call: dcmtk's and dcm2niix."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def run_tool(name: str, *arguments: object) -> str:
    """Run a program and return its output. Without it the test is skipped, or fails where all tests have to run."""
    if shutil.which(name) is None:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"{name} is not installed; apt-get install dcmtk dcm2niix")
    done = subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
