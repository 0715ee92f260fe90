import gzip

import pytest

from p2ch13.labels.candidates import get_candidate_info_list, get_nodule_info_list, read_excluded
from tests.support.checks import refused
from tests.support.scan_files import POSITION, TINY_SCANS, write_csv


def test_nodules_first_largest_first(luna_dir):
    candidates = get_candidate_info_list(luna_dir)
    # Radii 6, 5, 5, 4, 3, 3 voxels of 0.7 mm; then two non-nodules of each of four scans.
    assert [c.diameter_mm for c in candidates] == pytest.approx([8.4, 7.0, 7.0, 5.6, 4.2, 4.2] + [0.0] * 8)
    assert [c.is_nodule for c in candidates] == [True] * 6 + [False] * 8
    assert candidates[0].series_uid == "1.2.1"
    # Radius 5 in 1.2.0 and in 1.2.3: the order is fixed all the same.
    assert [c.series_uid for c in candidates[1:3]] == ["1.2.3", "1.2.0"]
    assert get_nodule_info_list(luna_dir) == candidates[:6]


def test_scans_that_are_not_on_disk_are_skipped_in_both_files(luna_dir):
    """In the book's code a nodule of such a scan ends in an IndexError."""
    everywhere = get_candidate_info_list(luna_dir, require_on_disk=False)
    assert [c.is_nodule for c in everywhere if c.series_uid == "1.9.9"] == [True, False, False]
    assert {c.series_uid for c in get_candidate_info_list(luna_dir)} == set(TINY_SCANS)
    (luna_dir / "subset0" / "1.2.1.mhd").unlink()
    assert {c.series_uid for c in get_candidate_info_list(luna_dir)} == set(TINY_SCANS) - {"1.2.1"}
    assert {c.series_uid for c in get_nodule_info_list(luna_dir)} == set(TINY_SCANS) - {"1.2.1"}


def test_malignancy_is_known_from_one_file_and_unknown_from_the_other(luna_dir):
    assert {c.is_mal for c in get_nodule_info_list(luna_dir)} == {True, False}
    (luna_dir / "annotations_with_malignancy.csv").unlink()
    nodules = get_nodule_info_list(luna_dir)
    assert {c.is_mal for c in nodules} == {None}
    assert len(nodules) == 6
    assert get_candidate_info_list(luna_dir)[0].diameter_mm == pytest.approx(8.4)


def test_annotations_are_the_truth_whatever_the_book_s_file_lacks_or_adds(luna_dir):
    position_and_size = [*POSITION, "diameter_mm"]
    write_csv(
        luna_dir / "annotations.csv",
        position_and_size,
        [("1.2.0", 1, 2, 3, 9), ("1.2.0", 1, 2, 30, 8), ("1.2.1", 1, 2, 3, 7), ("1.2.2", 1, 2, 3, 6)],
    )
    write_csv(
        luna_dir / "annotations_with_malignancy.csv",
        [*position_and_size, "mal_bool"],
        [
            ("1.2.0", 1.004, 1.996, 30.04, 8, True),  # printed with other digits
            ("1.2.0", 50, 60, 70, 5, True),  # one that annotations.csv does not list
            ("1.2.1", 1, 2, 3.2, 7, True),  # another place
            ("1.2.2", 1, 2, 3, 6, False),
        ],
    )
    nodules = [(nodule.series_uid, nodule.center_xyz, nodule.is_mal) for nodule in get_nodule_info_list(luna_dir)]
    assert nodules == [
        ("1.2.0", (1, 2, 3), None),
        ("1.2.0", (1, 2, 30), True),
        ("1.2.1", (1, 2, 3), None),
        ("1.2.2", (1, 2, 3), False),
    ]


def test_the_book_s_file_alone_is_enough(luna_dir):
    nodules = get_nodule_info_list(luna_dir)
    (luna_dir / "annotations.csv").unlink()
    assert get_nodule_info_list(luna_dir) == nodules
    assert {nodule.is_mal for nodule in nodules} == {True, False}


def test_columns_are_found_by_name(luna_dir):
    header = ["diameter_mm", "extra", "coordZ", "coordY", "coordX", "seriesuid"]
    write_csv(luna_dir / "annotations.csv", header, [(9.5, "x", 3, 2, 1, "1.2.0")])
    (nodule,) = get_nodule_info_list(luna_dir)
    assert (nodule.center_xyz, nodule.diameter_mm, nodule.series_uid) == ((1.0, 2.0, 3.0), 9.5, "1.2.0")


def test_dos_line_ends_and_a_byte_order_mark(luna_dir):
    path = luna_dir / "candidates.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert len(get_candidate_info_list(luna_dir)) == 14


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("annotations_with_malignancy.csv", "1.2.0,1,2,abc,5,True,x"),
        ("annotations_with_malignancy.csv", "1.9.8,1,2,nan,5,True,x"),
        ("annotations_with_malignancy.csv", "1.2.0,1,2,3,-5,True,x"),
        ("annotations_with_malignancy.csv", "1.2.0,1,2,3,5,maybe,x"),
        ("annotations_with_malignancy.csv", "1.2.0,1,2"),
        ("annotations_with_malignancy.csv", "1.2.0,1,2,3,1e30,True,x"),
        ("annotations_with_malignancy.csv", "1.2.0,1,2,1e30,5,True,x"),
        ("annotations_with_malignancy.csv", "1.2.0,1_0,2,3,5,True,x"),
        ("annotations.csv", "1.2.0,1,2,abc,5"),
        ("candidates.csv", "1.2.0,1,2,3,2"),
        ("candidates.csv", "1.2.0,1,,3,0"),
        ("candidates.csv", "1.9.8,1,2,3"),
        ("candidates.csv", "1.9.8,1,2,3,0,5"),
    ],
)
def test_a_malformed_row_names_file_and_line(luna_dir, name, row):
    path = luna_dir / name
    line_count = len(path.read_text().splitlines())
    path.write_text(path.read_text() + "\n" + row + "\n")  # after an empty line, which is skipped
    with refused(path, line=line_count + 2):
        get_candidate_info_list(luna_dir)


