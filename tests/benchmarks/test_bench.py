"""The benchmarks run, and describe the machine; `test_plain.py` compares both versions."""

import json
import logging

import pytest
import torch

from benchmarks import bench
from benchmarks.bench_table import read_tables
from benchmarks.in_subprocess import in_subprocess
from benchmarks.machine import describe_cpu
from benchmarks.rows import Row
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


def test_in_subprocess_of_a_function_that_prints():
    assert in_subprocess(print, "text") is None


def test_cpu_features(tmp_path):
    (tmp_path / "cpuinfo").write_text(AMD)
    assert describe_cpu(tmp_path / "cpuinfo") == "AMD EPYC 9R14 (AVX2 AVX-512 AVX-512-BF16)"
    (tmp_path / "cpuinfo").write_text("model name : Xeon\nflags : avx2 amx_bf16 amx_tile\n")
    assert describe_cpu(tmp_path / "cpuinfo") == "Xeon (AVX2 AMX-BF16)"
    assert "(" not in describe_cpu(tmp_path / "nowhere")


@pytest.fixture
def groups(monkeypatch):
    """Two groups that measure nothing, and no data set."""
    groups = {
        "one": lambda setup, folder: [Row("met", 3.0, 3), Row("not measured", None, 3)],
        "two": lambda setup, folder: [Row("a rate", 1234.5)],
    }
    for name, group in groups.items():
        group.__doc__ = f"Group {name}"
    monkeypatch.setattr(bench, "GROUPS", groups)
    monkeypatch.setattr(bench, "prepare", lambda args, folder: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield groups
    logging.disable(logging.NOTSET)


def test_results_say_what_they_were_measured_on(groups, tmp_path, capsys):
    path = tmp_path / "bench.json"
    bench.main(["--work-dir", str(tmp_path), "--output", str(path)])
    results = json.loads(path.read_text())
    assert [row["name"] for row in results["rows"]] == ["met", "not measured", "a rate"]
    assert results.items() >= {"threads": torch.get_num_threads(), "torch": torch.__version__}.items()
    assert results["dtype"] in ("bfloat16", "float32")
    assert results["seconds"] >= 0
    assert "1 of 2 targets met, 1 not measured" in capsys.readouterr().out
    tables = read_tables(path)
    assert [row["met"] for row in tables["figures"]] == ["yes", "-"]
    assert tables["rates"] == [{"rate": "a rate", "value": "1,234"}]


@pytest.mark.parametrize("options", [["--only", "two"], ["--smoke"]])
def test_figures_of_a_part_and_of_tiny_data_are_not_kept(groups, tmp_path, options):
    path = tmp_path / "bench.json"
    bench.main(["--work-dir", str(tmp_path), "--output", str(path), *options])
    assert not path.exists()


def test_only_some_groups(groups, tmp_path, capsys):
    bench.main(["--work-dir", str(tmp_path), "--only", "two"])
    assert "not measured" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--only", "three"])
