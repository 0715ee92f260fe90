"""Size categories of findings by published rules: measures alone, never advice.

The borders and their sources: docs/measures.md.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from p2ch13.detection.measure import GROUND_GLASS, PART_SOLID, SOLID, Measures

LUNG_RADS, FLEISCHNER = "Lung-RADS v2022", "Fleischner Society 2017"
NOT_MEASURED_MM = 3  # by the Fleischner Society, findings of this size or less
BOTH_AXES_MM = 10  # from this size on, the Fleischner Society reports both axes


class Border(NamedTuple):
    """A size that separates two categories, as diameter and as volume."""

    mm: int
    mm3: int


SOLID_BORDERS = (Border(6, 113), Border(8, 268), Border(15, 1767))
WHOLE_BORDER = Border(6, 113)  # of a part-solid finding as a whole; above it, its solid part decides
SOLID_PART_BORDERS = (Border(6, 113), Border(8, 268))
GROUND_GLASS_BORDERS = (Border(30, 14137),)
JUXTAPLEURAL_BORDER = Border(10, 524)
FLEISCHNER_BORDERS = (Border(6, 100), Border(8, 250))


class SizeCategory(NamedTuple):
    """Where a finding's size falls by a rule, by its diameters and, as the rule allows instead, by its volume."""

    rule: str  # with its version
    size: str  # what the rule compares, as it is reported: "7.3 mm"; "14.2 mm, solid part 6.1 mm"
    category: str  # the borders that it lies between: "solid, 6 to under 8 mm"
    volume: str  # "204 mm3"
    volume_category: str  # "solid, 113 to under 268 mm3"


class Size(NamedTuple):
    """A size in one unit, rounded as a rule reports it, and the field of `Border` that it is compared with."""

    value: Decimal
    unit: str

    def __str__(self) -> str:
        return f"{self.value} {self.unit}"

    def border(self, border: Border) -> int:
        return border.mm if self.unit == "mm" else border.mm3


def lung_rads(measures: Measures) -> SizeCategory:
    """Categorize by Lung-RADS v2022: means of both axes to 0.1 mm, or volumes in whole mm3."""
    solid_axes = measures.solid_axes
    diameter = Size(round_half_up(measures.axes.mean_mm, "0.1"), "mm")
    solid_diameter = solid_axes and Size(round_half_up(solid_axes.mean_mm, "0.1"), "mm")
    volume, solid_volume = round_volumes(measures)
    return SizeCategory(
        LUNG_RADS,
        describe_size(str(diameter), solid_diameter),
        categorize_lung_rads(measures, diameter, solid_diameter),
        describe_size(str(volume), solid_volume),
        categorize_lung_rads(measures, volume, solid_volume),
    )


def categorize_lung_rads(measures: Measures, whole: Size, solid_part: Size | None) -> str:
    if solid_part is not None:
        return categorize_part_solid(whole, solid_part, WHOLE_BORDER, SOLID_PART_BORDERS)
    borders = GROUND_GLASS_BORDERS if measures.kind == GROUND_GLASS else SOLID_BORDERS
    category = f"{measures.kind}, {name_range(whole, borders)}"
    is_juxtapleural = measures.kind == SOLID and measures.is_at_pleura
    if is_juxtapleural and whole.value < whole.border(JUXTAPLEURAL_BORDER):
        category += f"; juxtapleural, under {whole.border(JUXTAPLEURAL_BORDER)} {whole.unit}"
    return category


def fleischner(measures: Measures) -> SizeCategory:
    """Categorize by the Fleischner Society's guideline of 2017: means of both axes in whole mm, or volumes.

    Of a solid part the longest axis counts.
    """
    axes, solid_axes = measures.axes, measures.solid_axes
    diameter = Size(round_half_up(axes.mean_mm, "1"), "mm")
    if diameter.value <= NOT_MEASURED_MM:
        small = f"{NOT_MEASURED_MM} mm or less"
        return SizeCategory(FLEISCHNER, small, f"{measures.kind}, {small}, not measured", "", "")
    solid_diameter = solid_axes and Size(round_half_up(solid_axes.long.length_mm, "1"), "mm")
    volume, solid_volume = round_volumes(measures)
    size = str(diameter)
    if diameter.value >= BOTH_AXES_MM:
        long, short = (round_half_up(each.length_mm, "1") for each in (axes.long, axes.short))
        size = f"{long} x {short} mm, mean {diameter}"
    return SizeCategory(
        FLEISCHNER,
        describe_size(size, solid_diameter),
        categorize_fleischner(measures.kind, diameter, solid_diameter),
        describe_size(str(volume), solid_volume),
        categorize_fleischner(measures.kind, volume, solid_volume),
    )


def categorize_fleischner(kind: str, whole: Size, solid_part: Size | None) -> str:
    least = FLEISCHNER_BORDERS[:1]
    if solid_part is not None:
        return categorize_part_solid(whole, solid_part, least[0], FLEISCHNER_BORDERS, includes_last=True)
    borders = least if kind == GROUND_GLASS else FLEISCHNER_BORDERS
    return f"{kind}, {name_range(whole, borders, includes_last=kind == SOLID)}"


def categorize_part_solid(
    whole: Size, solid_part: Size, border: Border, solid_borders: tuple[Border, ...], includes_last: bool = False
) -> str:
    category = f"{PART_SOLID}, {name_range(whole, (border,))}"
    if whole.value < whole.border(border):
        return category
    return f"{category}, solid part {name_range(solid_part, solid_borders, includes_last)}"


def round_volumes(measures: Measures) -> tuple[Size, Size | None]:
    whole = Size(round_half_up(measures.volume_mm3, "1"), "mm3")
    is_part_solid = measures.solid_axes is not None
    return whole, Size(round_half_up(measures.solid_volume_mm3, "1"), "mm3") if is_part_solid else None


def describe_size(size: str, solid_part: Size | None) -> str:
    return size if solid_part is None else f"{size}, solid part {solid_part}"


def name_range(size: Size, borders: tuple[Border, ...], includes_last: bool = False) -> str:
    """Name the range between borders that a size lies in.

    Args: includes_last: whether the last border belongs to the range below it, as all others to that above them.
    """
    limits = [size.border(border) for border in borders]
    is_below = [size.value < limit for limit in limits]
    if includes_last:
        is_below[-1] = size.value <= limits[-1]
    above = is_below.index(True) if any(is_below) else len(limits)
    if above == 0:
        return f"under {limits[0]} {size.unit}"
    low = limits[above - 1]
    if above == len(limits):
        return f"over {low} {size.unit}" if includes_last else f"{low} {size.unit} and more"
    under = "" if includes_last and above == len(limits) - 1 else "under "
    return f"{low} to {under}{limits[above]} {size.unit}"


def round_half_up(value: float, step: str) -> Decimal:
    """Round as people do, to a step such as "0.1": `round` rounds halves to even digits.

    The mean of 6.1 and 5.8 is 5.95, though that of their binary fractions is a little less.
    """
    return Decimal(f"{value:.9f}").quantize(Decimal(step), ROUND_HALF_UP)
