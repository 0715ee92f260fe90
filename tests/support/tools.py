"""Programs of others that tests call: dcmtk's, dcm2niix and dicom3tools'."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = "dcmtk dcm2niix dicom3tools"


def run_tool(name: str, *arguments: object) -> str:
    """Run a program and return its output. Without it the test is skipped, or fails where all tests have to run."""
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def assert_valid_dicom(path: Path) -> None:
    """Validators of DICOM find no error in a file: dicom3tools' of its attributes, dcmtk's of a report's content."""
    reader = "dsrdump" if path.name.endswith("_sr.dcm") else "dcmdump"
    for name in ("dciodvfy", reader):
        done = run(name, path)
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if line.startswith(("Error", "E:", "F:"))]
        assert (done.returncode, errors) == (0, []), path.name


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing(f"{name} is not installed; apt-get install {PACKAGES}")
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=False, errors="replace")
