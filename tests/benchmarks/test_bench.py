"""The benchmarks run, and describe the machine; `test_plain.py` compares both versions."""

import json
import math

import pytest
import torch

from benchmarks.bench import Row, as_result, describe_cpu, print_rows
from benchmarks.in_subprocess import in_subprocess
from benchmarks.synthetic import SyntheticCache, write_many_nodules
from p2ch13.config import CROP_WIDTH_IRC, Folders, SamplingOptions
from p2ch13.data.datasets import TrainingLuna2dSegmentationDataset

AMD = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse avx avx2 avx512f avx512_bf16

processor\t: 1
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse avx avx2 avx512f avx512_bf16
"""


@pytest.mark.parametrize(("nodule_count", "slice_spacing_mm"), [(7, 0.0), (50, 2.0)])
def test_training_on_nodules_without_scans(tmp_path, nodule_count, slice_spacing_mm):
    folders = Folders(tmp_path / "luna", tmp_path / "cache")
    write_many_nodules(folders.data_dir, [f"1.2.{ndx}" for ndx in range(20)], nodule_count)
    dataset = TrainingLuna2dSegmentationDataset(
        samples_per_epoch=20,
        sampling=SamplingOptions(slice_spacing_mm=slice_spacing_mm),
        ct_cache=SyntheticCache.open(folders),
    )
    assert len(dataset.crop_list) == nodule_count
    crops, masks, series_uids, _ = next(dataset.batches(16))
    assert crops.shape == (16, CROP_WIDTH_IRC[0], 64, 64)
    assert torch.equal(masks[:, 0], crops[:, CROP_WIDTH_IRC[0] // 2] > -100)
    assert set(series_uids) <= set(dataset.series_list)
    again = SyntheticCache.open(folders).get_ct_raw_candidate(*dataset.crop_list[0], CROP_WIDTH_IRC)
    others = SyntheticCache.open(folders).get_ct_raw_candidate(*dataset.crop_list[1], CROP_WIDTH_IRC)
    assert (again[0] == dataset.ct_cache.get_ct_raw_candidate(*dataset.crop_list[0], CROP_WIDTH_IRC)[0]).all()
    assert (again[0] != others[0]).any()


def test_in_subprocess():
    assert in_subprocess(divmod, 7, 2) == (3, 1)
    with pytest.raises(RuntimeError, match=r"divmod\(7, 0\) failed:(\n|.)*ZeroDivisionError"):
        in_subprocess(divmod, 7, 0)


def test_cpu_features(tmp_path):
    (tmp_path / "cpuinfo").write_text(AMD)
    assert describe_cpu(tmp_path / "cpuinfo") == "AMD EPYC 9R14 (AVX2 AVX-512 AVX-512-BF16)"
    (tmp_path / "cpuinfo").write_text("model name : Xeon\nflags : avx2 amx_bf16 amx_tile\n")
    assert describe_cpu(tmp_path / "cpuinfo") == "Xeon (AVX2 AMX-BF16)"
    assert "(" not in describe_cpu(tmp_path / "nowhere")


def test_targets(capsys):
    rows = [
        Row("as large", 3.0, 3), Row("smaller", 2.9, 3),
        Row("as small", 3.0, 3, at_least=False), Row("larger", 3.1, 3, at_least=False),
        Row("not measured", math.nan, 3), Row("not measured", math.nan, 3, at_least=False),
    ]  # fmt: skip
    assert [row.met for row in rows] == [True, False, True, False, False, False]
    assert json.loads(json.dumps(as_result(rows[3]), allow_nan=False)) == {
        "name": "larger", "value": 3.1, "target": 3, "met": False
    }  # fmt: skip
    assert as_result(rows[4])["value"] is None
    print_rows(rows[:2], "a machine")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "a machine"
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]] == [
        ["as large", "3", ">= 3", "yes"],
        ["smaller", "2.9", ">= 3", "no"],
    ]
