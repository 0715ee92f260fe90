"""The package as it is installed, and as it lies in a checkout, beside a user's own `util`."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY, run_python
from tests.support.networks import write_released_network
from tests.support.scan_files import Ball, make_hu, write_scan

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
BUILD = """
from setuptools import build_meta
print(build_meta.build_sdist("dist"), build_meta.build_wheel("dist"))
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
    write_released_network(folder / "p2ch13" / "weights" / "nodules.state")
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


@pytest.mark.slow
@pytest.mark.parametrize("place", [lambda checkout: checkout, install])
def test_the_network_is_found(tmp_path, checkout, place):
    """`predict SCAN` needs no other file."""
    own, folder = tmp_path / "own", place(checkout)
    scan = write_scan(own / "a.mha", make_hu([Ball((5, 20, 22), 4)], (10, 40, 44)))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = run_python("-m", "p2ch13.predict", scan.name, "--no-lung-mask", cwd=own, env=environment)
    assert f"trained on two lungs. {folder / 'p2ch13' / 'weights' / 'nodules.state'}" in done.stdout
    assert len((own / "a_nodules" / "nodules.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_network_travels(checkout):
    sdist, wheel = run_python("-c", BUILD, cwd=checkout).stdout.split()[-2:]
    with tarfile.open(checkout / "dist" / sdist) as source, zipfile.ZipFile(checkout / "dist" / wheel) as built:
        contents = [{name.partition("/")[2] for name in source.getnames()}, set(built.namelist())]
    for names in contents:
        assert {f"p2ch13/weights/{name}" for name in ("__init__.py", "nodules.state", "model-card.md")} <= names
        assert {f"p2ch13/detection/viewer.{kind}" for kind in ("css", "html", "js", "py")} <= names


def test_every_stage_is_installed():
    toml = (REPOSITORY / "pyproject.toml").read_text()
    for path in (REPOSITORY / "p2ch13").glob("*/__init__.py"):
        assert f'    "p2ch13.{path.parent.name}",\n' in toml
