import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from p2ch13.data.ct import Ct
from p2ch13.detection.findings import find_marked
from p2ch13.detection.measure import GROUND_GLASS, PART_SOLID, SOLID, Axes, Diameter, measure_findings
from p2ch13.detection.report import describe_finding, make_report, name_axis, write_report
from p2ch13.detection.report_pictures import MOST_PIXELS, choose_pixel_count, choose_scale_bar
from p2ch13.detection.search_facts import SearchFacts
from p2ch13.detection.sides import find_sides
from p2ch13.network.card import Card
from p2ch13.network.finding_scorer import Validation
from tests.support.scan_files import make_chest, write_scan

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text(encoding="utf-8"))
CARD = Card("tiny 1", "two lungs", "adults <b>alone</b>", "a probability of 0.75")
VALIDATION = Validation((0.9, 0.8, 0.2, 0.1), (0.8, 0.3, 0.1), 2)
FACTS = SearchFacts((("tiny.state", CARD),), 0.75, "Shown from 0.75 on.", True, VALIDATION, True, False, 2.0)
EVIL = '<script>alert("x")</script> & {{ 1 }}'
SIZE = "3 x 3 x 3 mm".replace("x", "\N{MULTIPLICATION SIGN}")
SPOTS = [(40, 42, 2), (50, 86, 4)]  # row, col, radius: a right one of 15 mm, a left one of 27 mm


@pytest.fixture
def ct(tmp_path):
    hu = make_chest((16, 96, 128))
    row, col = np.ogrid[:96, :128]
    for index, (spot_row, spot_col, radius) in zip((4, 10), SPOTS, strict=True):
        hu[index - 1 : index + 2, (row - spot_row) ** 2 + (col - spot_col) ** 2 <= radius**2] = 20
    return Ct(write_scan(tmp_path / "1.2.mha", hu, vx_size_xyz=(3.0, 3.0, 3.0)))


def find(ct, count=2):
    row, col = np.ogrid[:96, :128]
    mask = np.zeros(ct.shape_irc, dtype=bool)
    for index, (spot_row, spot_col, radius) in list(zip((4, 10), SPOTS, strict=True))[:count]:
        mask[index - 1 : index + 2, (row - spot_row) ** 2 + (col - spot_col) ** 2 <= radius**2] = True
    labels, findings = find_marked(ct, mask)
    return labels, [replace(each, logit=2.0 - each.number, probability=0.99 - each.number / 10) for each in findings]


