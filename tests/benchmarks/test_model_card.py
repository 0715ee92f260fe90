"""Tables of the model card are those of the file of scores; `test_tables.py` has the formatting."""

import json
import re

import pytest

from benchmarks.model_card import QUALITY_FILE, main, read_tables
from benchmarks.tables import TABLE, fill_tables
from p2ch13.weights import MODEL_CARD
from tests.benchmarks.test_tables import FILLED, ROWS, TEXT
from tests.support.checks import refused
from tests.support.commands import REPOSITORY


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
