"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before NumPy and PyTorch are loaded, here and in subprocesses: threads that wait for each other are slow beside
# another busy process, and `--threads auto` would change their number, and with it the rounding of sums.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from p2ch13.config import Folders
from p2ch13.network import compute
from p2ch13.training import shapes
from p2ch13.util import threads
from tests.support.scan_files import TINY_SCANS, Ball, make_hu, write_luna
from tests.support.simulated_machine import Machine

pytest.register_assert_rewrite("tests.support.checks")  # a failure shows values, as in a test

SHARED = Path(__file__).parents[2] / "shared"

# A background job ignores Ctrl-C, and so would each process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bfloat16",
        choices=("yes", "no"),
        help="--precision auto as on a processor with bfloat16 arithmetic, or without",
    )


@pytest.fixture(autouse=True)
def processor_as_told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process only, not in subprocesses."""
    choice = request.config.getoption("--bfloat16")
    if choice is not None:
        monkeypatch.setattr(compute, "has_bfloat16_arithmetic", lambda device: choice == "yes")


@pytest.fixture(autouse=True)
def few_synthetic_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To paint, in this process: all of them take seconds to make."""
    monkeypatch.setattr(shapes, "SYNTHETIC_COUNT", 40)


@pytest.fixture(autouse=True)
def no_log_handlers_left() -> Iterator[None]:
    """Remove the handlers of a command's `main`: the stdout of its test is closed when the next one begins."""
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # not pytest's own subclasses
            root.removeHandler(handler)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Makes a machine, whose clock the tuners of threads have until the end of the test."""

    def simulate(*args: Any, **options: Any) -> Machine:
        machine = Machine(*args, **options)
        monkeypatch.setattr(threads, "time", machine)
        return machine

    return simulate


@pytest.fixture
def hu() -> np.ndarray:
    """A small scan with a ball, whose slices, rows and cols differ."""
    own = np.arange(6 * 20 * 22, dtype=np.int16).reshape(6, 20, 22) % 50
    return make_hu([Ball((3, 8, 9), 3)], own.shape) + own


@pytest.fixture
def luna_dir(tmp_path: Path) -> Path:
    return write_luna(tmp_path / "luna", TINY_SCANS)


@pytest.fixture
def folders(luna_dir: Path, tmp_path: Path) -> Folders:
    return Folders(luna_dir, tmp_path / "cache")


@pytest.fixture
def data_options(folders: Folders) -> list[str]:
    """A training's options for these folders."""
    return ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir), "--val-stride", "2"]


@pytest.fixture
def options(data_options: list[str], tmp_path: Path) -> list[str]:
    """A short training's options; it writes into the test's folder."""
    folders = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    return [*data_options, *folders, "--samples-per-epoch", "64"]


@pytest.fixture(scope="session")
def browser_process() -> Iterator[Any]:
    """One browser for all tests of a process."""
    from tests.support.browser import running_browser  # imports Selenium, for the tests of pages alone

    with running_browser() as driver:
        yield driver


@pytest.fixture
def browser(browser_process: Any) -> Any:
    """An empty page of a browser, see `tests.support.browser.Browser`."""
    from tests.support.browser import Browser

    return Browser(browser_process)


@pytest.fixture
def luna_sample() -> Path:
    """Real CT, if there is any; it is not part of the project."""
    data_dir = SHARED / "luna-sample"
    if not data_dir.is_dir():
        pytest.skip(f"no real CT in {data_dir}")
    return data_dir


@pytest.fixture
def book_checkpoint() -> Path:
    """The book's published weights, trained on all of LUNA16, if they are there."""
    paths = sorted((SHARED / "book-checkpoint").glob("*.state"))
    if not paths:
        pytest.skip(f"no published weights in {SHARED / 'book-checkpoint'}")
    return paths[0]
