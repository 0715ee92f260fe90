import pytest

from p2ch13.phantom.uids import is_phantom, series_uid


def test_phantoms_are_told_by_their_uids():
    assert all(is_phantom(series_uid(seed, index)) for seed in range(3) for index in range(20))


@pytest.mark.parametrize(
    "uid",
    [
        "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860",
        "2.25.302847239807231804392867231839124531",  # a number of no version 5
        "2.25.",
        "2.25.x",
        f"2.25.{2**130}",
        "lung0",
        "",
    ],
)
def test_other_scans(uid):
    assert not is_phantom(uid)
