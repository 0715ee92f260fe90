"""Rows of the benchmark's table: targets by processor, and what is not measured."""

import json

import pytest
import torch

from benchmarks import rows
from benchmarks.rows import Row, count_met, for_processor, print_rows, ratio

ROWS = [
    (Row("as large", 3.0, 3), True),
    (Row("smaller", 2.9, 3), False),
    (Row("as small", 3.0, 3, at_least=False), True),
    (Row("larger", 3.1, 3, at_least=False), False),
    (Row("not measured", None, 3), None),
    (Row("not measured", None, 3, at_least=False), None),
    (Row("no target", 3.0), None),
]


@pytest.mark.parametrize(("row", "met"), ROWS)
def test_targets(row, met):
    assert row.met is met
    values = json.loads(json.dumps(row.as_dict(), allow_nan=False))
    assert values["met"] is met
    assert Row(**{name: value for name, value in values.items() if name != "met"}) == row


def test_count():
    assert count_met(row for row, _ in ROWS) == "2 of 6 targets met, 2 not measured"
    assert count_met([ROWS[0][0]]) == "1 of 1 targets met"


def test_print(capsys):
    print_rows([*(row for row, _ in ROWS[:2]), ROWS[4][0], Row("rate", 1234.4), Row("small", 1 / 30)], "a machine")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "a machine"
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]] == [
        ["as large", "3", ">= 3", "yes"],
        ["smaller", "2.9", ">= 3", "no"],
        ["not measured", "-", ">= 3", "-"],
        ["rate", "1,234", "", "-"],
        ["small", "0.0333", "", "-"],
    ]


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, 0.5), (torch.float32, 0.6)])
def test_targets_by_what_the_processor_computes_in(monkeypatch, dtype, expected):
    monkeypatch.setattr(rows, "get_dtype", lambda precision, device: dtype)
    assert for_processor(bfloat16=0.5, float32=0.6) == expected


def test_ratio():
    assert ratio(6.0, 4.0) == 1.5
    assert ratio(None, 4.0) is ratio(6.0, None) is None
