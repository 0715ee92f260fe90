"""A very short `python -m stress.damaged_scans`, the losses that it detects, and the table of all stress runs."""

import numpy as np
import pytest

from stress import busy
from stress.__main__ import SHORT, make_parts
from stress.busy import Pace, busy_loops
from stress.damaged_scans import check_rebuilt, check_skipped, damage_scans
from stress.report import LostError, Row, collect_rows, format_table, report
from stress.scans import write_scans


def test_the_same_damage_for_the_same_seed(tmp_path):
    files = []
    for name in ("a", "b"):
        rng = np.random.default_rng(3)
        scans = write_scans(tmp_path / name, 8, rng)
        assert len(damage_scans(scans, 4, rng)) == 4
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*") if path.exists()})
    assert files[0] == files[1]
    whole = write_scans(tmp_path / "whole", 8, np.random.default_rng(3)).values()
    pairs = [(path, path.with_suffix(".raw")) for path in whole]
    assert sum(any(files[0].get(file.name) != file.read_bytes() for file in pair) for pair in pairs) == 4


KINDS = {"1.2.100001": "no voxels", "1.2.100002": "header empty"}
SKIPPED = [
    "10:00:00 Skipped: a/1.2.100001.mhd: its data file 1.2.100001.raw is missing",
    "10:00:00 Skipped: a/1.2.100002.mhd: no ElementDataFile",
]


def test_unreported_damage_is_a_loss():
    check_skipped("\n".join([*SKIPPED, "1.2.100003: 2 found"]), KINDS)
    with pytest.raises(LostError, match=r"1\.2\.100002"):
        check_skipped(SKIPPED[0], KINDS)
    for more in (SKIPPED[0], "Skipped: a/1.2.100003.mhd: none"):
        with pytest.raises(LostError):
            check_skipped("\n".join([*SKIPPED, more]), KINDS)


def test_corrupt_values_must_be_reported():
    line = "Corrupt cache entry for 1.2.100001 (wrong checksum); recomputing it."
    check_rebuilt(line, ["1.2.100001"])
    for output in ("", f"{line}\n{line}", line.replace("100001", "100002")):
        with pytest.raises(LostError):
            check_rebuilt(output, ["1.2.100001"])


def test_one_table_of_all_runs(capsys):
    def lose():
        raise LostError("a file is gone")

    row = Row("kills", "10 runs", "1,200 SIGKILL", 1200, 61.7, note="bit for bit")
    assert format_table([row]).splitlines() == [
        "| what | load held | faults injected | survived | lost | s |",
        "| --- | --- | --- | ---: | --- | ---: |",
        "| kills | 10 runs | 1,200 SIGKILL | 1,200 | 0; bit for bit | 62 |",
    ]
    assert report(collect_rows("kills", lambda: [row])) == 0
    assert report([row, *collect_rows("disks", lose)]) == 1
    said = capsys.readouterr()
    assert said.err == "LOST, disks: a file is gone\n"
    assert "| disks | ended early |  | 0 | 1; see the line above | 0 |" in said.out


def test_all_are_run():
    names = ["busy machine", "damaged scans", "mutated files", "full disk", "faulty system", "kills"]
    assert list(make_parts(SHORT, 0, None)) == names


def test_a_training_beside_busy_loops(tmp_path, capsys, monkeypatch):
    """It finishes, at whatever speed the machine has."""
    monkeypatch.setattr(busy, "EXPECTED_SHARE", 0.0)
    options = ["--loops", "2", "--samples", "16", "--rounds", "1", "--work-dir", str(tmp_path)]
    assert busy.main(options) == 0
    assert "| 2 busy loops beside it | 1 | 0; " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_wasted_processor_time_is_a_loss(tmp_path, monkeypatch):
    """A fifth of the samples for the same processor time."""
    paces = {"1": Pace(100, wall_s=10.0, cpu_s=10.0), "2": Pace(100, wall_s=500.0, cpu_s=50.0)}
    monkeypatch.setattr(busy, "train", lambda options: paces[options[-1]])
    with pytest.raises(LostError, match=r"0\.20"):
        busy.train_beside_loops(1, 100, 2, threads=2, work_dir=tmp_path)
    row = busy.train_beside_loops(1, 100, 2, threads=1, work_dir=tmp_path)[0]
    assert (row.survived, row.lost) == (2, 0)
    assert "10.0 samples/s on 1.00 cores' time" in row.note


def test_busy_loops_end_with_the_training():
    with pytest.raises(LostError), busy_loops(2) as loops:
        raise LostError
    assert [loop.poll() is not None for loop in loops] == [True, True]
