import logging

import pytest

from p2ch13.util.launch import Launch, set_up_logging

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "none",
}


@pytest.fixture
def torchrun(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_process_started_by_hand_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")  # some other launcher's
    launch = Launch.from_environment()
    assert launch.is_alone
    assert launch.is_first
    assert not launch.by_torchrun
    assert launch.share([1, 2, 3]) == [1, 2, 3]


def test_a_process_of_torchrun(torchrun):
    launch = Launch.from_environment()
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (3, 4, 1, 2)
    assert launch.by_torchrun
    assert not launch.is_alone
    assert not launch.is_first


def test_shares_hold_every_item_once():
    shares = [Launch(rank=rank, world_size=3).share(range(7)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_log_lines_go_to_stdout(capsys):
    set_up_logging(Launch())
    logging.getLogger("p2ch13.test").info("hello")
    assert capsys.readouterr().out.endswith(" hello\n")
