import pytest

from util.launch import Launch

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_a/none_b/attempt_0/1/error.json",
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
    assert launch.share([1, 2, 3]) == [1, 2, 3]


def test_a_process_of_torchrun(torchrun):
    launch = Launch.from_environment()
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (3, 4, 1, 2)
    assert not launch.is_alone
    assert not launch.is_first


def test_shares_hold_every_item_once():
    shares = [Launch(rank=rank, world_size=3).share(range(7)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_restarts_of_one_launch_have_its_id_and_other_launches_do_not(torchrun):
    first = Launch.from_environment()
    torchrun.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    torchrun.setenv("TORCHELASTIC_ERROR_FILE", "/tmp/torchelastic_a/none_b/attempt_1/1/error.json")
    again = Launch.from_environment()
    assert again.restart_count == 1
    assert again.launch_id == first.launch_id
    torchrun.setenv("TORCHELASTIC_ERROR_FILE", "/tmp/torchelastic_a/none_c/attempt_0/1/error.json")
    assert Launch.from_environment().launch_id != first.launch_id


def test_a_run_id_of_the_users_own_is_the_same_on_all_machines(torchrun):
    torchrun.setenv("TORCHELASTIC_RUN_ID", "job-17")
    first = Launch.from_environment()
    torchrun.setenv("TORCHELASTIC_ERROR_FILE", "/tmp/torchelastic_x/job-17_y/attempt_0/0/error.json")
    assert Launch.from_environment().launch_id == first.launch_id == "job-17"
