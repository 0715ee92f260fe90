"""Tables of docs/benchmarks.md are those of docs/bench.json."""

import json

from benchmarks.bench_table import PAGE, RESULTS_FILE, main, read_tables
from benchmarks.tables import TABLE, fill_tables
from tests.support.checks import refused
from tests.support.commands import REPOSITORY

RESULTS = {
    "date": "2026-11-30",
    "commit": "951b3220a1+changes",
    "processor": "EPYC",
    "threads": 2,
    "dtype": "bfloat16",
    "torch": "2.13.0",
    "seconds": 600,
    "rows": [
        {"name": "loop / step", "value": 0.8249, "target": 0.95, "at_least": True, "met": False},
        {"name": "samples/s", "value": 320.4, "target": None, "at_least": True, "met": None},
        {"name": "memory, MB", "value": 1199.6, "target": 1200, "at_least": False, "met": True},
        {"name": "loop / MONAI", "value": None, "target": 10, "at_least": True, "met": None},
    ],
}
TEXT = "# Speed\n\n" + "".join(f"<!-- bench: {name} -->\n<!-- end -->\n" for name in ("run", "figures", "rates"))
FILLED = """# Speed

<!-- bench: run -->

| date       |          commit | processor | threads | computes in | PyTorch | seconds |
| ---------- | --------------: | --------: | ------: | ----------: | ------: | ------: |
| 2026-11-30 | 951b322+changes |      EPYC |       2 |    bfloat16 |  2.13.0 |     600 |

<!-- end -->
<!-- bench: figures -->

| figure       | value |   target | met |
| ------------ | ----: | -------: | --: |
| loop / step  | 0.825 |  >= 0.95 |  no |
| memory, MB   | 1,200 | <= 1,200 | yes |
| loop / MONAI |     - |    >= 10 |   - |

<!-- end -->
<!-- bench: rates -->

| rate      | value |
| --------- | ----: |
| samples/s |   320 |

<!-- end -->
"""


def test_the_command(tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "bench.json"
    page.write_text(TEXT)
    results.write_text(json.dumps(RESULTS))
    for _ in range(2):
        main(["--page", str(page), "--results", str(results)])
        assert page.read_text() == FILLED


def test_no_file_of_results(tmp_path):
    path = tmp_path / "bench.json"
    for text in ("", "[]", "{}", '[{"name": "step", "value": 1}]', json.dumps({**RESULTS, "rows": [{}]})):
        path.write_text(text)
        with refused(path=path):
            read_tables(path)
    with refused(path=tmp_path / "none.json"):
        read_tables(tmp_path / "none.json")


def test_the_page_has_the_figures_of_the_file():
    text = (REPOSITORY / PAGE).read_text()
    assert [mark["name"] for mark in TABLE.finditer(text)] == ["run", "figures", "rates"]
    assert fill_tables(text, read_tables(REPOSITORY / RESULTS_FILE)) == text


def test_no_file_says_that_a_target_is_met_which_is_not():
    rows = json.loads((REPOSITORY / RESULTS_FILE).read_text())["rows"]
    for row in (row for row in rows if row["target"] is not None and row["value"] is not None):
        difference = row["value"] - row["target"]
        assert row["met"] == (difference >= 0 if row["at_least"] else difference <= 0)
