from collections import Counter

import numpy as np
import pytest

from p2ch13.cache import CtCache
from p2ch13.candidates import CandidateInfoTuple
from p2ch13.config import NEGATIVES_PER_SCAN, CropChoice, Folders
from p2ch13.crops import CLEARANCE_MM, TISSUE_HU, choose_crop_places, spread_over_slices
from p2ch13.ct import Ct
from p2ch13.lungs import find_lungs
from p2ch13.phantom.dataset import write_phantoms
from tests.scan_files import Ball, as_nodule, make_hu, to_xyz, write_scan


@pytest.fixture(scope="module")
def phantom_cache(tmp_path_factory):
    """One small scan of a whole chest, with candidates."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantoms(folder / "luna", 1, pixels=128, slice_count=24)
    return CtCache(Folders(folder / "luna", folder / "cache"))


def test_slices_of_a_nodule_from_end_to_end(tmp_path):
    ball = Ball((8, 50, 52), 5)  # 7 mm across: 2.3 slices on either side
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([ball])))
    places = spread_over_slices(ct, as_nodule("1.2", ball))
    assert [ct.locate(xyz) for xyz in places] == [(index, 50, 52) for index in (6, 7, 8, 9, 10)]
    first = spread_over_slices(ct, as_nodule("1.2", Ball((1, 50, 52), 5)))
    assert [ct.locate(xyz).index for xyz in first] == [0, 1, 2, 3]  # from the scan's first slice on


def test_negatives_are_of_several_kinds(phantom_cache):
    (series_uid,) = phantom_cache.series_list
    ct, nodules = phantom_cache.get_ct(series_uid), phantom_cache.nodules[series_uid]
    negatives = phantom_cache.get_crop_places(series_uid).negatives
    assert len(negatives) == len(set(negatives)) == NEGATIVES_PER_SCAN
    candidates = {candidate.center_xyz for candidate in phantom_cache.non_nodules[series_uid]}
    assert sum(xyz in candidates for xyz in negatives) == NEGATIVES_PER_SCAN // 2
    lungs = find_lungs(ct.hu, ct.vx_size_xyz)
    others = [ct.locate(xyz) for xyz in negatives if xyz not in candidates]
    lung_cols = [np.flatnonzero(lungs[irc.index, irc.row]) for irc in others]
    is_between = [cols.size > 0 and cols[0] < irc.col < cols[-1] for irc, cols in zip(others, lung_cols, strict=True)]
    kinds = Counter(
        (bool(lungs[irc]), bool(ct.hu[irc] > TISSUE_HU), not lungs[irc] and between)
        for irc, between in zip(others, is_between, strict=True)
    )
    expected = [(False, True, True), (True, True, False), (False, True, False), (True, False, False)]
    assert kinds == dict.fromkeys(expected, NEGATIVES_PER_SCAN // 8)
    distances = [
        np.linalg.norm(np.subtract(xyz, nodule.center_xyz)) - nodule.diameter_mm / 2
        for xyz in negatives
        for nodule in nodules
    ]
    assert min(distances) > CLEARANCE_MM


def test_a_candidate_on_a_nodule_is_no_negative(tmp_path):
    ball = Ball((8, 50, 52), 5)
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([ball])))
    near, far = to_xyz((8, 50, 60)), to_xyz((8, 50, 80))  # 5.6 and 19.6 mm away; the radius is 3.5
    non_nodules = [CandidateInfoTuple(False, False, False, 0.0, "1.2", xyz) for xyz in (near, far)]
    negatives = choose_crop_places(ct, [as_nodule("1.2", ball)], non_nodules).negatives
    assert far in negatives
    assert near not in negatives


def test_the_cache_holds_all_that_is_asked_for(phantom_cache):
    (series_uid,) = phantom_cache.series_list
    strong = CropChoice(off_centre=True, negatives=True)
    phantom_cache.fill(series_uid)
    assert phantom_cache.is_complete(series_uid)
    assert not phantom_cache.is_complete(series_uid, strong)
    phantom_cache.fill(series_uid, strong)
    assert phantom_cache.is_complete(series_uid, strong)
    again = CtCache(Folders(phantom_cache.data_dir, phantom_cache.folder))
    assert again.is_complete(series_uid, strong)
    assert again.find_centers(series_uid, strong) == phantom_cache.get_crop_places(series_uid)


def test_other_candidates_are_other_places(phantom_cache):
    (series_uid,) = phantom_cache.series_list
    strong = CropChoice(negatives=True)
    phantom_cache.fill(series_uid, strong)
    again = CtCache(Folders(phantom_cache.data_dir, phantom_cache.folder))
    del again.non_nodules[series_uid][0]
    assert not again.is_complete(series_uid, strong)
