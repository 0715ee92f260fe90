"""The quality command: scores by hand, parts of the file of scores, and all of it on tiny data."""

import json
import math

import numpy as np
import pytest

from benchmarks.model_card import read_tables
from benchmarks.quality.__main__ import main, measure_parts, parse_left_out
from benchmarks.quality.parts import PARTS, Figure, Part, find_rank, measure_lungs
from benchmarks.quality.results import add_part, describe_run, join_tables, read_parts, shorten
from benchmarks.quality.scans import (
    LIDC_FOLDER,
    LIDC_SERIES,
    OTHER_LUNGS,
    TRAINING_LUNGS,
    QualityScans,
    Setup,
    Sizes,
    make_phantoms,
)
from benchmarks.quality.scores import (
    at_rate,
    compare_sizes,
    is_large,
    is_small,
    measure_false_positives,
    measure_froc,
    measure_sensitivity,
    select_nodules,
)
from p2ch13.config import LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.detection.findings import Finding
from p2ch13.detection.outputs import write_image
from p2ch13.evaluation.froc import ScanMatch
from p2ch13.evaluation.scoring import NoduleScore, ScanScores
from p2ch13.phantom.dataset import ANNOTATION_COLUMNS, write_phantoms
from p2ch13.util.logits import to_logit
from tests.support.checks import refused
from tests.support.networks import make_finding_scorer, write_pixel_network, write_two_stages
from tests.support.scan_files import write_csv

# Findings of each scan: probability, and the nodule that it hits, "false" for none, "excluded" in an excluded finding.
# Nodules: diameter in mm.
SCANS = [
    ({"a": 4.0, "b": 12.0}, [(0.9, "b"), (0.8, "false"), (0.6, "a"), (0.5, "b"), (0.3, "excluded")]),
    ({"c": 5.0, "d": 6.0, "e": 25.0}, [(0.95, "excluded"), (0.7, "d"), (0.4, "c"), (0.2, "false"), (0.1, "false")]),
]
THRESHOLD = 0.45


def make_scores():
    return [make_scan_scores(str(ndx), *scan) for ndx, scan in enumerate(SCANS)]


def make_scan_scores(series_uid, diameters, findings):
    names = list(diameters)
    hits = np.array([[hit == name for name in names] for _, hit in findings], dtype=bool).reshape(-1, len(names))
    scores = np.array([to_logit(probability) for probability, _ in findings])
    match = ScanMatch(scores, hits, np.array([hit == "excluded" for _, hit in findings]))
    probabilities = {name: max((p for p, hit in findings if hit == name), default=math.nan) for name in names}
    return ScanScores(
        series_uid,
        tuple(NoduleScore(series_uid, (0, 0, mm), mm, probabilities[name]) for name, mm in diameters.items()),
        tuple(Finding(series_uid, 0, (0, 0, 0), to_logit(probability), probability) for probability, _ in findings),
        match,
        threshold=THRESHOLD,
    )


def test_scores_at_thresholds():
    scans = make_scores()
    # Shown from 0.45 on: b, a, d, and one false positive.
    assert measure_sensitivity(scans).value == 3 / 5
    assert measure_false_positives(scans).value == 1 / 2
    assert measure_sensitivity(scans, 0.65).value == 2 / 5
    assert measure_sensitivity(scans, 0.0).value == 4 / 5
    assert measure_false_positives(scans, 0.0).value == 3 / 2
    # Draws of two scans: all findings of the first (2 of 2), of the second (1 of 3), or of both.
    assert measure_sensitivity(scans).interval == pytest.approx([1 / 3, 1])
    assert measure_false_positives(scans).interval == [0, 1]
    assert measure_sensitivity([]) == (pytest.approx(math.nan, nan_ok=True), None)


def test_scores_of_some_nodules():
    scans = make_scores()
    small, large = select_nodules(scans, is_small), select_nodules(scans, is_large)
    assert [[nodule.diameter_mm for nodule in scan.nodules] for scan in small] == [[4], [5]]
    assert [[nodule.diameter_mm for nodule in scan.nodules] for scan in large] == [[12], [6, 25]]
    assert measure_sensitivity(small).value == 1 / 2
    assert measure_sensitivity(large).value == 2 / 3
    for some in (small, large):  # findings in the other nodules are no false positives
        assert measure_false_positives(some).value == 1 / 2
        assert measure_false_positives(some, 0.0).value == 3 / 2
    # The false positives have 0.8, 0.2 and 0.1: at 0.5 a scan a is found, c at 0.4 too, before the next one.
    assert at_rate(measure_froc(small), 0.5).value == 1.0
    assert at_rate(measure_froc(small), 0.125).value == 0.0
    assert at_rate(measure_froc(large), 0.125).value == pytest.approx(1 / 3)


