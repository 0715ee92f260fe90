import pytest

from p2ch13.data.ct import Ct
from p2ch13.labels.lidc_xml import XmlFile, find_readings, read_series_uid
from p2ch13.labels.refined import REFINED_RULE
from p2ch13.labels.rules import LidcRule
from tests.support.checks import refused
from tests.support.lidc_files import block, write_readings
from tests.support.scan_files import make_hu, write_scan

SOME = [[block((4, 6), (30, 39), (50, 59))]]


def test_files_are_found_by_the_series_they_name(tmp_path):
    folder = tmp_path / "xml"
    expected = {
        "1.2": XmlFile(write_readings(folder / "157" / "158.xml", "1.2", SOME)),
        "1.5": XmlFile(write_readings(folder / "b" / "1.XML", "1.5", SOME)),
        "1.6": XmlFile(write_readings(folder / "c" / "2.Xml", "1.6", SOME)),
        "1.3": XmlFile(write_readings(folder / "a.xml", " 1.3 ", SOME, uid_tag="SeriesInstanceUID")),
    }
    write_readings(folder / "chest.xml", "1.4", SOME, root="IdriReadMessage")
    write_readings(folder / "z" / "copy.xml", "1.2", SOME)
    (folder / "._a.xml").write_text("left behind by macOS")
    (folder / "readme.txt").write_text("no XML")
    (folder / "wrong.xml").write_text("not XML at all")
    (folder / "page.xml").write_text("<html><body/></html>")
    found, unreadable = find_readings(folder)
    assert found == expected
    assert len(unreadable) == 2
    assert unreadable[0].startswith(f"{folder / 'page.xml'}: ")
    assert unreadable[1].startswith(f"{folder / 'wrong.xml'}: ")


def test_keys_of_earlier_caches_are_those_of_today(tmp_path):
    path = write_readings(tmp_path / "a.xml", "1.2", SOME)
    stat = path.stat()
    _, key = LidcRule(XmlFile(path)).key([])
    assert key[:2] == ["lidc", ["a.xml", stat.st_size, stat.st_mtime_ns]]
    assert key[2:] == list(REFINED_RULE.key([]))


def test_folders_that_cannot_be_used(tmp_path):
    with refused(tmp_path / "nowhere", "--lidc-xml"):
        find_readings(tmp_path / "nowhere")
    write_readings(tmp_path / "chest.xml", "1.4", SOME, root="IdriReadMessage")
    with refused(tmp_path, "--lidc-xml"):
        find_readings(tmp_path)
    write_readings(tmp_path / "a.xml", "1.2", SOME)
    write_readings(tmp_path / "b.xml", "1.2", [*SOME, []])
    with refused(tmp_path / "b.xml"):
        find_readings(tmp_path)


def test_no_more_than_the_head_is_read(tmp_path):
    path = write_readings(tmp_path / "a.xml", "1.2", SOME * 50)
    path.write_bytes(path.read_bytes()[: 2**15])
    assert read_series_uid(path) == "1.2"  # reading the contours finds that the rest is missing
    with refused(path):
        Ct(write_scan(tmp_path / "1.2.mhd", make_hu([])), [], LidcRule(XmlFile(path))).positive_indexes  # noqa: B018


BOMB = "".join(f'<!ENTITY e{ndx} "{f"&e{ndx - 1};" * 10}">' for ndx in range(1, 12))
HOSTILE = [
    f'<!DOCTYPE r [<!ENTITY e0 "ha">{BOMB}]>\n<LidcReadMessage><SeriesInstanceUid>&e11;</SeriesInstanceUid>',
    '<!DOCTYPE r [<!ENTITY e SYSTEM "SECRET">]>\n<LidcReadMessage><SeriesInstanceUid>&e;</SeriesInstanceUid>',
    '<!DOCTYPE r SYSTEM "SECRET">\n<LidcReadMessage><SeriesInstanceUid>1.2</SeriesInstanceUid>',
    "<LidcReadMessage><SeriesInstanceUid>&undefined;</SeriesInstanceUid>",
    '<?xml version="1.0" encoding="no-such"?><LidcReadMessage><SeriesInstanceUid>1.2</SeriesInstanceUid>',
    "<LidcReadMessage><SeriesInstanceUid>1.2",
    "<LidcReadMessage><readingSession/></LidcReadMessage>",
    "",
    "\0\0\0",
]
HOSTILE += [f"<!--{'x' * 2**15}-->\n{text}" for text in HOSTILE[:2]]  # only expat itself sees this DOCTYPE


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hostile_files(tmp_path, text, encoding):
    (tmp_path / "secret").write_text("1.2")
    path = tmp_path / "a.xml"
    path.write_bytes(text.replace("SECRET", str(tmp_path / "secret")).encode(encoding))
    with refused(path):
        read_series_uid(path)
