"""The steps of the Dockerfile, as far as they go without an engine, a network and root."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY

STEPS = [
    line.split(maxsplit=1)
    for line in (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def steps(name):
    return [argument for step, argument in STEPS if step == name]


def copy_files(folder):
    """Copy what COPY names into an empty folder, as the build does."""
    for argument in steps("COPY"):
        *sources, target = argument.split()
        for source in sources:
            place = folder / target / source if target.endswith("./") else folder / target
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / source, place)


def test_what_is_copied_is_not_ignored():
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for argument in steps("COPY") for source in argument.split()[:-1]} == kept


def test_the_version_of_pytorch_is_that_of_the_tests():
    (torch,) = [word for step in steps("RUN") for word in step.split() if word.startswith("torch==")]
    assert torch in (REPOSITORY / "requirements.txt").read_text().split()


def test_the_program_is_no_root():
    names = [step for step, _ in STEPS]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert f" {steps('USER')[0]}" in next(step for step in steps("RUN") if step.startswith("useradd"))


@pytest.mark.slow
def test_the_package_is_installed_and_runs(tmp_path):
    """Each pip step runs as it stands, but without dependencies, which are there, and into a folder of its own."""
    source, target = tmp_path / "src", tmp_path / "installed"
    source.mkdir()
    copy_files(source)
    own = [step for step in steps("RUN") if step.startswith("pip") and "torch" not in step]
    assert own
    for step in own:
        pip = [sys.executable, "-m", *shlex.split(step), "--quiet"]
        options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
        subprocess.run([*pip, *options], check=True, cwd=source)
    (program,) = json.loads(steps("ENTRYPOINT")[0])
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, str(target / "bin" / program), "--version"]
    done = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("p2ch13 ")
    assert "SHA-256" in done.stdout