def test_compare_sizes():
    rows = compare_sizes(make_scores())
    assert [(row["size"], row["nodules"], row["sensitivity"]) for row in rows] == [
        ("3 to 6 mm", 2, 1 / 2), ("6 to 10 mm", 1, 1.0), ("10 to 20 mm", 1, 1.0), ("20 mm and more", 1, 0.0)
    ]  # fmt: skip
    assert [row["at 4"] for row in rows] == [1, 1, 1, 0]


def test_figures_of_lungs():
    figures = {figure.name: (figure.value, figure.met) for figure in measure_lungs("lungs", make_scores())}
    assert figures["sensitivity at the default threshold, 6 mm and more"] == (2 / 3, False)
    assert figures["false positives a scan at it"] == (0.5, True)
    assert figures["sensitivity at 4 false positives a scan, under 6 mm"] == (1.0, True)


RANKS = [
    ([(0.9, "false"), (0.8, "a"), (0.7, "false"), (0.95, "excluded")], 2),
    ([(0.9, "a"), (0.95, "a"), (0.92, "false")], 1),
    ([(0.9, "false")], math.nan),
]


@pytest.mark.parametrize(("findings", "rank"), RANKS)
def test_find_rank(findings, rank):
    assert find_rank(make_scan_scores("1", {"a": 9.0}, findings)) == pytest.approx(rank, nan_ok=True)


def test_parts_of_the_file(tmp_path):
    path = tmp_path / "docs" / "quality.json"
    assert read_parts(path) == {}
    sensitivity = Figure("scans", "sensitivity", 0.9, 0.85, interval=[0.8, 1.0])
    rank = Figure("scans", "rank", math.nan, 1, at_least=False)
    add_part(path, "phantoms", Part([rank], {"by_size": [{"size": "all"}]}), {"seconds": 1})
    add_part(path, "lidc-idri-0001", Part([sensitivity]), {"seconds": 2})
    tables = add_part(path, "phantoms", Part([rank], {"by_size": [{"size": "any"}]}), {"seconds": 3})
    assert tables == join_tables(read_parts(path)) == read_tables(path)
    assert [row["figure"] for row in tables["summary"]] == ["sensitivity", "rank"]
    assert tables["summary"][0] == {
        "on": "scans", "figure": "sensitivity", "value": 0.9, "95% CI": [0.8, 1.0], "target": "at least 0.85",
        "met": True,
    }  # fmt: skip
    assert tables["summary"][1]["value"] is None
    assert not tables["summary"][1]["met"]
    assert tables["by_size"] == [{"size": "any"}]
    assert {name: part["seconds"] for name, part in read_parts(path).items()} == {"lidc-idri-0001": 2, "phantoms": 3}
    for name, seconds in {"calibration": 4, "left-out a": 5, "left-out b": 6, "left-out a ": 7}.items():
        add_part(path, name.strip(), Part([]), {"seconds": seconds})  # one lung after the other, in several runs
    assert [(name, part["seconds"]) for name, part in read_parts(path).items()] == [
        ("lidc-idri-0001", 2), ("phantoms", 3), ("left-out a", 7), ("left-out b", 6), ("calibration", 4)
    ]  # fmt: skip
    for text in ("", "[]", "{}", '{"format_version": 0, "parts": {}}'):
        path.write_text(text)
        with refused(path=path, option="--output"):
            read_parts(path)


def test_describe_run(tmp_path):
    path = tmp_path / "a.state"
    path.write_bytes(b"abc")
    run = describe_run(path, ["--real", "/data/real", "--left-out", "lung=/data/b.state", "--part", "painted"])
    assert run["checkpoint_sha256"].startswith("ba7816bf")  # FIPS 180-2, SHA-256 of "abc"
    assert run["command"] == "python -m benchmarks.quality --real real --left-out lung=b.state --part painted"
    assert shorten("--real=/data/real") == "--real=real"
    assert shorten("data") == "data"
    with refused(option="--left-out"):
        parse_left_out("lung")


SIZES = Sizes(phantom_count=2, pixels=160, slice_count=20, copies=1, shapes="synthetic")


@pytest.fixture(scope="session")
def setup(tmp_path_factory):
    """Phantoms in the place of real scans, and a network that marks what is dense."""
    folder = tmp_path_factory.mktemp("quality")
    write_phantoms(folder / "phantoms", 3, seed=1, pixels=SIZES.pixels, slice_count=SIZES.slice_count)
    index = ScanIndex(folder / "phantoms", LabelOptions(labels="mask"))
    for name in (LIDC_FOLDER, TRAINING_LUNGS, OTHER_LUNGS):
        (folder / "real" / name).mkdir(parents=True)
    test, training, other = map(index.get_ct, index.all_series)
    write_test_scan(test, folder / "real" / LIDC_FOLDER)
    write_image(folder / "real" / TRAINING_LUNGS / "lung.nii", training.hu, training)
    write_image(folder / "real" / OTHER_LUNGS / "other.nii", other.hu, other)
    network = write_two_stages(folder / "dense.state", -400, make_finding_scorer(), weight=0.02, bias=-4.0)
    return Setup(network, folder / "work", folder / "test-phantoms", folder / "real", {"lung": network}, SIZES)