def test_the_second_list_of_candidates_is_used_where_it_is_there(luna_dir):
    (luna_dir / "candidates_V2.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n1.2.3,1,2,3,0\n1.2.3,4,5,6,1\n")
    candidates = [c for c in get_candidate_info_list(luna_dir) if not c.is_nodule]
    assert [(c.series_uid, c.center_xyz) for c in candidates] == [("1.2.3", (1, 2, 3))]


@pytest.mark.parametrize("name", ["annotations.csv", "annotations_with_malignancy.csv", "candidates.csv"])
def test_missing_columns_are_named(luna_dir, name):
    write_csv(luna_dir / name, ["seriesuid", "coordX", "coordZ"], [])
    with refused(luna_dir / name) as caught:
        get_candidate_info_list(luna_dir)
    assert " coordY, " in str(caught.value)


def test_missing_and_unreadable_files(luna_dir):
    (luna_dir / "candidates.csv").write_bytes(b"seriesuid\xff\xfe\n")
    with refused(luna_dir / "candidates.csv"):
        get_candidate_info_list(luna_dir)
    (luna_dir / "candidates.csv").unlink()
    with refused(luna_dir / "candidates.csv"):
        get_candidate_info_list(luna_dir)
    for path in luna_dir.glob("annotations*.csv"):
        path.unlink()
    with refused(luna_dir / "annotations.csv"):
        get_nodule_info_list(luna_dir)


def test_gzipped_tables_and_blanks(tmp_path):
    text = b"seriesuid, coordX,coordY ,coordZ\r\n 007 ,1, 2,3\r\n1.2\t,4,5,6\r\n"
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(text))
    assert [(row.series_uid, row.center_xyz) for row in read_excluded(path)] == [("007", (1, 2, 3)), ("1.2", (4, 5, 6))]
    for damaged in (text, gzip.compress(text)[:-12], gzip.compress(text)[:20] + b"?" * 40):
        path.write_bytes(damaged)
        with refused(path):
            read_excluded(path)


def test_the_official_files(luna_sample):
    nodules = get_nodule_info_list(luna_sample, require_on_disk=False)
    assert len(nodules) == 1186 + 7  # LUNA16's rows, and those of the drawn nodules
    assert nodules[0].diameter_mm == pytest.approx(32.27, abs=0.01)  # the largest of LUNA16
    assert sum(bool(nodule.is_mal) for nodule in nodules) == 378 + 2  # drawn ones: two malignant
    assert sum(nodule.is_mal is not None for nodule in nodules) == 1182 + 7  # each row of the book's file has its own
    unrated = [(nodule.series_uid[-30:], round(nodule.diameter_mm, 1)) for nodule in nodules if nodule.is_mal is None]
    assert unrated == [
        ("323753921818102744511069914832", 21.1),
        ("897684031374557757145405000951", 9.7),
        ("323753921818102744511069914832", 8.5),
        ("214252223927572015414741039150", 7.9),
    ]
    assert len(get_nodule_info_list(luna_sample)) == 1 + 7


def test_excluded_annotations_may_lack_a_diameter(tmp_path):
    rows = [("1.2.0", 1, 2, 3, 4.5), ("1.2.0", 4, 5, 6, -1.0), ("1.2.1", 7, 8, 9, "")]
    with_diameter = write_csv(tmp_path / "a.csv", [*POSITION, "diameter_mm"], rows)
    assert [excluded.diameter_mm for excluded in read_excluded(with_diameter)] == [4.5, 10, 10]
    without = read_excluded(write_csv(tmp_path / "b.csv", POSITION, [row[:4] for row in rows]))
    assert [excluded.diameter_mm for excluded in without] == [10, 10, 10]
    assert [excluded.center_xyz for excluded in without] == [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    with refused(tmp_path / "c.csv", line=3):
        read_excluded(write_csv(tmp_path / "c.csv", [*POSITION, "diameter_mm"], [rows[0], ("1.2.0", 1, 2, 3, "big")]))


def test_a_series_uid_that_is_a_path_names_no_scan(luna_dir):
    (luna_dir.parent / "secret.mhd").write_text("")
    for name in ("annotations.csv", "candidates.csv"):
        path = luna_dir / name
        ending = "5" if name.startswith("annot") else "0"
        path.write_text(path.read_text() + "".join(f"{uid},1,2,3,{ending}\n" for uid in ("../secret", "/etc/passwd")))
    assert {candidate.series_uid for candidate in get_candidate_info_list(luna_dir)} == set(TINY_SCANS)
