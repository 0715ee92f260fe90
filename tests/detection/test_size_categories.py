import math

import pytest

from p2ch13.detection.measure import GROUND_GLASS, PART_SOLID, SOLID, Axes, Diameter, Measures
from p2ch13.detection.size_categories import fleischner, lung_rads, round_half_up

NO_ENDS = ((0.0, 0.0), (0.0, 0.0))


def as_axes(long_mm, short_mm):
    return Axes(0, Diameter(long_mm, NO_ENDS), Diameter(short_mm, NO_ENDS))


def measured(long_mm, short_mm, kind=SOLID, solid_mm=None, mm3=100.0, solid_mm3=math.nan, is_at_pleura=False):
    solid_axes = None if solid_mm is None else as_axes(*solid_mm)
    return Measures(as_axes(long_mm, short_mm), mm3, 0.0, kind, solid_axes, solid_mm3, is_at_pleura)


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [(7.95, "0.1", "8.0"), ((6.1 + 5.8) / 2, "0.1", "6.0"),
     (7.949, "0.1", "7.9"), (5.25, "0.1", "5.3"), (5.35, "0.1", "5.4"), (5.5, "1", "6"),
     (8.5, "1", "9"), (6.5, "1", "7"), (7.0, "0.1", "7.0"), (1e-9, "0.1", "0.0"), (14136.5, "1", "14137")],
)  # fmt: skip
def test_halves_are_rounded_up(value, step, expected):
    assert str(round_half_up(value, step)) == expected


UNDER_6, UNDER_8, UNDER_15, OVER_15 = "under 6 mm", "6 to under 8 mm", "8 to under 15 mm", "15 mm and more"
LUNG_RADS_SOLID = [  # long, short, size, category
    (5.9, 5.9, "5.9 mm", UNDER_6),
    (6.0, 5.8, "5.9 mm", UNDER_6),
    (6.0, 5.89, "5.9 mm", UNDER_6),  # the mean is 5.945; of rounded axes it would be 5.95, and 6.0
    (6.0, 5.9, "6.0 mm", UNDER_8),  # the mean is 5.95
    (6.0, 6.0, "6.0 mm", UNDER_8),
    (9.4, 6.4, "7.9 mm", UNDER_8),
    (8.0, 7.89, "7.9 mm", UNDER_8),
    (8.0, 7.9, "8.0 mm", UNDER_15),
    (16.0, 13.8, "14.9 mm", UNDER_15),
    (16.0, 13.9, "15.0 mm", OVER_15),
    (40.0, 35.0, "37.5 mm", OVER_15),
    (2.0, 1.0, "1.5 mm", UNDER_6),
]


@pytest.mark.parametrize(("long_mm", "short_mm", "size", "category"), LUNG_RADS_SOLID)
def test_lung_rads_of_solid_findings(long_mm, short_mm, size, category):
    found = lung_rads(measured(long_mm, short_mm))
    assert found[:3] == ("Lung-RADS v2022", size, f"solid, {category}")


LUNG_RADS_VOLUMES = [
    (SOLID, 112.4, "112 mm3", "under 113 mm3"),
    (SOLID, 112.5, "113 mm3", "113 to under 268 mm3"),
    (SOLID, 267.4, "267 mm3", "113 to under 268 mm3"),
    (SOLID, 267.6, "268 mm3", "268 to under 1767 mm3"),
    (SOLID, 1766.4, "1766 mm3", "268 to under 1767 mm3"),
    (SOLID, 1767.0, "1767 mm3", "1767 mm3 and more"),
    (GROUND_GLASS, 14136.4, "14136 mm3", "under 14137 mm3"),
    (GROUND_GLASS, 14137.0, "14137 mm3", "14137 mm3 and more"),
]


@pytest.mark.parametrize(("kind", "mm3", "volume", "category"), LUNG_RADS_VOLUMES)
def test_lung_rads_by_volume(kind, mm3, volume, category):
    assert lung_rads(measured(6, 6, kind, mm3=mm3))[3:] == (volume, f"{kind}, {category}")


@pytest.mark.parametrize(
    ("mean_mm", "category"),
    [(5, "under 30 mm"), (29.94, "under 30 mm"), (29.95, "30 mm and more"), (30, "30 mm and more")],
)
def test_lung_rads_of_ground_glass(mean_mm, category):
    assert lung_rads(measured(mean_mm, mean_mm, GROUND_GLASS)).category == f"ground glass, {category}"


LUNG_RADS_PART_SOLID = [  # axes, axes of the solid part, size, category
    ((6.0, 5.8), (5.0, 5.0), "5.9 mm, solid part 5.0 mm", "under 6 mm"),  # the solid part does not matter
    ((6.0, 6.0), (5.9, 5.9), "6.0 mm, solid part 5.9 mm", "6 mm and more, solid part under 6 mm"),
    ((20.0, 16.0), (6.1, 5.8), "18.0 mm, solid part 6.0 mm", "6 mm and more, solid part 6 to under 8 mm"),
    ((20.0, 16.0), (9.0, 6.8), "18.0 mm, solid part 7.9 mm", "6 mm and more, solid part 6 to under 8 mm"),
    ((20.0, 16.0), (9.0, 7.0), "18.0 mm, solid part 8.0 mm", "6 mm and more, solid part 8 mm and more"),
]


