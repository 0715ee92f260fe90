"""README's commands are there, with the options that it gives them."""

import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def find_commands():
    """Program (`-m module` or `script.py`) -> the options that README's code blocks give it; and make's targets."""
    text = (REPOSITORY / "README.md").read_text()
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    programs, targets = defaultdict(set), set()
    for line in code.splitlines():
        words = shlex.split(line, comments=True) if line.startswith(("python ", "make ")) else []
        if words[:1] == ["make"]:
            targets |= {word for word in words[1:] if "=" not in word}
        elif words:
            count = 3 if words[1] == "-m" else 2
            options = {word.partition("=")[0] for word in words[count:] if word.startswith("--")}
            programs[" ".join(words[1:count])] |= options
    return dict(programs), targets


PROGRAMS, TARGETS = find_commands()


def test_targets_of_make():
    assert {"demo", "test", "bench"} <= TARGETS
    for target in TARGETS:
        done = subprocess.run(["make", "--dry-run", target], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, marks=[] if "p2ch13" in program or ".py" in program else pytest.mark.slow)
        for program in sorted(set(PROGRAMS) - {"-m pip", "-m venv"})
    ],
)
def test_options(program):
    command = [sys.executable, *program.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"--[a-z][\w-]*", done.stdout))
    assert PROGRAMS[program] <= known
