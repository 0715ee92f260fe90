import threading

import numpy as np
import pytest

from p2ch13.util.errors import InputError
from p2ch13.util.process_rank import ProcessRank
from p2ch13.util.shared_work import SharedWork
from tests.support.checks import refused
from tests.support.hold import start_held

NAMES = ["a", "b", "c", "d"]


def open_work(folder, process=None, values=1):
    return SharedWork(folder / ".scans", dict.fromkeys(NAMES, values), process)


def do(work, names=NAMES, stop_after=99):
    """Work on what is left. Returns: the items."""
    done = []
    with work.claimed(names) as claimed:
        for name in claimed:
            done.append(name)
            if len(done) > stop_after:
                raise KeyboardInterrupt
            work.store(name, [name, np.arange(3)])
    return done


def test_what_is_done_is_not_repeated(tmp_path):
    work = open_work(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        do(work, stop_after=2)
    assert [work.is_done(name) for name in NAMES] == [True, True, False, False]
    with refused(path=tmp_path, option="--shard"):
        work.check_complete("--shard")
    assert do(open_work(tmp_path)) == ["c", "d"]
    work.check_complete("--shard")
    name, numbers = work.read("c")
    assert (name, numbers.tolist()) == ("c", [0, 1, 2])
    work.close()
    assert list(tmp_path.iterdir()) == []


def test_results_of_other_options_do_not_count(tmp_path):
    do(open_work(tmp_path))
    assert do(open_work(tmp_path, values=2)) == NAMES
    assert do(open_work(tmp_path)) == []


def test_skipped_items_are_tried_again_at_the_next_start_alone(tmp_path):
    work = open_work(tmp_path)
    with work.claimed(NAMES) as claimed:
        for name in claimed:
            work.skip(name, f"{name} \udcff") if name == "b" else work.store(name, [])
    assert work.find_skipped() == {"b": "b \udcff"}
    with pytest.raises(InputError):
        work.read("b")
    assert do(open_work(tmp_path, ProcessRank(1, 2, by_torchrun=True, is_restarted=True))) == []
    assert do(open_work(tmp_path)) == ["b"]


def test_a_process_begins_with_its_share_and_goes_on_with_the_others(tmp_path):
    assert do(open_work(tmp_path, ProcessRank(1, 2, by_torchrun=True))) == ["b", "d", "a", "c"]


def test_two_at_once_do_each_item_once(tmp_path):
    first, second = open_work(tmp_path), open_work(tmp_path)
    with first.claimed(NAMES) as claims:
        assert next(claims) == "a"
        with second.claimed(NAMES[:2]) as others:
            assert next(others) == "b"
            second.store("b", [])
            first.store("a", [])
        assert next(claims) == "c"


def test_what_another_process_has_removed_is_not_begun_again(tmp_path):
    work = open_work(tmp_path)
    with work.claimed(NAMES) as claims:
        work.store(next(claims), [])
        assert work.count(NAMES) == 1
        open_work(tmp_path).close()
        assert list(claims) == []


def test_an_item_whose_process_was_killed_is_skipped_until_the_next_start(tmp_path):
    program = """
import sys; from pathlib import Path
from p2ch13.util.shared_work import SharedWork
work = SharedWork(Path(sys.argv[1]), dict.fromkeys("abcd", 1))
with work.claimed(list("abcd")) as claims:
    for name in claims: work.store(name, [])
"""
    where = "p2ch13.util.shared_work:SharedWork.store"
    process = start_held(program, where, tmp_path / "reached", 2, [tmp_path / ".scans"])
    process.kill()
    process.communicate(timeout=60)
    assert do(open_work(tmp_path, ProcessRank(0, 2, by_torchrun=True, is_restarted=True))) == ["c", "d"]
    assert list(open_work(tmp_path).find_skipped()) == ["b"]
    open_work(tmp_path).close()  # keeps what is done, for the next start
    assert do(open_work(tmp_path)) == ["b"]


def test_the_first_process_waits_for_those_that_begin_late(tmp_path):
    """Or they would do again all that is done."""
    first = open_work(tmp_path, ProcessRank(0, 2, by_torchrun=True, launch="a"))
    do(first)
    late = threading.Timer(0.5, lambda: open_work(tmp_path, ProcessRank(1, 2, by_torchrun=True, launch="a")))
    late.start()
    first.close()
    assert not late.is_alive()
    assert list(tmp_path.iterdir()) == []
