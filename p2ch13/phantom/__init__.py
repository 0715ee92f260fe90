"""Synthetic chest CT scans (phantoms) in the LUNA16 layout, to try the program and to train without LUNA16's 120 GB.

    python -m p2ch13.phantom OUT_DIR --scans 20
    write_phantoms(Path("demo"), scan_count=20, seed=0, num_workers=2)

`scan` draws a patient (`anatomy`, `tissue`), grows `vessels`, adds `nodules` and simulates the scanner (`scanner`);
`dataset` writes the files, with an exact mask for each scan: `masks/<series UID>.nii.gz`.

The generator is frozen: a seed makes the scans that it has always made (`tests/phantom/test_phantom.py`), so that
scores stay comparable. Another anatomy gets a number of its own, as an option `--anatomy 2`, and leaves this one alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ch13.phantom.dataset import Summary, write_phantoms

__all__ = ["Summary", "write_phantoms"]


def __getattr__(name: str) -> Any:
    """Import the generator when it is first used: --help need not wait for NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from p2ch13.phantom import dataset

    return getattr(dataset, name)
