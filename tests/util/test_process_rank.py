import pytest

from p2ch13.util.process_rank import ProcessRank

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
    process = ProcessRank.from_environment()
    assert process.is_alone
    assert process.is_first
    assert not process.by_torchrun
    assert process.share([1, 2, 3]) == [1, 2, 3]


def test_a_process_of_torchrun(torchrun):
    process = ProcessRank.from_environment()
    assert (process.rank, process.world_size, process.local_rank, process.local_world_size) == (3, 4, 1, 2)
    assert process.by_torchrun
    assert not process.is_alone
    assert not process.is_first


def test_shares_hold_every_item_once():
    shares = [ProcessRank(rank=rank, world_size=3).share(range(7)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
