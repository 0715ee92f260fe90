"""The notebooks: saved with the outputs of what their .py files say, and they run."""

import os
import re

import pytest

from tests.support.commands import REPOSITORY

PACKAGES = ("jupytext", "nbclient", "ipykernel", "matplotlib")
SOURCES = sorted((REPOSITORY / "notebooks").glob("*.py"))
LARGEST_BYTES = 2_000_000
# What no saved output has: a path of the machine, a progress bar, an address of an object, a warning.
UNWANTED = re.compile(r"/(home|root|tmp|work|usr|opt)/|\d+%\||\bat 0x[0-9a-f]{6}|Warning\b")


@pytest.fixture
def notebooks():
    """The helpers, which need packages that only development installs."""
    for name in PACKAGES:
        if os.environ.get("CI") != "true":
            pytest.importorskip(name)
    from tests.support import notebooks

    return notebooks


@pytest.fixture(params=SOURCES, ids=[source.stem for source in SOURCES])
def source(request):
    return request.param


def test_both_files_say_the_same(notebooks, source):
    of_source, saved = notebooks.read_source(source), notebooks.read_saved(source)
    for one, other in zip(of_source.cells, saved.cells, strict=True):
        assert (one.cell_type, one.source) == (other.cell_type, other.source)


def test_it_is_saved_with_outputs(notebooks, source):
    """Each cell of code was executed in order, and none failed, warned, or told of the machine."""
    code = [cell for cell in notebooks.read_saved(source).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert not [found for text in texts for found in UNWANTED.finditer(text)]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8


def test_it_is_small(notebooks, source):
    assert notebooks.saved_at(source).stat().st_size < LARGEST_BYTES


@pytest.mark.slow
def test_it_runs(notebooks, source):
    """With less data, in a process of its own: its first cells check themselves where the saved one shows figures."""
    executed = notebooks.execute(notebooks.read_source(source), notebooks.FAST)
    assert not [
        output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
