"""The readers on damaged files: a short run of `stress.fuzz`, and hypothesis."""

import math
import os
import signal
from contextlib import suppress
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2ch13.labels.candidates import get_candidate_info_list
from p2ch13.labels.lidc_xml import read_readings, read_series_uid
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import read_header
from stress import fuzz
from stress.fuzz import Tally, format_table, read_files
from stress.kinds import KINDS, Kind
from tests.support.checks import refused
from tests.support.dicom_files import write_series
from tests.support.lidc_files import write_readings
from tests.support.scan_files import make_hu, write_scan

# Few examples, the same in each run; `stress.fuzz` has many.
SHORT = settings(
    derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = st.integers() | st.floats() | st.text("0123456789.eE+-_naifx ", max_size=8)


def test_every_kind_ends_in_a_documented_error_or_none():
    tallies = fuzz.fuzz(2 * len(KINDS), seed=3).values()
    assert [(tally.file_count, tally.failures) for tally in tallies] == [(2, [])] * len(KINDS)
    assert sum(tally.refused for tally in tallies) > len(KINDS) / 2


def read_badly(folder, deed):
    """Misbehave once the files are mutated."""
    if folder.name == "mutated":
        deed()


def hang():
    while True:
        pass


def read_with_bad_readers(seed, first, stop, outcomes):
    """Run `stress.fuzz.read_files` in a process, on kinds with misbehaving readers."""
    deeds = [
        lambda: {}["key"],
        lambda: None,
        lambda: bytearray(2 * fuzz.MEMORY_LIMIT_BYTES),
        partial(refuse, "a.mhd: no scan"),
        partial(refuse, "a.mhd: failed to allocate 5 TB"),
        hang,
        lambda: os.kill(os.getpid(), signal.SIGSEGV),
    ]
    fuzz.KINDS = {str(ndx): Kind(write_any, partial(read_badly, deed=deed)) for ndx, deed in enumerate(deeds)}
    fuzz.TIME_LIMIT_S = 0.3
    read_files(seed, first, stop, outcomes)


def refuse(message):
    raise InputError(message)


def write_any(folder):
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"any 1 2 3")
    return [folder / "file"]


def test_misbehaving_readers_fail(monkeypatch):
    """After each failure the next file is read."""
    monkeypatch.setattr(fuzz, "read_files", read_with_bad_readers)
    outcomes = [outcome for _, outcome in fuzz.read_all(7, seed=0)]
    assert outcomes == [
        "KeyError: 'key'",
        fuzz.READ,
        "MemoryError: MemoryError",
        fuzz.REFUSED,
        "InputError: a.mhd: failed to allocate 5 TB",
        "no end after 10 s",
        f"the process ended with {-signal.SIGSEGV}",
    ]


def test_the_table():
    table = format_table({"CSV": Tally(refused=1200, read=3, failures=["file 7 (CSV): KeyError: 5"])})
    assert table.splitlines()[-1] == "| CSV | 1,204 | 1,200 | 3 | 1 |"


@SHORT
@given(fields=st.lists(NUMBERS, min_size=5, max_size=5))
def test_numbers_of_a_csv_row(luna_dir, fields):
    row = ",".join(str(field).replace(",", "") for field in fields)
    path = luna_dir / "annotations.csv"
    path.write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm,x\n1.2.0,{row[:200]}\n")
    try:
        (nodule,) = (candidate for candidate in get_candidate_info_list(luna_dir) if candidate.is_nodule)
    except InputError:
        return
    assert max(map(abs, nodule.center_xyz)) <= 1e5
    assert 0 < nodule.diameter_mm <= 1000


@SHORT
@given(text=st.text(max_size=200))
def test_a_csv_file_of_anything(luna_dir, text):
    (luna_dir / "candidates.csv").write_text(f"seriesuid,coordX,coordY,coordZ,class\n{text}", errors="surrogatepass")
    with suppress(InputError):
        get_candidate_info_list(luna_dir)


@SHORT
@given(key=st.sampled_from(["DimSize", "ElementSpacing", "Offset", "TransformMatrix"]), numbers=st.lists(NUMBERS))
def test_numbers_of_a_metaimage(tmp_path, key, numbers):
    path = write_scan(tmp_path / "a.mhd", make_hu([], (2, 3, 4)))
    lines = [line for line in path.read_text().splitlines() if not line.startswith(key)]
    path.write_text("\n".join([lines[0], f"{key} = {' '.join(map(str, numbers))}", *lines[1:]]))
    try:
        header = read_header(path)
    except InputError:
        return
    assert math.prod(header.shape_irc) == 24  # or the data file would not fit


@SHORT
@given(data=st.binary(max_size=300))
def test_a_header_of_anything(tmp_path, data):
    for name, start in (("a.mhd", b"NDims = 3\n"), ("a.nrrd", b"NRRD0004\n")):
        (tmp_path / name).write_bytes(start + data)
        with suppress(InputError):
            read_header(tmp_path / name)


@SHORT
@given(z=NUMBERS, x=NUMBERS, y=NUMBERS, inclusion=st.sampled_from(["TRUE", "false", "", "1"]))
def test_numbers_of_a_contour(tmp_path, z, x, y, inclusion):
    path = write_readings(tmp_path / "a.xml", "1.2", [])
    contour = f"<imageZposition>{z}</imageZposition><inclusion>{inclusion}</inclusion>"
    contour += f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>"
    session = f"<readingSession><unblindedReadNodule><roi>{contour}</roi></unblindedReadNodule></readingSession>"
    path.write_text(path.read_text().replace("</LidcReadMessage>", f"{session}</LidcReadMessage>"))
    assert read_series_uid(path) == "1.2"
    with suppress(InputError):
        read_readings(path)


@settings(SHORT, max_examples=12)
@given(at=st.integers(0, 1100), data=st.binary(min_size=1, max_size=8))
def test_bytes_of_a_dicom_file(tmp_path, at, data):
    files = write_series(tmp_path / "series", make_hu([], (2, 6, 8)))
    content = files[1].read_bytes()
    files[1].write_bytes(content[:at] + data + content[at + len(data) :])
    with suppress(InputError):
        read_header(tmp_path / "series")


def test_rows_that_no_file_can_hold(tmp_path):
    write_series(tmp_path, make_hu([], (2, 6, 8)), Rows=65_535, Columns=65_535)
    with refused():
        read_header(tmp_path)
