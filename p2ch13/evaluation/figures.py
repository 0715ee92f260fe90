"""Figures of an evaluation: the FROC curve and the reliability curves, for light and dark pages."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from p2ch13.evaluation.froc import BAND_POINTS, CONFIDENCE, OPERATING_POINTS, Froc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLEAR = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.framealpha": 0.5}
# matplotlib's styles: a figure for itself, and transparent ones for light and dark pages.
WHITE, ON_LIGHT, ON_DARK = ("default",), ("default", CLEAR), ("default", "dark_background", CLEAR)
Style = Sequence[str | dict[str, Any]]


def draw_froc(froc: Froc, style: Style = WHITE) -> bytes:
    """Draw the curve with its confidence band, if it has one, as PNG; dotted beyond its last point."""
    return draw(lambda axes: plot_froc(axes, froc), (6, 4.2), style)


def draw_reliability(calibration: Mapping[str, Any], style: Style = WHITE) -> bytes:
    """Draw the share of nodules over the probability of findings, before and after calibration, as PNG.

    Args: calibration: of `measure_calibration`.
    """
    return draw(lambda axes: plot_reliability(axes, calibration), (4.6, 4.2), style)


def draw(plot: Callable[[Axes], None], size: tuple[float, float], style: Style) -> bytes:
    """Args: size: in inches."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs every font at INFO
    from matplotlib.figure import Figure  # takes a second
    from matplotlib.style import context

    file = io.BytesIO()
    with context([*style]):
        figure = Figure(figsize=size, dpi=140, layout="constrained")
        plot(figure.add_subplot())
        figure.savefig(file, format="png")
    return file.getvalue()


def plot_froc(axes: Axes, froc: Froc) -> None:
    if froc.has_interval:
        axes.fill_between(BAND_POINTS, *froc.band, alpha=0.2, linewidth=0, label=f"{CONFIDENCE:.0%} CI")
    sensitivity = froc.curve.sensitivity_at(BAND_POINTS)
    is_measured = froc.curve.false_positives_per_scan[-1] >= BAND_POINTS
    (line,) = axes.plot(BAND_POINTS[is_measured], sensitivity[is_measured], label=f"CPM {froc.cpm:.3f}")
    if not is_measured.all():
        axes.plot(BAND_POINTS, sensitivity, ":", color=line.get_color(), label="no further findings")
    axes.plot(OPERATING_POINTS, froc.sensitivities, "o", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_xticks(OPERATING_POINTS, [str(Fraction(rate)) for rate in OPERATING_POINTS])
    axes.set(xlabel="false positives per scan", ylabel="sensitivity", xlim=BAND_POINTS[[0, -1]], ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def plot_reliability(axes: Axes, calibration: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], "--", color="gray", label="perfect")
    for name, form in (("before", ":s"), ("after", "-o")):
        curve = [each for each in calibration[name]["curve"] if each["finding_count"]]
        places = np.array([(each["mean_probability"], each["nodule_share"]) for each in curve]).reshape(-1, 2)
        axes.plot(*places.T, form, label=f"{name} calibration, ECE {calibration[name]['ece']:.3f}")
    axes.set(xlabel="mean probability of findings", ylabel="share of nodules", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
