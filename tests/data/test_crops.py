from collections import Counter

import numpy as np
import pytest

from p2ch13.config import CROP_WIDTH_IRC, NEGATIVES_PER_SCAN, CropChoice, Folders
from p2ch13.data.cache import CtCache
from p2ch13.data.crops import CLEARANCE_MM, TISSUE_HU, choose_crop_centers, spread_over_slices
from p2ch13.data.ct import Ct
from p2ch13.labels.box import BoxRule
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.lidc_xml import XmlFile
from p2ch13.labels.refined import RefinedRule
from p2ch13.labels.rules import LidcRule
from p2ch13.phantom.dataset import write_phantoms
from p2ch13.volumes.lungs import find_lungs
from tests.support.lidc_files import Roi, block, write_readings, z_of
from tests.support.scan_files import Ball, as_nodule, make_hu, to_xyz, write_csv, write_scan

STRONG = CropChoice(all_nodule_slices=True, negatives=True)


@pytest.fixture(scope="module")
def phantom_cache(tmp_path_factory):
    """One small scan of a whole chest, with candidates."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantoms(folder / "luna", 1, pixels=128, slice_count=24)
    return CtCache.open(Folders(folder / "luna", folder / "cache"))


def test_slices_of_a_nodule_from_end_to_end(tmp_path):
    ball = Ball((8, 50, 52), 5)  # 7 mm across: its radius and a voxel are 5 mm, 3 slices on either side
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([ball])))
    places = spread_over_slices(ct, as_nodule("1.2", ball))
    assert [ct.locate(xyz) for xyz in places] == [(index, 50, 52) for index in (5, 7, 8, 9, 11)]
    first = Ball((1, 50, 52), 5)
    ct = Ct(write_scan(tmp_path / "1.3.mhd", make_hu([first])))
    places = spread_over_slices(ct, as_nodule("1.3", first))
    assert [ct.locate(xyz).index for xyz in places] == [0, 1, 2, 3, 4]  # from the scan's first slice on


@pytest.mark.parametrize("slice_spacing_mm", [0.0, 3.0])
@pytest.mark.parametrize("kind", ["box", "refined", "lidc"])
def test_crops_of_a_nodule_hold_it(tmp_path, kind, slice_spacing_mm):
    """A leaning nodule, thinner than its diameter says: slices 6 to 10, each one's middle 3 cols further on."""
    hu = make_hu([])
    rois = []
    for ndx in range(6, 11):
        col = 52 + 3 * (ndx - 8)
        hu[ndx, 48:53, col - 2 : col + 3] = TISSUE_HU
        rois += block((ndx, ndx), (48, 52), (col - 2, col + 2))
    xml_path = write_readings(tmp_path / "a.xml", "1.2", [[rois]])
    rules = {"box": BoxRule(), "refined": RefinedRule(), "lidc": LidcRule(XmlFile(xml_path))}
    nodule = as_nodule("1.2", Ball((8, 50, 52), 3))._replace(diameter_mm=12.0)
    ct = Ct(write_scan(tmp_path / "1.2.mhd", hu), [nodule], rules[kind])
    mask = ct.build_annotation_mask([nodule])
    assert mask.any()
    ((places,), _) = choose_crop_centers(ct, [nodule], [])
    assert [ct.locate(xyz).index for xyz in places] == np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    for xyz in places:
        _, pos_chunk, center_irc = ct.get_raw_candidate(xyz, CROP_WIDTH_IRC, slice_spacing_mm)
        assert mask[center_irc]
        assert pos_chunk[3, 48, 48]


def test_an_unmarked_nodule_has_its_center(tmp_path):
    nodule = as_nodule("1.2", Ball((8, 50, 52), 3))
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([])), [nodule], RefinedRule())
    assert choose_crop_centers(ct, [nodule], []).of_nodules == [[nodule.center_xyz]]


def test_slices_of_the_chest_wall_are_not_the_nodules(tmp_path):
    """The book's box grows into tissue that touches the nodule and fills the slices above it."""
    ball = Ball((5, 50, 52), 2)  # 2.8 mm: 1.4 and 1.5 mm are a slice on either side
    hu = make_hu([ball])
    hu[:, 50:56, 50:55] = TISSUE_HU
    nodule = as_nodule("1.2", ball)
    ct = Ct(write_scan(tmp_path / "1.2.mhd", hu), [nodule])
    assert ct.positive_indexes == list(range(16))
    assert [ct.locate(xyz).index for xyz in spread_over_slices(ct, nodule)] == [4, 5, 6]


