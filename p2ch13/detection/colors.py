"""Colors of all pictures: each has one meaning, in overlays, figures, reports and the viewer.

Blended over any gray of a slice, they differ from each other and from gray for people with normal vision and with
protanopia, deuteranopia or tritanopia, see `tests/detection/test_colors.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Color(NamedTuple):
    """A color and what it stands for."""

    name: str
    meaning: str
    rgb: tuple[int, int, int]

    @property
    def css(self) -> str:
        """As in HTML and CSS: #rrggbb."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


MARKED = Color("yellow", "marked by the network", (255, 200, 0))  # in scans without annotations
TRUE_POSITIVE = Color("green", "true positive", (0, 200, 80))
MISSED = Color("pink", "missed", (255, 90, 220))
FALSE_POSITIVE = Color("blue", "false positive", (80, 80, 255))
COMPARED = (TRUE_POSITIVE, MISSED, FALSE_POSITIVE)  # of predictions beside annotations


def explain(*colors: Color) -> str:
    """Say what colors mean, for a caption: "green: true positive, pink: missed"."""
    return ", ".join(f"{color.name}: {color.meaning}" for color in colors)
