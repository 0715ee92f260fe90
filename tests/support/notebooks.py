"""Notebooks: their two files, and how they run. `python -m tests.support.notebooks` saves them with outputs."""

from __future__ import annotations

import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.support.commands import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.py"))
FAST = {"CHAPTER_13_FAST": "1"}  # the environment in which a notebook takes less data
CELL_SECONDS = 600
# Pillow gives each picture twice, as PNG and as JPEG.
KEPT_TYPES = {"text/plain", "image/png"}


def saved_at(source: Path) -> Path:
    """Return the .ipynb of a notebook's .py."""
    return source.with_suffix(".ipynb")


def read_source(source: Path) -> NotebookNode:
    notebook: NotebookNode = jupytext.read(source)
    return notebook


def read_saved(source: Path) -> NotebookNode:
    notebook: NotebookNode = nbformat.read(saved_at(source), as_version=nbformat.NO_CONVERT)
    return notebook


def execute(notebook: NotebookNode, environment: dict[str, str] | None = None) -> NotebookNode:
    """Execute all cells in a new kernel, and put their outputs in. Raises: CellExecutionError at the first error."""
    quiet = ["--log-level=ERROR"]  # or it warns that other users of the machine could listen
    client = NotebookClient(
        notebook, kernel_name="python3", extra_arguments=quiet, timeout=CELL_SECONDS, record_timing=False
    )
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    client.execute(env={**os.environ, "PYTHONPATH": paths, **(environment or {})})
    return notebook


def save(source: Path) -> None:
    """Execute a notebook and write its .ipynb, with one picture of each output."""
    notebook = execute(read_source(source))
    for ndx, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{ndx:02}"  # jupytext's are random
        for output in cell.get("outputs", []):
            if "data" in output:
                output["data"] = {kind: value for kind, value in output["data"].items() if kind in KEPT_TYPES}
                output["metadata"] = {}
    notebook.metadata.pop("language_info", None)  # the version of Python that it was executed with
    nbformat.write(notebook, saved_at(source))


def main() -> None:
    for source in NOTEBOOKS:
        save(source)
        print(f"{saved_at(source).relative_to(REPOSITORY)}: {saved_at(source).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
