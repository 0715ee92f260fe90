"""Scores in the README are those of docs/quality.json, with its date."""

import json
import re
from datetime import date

import pytest

from tests.support.documentation import read_page

QUALITY = json.loads(read_page("docs/quality.json"))
TABLES = QUALITY["tables"]
# The README's name of a test -> that of quality.json.
TESTS = {
    "LIDC-IDRI-0001, a real scan that it has not seen": "LIDC-IDRI-0001",
    "20 synthetic scans of another seed": "phantoms",
    "nodules painted into two other lungs, slices of 5 mm": "painted nodules in other lungs",
}


def read_rows():
    """Return the cells of the README's table of tests, row by row."""
    (table,) = re.findall(r"^\| test \|.*?(?=\n\n)", read_page("README.md"), re.MULTILINE | re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


ROWS = read_rows()


def test_all_tests_have_a_row():
    assert [name for name, *_ in ROWS] == list(TESTS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row(row):
    name, nodules, sensitivity, false_positives, cpm = row
    test = TESTS[name]
    (point,) = [
        each for each in TABLES["operating_points"] if (each["test"], each["operating point"]) == (test, "default")
    ]
    assert (sensitivity, false_positives) == (f"{point['sensitivity']:.2f}", f"{point['false positives a scan']:.2f}")
    figures = {each["figure"]: each["value"] for each in TABLES["summary"] if each["on"] == test}
    assert cpm == (f"{figures['CPM']:.2f}" if "CPM" in figures else "")
    counts = [each["nodules"] for each in TABLES["by_size"] if each["test"] == test]
    assert int(nodules) == (sum(counts) or 1)


def test_figures_of_the_page_of_benchmarks():
    painted = "painted nodules in other lungs"
    figures = {(each["on"], each["figure"]): each["value"] for each in TABLES["summary"]}
    (small,) = [each for each in TABLES["by_size"] if (each["test"], each["size"]) == (painted, "3 to 6 mm")]
    (point,) = [
        each for each in TABLES["operating_points"] if (each["test"], each["operating point"]) == (painted, "sensitive")
    ]
    page = " ".join(read_page("docs/benchmarks.md").split())
    large = figures[painted, "sensitivity at the default threshold, 6 mm and more"]
    assert f"finds {large:.2f} of those of 6 mm and more at the default threshold" in page
    at_four = figures[painted, "sensitivity at 4 false positives a scan, under 6 mm"]
    assert f"of the smaller ones {small['sensitivity']:.2f}, and {at_four:.2f} at 4 false positives" in page
    shown = f"finds {point['sensitivity']:.2f} of all, with {point['false positives a scan']:.1f} false positives"
    assert shown in page
    dice = figures["LIDC-IDRI-0001", "Dice with the readers' consensus"]
    assert f"has a Dice of {dice:.2f} with the readers' consensus" in page


def test_all_parts_are_of_one_network_and_of_the_date_that_readme_gives():
    parts = QUALITY["parts"].values()
    assert len({part["checkpoint_sha256"] for part in parts}) == 1
    (day,) = {date.fromisoformat(part["date"]) for part in parts}
    assert f"Measured on {day.day} {day:%B %Y}" in read_page("README.md")
