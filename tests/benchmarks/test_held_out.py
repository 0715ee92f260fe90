"""Scans that quality is measured on are recognized among backgrounds, whatever they are called."""

import json

import numpy as np
import pytest

from benchmarks.held_out import describe_slices, find_same, main, read_held_out, refuse_test_series
from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.scan_files import write_scan, write_turned

# Means of the blocks, 32 x 32 pixels each, of two slices; the third one shows soft tissue alone.
BLOCKS = np.array([[-900, -800, -700, 0, 40, 100, -850, -60, 300], [-500, 0, 0, 10, 20, 30, -850, 50, -1000], [40] * 9])


def make_scan(blocks, seed=0):
    """Slices of 100 x 104 pixels: blocks in the middle, air around them, noise whose mean in each block is 0."""
    noise = np.random.default_rng(seed).integers(1, 60, (len(blocks), 96, 48))
    hu = np.full((len(blocks), 100, 104), -1000)
    hu[:, 2:98, 4:100] = blocks.reshape(-1, 3, 3).repeat(32, axis=1).repeat(32, axis=2)
    hu[:, 2:98, 4:100:2] += noise
    hu[:, 2:98, 5:100:2] -= noise
    return hu.astype(np.int16)


@pytest.fixture
def list_file(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"the test scan": {"names": ["1.2.3"], "slices": BLOCKS[:2].tolist()}}))
    return path


def test_describe_slices(tmp_path):
    volume = Volume(write_scan(tmp_path / "a.mhd", make_scan(BLOCKS)))
    described = describe_slices(volume)
    # HU below -1000 are clipped: in the last block of the second slice, half of the pixels lie below by 30 on average.
    assert described[0].tolist() == BLOCKS[0].tolist()
    assert described[1, :8].tolist() == BLOCKS[1, :8].tolist()
    assert described[1, 8] == pytest.approx(-985, abs=2)
    assert len(described) == 2
    small = Volume(write_scan(tmp_path / "small.mhd", make_scan(BLOCKS)[:, :95]))
    assert describe_slices(small).shape == (0, 9)


CHANGES = {
    "as it is": lambda hu: hu,
    "of one slice": lambda hu: hu[:1],
    "rounded": lambda hu: hu // 4 * 4,
    "without air": lambda hu: np.pad(hu[:, 2:98, 4:100], ((0, 0), (2, 2), (4, 4)), constant_values=-3024),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_refused_by_voxels(tmp_path, list_file, change):
    write_scan(tmp_path / "scans" / "any.mhd", make_scan(BLOCKS[2:]))
    path = write_scan(tmp_path / "scans" / "lung.nii.gz", change(make_scan(BLOCKS)))
    with refused(path=path, option=None):
        refuse_test_series(tmp_path / "scans", list_file)


def test_refused_in_another_order(tmp_path, list_file):
    scan = write_scan(tmp_path / "scan.mhd", make_scan(BLOCKS))
    write_turned(tmp_path / "scans" / "lung.nii", "PIR", scan)
    with refused(path=tmp_path / "scans" / "lung.nii"):
        refuse_test_series(tmp_path / "scans", list_file)


def test_refused_by_name(tmp_path, list_file):
    path = write_scan(tmp_path / "scans" / "copy of 1.2.3.mhd", make_scan(BLOCKS[2:]))
    with refused(path=path):
        refuse_test_series(tmp_path / "scans", list_file)


def test_others_pass(tmp_path, list_file):
    write_scan(tmp_path / "scans" / "a.mhd", make_scan(BLOCKS[2:]))  # soft tissue
    other = BLOCKS.copy()
    other[:2, 4] += 5  # one block differs
    write_scan(tmp_path / "scans" / "b.mhd", make_scan(other))
    refuse_test_series(tmp_path / "scans", list_file)
    main([str(tmp_path / "scans")])
    with refused(path=tmp_path / "none"):
        main([str(tmp_path / "none")])


def test_the_list(tmp_path):
    scans = read_held_out()
    assert "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192" in scans[0].names
    assert all(name == name.lower() for scan in scans for name in scan.names)
    assert [len(scan.slices) for scan in scans] == [133, 37, 50]
    slices = np.concatenate([scan.slices for scan in scans])
    assert (np.ptp(slices, axis=1) >= 200).all()
    # A slice of these scans identifies one of them, and no other.
    for scan in scans:
        for other in scans:
            distances = np.abs(scan.slices[:, None] - other.slices[None]).max(axis=2)
            assert (distances.min() <= 3) == (scan is other)
    path = write_scan(tmp_path / "LIDC-IDRI-0001.nii", make_scan(BLOCKS))
    assert find_same(Volume(path), "LIDC-IDRI-0001", scans) is scans[0]


def test_real_slices_of_another_name(tmp_path, luna_sample):
    (scan,) = luna_sample.glob("subset*/1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192.mhd")
    path = write_scan(tmp_path / "lung.mha", Volume(scan).hu // 4 * 4)
    with refused(path=path):
        refuse_test_series(tmp_path)
