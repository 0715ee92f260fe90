"""Commands of README and docs have the options that they are given, and run on tiny scans; so does the Python code."""

import faulthandler
import shlex
import subprocess

import pytest
import torch

from p2ch13.__main__ import main
from p2ch13.commands import COMMANDS as COMMANDS_BY_NAME
from tests.docs.world import name_as_pages_do, write_world
from tests.support.commands import REPOSITORY, run_python
from tests.support.documentation import PAGES, find_blocks, find_commands, parse, read_page

SECONDS = 600  # for a page, on a busy machine: a command that waits for something is an error
# Options that make a command quick. A resumed run keeps its own samples and epochs.
QUICK = {
    "precache": ["--num-workers", "1"],
    "import-dicom": ["--num-workers", "1"],
    "train": ["--samples-per-epoch", "16", "--epochs", "1", "--threads", "1"],
    "cross-validate": ["--samples-per-epoch", "16", "--epochs", "1", "--threads", "1"],
    "predict": ["--threads", "1"],
    "evaluate": ["--threads", "1"],
}
QUICK_RESUME = ["--threads", "1"]
NO_MODULES_OF_OURS = ("pip", "venv", "pytest")

COMMANDS = [command for page in PAGES for command in find_commands(page)]
OWN = sorted({(each.own[0], *each.own[1]) for each in COMMANDS if each.own})
OTHERS = [each for each in COMMANDS if not each.own]
MAKE = sorted({each.words[1:] for each in OTHERS if each.words[0] == "make"})
MODULES = sorted({each.words[2:] for each in OTHERS if each.words[1:2] == ("-m",)})
BLOCKS = {page: [block for block in find_blocks(page) if not block.not_run] for page in PAGES}
RUN = {
    page: [block for block in blocks if block.language == "python" or any(each.own for each in block.commands)]
    for page, blocks in BLOCKS.items()
}


@pytest.mark.parametrize("command", OWN, ids=shlex.join)
def test_options(command):
    name, *arguments = command
    parse(name, arguments)


def test_every_command_is_shown():
    assert {name for name, *_ in OWN} == set(COMMANDS_BY_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in MODULES if each[0] not in NO_MODULES_OF_OURS], ids=shlex.join)
def test_options_of_benchmarks(command):
    module, *arguments = command
    text = run_python("-m", module, "--help").stdout
    assert all(word.partition("=")[0] in text for word in arguments if word.startswith("--"))


@pytest.mark.parametrize("arguments", MAKE, ids=shlex.join)
def test_targets_of_make(arguments):
    subprocess.run(["make", "--dry-run", *arguments], check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def test_commands_of_other_programs_say_why_no_test_runs_them():
    assert not [str(each) for each in OTHERS if not each.not_run and each.words[0] != "make"]


@pytest.mark.parametrize("page", PAGES)
def test_a_reason_stands_above_its_block(page):
    assert read_page(page).count("\n<!-- not run: ") == sum(block.not_run != "" for block in find_blocks(page))


@pytest.fixture
def enter(tmp_path, monkeypatch):
    """Go to an empty folder with the files that words name, for a limited time."""

    def enter(words):
        write_world(tmp_path, words)
        monkeypatch.chdir(tmp_path)
        faulthandler.dump_traceback_later(SECONDS, exit=True)

    yield enter
    faulthandler.cancel_dump_traceback_later()


def run(name, arguments):
    """Run a command as quickly as it goes. Returns: its exit status."""
    quick = QUICK_RESUME if "--resume" in arguments else QUICK.get(name, [])
    status = main([name, *arguments, *quick])
    if name == "train":
        name_as_pages_do()
    return status


def words_of(blocks):
    """Return the words that may name files: those of commands, and texts of Python code."""
    commands = [each for block in blocks for each in block.commands if each.own and not each.not_run]
    texts = [text for block in blocks if block.language == "python" for text in block.code.split('"')[1::2]]
    return {*(word for each in commands for word in each.words), *texts}


@pytest.mark.parametrize("page", [page for page in PAGES if RUN[page]])
def test_page(page, enter):
    """Each command ends with exit status 0 and Python code runs as it stands, in the order of the page."""
    enter(words_of(RUN[page]))
    for block in RUN[page]:
        if block.language == "python":
            exec(block.code, {"hu": torch.zeros(1, 7, 64, 64)})  # slices that a page takes for given
        for command in block.commands:
            if command.own and not command.not_run:
                print(f"$ {command}")
                assert not run(*command.own)
