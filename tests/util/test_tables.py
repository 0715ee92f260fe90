import gzip

import pytest

from p2ch13.util.tables import Column, open_table
from tests.support.checks import refused

COLUMNS = (Column("seriesuid", ("series",)), Column("coordX"), Column("is_mal", is_optional=True))
PLAIN = "seriesuid,coordX,is_mal\n1.2,-3.5,True\n1.3,40,False\n"
READ = [("1.2", -3.5, True), ("1.3", 40.0, False)]


def read(path):
    with open_table(path, COLUMNS) as table:
        rows = [table.row(fields) for _, fields in table]
    return [(row["seriesuid"], row.number("coordX"), row.flag("is_mal") if "is_mal" in row else None) for row in rows]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WRITTEN = {
    "plain": PLAIN,
    "byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "CR alone": PLAIN.replace("\n", "\r"),
    "no last line end": PLAIN[:-1],
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 without a mark, big end first": PLAIN.encode("utf-16-be"),
    "UTF-16 with tabs": PLAIN.replace(",", "\t").encode("utf-16"),
    "UTF-32": PLAIN.encode("utf-32"),
    "gzip without a suffix": gzip.compress(PLAIN.encode(), mtime=0),
    "semicolons": PLAIN.replace(",", ";"),
    "decimal comma": PLAIN.replace(",", ";").replace("3.5", "3,5"),
    "decimal comma in quotes": PLAIN.replace("-3.5", '"-3,5"'),
    "tabs": PLAIN.replace(",", "\t"),
    "tabs and decimal comma": PLAIN.replace(",", "\t").replace("3.5", "3,5"),
    "bars": PLAIN.replace(",", "|"),
    "a line that names the separator": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "a mark and a line that names the separator": b"\xef\xbb\xbfsep=\t\n" + PLAIN.replace(",", "\t").encode(),
    "quotes": "".join(f'"{line}"\n'.replace(",", '","') for line in PLAIN.splitlines()),
    "quotes and blanks": "".join(f'"{line}" \n'.replace(",", '" , "') for line in PLAIN.splitlines()),
    "blanks behind commas": PLAIN.replace(",", ", "),
    "blanks before commas": PLAIN.replace(",", " ,"),
    "tabs around commas": PLAIN.replace(",", "\t,\t"),
    "no-break blanks": PLAIN.replace(",", "\xa0,\u202f"),
    "Latin-1": b"seriesuid,coordX,is_mal,who\n1.2,-3.5,True,M\xfcller\n1.3,40,False,\xa0\n",
    "upper case": PLAIN.upper(),
    "blanks and underscores in names": PLAIN.replace("seriesuid,coordX,is_mal", "Series UID,coord_x,IS MAL"),
    "another order": "is_mal,more,coordX,seriesuid\nTRUE,,-3.5,1.2\nFALSE,,40,1.3\n",
    "another name": PLAIN.replace("seriesuid", "series"),
    "an index without a name": ",seriesuid,coordX,is_mal\n0,1.2,-3.5,True\n1,1.3,40,False\n",
    "a comma too many": PLAIN.replace("\n", ",\n"),
    "a comma too many behind rows": "seriesuid,coordX,is_mal\n1.2,-3.5,True,\n1.3,40,False,,, \n",
    "a comma too many in the header": "seriesuid,coordX,is_mal,\n1.2,-3.5,True\n1.3,40,False\n",
    "fields that are left out": "seriesuid,coordX,is_mal,note\n1.2,-3.5,True\n1.3,40,False,\n",
    "first rows without a value": ',,\n"",,""\n' + PLAIN,
    "empty lines": "\n \n" + PLAIN.replace("\n", "\n\n") + "\n",
    "last lines of blanks": PLAIN + "   \n,,\n , ,\n\xa0\n\t\n",
    "zero bytes": PLAIN.replace("1.2", "1.2\0").replace("40", "\x0040"),
    "byte order marks within": PLAIN.replace("1.2", "\ufeff1.2\ufeff"),
    "another minus sign": PLAIN.replace("-", "\N{MINUS SIGN}"),
    "exponents": PLAIN.replace("-3.5", "-35E-1").replace("40", "+4e1"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_one_table_as_programs_write_it(tmp_path, name):
    assert read(write(tmp_path / "a.csv", WRITTEN[name])) == READ


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        *[
            (text, True)
            for text in ("True", "TRUE", "true", " t ", "1", "1.0", "1,0", "yes", "WAHR", "VRAI", "VERDADERO")
        ],
        *[(text, False) for text in ("False", "FALSE", "0", "0.0", "0,00", "-0", "no", "FALSCH", "FAUX", "FALSO")],
        *[(text, None) for text in ("", " ", "nan", "NA", "n/a", "#N/A", "None", "NULL", "unknown", "?")],
    ],
)
def test_flags(tmp_path, text, flag):
    path = write(tmp_path / "a.csv", f'seriesuid,coordX,is_mal\n1.2,0,"{text}"\n')
    assert read(path) == [("1.2", 0.0, flag)]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", None),
        ("seriesuid\n", None),
        ("1.2,-3.5,True\n1.3,40,False\n", None),  # no header
        ("seriesuid,coordX,coord_x\n1.2,1,2\n", None),  # which of both
        ("seriesuid;coordX,is_mal\n", None),
        ("<!DOCTYPE html><html>404</html>", None),
        ("version https://git-lfs.github.com/spec/v1\n", None),
        (b"PK\x03\x04 a workbook", None),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None),
        (PLAIN.encode("utf-16")[:-1], None),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], None),
        ("seriesuid,coordX\n1.2\n", 2),
        ("seriesuid,coordX\n\n1.2,1\n1.3,2,3\n", 4),
        ("seriesuid;coordX\n1.2;1\n1.2,2\n", 3),
        ('seriesuid,coordX,is_mal\n1.2,1,"True\n1.3,2,True\n', 3),  # a quote swallows the last row
    ],
)
def test_what_is_no_such_table(tmp_path, content, line):
    path = write(tmp_path / "a.csv", content)
    with refused(path=path, line=line):
        read(path)


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1_0", "1.234,5", "1,234.5", "1,2,3", "1 2", "0x10"])
def test_what_is_no_number(tmp_path, text):
    with pytest.raises(ValueError, match=text.split(",")[0].split(".")[0] or "''"):
        read(write(tmp_path / "a.csv", f"seriesuid;coordX\n1.2;{text}\n"))


@pytest.mark.parametrize(("first", "second"), [("1.5", "1,234"), ("1,234", "1.5")])
def test_points_and_commas_in_one_table_contradict_each_other(tmp_path, first, second):
    with pytest.raises(ValueError, match=second):
        read(write(tmp_path / "a.csv", f"seriesuid;coordX\n1.2;7\n1.2;{first}\n1.2;{second}\n"))


def test_missing_columns_are_named_beside_those_that_are_there(tmp_path):
    with refused(path=tmp_path / "a.csv") as caught:
        read(write(tmp_path / "a.csv", "SeriesUID;x;y\n"))
    assert "no column coordX" in str(caught.value)
    assert "SeriesUID, x, y" in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with refused(path=path):
            read(path)
