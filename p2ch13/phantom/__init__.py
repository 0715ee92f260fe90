"""Invented chest CT scans in the LUNA16 layout, to see the program work, and to train, without downloading 120 GB.

    python -m p2ch13.phantom OUT_DIR --scans 20
    write_phantoms(Path("demo"), scan_count=20, seed=0, num_workers=2)

`scan` draws a patient (`anatomy`, `tissue`), grows `vessels`, adds `nodules` and takes the picture (`scanner`);
`dataset` writes the files.

The generator is frozen: a seed makes the scans that it has always made (`tests/test_phantom.py`), so that scores stay
comparable. Another anatomy gets a number of its own, as an option `--anatomy 2`, and leaves this one alone.
"""

from p2ch13.phantom.dataset import Summary, write_phantoms

__all__ = ["Summary", "write_phantoms"]
