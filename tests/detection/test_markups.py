import json

from p2ch13.detection.findings import Finding
from p2ch13.detection.markups import write_markups
from p2ch13.util.coordinates import XyzTuple


def test_points_for_slicer(tmp_path):
    """Keys and values as in Slicer's schema 1.0.3."""
    findings = [
        Finding("1.2", 1, XyzTuple(56.0, 87.2, -115.5), 5.0, 0.9933, 20.0, 4189.0, 86, 94),
        Finding("1.2", 2, XyzTuple(-26.6, 70.9, -243.6), -3.0, 0.0474, 4.0, 33.5, 38, 39),
    ]
    write_markups(tmp_path / "a.mrk.json", 'a "b" <c>', findings)
    content = json.loads((tmp_path / "a.mrk.json").read_text(encoding="utf-8"))
    assert set(content) == {"@schema", "markups"}
    assert content["@schema"].endswith("/markups-schema-v1.0.3.json#")
    (markup,) = content["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    assert markup["name"] == 'a "b" <c>'
    points = markup["controlPoints"]
    assert [point["position"] for point in points] == [[56.0, 87.2, -115.5], [-26.6, 70.9, -243.6]]
    assert [point["label"] for point in points] == ["1 (0.99)", "2 (0.05)"]
    assert [point["id"] for point in points] == ["1", "2"]
    assert all(point["positionStatus"] == "defined" for point in points)


def test_no_findings_are_an_empty_list_of_points(tmp_path):
    write_markups(tmp_path / "a.mrk.json", "a", [])
    (markup,) = json.loads((tmp_path / "a.mrk.json").read_text())["markups"]
    assert markup["controlPoints"] == []
