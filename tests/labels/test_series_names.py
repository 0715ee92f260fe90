import logging
import unicodedata
from pathlib import Path

import pytest

from p2ch13.labels.series_names import SeriesNames
from tests.support.checks import refused

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860"
CSV = Path("a.csv")


@pytest.mark.parametrize(
    ("text", "scan"),
    [
        *[(text, "1.2.3") for text in ("1.2.3", " 1.2.3", "1.2.3 ", "\t1.2.3\xa0", "\ufeff1.2.3\u200b", "1.2.3\u202f")],
        *[
            (text, "1.2.3")
            for text in ("1.2.3\0", "'1.2.3", "'1.2.3'", '"1.2.3"', "\N{RIGHT SINGLE QUOTATION MARK}1.2.3")
        ],
        *[(text, "1.2.3") for text in ('="1.2.3"', "='1.2.3.mhd'")],
        *[
            (f"1.2.3{suffix}", "1.2.3")
            for suffix in (".mhd", ".raw", ".mha", ".nii", ".nii.gz", ".nrrd", ".MHD", ".dcm")
        ],
        *[
            (text, "1.2.3")
            for text in ("subset0/1.2.3.mhd", "subset0\\1.2.3", "/data/x/1.2.3/", "./1.2.3", " '1.2.3.mhd' ")
        ],
        *[(text, "0007") for text in ("7", "07", "0007", "7.0", "00007.mhd", "007.0")],
        *[(text, "Case_A") for text in ("case_a", "CASE_A.NII.GZ", "Case_A_0000.nii.gz", "case_a_0000")],
        *[(text, "M\udcfcller") for text in ("M\udcfcller", "M\xfcller", "m\xfcller.mhd", "Mu\u0308ller")],
        *[(text, "caf\xe9") for text in ("caf\xe9", "cafe\u0301", "CAF\xc9", "caf\udce9")],
        *[(text, "twice") for text in ("twice",)],
        *[(text, None) for text in ("Twice", "1.2", "1.2.30", "1.2.3.4", "8", "70", "case", "", "1.2.3x", "mhd")],
    ],
)
def test_a_name_is_that_of_one_scan_or_of_none(text, scan):
    scans = ["1.2.3", "0007", "Case_A", "M\udcfcller", unicodedata.normalize("NFC", "caf\xe9"), "twice", "TWICE"]
    assert SeriesNames(CSV, scans).find(text, 2) == scan


def test_names_that_are_whole_come_first():
    names = SeriesNames(CSV, ["7", "07", "7.mhd", "a_0000", "a"])
    for text in ("7", "07", "7.mhd", "a_0000", "a"):
        assert names.find(text, 2) == text
    assert names.find("007", 2) is None  # of 7 and of 07
    assert names.find("9" * 5000, 2) is None
    assert SeriesNames(CSV, ["000"]).find("0", 2) == "000"


def report(names, texts, caplog):
    for line, text in enumerate(texts, start=2):
        names.find(text, line)
    with caplog.at_level(logging.INFO):
        names.report()
    return caplog.messages


def test_usual_rows_need_no_word(caplog):
    assert report(SeriesNames(CSV, ["1.2", "1.3"]), ["1.2", "1.2", "1.3"], caplog) == []
    assert report(SeriesNames(CSV, ["1.2"]), [], caplog) == []


def test_rows_of_other_scans_are_counted_and_said_once(caplog):
    (message,) = report(SeriesNames(CSV, ["1.2"]), ["1.3", "1.2", "1.3", "1.4"], caplog)
    assert "3 of 4 rows" in message
    assert "'1.3' in line 2" in message


def test_rows_that_spell_a_scan_in_another_way_are_said_once(caplog):
    (message,) = report(SeriesNames(CSV, ["1.2"]), ["1.2", "1.2 ", "1.2.mhd"], caplog)
    assert "2 of 3 rows" in message
    assert "'1.2 ' in line 3" in message


def test_a_name_that_is_cut_off_is_pointed_out(caplog):
    messages = report(SeriesNames(CSV, [UID, "1.2"]), ["1.2", UID[:31]], caplog)
    assert len(messages) == 2
    assert UID in messages[1]
    assert "line 3" in messages[1]
    assert (
        len(report(SeriesNames(CSV, ["case10"]), ["case10", "case1"], caplog)) == 3
    )  # one more: a short name says nothing


def test_a_file_without_a_single_scan_is_refused_with_names_of_both_sides():
    names = SeriesNames(CSV, ["1.2", "1.3"])
    for line in (2, 3):
        assert names.find("9.9", line) is None
    with refused(path=CSV) as caught:
        names.report()
    for part in ("none of its 2 rows", "2 scans", "'9.9'", "1.2"):
        assert part in str(caught.value)
    names = SeriesNames(CSV, ["1.2"], keeps_others=True)
    assert names.find(" 9.9 ", 2) == "9.9"
    names.report()
