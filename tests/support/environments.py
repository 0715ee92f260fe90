"""Run commands in a C locale, without a terminal and without some of the standard streams."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.commands import REPOSITORY

# ASCII for texts and names of files: Python's own UTF-8 for such a locale is off.
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF_8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


def run_in(environment: dict[str, str], *arguments: object, closed: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run Python in the checkout. Args: closed: redirections of a shell that close streams, such as `>&-`."""
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable)
    return subprocess.run(
        [os.fsencode(str(part)) for part in (*shell, *arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        check=False,
    )
