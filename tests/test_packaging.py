"""The package as it is installed, and as it lies in a checkout, beside a user's own `util`."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY, run_python

IMPORT_ALL = """
import pkgutil, util
import p2ch13
for module in pkgutil.walk_packages(p2ch13.__path__[:1], "p2ch13."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
import p2ch13.util.errors
from p2ch13 import Ct
assert util.IS_MINE and p2ch13.util.errors.InputError
print(p2ch13.util.__file__)
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package as git writes it where there are no symbolic links: `p2ch13/util` is a file."""
    folder = tmp_path / "checkout"
    for name in ("p2ch13", "util"):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(REPOSITORY / name, folder)
    link = folder / "p2ch13" / "util"
    target = str(link.readlink())
    link.unlink()
    link.write_text(target)
    return folder


def install(checkout):
    folder = checkout.with_name("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    run_python("-m", "pip", "install", *options, str(checkout))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", [lambda checkout: REPOSITORY, lambda checkout: checkout, install])
def test_beside_another_util(tmp_path, checkout, place):
    """Imported first, and first on the path, as a script's own folder is."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "util.py").write_text("IS_MINE = True\n")
    folder = place(checkout)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(own), str(folder)])}
    done = run_python("-c", IMPORT_ALL, cwd=own, env=environment)
    assert Path(done.stdout.strip()).is_relative_to(folder)
    run_python("-m", "p2ch13.predict", "--help", cwd=own, env=environment)


def test_every_stage_is_installed():
    toml = (REPOSITORY / "pyproject.toml").read_text()
    for path in (REPOSITORY / "p2ch13").glob("*/__init__.py"):
        assert f'    "p2ch13.{path.parent.name}",\n' in toml
