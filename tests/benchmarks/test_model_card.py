"""Tables of the model card are those of the file of scores."""

import json
import re

import pytest

from benchmarks.model_card import QUALITY_FILE, TABLE, fill_tables, main, read_tables
from p2ch13.weights import MODEL_CARD
from tests.support.checks import refused
from tests.support.commands import REPOSITORY

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


def test_the_command(tmp_path):
    card, quality = tmp_path / "card.md", tmp_path / "quality.json"
    card.write_text(TEXT.format(""))
    quality.write_text(json.dumps({"tables": {"one": ROWS}}))
    main(["--card", str(card), "--quality", str(quality)])
    assert card.read_text() == TEXT.format(FILLED)
    for text in ("", "[]", "{}", "3"):
        quality.write_text(text)
        with refused(path=quality):
            read_tables(quality)
    with refused(path=tmp_path / "none.json"):
        read_tables(tmp_path / "none.json")


def test_the_card_has_the_scores_of_the_file():
    text = MODEL_CARD.read_text()
    assert {mark["name"] for mark in TABLE.finditer(text)} == set(re.findall(r"<!-- quality: (\w+) -->", text))
    if not (REPOSITORY / QUALITY_FILE).is_file():
        pytest.skip("no scores here")
    assert fill_tables(text, read_tables(REPOSITORY / QUALITY_FILE)) == text
