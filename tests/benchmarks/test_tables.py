"""Tables between marks of a page."""

from benchmarks.tables import fill_tables

ROWS = [
    {"on": "phantoms", "CPM": 0.9051, "95% CI": [0.85, 0.9501], "met": True, "scans": 20},
    {"on": "lungs", "CPM": None, "95% CI": None, "met": False, "scans": 2},
]
TEXT = "# Scores\n\n<!-- quality: one -->\n{}<!-- end -->\nbetween\n<!-- quality: two -->\nas it is\n<!-- end -->\n"
FILLED = """
| on       |  CPM |       95% CI | met | scans |
| -------- | ---: | -----------: | --: | ----: |
| phantoms | 0.91 | 0.85 to 0.95 | yes |    20 |
| lungs    |    - |            - |  no |     2 |

"""


def test_fill_tables():
    assert fill_tables(TEXT.format(""), {"one": ROWS, "three": ROWS}) == TEXT.format(FILLED)
    assert fill_tables(TEXT.format("old\n"), {"one": ROWS}) == TEXT.format(FILLED)
    assert fill_tables(TEXT.format(FILLED), {"one": ROWS}) == TEXT.format(FILLED)
