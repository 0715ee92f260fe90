import pickle

import pytest

from p2ch13.config import LabelOptions
from p2ch13.data.cache import CtCache
from p2ch13.data.index import ScanIndex
from tests.support.checks import refused
from tests.support.lidc_files import block, write_readings


def test_the_index_of_a_folder(luna_dir):
    index = ScanIndex(luna_dir)
    assert index.all_series == index.series_list == ["1.2.0", "1.2.1", "1.2.2", "1.2.3"]
    assert index.get_path("1.2.1") == luna_dir / "subset0" / "1.2.1.mhd"
    assert [nodule.diameter_mm for nodule in index.nodules["1.2.0"]] == pytest.approx([7.0, 4.2])  # largest first
    assert len(index.non_nodules["1.2.0"]) == 2  # see `write_luna`
    assert index.excluded["1.2.0"] == []
    assert index.get_ct("1.2.3") is index.get_ct("1.2.3")


def test_labels_may_skip_scans(luna_dir, tmp_path):
    write_readings(tmp_path / "xml" / "a.xml", "1.2.2", [[block((7, 9), (48, 52), (50, 54))]])
    index = ScanIndex(luna_dir, LabelOptions("lidc", lidc_xml=tmp_path / "xml", missing_xml="leave-out"))
    assert len(index.all_series) == 4
    assert index.keep_labeled(index.all_series) == index.series_list == list(index.nodules) == ["1.2.2"]
    with refused(path=luna_dir):
        index.keep_labeled(["1.2.0"])


def test_an_unknown_series(folders):
    ct_cache = CtCache.open(folders)
    for call in (ct_cache.index.get_ct, ct_cache.index.get_path, ct_cache.get_ct_sample_size):
        with refused() as caught:
            call("1.9.9")
        assert "1.9.9" in str(caught.value)


def test_a_worker_gets_no_copy_of_the_voxels(folders):
    ct_cache = CtCache.open(folders)
    ct_cache.index.get_ct("1.2.0").hu.max()
    data = pickle.dumps(ct_cache)
    assert len(data) < 16 * 100 * 104  # half of the voxels' bytes
    assert pickle.loads(data).get_ct_sample_size("1.2.0") == ct_cache.get_ct_sample_size("1.2.0")
