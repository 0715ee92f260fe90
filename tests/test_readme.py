"""Commands of README and docs/data.md are there, with the options that it gives them, and its Python code runs."""

import re
import shlex
import subprocess
from collections import defaultdict

import pytest
import torch

from p2ch13.network.checkpoint import save_checkpoint
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from tests.support.commands import REPOSITORY, run_python
from tests.support.scan_files import TINY_SCANS, Ball, make_hu, write_luna, write_scan

README = "".join((REPOSITORY / name).read_text() for name in ("README.md", "docs/data.md"))


def find_commands():
    """Program (`-m module` or `script.py`) -> the options that README's code blocks give it; and make's targets."""
    code = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
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
    subprocess.run(["make", "--dry-run", *TARGETS], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, marks=[] if "p2ch13" in program or ".py" in program else pytest.mark.slow)
        for program in sorted(set(PROGRAMS) - {"-m pip", "-m venv"})
    ],
)
def test_options(program):
    assert PROGRAMS[program] <= set(re.findall(r"--[a-z][\w-]*", run_python(*program.split(), "--help").stdout))


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
def test_python(code, tmp_path, monkeypatch):
    """Each block runs as it stands, where the files are that it names, and slices that it takes for given."""
    write_scan(tmp_path / "scan.mhd", make_hu([Ball((4, 20, 30), 4)], (8, 40, 44)))
    write_luna(tmp_path / "data" / "demo", TINY_SCANS)
    for name in ["model.state", *re.findall(r"seg_[\w.-]+\.state", code)]:
        save_checkpoint(tmp_path / name, {"model_state": UNetWrapper(**BOOK_MODEL).state_dict()})
    monkeypatch.chdir(tmp_path)
    exec(code, {"hu": torch.zeros(1, 7, 64, 64)})
