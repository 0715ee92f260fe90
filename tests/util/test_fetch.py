import hashlib

import pytest

from p2ch13.util.fetch import CHUNK_BYTES, TRIES, fetch, part_of
from tests.support.checks import refused
from tests.support.http_server import FileServer

DATA = bytes(range(256)) * 4000  # 1,024,000 bytes
SIZE, MD5 = len(DATA), hashlib.md5(DATA).hexdigest()


@pytest.fixture
def server():
    with FileServer({"a.zip": DATA}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr("p2ch13.util.fetch.BACKOFF_S", 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zip"


def get(server, path, size=SIZE, md5=MD5):
    fetch(f"{server.url}/a.zip", path, size, md5)


def ranges_asked(server):
    return [asked for _, asked in server.requests]


REST = "bytes=300000-"

# The length of what an earlier process left, what the server does wrong, the ranges that are asked for.
DOWNLOADS = [
    (0, [], [None]),
    (300_000, [], [REST]),
    (SIZE, [], []),  # the process ended while the MD5 was compared
    (SIZE + 1, [], [None]),  # too long
    (0, [("drop", length) for length in (131072, 65536, 1)], [None, "bytes=131072-", *["bytes=196608-"] * 2]),
    (0, [("unsized", 1000)], [None, "bytes=1000-"]),  # an answer cut short, of no stated length
    *[(0, [("status", busy)], [None, None]) for busy in (429, 500, 503)],
    *[
        (300_000, [("content-range", another)], [REST, None])
        for another in ("bytes 0-99/1024000", "bytes 5-9/10", "nonsense", "")
    ],
]


@pytest.mark.parametrize(("part", "faults", "asked"), DOWNLOADS)
def test_a_file_comes_whole_and_once(server, path, part, faults, asked):
    if part:
        part_of(path).write_bytes((DATA + b"x")[:part])
    server.faults = list(faults)
    for _ in range(2):
        get(server, path)
        assert ranges_asked(server) == asked
        assert path.read_bytes() == DATA
        assert list(path.parent.iterdir()) == [path]


def test_ctrl_c_while_the_md5_is_compared_loses_nothing(server, path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2ch13.util.fetch.md5_of", stop)
    with pytest.raises(KeyboardInterrupt):
        get(server, path)
    assert part_of(path).read_bytes() == DATA
    assert list(path.parent.iterdir()) == [part_of(path)]


def test_a_server_that_knows_no_ranges(server, path):
    server.ranges = False
    server.faults = [("drop", CHUNK_BYTES)]
    part_of(path).write_bytes(b"x" * 300_000)
    get(server, path)
    assert ranges_asked(server) == [REST, "bytes=65536-"]
    assert path.read_bytes() == DATA


def test_a_part_that_is_longer_than_the_file_on_the_server(server, path):
    """Its size is unknown: the server answers 416."""
    part_of(path).write_bytes(DATA + b"x")
    get(server, path, size=None)
    assert ranges_asked(server) == ["bytes=1024001-", None]
    assert path.read_bytes() == DATA


def test_neither_size_nor_md5_is_known(server, path):
    server.faults = [("drop", 5000)]
    get(server, path, size=None, md5=None)
    assert path.read_bytes() == DATA


def test_an_existing_file_with_another_md5_is_replaced(server, path):
    path.write_bytes(b"x")
    get(server, path)
    assert path.read_bytes() == DATA


# The length of a part left before, the server's file, what it does wrong, requests, the length of the part left after.
REFUSALS = [
    (0, DATA[:-1] + b"x", [], 1, 0),  # wrong bytes
    (0, DATA[:-7], [], 1, 0),  # another length
    (300_000, DATA[:-7], [], 1, 300_000),
    (0, DATA * 4, [("unsized", 4 * SIZE)], 1, 0),
    *[(0, DATA, [("status", missing)], 1, 0) for missing in (403, 404)],
    (0, DATA, [("status", 503)] * (TRIES + 1), TRIES, 0),
    (0, DATA, [("drop", CHUNK_BYTES), *[("drop", 0)] * TRIES], TRIES, CHUNK_BYTES),
]


@pytest.mark.parametrize(("part", "served", "faults", "request_count", "left"), REFUSALS, ids=range(len(REFUSALS)))
def test_refused_downloads_and_what_they_leave(server, path, part, served, faults, request_count, left):
    if part:
        part_of(path).write_bytes(DATA[:part])
    server.files["a.zip"], server.faults = served, list(faults)
    with refused(path):
        get(server, path)
    assert len(server.requests) == request_count
    assert [file.read_bytes() for file in path.parent.iterdir()] == [DATA[:left]] * bool(left)
    server.files["a.zip"], server.faults = DATA, []
    get(server, path)
    assert path.read_bytes() == DATA


def test_no_server_and_no_address(path):
    with FileServer({}) as server:
        pass
    with refused(path):
        get(server, path)
    with refused(path):
        fetch("ftp:/x", path)
    assert list(path.parent.iterdir()) == []
