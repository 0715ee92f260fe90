"""The two rounds of the ablation: which runs are due, what is gained, and that a stopped study goes on."""

import json

import pytest

from benchmarks.ablation_rounds import (
    LEAST_GAIN,
    ROUNDS,
    Study,
    find_gain,
    find_next,
    format_gains,
    list_runs,
    main,
    read_rows,
    write_rows,
)
from p2ch13.config import AblationOptions
from tests.support.checks import refused


@pytest.fixture
def study(tmp_path):
    return Study(AblationOptions(data_dir=tmp_path), tmp_path / "ablation.json", ROUNDS)


def row(number, variant, seed, cpm):
    return {"round": number, "variant": variant, "seed": seed, "cpm": cpm}


def test_the_first_round_leaves_out_each_option_once(study):
    names = list(study.variants())
    assert names[0] == "strong"
    assert "book" not in names
    assert list(list_runs(study, []))[: len(names)] == [(1, name, 0) for name in names]
    assert find_next(study, []) == (1, "strong", 0)
    assert find_next(study, [row(1, "strong", 0, 0.5)]) == (1, names[1], 0)


def test_the_second_round_looks_again_at_what_gains_little(study):
    names = list(study.variants())
    gains = {name: 0.5 if ndx > 2 else LEAST_GAIN - 0.01 * ndx for ndx, name in enumerate(names[1:], start=1)}
    rows = [row(1, "strong", 0, 0.8), *(row(1, name, 0, 0.8 - gain) for name, gain in gains.items())]
    due = [("strong", 0), (names[1], 0), (names[2], 0), ("strong", 1), (names[1], 1), (names[2], 1)]
    assert list(list_runs(study, rows))[len(names) :] == [(2, *run) for run in due]
    assert find_next(study, rows) == (2, "strong", 0)
    assert find_next(study, [*rows, *(row(2, *run, 0.5) for run in due)]) is None


def test_gains_by_hand():
    """Only seeds that both have count."""
    rows = [
        row(2, "strong", 0, 0.8),
        row(2, "strong", 1, 0.9),
        row(2, "without ema", 1, 0.85),
        row(1, "strong", 0, 0.1),
    ]
    assert find_gain(rows, 2, "without ema") == pytest.approx(0.05)
    assert find_gain(rows, 1, "without ema") is None
    rows.append(row(2, "without ema", 0, 0.85))
    assert find_gain(rows, 2, "without ema") == pytest.approx(0.0)


def test_table(study):
    rows = [
        row(1, "strong", 0, 0.8),
        row(1, "without ema", 0, 0.75),
        row(2, "strong", 0, 0.8),
        row(2, "without ema", 0, 0.81),
    ]
    assert "| ema | +0.050 | -0.010 |" in format_gains(study, rows).splitlines()


def test_what_is_no_table_is_refused(tmp_path):
    path = tmp_path / "ablation.json"
    assert read_rows(path) == []
    write_rows(path, [row(1, "strong", 0, 0.5)])
    assert read_rows(path) == [row(1, "strong", 0, 0.5)]
    for content in ("[]", "no json", '{"format_version": 2, "rows": []}'):
        path.write_text(content)
        with refused(path=path, option="--output"):
            read_rows(path)


@pytest.mark.slow
def test_a_study_goes_on(data_options, folders, tmp_path, capsys, monkeypatch):
    """Two variants, two rounds of 8 samples: begun again it trains nothing, and with a row less it does that run."""
    variants = {"strong": ["--preset=strong"], "without ema": ["--preset=strong", "--no-ema"]}
    monkeypatch.setattr("benchmarks.ablation_rounds.list_variants", lambda _: {**variants, "book": []})
    output = tmp_path / "ablation.json"
    command = ["--smoke", "--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir)]
    command += ["--runs", str(tmp_path / "runs"), "--output", str(output), "--val-stride", "2"]
    main(command)
    rows = read_rows(output)
    first = [(1, "strong", 0), (1, "without ema", 0)]
    assert [(each["round"], each["variant"], each["seed"]) for each in rows[:2]] == first
    assert all(each["samples"] == 8 and 0 <= each["cpm"] <= 1 for each in rows)
    table = capsys.readouterr().out
    assert "| ema |" in table
    output.write_text(json.dumps({"format_version": 1, "rows": rows[:1]}))
    main(command)
    again = read_rows(output)
    assert [{**each, "seconds": 0} for each in again] == [{**each, "seconds": 0} for each in rows]
