import math
import mmap
import os

import pytest
import torch

from p2ch13.util.memory import ZEROS_BYTES, MemoryMappedTensor, RowWriter, available_memory, reserve
from tests.support.checks import refused


@pytest.mark.parametrize("is_windows", [False, True])
def test_values_outlive_the_memory_that_held_them(tmp_path, monkeypatch, is_windows):
    if is_windows:  # which takes no advice, nor gives a file its room at once
        for module, name in ((mmap, "MADV_DONTNEED"), (mmap, "MADV_RANDOM"), (os, "posix_fallocate")):
            monkeypatch.delattr(module, name, raising=False)
    mapped = MemoryMappedTensor(tmp_path / "not" / "there", (5, 7), torch.int16)
    mapped.tensor[:] = torch.arange(35).view(5, 7)
    mapped.release()
    assert mapped.tensor.flatten().tolist() == list(range(35))
    assert mapped.tensor.dtype == torch.int16


def test_a_file_has_its_room_also_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
    """All blocks are written: 5 MB and a rest, of which none is a hole."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (tmp_path / "file").open("wb") as file:
        reserve(file, 5 * ZEROS_BYTES + 7)
        assert os.fstat(file.fileno()).st_size == 5 * ZEROS_BYTES + 7
        assert os.fstat(file.fileno()).st_blocks * 512 > 5 * ZEROS_BYTES


def test_its_file_has_no_name(tmp_path):
    mapped = MemoryMappedTensor(tmp_path, (1000,), torch.bool)
    assert list(tmp_path.iterdir()) == []
    assert not mapped.tensor.any()


def test_a_disk_without_room_is_an_error_at_once(tmp_path):
    with refused(path=tmp_path):
        MemoryMappedTensor(tmp_path, (2**50,), torch.int16)
    assert list(tmp_path.iterdir()) == []


FREE = "MemTotal: 9 kB\nMemAvailable:  4000 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"proc/meminfo": FREE}, 4000 * 1024),
        ({"proc/meminfo": FREE, "sys/fs/cgroup/memory.max": "max\n"}, 4000 * 1024),
        ({"proc/meminfo": FREE, "sys/fs/cgroup/memory.max": "1000\n"}, 1000),
        ({"proc/meminfo": FREE, "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n"}, 2000),
        (
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "30", "sys/fs/cgroup/a/b/memory.max": "40"},
            30,
        ),
    ],
)
def test_memory_is_what_is_free_and_what_a_container_may_have(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected


def test_the_memory_of_this_machine():
    assert 2**20 < available_memory() < 2**50


def test_rows_of_unknown_number(tmp_path):
    """Written in parts, one of them empty and one not contiguous."""
    writer = RowWriter(tmp_path / "new")
    rows = torch.arange(24, dtype=torch.float16).view(4, 3, 2)
    for part in (rows[:1], rows[:0], rows.flip(0)[1:2], rows.transpose(1, 2)[3:].transpose(1, 2)):
        writer.write(part)
    mapped = writer.map()
    assert mapped.tensor.dtype == torch.float16
    assert torch.equal(mapped.tensor, rows[[0, 2, 3]])
    mapped.release()
    assert torch.equal(mapped.tensor, rows[[0, 2, 3]])
    assert list((tmp_path / "new").iterdir()) == []


def test_rows_need_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(path=tmp_path / "file"):
        RowWriter(tmp_path / "file")
