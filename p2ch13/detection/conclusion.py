"""What a prediction ends with: the findings, as the reports of the scans have them, and where everything is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from p2ch13.detection.folders import ENDINGS, REPORT_ENDING, REPORT_JSON_ENDING, VIEWER_ENDING
from p2ch13.detection.outputs import NODULES_FILE
from p2ch13.util.errors import EXIT_DONE, EXIT_SKIPPED, InputError, one_line
from p2ch13.util.outcome import Outcome


def conclude(searched: Mapping[str, Path], folders: Mapping[str, Path], errors: Sequence[InputError]) -> Outcome:
    """Say what was found, in words of the reports, and what to open.

    Args: searched: name of each scan that was searched -> its file; folders: -> the folder of its results; errors: of
        the scans that were skipped.
    """
    reports = {name: read_report(folders[name] / f"{name}{REPORT_JSON_ENDING}") for name in searched}
    lines = [summarize(reports, len(errors)), *list_files(folders, list(searched))]
    scans = [
        {
            "name": name,
            "scan": path,
            "folder": folders[name],
            "files": list_results(folders[name], name),
            "summary": reports[name]["summary"],
            "threshold": reports[name]["threshold"]["probability"],
            "findings": reports[name]["findings"],
        }
        for name, path in searched.items()
    ]
    values = {"scans": scans, "skipped": [one_line(error) for error in errors]}
    return Outcome(lines, values, EXIT_SKIPPED if errors else EXIT_DONE)


def read_report(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_bytes())
    return report


def list_results(folder: Path, name: str) -> list[str]:
    """Return the names of a scan's files in a folder, and of the list of nodules."""
    names = [NODULES_FILE, *(f"{name}{ending}" for ending in ENDINGS)]
    return [each for each in names if (folder / each).is_file()]


def summarize(reports: Mapping[str, Mapping[str, Any]], skipped_count: int) -> str:
    """Say what was found in a scan, or how much in several."""
    if len(reports) == 1 and not skipped_count:
        return str(next(iter(reports.values()))["summary"])
    count = sum(len(report["findings"]) for report in reports.values())
    scans = f"{len(reports)} scan{'' if len(reports) == 1 else 's'}"
    skipped = f", {skipped_count} skipped" if skipped_count else ""
    return f"{count} finding{'' if count == 1 else 's'} in {scans}{skipped}."


def list_files(folders: Mapping[str, Path], names: Sequence[str]) -> list[str]:
    """Name the files to open: of one scan, or, with a star for each name, of all."""
    name = names[0] if len(names) == 1 else "*"
    places = {folders[each] for each in names}
    place = places.pop() if len(places) == 1 else Path(f"*{folders[names[0]].name.removeprefix(names[0])}")
    has_viewer = any((folders[each] / f"{each}{VIEWER_ENDING}").is_file() for each in names)
    viewer = [f"All slices: {place / f'{name}{VIEWER_ENDING}'}"] if has_viewer else []
    return [
        f"Mask, list of nodules and points for 3D Slicer: {place}",
        *viewer,
        f"Report with pictures, for a browser: {place / f'{name}{REPORT_ENDING}'}",
    ]
