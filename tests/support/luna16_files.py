"""LUNA16 in small: three scans in two subsets, as they lie on a server.

`python -m tests.support.luna16_files URL OPTIONS...` downloads it in a process of its own.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

from p2ch13 import download
from p2ch13.acquisition.luna16 import CsvFacts, RemoteFile
from p2ch13.util.errors import run_command
from tests.support.scan_files import POSITION, Ball, make_hu, write_scan

SERIES = {0: ["1.2.0", "1.2.1"], 1: ["1.2.2"]}
SHAPE_IRC = (12, 60, 64)
ANNOTATIONS = CsvFacts("annotations.csv", (*POSITION, "diameter_mm"), 3, 2)
CANDIDATES = CsvFacts("candidates_V2.csv", (*POSITION, "class"), 2)


def make_contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of each file on the server; `folder` is for what is needed in between."""
    contents = {
        "annotations.csv": b"seriesuid,coordX,coordY,coordZ,diameter_mm\r\n"
        b"1.2.0,-20,-30,205,5\r\n1.2.0,-10,-20,206,4\r\n1.2.2,-20,-30,205,6\r\n",
        "candidates_V2.zip": zip_of(
            {"candidates_V2.csv": b"seriesuid,coordX,coordY,coordZ,class\n1.2.0,1,2,3,0\n1.2.2,1,2,3,0\n"}
        ),
    }
    for subset, series in SERIES.items():
        for ndx, series_uid in enumerate(series):
            hu = make_hu([Ball((3, 8 + ndx, 9), 3)], SHAPE_IRC)
            write_scan(folder / f"subset{subset}" / f"{series_uid}.mhd", hu)
        files = sorted((folder / f"subset{subset}").iterdir())
        contents[f"subset{subset}.zip"] = zip_of({f"subset{subset}/{file.name}": file.read_bytes() for file in files})
    return contents


def zip_of(members: dict[str, bytes]) -> bytes:
    """Not compressed, so that a broken download holds many bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def make_table(contents: dict[str, bytes]) -> list[RemoteFile]:
    """What the downloader knows of them."""

    def known(name: str, **facts: Any) -> RemoteFile:
        return RemoteFile(name, "1", len(contents[name]), hashlib.md5(contents[name]).hexdigest(), **facts)

    return [
        known("annotations.csv", csv=ANNOTATIONS),
        RemoteFile("candidates_V2.zip", "1", csv=CANDIDATES),
        *(known(f"subset{subset}.zip", subset=subset, scan_count=len(series)) for subset, series in SERIES.items()),
    ]


if __name__ == "__main__":
    scratch, *options = sys.argv[1:]
    table = make_table(make_contents(Path(scratch)))
    run_command(lambda: download.main(options, table))