def write_test_scan(ct, folder):
    """The largest nodule of the scan is the one of LIDC-IDRI-0001; the others are excluded findings."""
    nodule, *others = ct.nodules
    write_image(folder / f"{LIDC_SERIES}.nii.gz", ct.hu, ct)
    mask = ct.build_annotation_mask([nodule]).astype(np.uint8)
    write_image(folder / f"{LIDC_SERIES}_consensus.nii.gz", mask, ct)
    row, *excluded = [(LIDC_SERIES, *each.center_xyz, each.diameter_mm) for each in (nodule, *others)]
    write_csv(folder / "annotations.csv", ANNOTATION_COLUMNS, [row])
    write_csv(folder / "annotations_excluded.csv", ANNOTATION_COLUMNS, excluded)


@pytest.mark.slow
def test_all_parts(setup, tmp_path):
    output = tmp_path / "quality.json"
    measure_parts(setup, list(PARTS), output, ["--real", str(setup.real)])
    parts, tables = read_parts(output), read_tables(output)
    assert list(parts) == ["lidc-idri-0001", "phantoms", "painted", "left-out lung", "calibration"]
    assert [len(part["figures"]) for part in parts.values()] == [4, 7, 4, 4, 2]
    assert set(tables) == {"summary", "by_size", "by_kind", "operating_points", "calibration"}
    for name, folder in {"phantoms": "test-phantoms", "painted": "painted"}.items():
        metrics = json.loads((setup.work_dir / "evaluation" / folder / "metrics.json").read_text())
        figures = {figure["name"]: figure["value"] for figure in parts[name]["figures"]}
        assert figures["CPM"] == metrics["froc"]["cpm"]
        assert figures["false positives a scan at it"] == metrics["operating_point"]["false_positives_per_scan"]
        rows = parts[name]["tables"]["by_size"]
        assert sum(row["nodules"] for row in rows) == metrics["nodules"]["count"] > 0
        found = sum(row["sensitivity"] * row["nodules"] for row in rows)
        assert found == pytest.approx(metrics["operating_point"]["found"])
    phantoms = {figure["name"]: figure["value"] for figure in parts["phantoms"]["figures"]}
    assert phantoms["sensitivity at 1 false positive a scan"] <= phantoms["sensitivity at 4"]
    findings = [row["findings"] for row in tables["calibration"] if row["calibration"] == "after"]
    assert findings[0] == sum(findings[1:])  # all test scans, then each set
    assert {row["operating point"] for row in tables["operating_points"]} == {"default", "sensitive"}


def test_a_first_stage_alone(setup, tmp_path):
    network = write_pixel_network(tmp_path / "first.state", -400, weight=0.02, bias=-4.0)
    work_dir, output = tmp_path / "work", tmp_path / "quality.json"
    options = ["--checkpoint", str(network), "--work-dir", str(work_dir), "--output", str(output)]
    main([*options, "--real", str(setup.real), "--part", "lidc-idri-0001"])
    main([*options, "--part", "lidc-idri-0001", "--part", "painted", "--part", "left-out"])  # skipped: no --real
    (part,) = read_parts(output).values()
    names = [figure["name"] for figure in part["figures"]]
    assert names[0] == "nodule found at the default threshold"
    (row,) = part["tables"]["operating_points"]
    assert row["operating point"] == "default"


def test_networks_and_scans_that_are_refused(setup, tmp_path):
    make_phantoms(setup.phantoms, SIZES)
    with refused(path=setup.phantoms, option="--phantoms"):
        make_phantoms(setup.phantoms, Sizes(phantom_count=3))
    trained = write_pixel_network(tmp_path / "trained.state", -400, trained_series=["other", "1.2.3"])
    with refused(path=trained, option=None):
        QualityScans(Setup(trained, tmp_path, setup.phantoms, setup.real, sizes=SIZES)).painted  # noqa: B018
    with refused(option="--left-out"):
        left_out = {"other": setup.checkpoint}
        next(QualityScans(Setup(setup.checkpoint, tmp_path, setup.phantoms, setup.real, left_out)).score_left_out())
    with refused(option="--real"):
        empty = tmp_path / "real"
        QualityScans(Setup(setup.checkpoint, tmp_path, setup.phantoms, empty)).lidc  # noqa: B018