def test_negatives_are_of_several_kinds(phantom_cache):
    (series_uid,) = phantom_cache.index.series_list
    ct, nodules = phantom_cache.index.get_ct(series_uid), phantom_cache.index.nodules[series_uid]
    negatives = phantom_cache.get_crop_centers(series_uid).negatives
    assert len(negatives) == len(set(negatives)) == NEGATIVES_PER_SCAN
    candidates = {candidate.center_xyz for candidate in phantom_cache.index.non_nodules[series_uid]}
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
    negatives = choose_crop_centers(ct, [as_nodule("1.2", ball)], non_nodules).negatives
    assert far in negatives
    assert near not in negatives


def test_no_negative_lies_in_a_readers_contour(tmp_path):
    """Neither in the consensus, nor in one reader's contour, nor on a nodule under 3 mm; LUNA16 lists none of them."""
    consensus, single = block((7, 9), (46, 55), (48, 57)), block((3, 4), (20, 25), (30, 35))
    xml_path = write_readings(
        tmp_path / "a.xml", "1.2", [[consensus, single], [consensus], [[Roi(z_of(12), [(80, 80)])]]]
    )
    ct = Ct(write_scan(tmp_path / "1.2.mhd", make_hu([])), [], LidcRule(XmlFile(xml_path)))
    # Contours are at col 58 and col 36; 4 mm are 5 cols of 0.7 mm.
    seen = [(8, 50, 52), (8, 50, 63), (3, 22, 41), (4, 22, 33), (12, 80, 84)]
    free = [(8, 50, 64), (3, 22, 42), (12, 80, 86), (8, 200, 52)]  # the last one is outside the scan
    non_nodules = [CandidateInfoTuple(False, False, False, 0.0, "1.2", to_xyz(irc)) for irc in seen + free]
    assert set(choose_crop_centers(ct, [], non_nodules).negatives) == {to_xyz(irc) for irc in free}


def test_no_negative_lies_on_the_mask(tmp_path):
    """The book's box labels a vessel as nodule, even 10 mm from the nodule's surface."""
    ball = Ball((8, 50, 52), 5)
    hu = make_hu([ball])
    hu[8, 20:80, 52] = TISSUE_HU
    nodule = as_nodule("1.2", ball)
    ct = Ct(write_scan(tmp_path / "1.2.mhd", hu), [nodule])
    assert ct.positive_mask[8, 70, 52]
    candidate = CandidateInfoTuple(False, False, False, 0.0, "1.2", to_xyz((8, 70, 52)))
    assert candidate.center_xyz not in choose_crop_centers(ct, [nodule], [candidate]).negatives


def test_no_negative_lies_on_an_excluded_finding(tmp_path):
    """Neither a candidate nor a random negative; a finding without diameter counts as 10 mm."""
    data_dir = tmp_path / "luna"
    write_phantoms(data_dir, 1, pixels=128, slice_count=24)
    before = CtCache.open(Folders(data_dir, tmp_path / "cache"))
    (series_uid,) = before.index.series_list
    for choice in (CropChoice(), STRONG):
        before.fill(series_uid, choice)
    assert before.index.excluded[series_uid] == []
    negatives = before.get_crop_centers(series_uid).negatives
    candidates = {candidate.center_xyz for candidate in before.index.non_nodules[series_uid]}
    is_candidate = [xyz in candidates for xyz in negatives]
    places = [negatives[is_candidate.index(True)], negatives[is_candidate.index(False)]]
    rows = [(series_uid, *places[0], -1), (series_uid, *places[1], 16), ("1.9.9", 1, 2, 3, 4)]
    header = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    write_csv(data_dir / "annotations_excluded.csv", header, rows)
    after = CtCache.open(Folders(data_dir, tmp_path / "cache"))
    assert {place.center_xyz for place in after.index.excluded[series_uid]} == set(places)
    assert set(after.index.excluded) == {series_uid}
    assert not after.is_complete(series_uid, STRONG)
    assert after.is_complete(series_uid)  # crops through the centers do not depend on them
    kept = after.get_crop_centers(series_uid).negatives
    assert len(kept) == NEGATIVES_PER_SCAN
    for place, radius_mm in zip(places, (5, 8), strict=True):
        assert np.linalg.norm(np.subtract(kept, place), axis=1).min() > radius_mm + CLEARANCE_MM


def test_the_cache_holds_the_chosen_crops(phantom_cache):
    """Candidates are part of the key."""
    (series_uid,) = phantom_cache.index.series_list
    phantom_cache.fill(series_uid)
    assert phantom_cache.is_complete(series_uid)
    assert not phantom_cache.is_complete(series_uid, STRONG)
    phantom_cache.fill(series_uid, STRONG)
    assert phantom_cache.is_complete(series_uid, STRONG)
    again = CtCache.open(Folders(phantom_cache.index.data_dir, phantom_cache.folder))
    assert again.is_complete(series_uid, STRONG)
    assert again.find_centers(series_uid, STRONG) == phantom_cache.get_crop_centers(series_uid)
    del again.index.non_nodules[series_uid][0]
    assert not again.is_complete(series_uid, STRONG)