@pytest.mark.parametrize(("whole", "solid_part", "size", "category"), LUNG_RADS_PART_SOLID)
def test_lung_rads_of_part_solid_findings(whole, solid_part, size, category):
    found = lung_rads(measured(*whole, PART_SOLID, solid_part, mm3=268, solid_mm3=112.6))
    assert found[1:3] == (size, f"part-solid, {category}")
    assert found[3:] == (
        "268 mm3, solid part 113 mm3",
        "part-solid, 113 mm3 and more, solid part 113 to under 268 mm3",
    )


@pytest.mark.parametrize(
    ("mean_mm", "kind", "is_at_pleura", "category"),
    [
        (9.94, SOLID, True, "solid, 8 to under 15 mm; juxtapleural, under 10 mm"),
        (5.0, SOLID, True, "solid, under 6 mm; juxtapleural, under 10 mm"),
        (9.95, SOLID, True, "solid, 8 to under 15 mm"),
        (9.0, SOLID, False, "solid, 8 to under 15 mm"),
        (9.0, SOLID, None, "solid, 8 to under 15 mm"),  # unknown
        (9.0, GROUND_GLASS, True, "ground glass, under 30 mm"),
    ],
)
def test_juxtapleural_findings(mean_mm, kind, is_at_pleura, category):
    found = lung_rads(measured(mean_mm, mean_mm, kind, mm3=523.4, is_at_pleura=is_at_pleura))
    assert found.category == category
    assert found.volume_category.endswith("; juxtapleural, under 524 mm3") == (kind == SOLID and bool(is_at_pleura))
    assert "juxtapleural" not in lung_rads(measured(9, 9, SOLID, mm3=524, is_at_pleura=True)).volume_category


FLEISCHNER_SOLID = [  # long, short, size, category
    (3.4, 3.4, "3 mm or less", "3 mm or less, not measured"),
    (3.5, 3.4, "3 mm or less", "3 mm or less, not measured"),
    (3.6, 3.4, "4 mm", "under 6 mm"),  # the mean is 3.5
    (5.4, 5.4, "5 mm", "under 6 mm"),
    (5.6, 5.4, "6 mm", "6 to 8 mm"),  # the mean is 5.5
    (6.0, 4.98, "5 mm", "under 6 mm"),  # the mean is 5.49; of rounded axes 5.5, and 6
    (8.0, 8.0, "8 mm", "6 to 8 mm"),
    (8.6, 8.3, "8 mm", "6 to 8 mm"),
    (8.6, 8.4, "9 mm", "over 8 mm"),  # the mean is 8.5
    (9.6, 9.2, "9 mm", "over 8 mm"),
    (10.4, 8.6, "10 x 9 mm, mean 10 mm", "over 8 mm"),  # the mean is 9.5
    (12.5, 9.4, "13 x 9 mm, mean 11 mm", "over 8 mm"),
]


@pytest.mark.parametrize(("long_mm", "short_mm", "size", "category"), FLEISCHNER_SOLID)
def test_fleischner_of_solid_findings(long_mm, short_mm, size, category):
    found = fleischner(measured(long_mm, short_mm))
    assert found[:3] == ("Fleischner Society 2017", size, f"solid, {category}")
    assert (found.volume == "") == (size == "3 mm or less")


@pytest.mark.parametrize(
    ("mm3", "category"),
    [(99.4, "under 100 mm3"), (99.5, "100 to 250 mm3"), (250.4, "100 to 250 mm3"), (250.5, "over 250 mm3")],
)
def test_fleischner_by_volume(mm3, category):
    assert fleischner(measured(6, 6, mm3=mm3)).volume_category == f"solid, {category}"


@pytest.mark.parametrize(("mean_mm", "category"), [(5.4, "under 6 mm"), (5.5, "6 mm and more"), (40, "6 mm and more")])
def test_fleischner_of_ground_glass(mean_mm, category):
    assert fleischner(measured(mean_mm, mean_mm, GROUND_GLASS)).category == f"ground glass, {category}"


FLEISCHNER_PART_SOLID = [  # axes, axes of the solid part, of which the longest counts, size, category
    ((5.4, 5.4), (5.0, 5.0), "5 mm, solid part 5 mm", "under 6 mm"),
    ((9.0, 8.0), (5.4, 5.0), "9 mm, solid part 5 mm", "6 mm and more, solid part under 6 mm"),
    ((9.0, 8.0), (5.5, 3.0), "9 mm, solid part 6 mm", "6 mm and more, solid part 6 to 8 mm"),
    ((20.0, 16.0), (8.4, 8.4), "20 x 16 mm, mean 18 mm, solid part 8 mm", "6 mm and more, solid part 6 to 8 mm"),
    ((20.0, 16.0), (8.5, 4.0), "20 x 16 mm, mean 18 mm, solid part 9 mm", "6 mm and more, solid part over 8 mm"),
]


@pytest.mark.parametrize(("whole", "solid_part", "size", "category"), FLEISCHNER_PART_SOLID)
def test_fleischner_of_part_solid_findings(whole, solid_part, size, category):
    found = fleischner(measured(*whole, PART_SOLID, solid_part, mm3=100, solid_mm3=250))
    assert found[1:3] == (size, f"part-solid, {category}")
    assert found[3:] == ("100 mm3, solid part 250 mm3", "part-solid, 100 mm3 and more, solid part 100 to 250 mm3")
