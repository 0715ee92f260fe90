"""Findings as points for 3D Slicer.

Source: Slicer's developer guide, markups, and its JSON schema 1.0.3.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from p2ch13.detection.findings import Finding
from p2ch13.detection.statements import show_probability
from p2ch13.util.files import as_text, atomic_write

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def write_markups(path: Path, name: str, findings: Sequence[Finding]) -> None:
    """Write the centers of findings as a list of points, labeled by number and probability.

    Positions are LPS, and the file says so: Slicer turns them into its RAS when it opens the file.

    Args: name: of the list, as Slicer shows it.
    """
    points = [
        {
            "id": str(finding.number),
            "label": f"{finding.number} ({show_probability(finding.probability)})",
            "description": f"finding {finding.number}, slices {finding.first_slice} to {finding.last_slice}",
            "position": list(finding.center_xyz),
            "selected": True,
            "locked": True,
            "visibility": True,
            "positionStatus": "defined",  # some versions of Slicer hide points that do not say so
        }
        for finding in findings
    ]
    markup = {
        "type": "Fiducial",
        "name": as_text(name),
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "controlPoints": points,
    }
    content = json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(f"{content}\n".encode())
