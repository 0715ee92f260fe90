import mmap
import os

import pytest
import torch

from p2ch13.util.memory import MemoryMappedTensor


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


def test_its_file_has_no_name(tmp_path):
    mapped = MemoryMappedTensor(tmp_path, (1000,), torch.bool)
    assert list(tmp_path.iterdir()) == []
    assert not mapped.tensor.any()


def test_a_disk_without_room_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match=r"."):
        MemoryMappedTensor(tmp_path, (2**50,), torch.int16)
    assert list(tmp_path.iterdir()) == []
