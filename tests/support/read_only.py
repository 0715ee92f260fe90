"""Folders that the user may not write, for root as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY

# Root writes where others may not, by these two powers.
WITHOUT_POWERS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Forbid to write a folder and all in it."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def run_as_user(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in the checkout as one whom permissions bind."""
    command = [sys.executable, *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv to take root's powers away")
        command = [*WITHOUT_POWERS, *command]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