def write(tmp_path, ct, name="1.2", count=2, facts=FACTS):
    labels, findings = find(ct, count)
    write_report(
        tmp_path / name, ct, labels, findings, measure_findings(ct, labels, findings), find_sides(ct, findings), facts
    )
    stem = tmp_path / name
    report = json.loads(stem.with_name(f"{name}_report.json").read_text(encoding="utf-8"))
    return report, stem.with_name(f"{name}_report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """A page's elements, and its text as a reader sees it."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


def test_the_json_has_what_the_schema_says(tmp_path, ct):
    report, _ = write(tmp_path, ct)
    Draft202012Validator(SCHEMA).validate(report)
    scan = report["scan"]
    assert (scan["name"], scan["series_uid"], scan["stored_axes"]) == ("1.2", "1.2", "LPS")
    assert (scan["slice_count"], scan["row_count"], scan["column_count"]) == (16, 96, 128)
    assert scan["voxel_size_xyz_mm"] == [3, 3, 3]
    large, small = report["findings"]
    assert (large["number"], large["side"], large["first_slice"], large["last_slice"]) == (1, "left", 9, 11)
    assert (small["number"], small["side"], small["first_slice"], small["last_slice"]) == (2, "right", 3, 5)
    assert large["center_xyz_mm"] == pytest.approx(ct.to_xyz((10, 50, 86)), abs=1e-3)
    assert large["volume_mm3"] == 49 * 3 * 27  # pixels, slices, mm3
    assert (large["mean_hu"], large["kind"]) == (20, SOLID)
    assert large["longest_diameter_mm"] == pytest.approx(27, abs=3)
    assert large["longest_diameter_mm"] == round(large["longest_diameter_mm"], 1)
    assert [category["rule"] for category in large["size_categories"]] == ["Lung-RADS v2022", "Fleischner Society 2017"]
    assert report["threshold"]["validation"] == {
        "scan_count": 2, "nodule_count": 4, "sensitivity": 0.5, "false_positives_per_scan": 0.5
    }  # fmt: skip
    assert report["networks"] == [{"file": "tiny.state", "card": vars(CARD)}]


def test_the_schema_refuses_other_units_and_unknown_keys(tmp_path, ct):
    report, _ = write(tmp_path, ct)
    for key, value in (("longest_diameter_mm", "27.0"), ("volume_mm3", 1.5), ("extra", 1), ("side", "middle")):
        changed = json.loads(json.dumps(report))
        changed["findings"][0][key] = value
        assert not Draft202012Validator(SCHEMA).is_valid(changed)


def test_the_page_has_the_content_of_the_json(tmp_path, ct):
    report, text = write(tmp_path, ct)
    page = Page(text)
    for part in (report["summary"], report["intended_use"], report["coordinates"], *report["limits"]):
        assert part in page.words
    for text in (CARD.name, CARD.trained_on, CARD.limits, CARD.operating_point, "Shown from 0.75 on.", SIZE):
        assert text in page.words
    for finding in report["findings"]:
        for key in ("longest_diameter_mm", "perpendicular_diameter_mm", "mean_diameter_mm"):
            assert f"{finding[key]:.1f}" in page.words
        assert f"{finding['volume_mm3']:,} mm³" in page.words
        for category in finding["size_categories"]:
            assert f"{category['size']}: {category['category']}" in page.words
        assert f"#finding-{finding['number']}" in [link.get("href") for link in page.all("a")]
    assert [each["id"] for each in page.all("article")] == ["finding-1", "finding-2"]  # most probable first
    names = [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(names) == 2 * 3 + 2  # three planes of each, two projections
    assert names[2].startswith("Finding 1, axial slice 9,")  # the first of three equal slices


def test_the_page_needs_no_network_and_runs_nothing(tmp_path, ct):
    _, text = write(tmp_path, ct)
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    for _, attributes in page.elements:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
    assert "http" not in re.sub("http-equiv", "", text)


def test_keyboard_and_outline(tmp_path, ct):
    page = Page(write(tmp_path, ct)[1])
    (html,) = page.all("html")
    assert html["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"].removeprefix("#") for link in page.all("a")]
    assert set(targets) <= set(ids)
    assert {label["for"] for label in page.all("label")} == {box["id"] for box in page.all("input")}


def test_a_name_with_html_in_it_is_text(tmp_path, ct):
    labels, findings = find(ct)
    ct.series_uid = EVIL
    report = make_report(EVIL, ct, findings, measure_findings(ct, labels, findings), [None, None], FACTS)
    assert report["scan"]["name"] == EVIL
    name = EVIL.replace("/", "_")
    page = Page(write(tmp_path, ct, name)[1])
    assert name in page.words
    assert not page.all("script") and not page.all("b")


def test_a_scan_without_findings_says_so(tmp_path, ct):
    report, text = write(tmp_path, ct, count=0)
    Draft202012Validator(SCHEMA).validate(report)
    assert report["findings"] == []
    assert report["summary"].startswith("No findings with a probability of 0.75 or more.")
    page = Page(text)
    assert not page.all("article")
    assert "No part of the scan has a probability of 0.75 or more" in page.words


def test_without_a_second_stage_and_without_a_card(tmp_path, ct):
    facts = SearchFacts((("a.state", None), ("a.state", None)), 0.5, "Components.", False, None, False, True, 3.0)
    report, text = write(tmp_path, ct, facts=facts)
    Draft202012Validator(SCHEMA).validate(report)
    assert report["threshold"]["validation"] is None
    assert [network["card"] for network in report["networks"]] == [None, None]
    words = Page(text).words
    assert "not calibrated" in words
    assert "no model card (a.state)" in words
    assert "without a model card" in words


def axes(long_mm, short_mm):
    ends = ((0.0, 0.0), (1.0, 0.0))
    return Axes(3, Diameter(long_mm, ends), Diameter(short_mm, ends))


@pytest.mark.parametrize(
    ("long_mm", "short_mm", "shown"),
    [
        (6.04, 5.94, (6.0, 5.9, 6.0)),  # mean 5.99; that of rounded axes would be 5.95
        (5.96, 5.86, (6.0, 5.9, 5.9)),  # mean 5.91; rounded axes would give 5.95, hence 6.0
        (0.0, 0.0, (0.0, 0.0, 0.0)),
    ],
)
def test_the_mean_is_taken_before_rounding(ct, long_mm, short_mm, shown):
    labels, findings = find(ct)
    measures = measure_findings(ct, labels, findings)
    changed = replace(measures[0], axes=axes(long_mm, short_mm), volume_mm3=112.5, mean_hu=-300.4)
    entry = describe_finding(findings[0], changed, None)
    keys = ("longest_diameter_mm", "perpendicular_diameter_mm", "mean_diameter_mm")
    assert tuple(entry[key] for key in keys) == shown
    assert (entry["volume_mm3"], entry["mean_hu"], entry["side"], entry["diameter_slice"]) == (113, -300, None, 3)


@pytest.mark.parametrize("kind", [PART_SOLID, GROUND_GLASS])
def test_a_solid_part_has_its_diameters(ct, kind):
    labels, findings = find(ct)
    solid = axes(4.26, 3.14) if kind == PART_SOLID else None
    measures = replace(
        measure_findings(ct, labels, findings)[0], kind=kind, solid_axes=solid, solid_volume_mm3=30.0, is_at_pleura=None
    )
    entry = describe_finding(findings[0], measures, "left")
    expected = {
        "longest_diameter_mm": 4.3, "perpendicular_diameter_mm": 3.1, "mean_diameter_mm": 3.7, "diameter_slice": 3
    }  # fmt: skip
    assert entry["solid_part"] == (expected if solid else None)
    Draft202012Validator({**SCHEMA["$defs"]["finding"], "$defs": SCHEMA["$defs"]}).validate(entry)


@pytest.mark.parametrize(
    ("direction", "letter"),
    [
        ((1, 0, 0), "L"),
        ((-1, 0.1, 0), "R"),
        ((0, 0.9, 0.4), "P"),
        ((0, -1, 0), "A"),
        ((0, 0, -1), "I"),
        ((0, 0, 1), "S"),
    ],
)
def test_axes_are_named_by_where_they_run_to(direction, letter):
    assert name_axis(np.array(direction, dtype=float)) == letter


def test_pictures_become_smaller_the_more_there_are():
    assert choose_pixel_count(0) == choose_pixel_count(1) == choose_pixel_count(60) == MOST_PIXELS
    counts = [choose_pixel_count(count) for count in (60, 100, 300, 1000)]
    assert counts == sorted(counts, reverse=True)
    # Whatever the number, pictures take so many pixels at most; one takes about 0.2 bytes.
    assert all(3 * count * choose_pixel_count(count) ** 2 <= 12_000_000 for count in (60, 100, 300, 1000))


@pytest.mark.parametrize(("mm_per_unit", "mm"), [(0.2, 10), (0.3, 20), (1.0, 50), (2.0, 100), (9.0, 100)])
def test_scale_bars(mm_per_unit, mm):
    bar = choose_scale_bar(mm_per_unit)
    assert (bar.mm, bar.length) == (mm, pytest.approx(mm / mm_per_unit))


def test_sixty_findings_have_their_pictures(tmp_path):
    """In rows of ten, 24 mm apart, in lungs of noise, which compresses badly."""
    hu = np.random.default_rng(0).integers(-1000, -700, (8, 160, 160)).astype(np.int16)
    labels = np.zeros(hu.shape, dtype=bool)
    for ndx in range(60):
        row, col = 10 + 24 * (ndx // 10), 8 + 15 * (ndx % 10)
        labels[3:5, row : row + 4, col : col + 5] = True
    ct = Ct(write_scan(tmp_path / "1.2.mha", np.where(labels, 0, hu).astype(np.int16), vx_size_xyz=(1.0, 1.0, 2.5)))
    labels, findings = find_marked(ct, labels)
    write_report(tmp_path / "1.2", ct, labels, findings, measure_findings(ct, labels, findings), [None] * 60, FACTS)
    path = tmp_path / "1.2_report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("article")) == 60
    pictures = [image for image in page.all("image") if image["width"] == image["height"] == "256"]
    assert len(pictures) == 3 * 60
    assert path.stat().st_size < 5e6
