"""report.html, read as a browser would."""

import io
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from p2ch13.config import EvaluationOptions, LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.detection.colors import ANNOTATED, FALSE_POSITIVE, MISSED, TRUE_POSITIVE
from p2ch13.detection.findings import Finding
from p2ch13.evaluation.page import LISTED_SCANS, write_page
from p2ch13.evaluation.results import Results
from p2ch13.evaluation.scoring import score_findings, score_scan
from p2ch13.evaluation.summary import summarize
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.network.card import Card
from tests.support.scan_files import Ball, as_nodule, make_hu, to_xyz, write_scan
from tests.support.web_pages import assert_stands_alone

SHAPE = (10, 40, 44)
FOUND, MISSED_BALL = Ball((5, 12, 12), 4), Ball((5, 30, 32), 3)
ODD_UID = '1.2<b onclick="x()">&amp;\'"'
BY_MASK = EvaluationOptions(data_dir=Path("data/some"), mask=Path("masks"), min_diameter=0.0)


@pytest.fixture
def make_page(tmp_path):
    """Write the page of some results and parse it."""

    def make(results, options=BY_MASK):
        write_page(tmp_path / "report.html", options, summarize(results.scans), results)
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert len(html) < 5_000_000
        return assert_stands_alone(html)

    return make


@pytest.fixture
def ct(tmp_path):
    path = write_scan(tmp_path / "1.2.mhd", make_hu([FOUND, MISSED_BALL], SHAPE))
    return Ct(path, [as_nodule("1.2", FOUND), as_nodule("1.2", MISSED_BALL)])


def make_finding(irc, probability, uid="1.2", **values):
    return Finding(uid, 1, to_xyz(irc), float("nan"), probability, **values)


def make_results(ct, labels=None, findings=(), **values):
    """Score a scan with one nodule marked and one missed, and findings."""
    scores = replace(score_scan(ct, labels, findings), threshold=values.pop("threshold", None))
    results = Results([scores], labels=LabelOptions(), **values)
    results.worst_cases.add(ct, labels, scores)
    return results


def mark_found(ct):
    """Labels with the first ball, and a false positive of one voxel in another corner of its slice."""
    labels = ct.build_annotation_mask([as_nodule("1.2", FOUND)]).astype(np.int32)
    labels[5, 2, 40] = 2
    return labels


FINDINGS = [make_finding(FOUND.center_irc, 0.9), make_finding((5, 2, 40), 0.6)]


