"""Fixtures that several test files share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before PyTorch is loaded, here and in what tests start: threads that wait for each other would make the tests slow
# beside another busy process, and `--threads auto` would change their number, and sums with it, as it sees fit.
os.environ["OMP_NUM_THREADS"] = "1"

from p2ch13.config import Folders
from p2ch13.network import compute
from tests.support.scan_files import TINY_SCANS, write_luna

pytest.register_assert_rewrite("tests.support.checks")  # so that a failure shows values, as in a test

SHARED = Path(__file__).parents[2] / "shared"

# What a script starts in the background ignores Ctrl-C, and so would each process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bfloat16", choices=("yes", "no"), help="--precision auto as on a processor that has its arithmetic, or none"
    )


@pytest.fixture(autouse=True)
def processor_as_told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, not in those that tests start."""
    choice = request.config.getoption("--bfloat16")
    if choice is not None:
        monkeypatch.setattr(compute, "has_bfloat16_arithmetic", lambda device: choice == "yes")


@pytest.fixture(autouse=True)
def no_log_handlers_left() -> Iterator[None]:
    """A command's `main` logs to the stdout of its test, which is closed when the next one begins."""
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # not pytest's own, which are of classes of theirs
            root.removeHandler(handler)


@pytest.fixture
def luna_dir(tmp_path: Path) -> Path:
    return write_luna(tmp_path / "luna", TINY_SCANS)


@pytest.fixture
def folders(luna_dir: Path, tmp_path: Path) -> Folders:
    return Folders(luna_dir, tmp_path / "cache")


@pytest.fixture
def luna_sample() -> Path:
    """Real CT, which is not part of the project."""
    data_dir = SHARED / "luna-sample"
    if not data_dir.is_dir():
        pytest.skip(f"no real CT in {data_dir}")
    return data_dir


@pytest.fixture
def book_checkpoint() -> Path:
    """Published with the book, trained on all of LUNA16; not part of the project."""
    paths = sorted((SHARED / "book-checkpoint").glob("*.state"))
    if not paths:
        pytest.skip(f"no published weights in {SHARED / 'book-checkpoint'}")
    return paths[0]
