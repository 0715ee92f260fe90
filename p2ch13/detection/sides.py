"""Which lung a finding is in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import Finding
from p2ch13.volumes.lungs import find_lungs

LEFT, RIGHT = SIDES = ("left", "right")  # of the patient


def find_sides(ct: Ct, findings: Sequence[Finding]) -> list[str | None]:
    """Tell on which side of the middle between the lungs' outer borders each finding's center lies.

    Returns: one of `SIDES`, or None where no lungs are found.
    """
    lungs = find_lungs(ct.hu, ct.vx_size_xyz) if findings else None
    if lungs is None:
        return [None] * len(findings)
    cols = np.flatnonzero(lungs.any(axis=(0, 1)))
    middle = (cols[0] + cols[-1]) / 2
    return [LEFT if ct.to_irc(finding.center_xyz).col > middle else RIGHT for finding in findings]
