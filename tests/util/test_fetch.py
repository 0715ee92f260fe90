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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zip"


def get(server, path, size=SIZE, md5=MD5):
    fetch(f"{server.url}/a.zip", path, size, md5, backoff_s=0.0)


def ranges_asked(server):
    return [asked for _, asked in server.requests]


def test_a_file_comes_whole_and_once(server, path):
    get(server, path)
    assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]
    get(server, path)
    assert ranges_asked(server) == [None]


def test_only_the_rest_is_asked_for(server, path):
    """The part is left by another process."""
    part_of(path).write_bytes(DATA[:300_000])
    get(server, path)
    assert ranges_asked(server) == ["bytes=300000-"]
    assert path.read_bytes() == DATA


def test_dropped_connections(server, path):
    server.faults = [("drop", 2 * CHUNK_BYTES), ("drop", CHUNK_BYTES), ("drop", 1)]
    get(server, path)
    assert ranges_asked(server) == [None, "bytes=131072-", "bytes=196608-", "bytes=196608-"]
    assert path.read_bytes() == DATA


def test_a_complete_part_is_not_asked_for(server, path):
    """The process ended while the MD5 was compared."""
    part_of(path).write_bytes(DATA)
    get(server, path)
    assert server.requests == []
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
    part_of(path).write_bytes(b"x" * 300_000)
    get(server, path)
    assert ranges_asked(server) == ["bytes=300000-"]
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("content_range", ["bytes 0-99/1024000", "bytes 5-9/10", "nonsense", ""])
def test_another_part_than_was_asked_for(server, path, content_range):
    part_of(path).write_bytes(DATA[:300_000])
    server.faults = [("content-range", content_range)]
    get(server, path)
    assert ranges_asked(server) == ["bytes=300000-", None]
    assert path.read_bytes() == DATA


def test_a_part_that_is_too_long(server, path):
    part_of(path).write_bytes(DATA + b"x")
    get(server, path)
    assert path.read_bytes() == DATA


def test_a_part_that_is_longer_than_the_file_on_the_server(server, path):
    """Its size is unknown: the server answers 416."""
    part_of(path).write_bytes(DATA + b"x")
    get(server, path, size=None)
    assert ranges_asked(server) == ["bytes=1024001-", None]
    assert path.read_bytes() == DATA


def test_wrong_bytes_are_removed(server, path):
    server.files["a.zip"] = DATA[:-1] + b"x"
    with refused(path):
        get(server, path)
    assert list(path.parent.iterdir()) == []
    server.files["a.zip"] = DATA
    get(server, path)
    assert ranges_asked(server) == [None, None]


def test_an_existing_file_with_another_md5_is_replaced(server, path):
    path.write_bytes(b"x")
    get(server, path)
    assert path.read_bytes() == DATA


def test_a_file_of_another_length_is_refused_at_once(server, path):
    server.files["a.zip"] = DATA[:-7]
    with refused(path):
        get(server, path)
    assert list(path.parent.iterdir()) == []
    part_of(path).write_bytes(DATA[:300_000])
    with refused(path):
        get(server, path)
    assert part_of(path).stat().st_size == 300_000


def test_an_answer_cut_short_without_a_length(server, path):
    server.faults = [("unsized", 1000)]
    get(server, path)
    assert ranges_asked(server) == [None, "bytes=1000-"]
    assert path.read_bytes() == DATA


def test_a_response_longer_than_the_file(server, path):
    server.files["a.zip"] = DATA * 4
    server.faults = [("unsized", 4 * SIZE)]
    with refused(path):
        get(server, path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, path, status):
    server.faults = [("status", status)]
    get(server, path)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_file_is_asked_for_once(server, path, status):
    server.faults = [("status", status)]
    with refused(path):
        get(server, path)
    assert len(server.requests) == 1


def test_the_part_stays_after_failed_tries(server, path):
    server.faults = [("drop", CHUNK_BYTES), *[("drop", 0)] * TRIES]
    with refused(path):
        get(server, path)
    assert part_of(path).read_bytes() == DATA[:CHUNK_BYTES]
    assert len(server.requests) == TRIES
    server.faults.clear()
    get(server, path)
    assert path.read_bytes() == DATA


def test_a_busy_server_is_asked_a_few_times(server, path):
    server.faults = [("status", 503)] * (TRIES + 1)
    with refused(path):
        get(server, path)
    assert len(server.requests) == TRIES


def test_no_server_and_no_address(path):
    with FileServer({}) as server:
        pass
    with refused(path):
        get(server, path)
    with refused(path):
        fetch("ftp:/x", path, backoff_s=0.0)
    assert list(path.parent.iterdir()) == []


def test_neither_size_nor_md5_is_known(server, path):
    server.faults = [("drop", 5000)]
    get(server, path, size=None, md5=None)
    assert path.read_bytes() == DATA