def read_picture(uri):
    return np.asarray(PillowImage.open(io.BytesIO(b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_the_result_comes_first(make_page, ct):
    page = make_page(make_results(ct, mark_found(ct), FINDINGS))
    assert page.texts["h2"][0] == "Result"
    assert page.texts["strong"][1] == "1 of 2 nodules (50%) is found in 1 scan, with 1 false positive."


def test_tables_by_hand(make_page, ct):
    page = make_page(make_results(ct, mark_found(ct), FINDINGS))
    tables = {rows[0][0]: rows for rows in page.tables}
    assert "false positives per scan" not in tables  # a curve of one scan says nothing
    assert tables["nodules"][1] == ["2", "1", "1", "0.500", "0.500", "2", "1.00"]
    marked, missed = (int(ct.build_annotation_mask([as_nodule("1.2", ball)]).sum()) for ball in (FOUND, MISSED_BALL))
    scores = (marked / (marked + 1), marked / (marked + missed), 2 * marked / (2 * marked + missed + 1))
    assert tables["voxels"][1] == ["all scans as one", *(f"{score:.3f}" for score in scores), "0.1"]
    assert tables["series"] == [
        ["series", "slices", "nodules", "missed", "false positives", "Dice"],
        ["1.2", "10", "2", "1", "1", f"{scores[2]:.3f}"],
    ]
    assert "One scan says little about others" in page.text
    assert "95% CI" not in page.text


def test_the_curve_by_hand(make_page, ct):
    results = make_results(ct, mark_found(ct), FINDINGS)
    results.scans.append(score_findings("1.3", [], []))
    tables = {rows[0][0]: rows for rows in make_page(results).tables}
    # A hit at 0.9, then a false positive: half of the nodules at any rate, and no interval of one scan with nodules.
    assert tables["false positives per scan"] == [
        ["false positives per scan", "1/8", "1/4", "1/2", "1", "2", "4", "8", "CPM"],
        ["sensitivity", *["0.500"] * 8],
    ]


def test_pictures_have_words_and_the_colors_of_all_pictures(make_page, ct):
    page = make_page(make_results(ct, mark_found(ct), FINDINGS))
    assert all(image["alt"] for image in page.find("img"))
    captions = page.texts["figcaption"]
    names = [caption.partition(",")[0] for caption in captions]
    assert names == ["Nodule of 4.2 mm", "Nodule of 5.6 mm", "False positive"]
    for words in ("missed", "Series 1.2", "Slice 5 of 0 to 9", "mm (LPS)"):
        assert words in captions[0]
    assert "found with probability 0.90, Dice 1.00" in captions[1]
    assert "probability 0.60" in captions[2]
    fills = [each["fill"] for each in page.find("rect")]
    assert fills == 2 * [TRUE_POSITIVE.css, MISSED.css, FALSE_POSITIVE.css]
    # Overview, enlarged and marked of each case; 0 HU is gray 230, half of which is a color's.
    pictures = [read_picture(image["src"]) for image in page.find("img")]
    assert [picture.shape for picture in pictures] == 3 * [(40, 44, 3), (128, 128, 3), (128, 128, 3)]
    for marked, color in zip(pictures[2::3], (MISSED, TRUE_POSITIVE, FALSE_POSITIVE), strict=True):
        gray = 230 if color is not FALSE_POSITIVE else 76  # lung, -900 HU
        assert marked[64, 64].tolist() == [round((gray + value) / 2) for value in color.rgb]


def test_findings_below_the_threshold_are_not_shown(make_page, ct):
    page = make_page(make_results(ct, mark_found(ct), FINDINGS, threshold=0.95))
    point = "among findings with a probability of at least 0.95"
    assert page.texts["strong"][1] == f"0 of 2 nodules (0%) are found in 1 scan, with 0 false positives, {point}."
    assert "below the threshold of 0.95" in page.text
    assert "There is no false positive." in page.text


def test_findings_alone(make_page, ct):
    """No mask: no voxel scores, no pixel is called missed or found, and a found nodule is no failure."""
    options = replace(BY_MASK, mask=None, findings=Path("f.csv"))
    page = make_page(make_results(ct, None, FINDINGS), options)
    assert "Voxels (precision, recall, Dice)" in page.text
    assert "all scans as one" not in page.text
    assert [each["fill"] for each in page.find("rect")] == [ANNOTATED.css, ANNOTATED.css, FALSE_POSITIVE.css]
    captions = page.texts["figcaption"]
    assert [caption.partition(".")[0] for caption in captions] == ["Nodule of 4", "False positive, probability 0"]
    marked = read_picture(page.find("img")[-1]["src"])
    assert (marked[64 + 7, 64] == [round((76 + value) / 2) for value in FALSE_POSITIVE.rgb]).all()  # the cross
    assert (marked[64, 64] == 76).all()


def test_no_scan_was_opened(make_page):
    nodule = CandidateInfoTuple(True, False, False, 8.0, "1.2", to_xyz((0, 0, 0)))
    scans = [score_findings("1.2", [nodule], FINDINGS), score_findings("1.3", [nodule], [])]
    options = replace(BY_MASK, mask=None, findings=Path("f.csv"), annotations=Path("a.csv"))
    page = make_page(Results(scans), options)
    assert "Pictures: no scan was opened" in page.text
    assert "a.csv" in page.text and "f.csv" in page.text


def test_no_nodules(make_page, tmp_path):
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([], SHAPE)), [])
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[5, 2, 40] = 1
    page = make_page(make_results(ct, labels, [make_finding((5, 2, 40), 0.6)]))
    assert page.texts["strong"][1] == "No nodule is annotated in 1 scan; there is 1 false positive, 1.00 a scan."
    assert "Sensitivity, FROC and CPM: none of these scans has an annotated nodule." in page.text
    assert "froc" not in [each.get("id") for each in page.find("h2")]


def test_names_are_text(make_page, ct):
    scores = score_findings(ODD_UID, [], [])
    results = make_results(ct, mark_found(ct), FINDINGS, skipped={ODD_UID + "2": "a<b>.mhd: cut short"})
    results.scans.append(scores)
    results.networks = [(Path("<i>n.state"), Card("<u>net", "<u>scans", "<u>limits", "<u>point"))]
    results.warnings = ["<u>trained on them"]
    results.worst_cases.nodules[0] = replace(results.worst_cases.nodules[0], series_uid=ODD_UID)
    page = make_page(results, replace(BY_MASK, mask=Path("<i>masks"), data_dir=Path("</style><i>data")))
    assert not page.find("b") and not page.find("i") and not page.find("u")
    for text in (ODD_UID, ODD_UID + "2", "a<b>.mhd: cut short", "<u>limits", "<u>trained on them", "<i>masks"):
        assert text in page.text
    assert "1 scan could not be read and was skipped" in page.text


def test_many_scans(make_page, ct):
    nodule = CandidateInfoTuple(True, False, False, 8.0, "", to_xyz((0, 0, 0)))
    scans = [score_findings(f"1.{ndx}", [nodule] if ndx == LISTED_SCANS + 3 else [], []) for ndx in range(1500)]
    skipped = {f"2.{ndx}": "cut short" for ndx in range(1200)}
    page = make_page(Results(scans, skipped, labels=LabelOptions()))
    tables = {tuple(rows[0]): rows for rows in page.tables}
    (of_scans,) = (rows for header, rows in tables.items() if header[:2] == ("series", "slices"))
    assert len(of_scans) == 1 + LISTED_SCANS
    assert of_scans[1][0] == f"1.{LISTED_SCANS + 3}"  # the one with a missed nodule
    assert tables["series", "why"][-1] == ["...", "200 more are in metrics.json"]


def test_noisy_scans_fit_into_the_page(make_page, tmp_path):
    """The pictures of six nodules and six false positives: noise is what compresses worst."""
    noise = np.random.default_rng(0).integers(-1000, 200, (1, 512, 512)).astype(np.int16)
    balls = [Ball((0, 60 * ndx + 60, 100), 5) for ndx in range(7)]
    ct = Ct(write_scan(tmp_path / "1.2.mhd", noise), [as_nodule("1.2", ball) for ball in balls])
    findings = [make_finding((0, 60 * ndx + 60, 300), 0.5) for ndx in range(7)]
    page = make_page(make_results(ct, np.zeros(noise.shape, dtype=np.int32), findings))
    assert len(page.find("img")) == 12 * 3
