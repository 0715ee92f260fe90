import json
import shutil

import pytest

from p2ch13.data.layouts import find_layout, list_nodules
from p2ch13.labels.luna25 import LUNA25_DIAMETER_MM, LUNA25_FILE
from tests.support.checks import refused
from tests.support.mask_files import LUNA25_COLUMNS, luna25_row
from tests.support.scan_files import POSITION, write_csv


def fill(data_dir, *names):
    for name in names:
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).touch()
    return data_dir


def names_of(files):
    return {series_uid: path.name for series_uid, path in files.items()}


def test_luna16(tmp_path):
    data_dir = fill(tmp_path, "subset0/1.1.mhd", "subset0/1.1.raw", "1.2.mha", "masks/1.1.nii.gz")
    layout = find_layout(data_dir)
    assert names_of(layout.scans) == {"1.1": "1.1.mhd", "1.2": "1.2.mha"}
    assert names_of(layout.masks.find()) == {"1.1": "1.1.nii.gz"}
    assert layout.is_luna16


LARGE_LETTERS = [("subset0/{}.MHD", "masks/{}.NII.GZ"), ("images/{}.NRRD", "masks/{}.Mha")]
LARGE_LETTERS += [("imagesTr/{}_0000.NII.GZ", "labelsTr/{}.Nii.Gz")]


@pytest.mark.parametrize(("image", "mask"), LARGE_LETTERS)
def test_suffixes_in_large_letters(tmp_path, image, mask):
    layout = find_layout(fill(tmp_path, *(name.format(case) for name in (image, mask) for case in "ab")))
    assert list(layout.scans) == list(layout.masks.find()) == ["a", "b"]


@pytest.mark.parametrize("image", ["1.1.mhd", "subset3/1.1.mhd", "images/1.1.nrrd"])
@pytest.mark.parametrize("mask", ["1.1_mask.nii.gz", "1.1_SEG.nii", "1.1-label.nrrd"])
def test_a_mask_beside_its_scan_is_none(tmp_path, image, mask):
    data_dir = fill(tmp_path, image)
    fill((tmp_path / image).parent, mask)
    assert list(find_layout(data_dir).scans) == ["1.1"]


@pytest.mark.parametrize("images", ["images", "luna25_images"])
def test_images_and_masks(tmp_path, images):
    data_dir = fill(tmp_path, f"{images}/b.mha", f"{images}/a_0000.nii.gz", f"{images}/._a.mha", "masks/b.nrrd")
    fill(data_dir, "masks/._b.nii.gz", "images.txt", "dataset.json")
    layout = find_layout(data_dir)
    assert names_of(layout.scans) == {"a_0000": "a_0000.nii.gz", "b": "b.mha"}
    assert names_of(layout.masks.find()) == {"b": "b.nrrd"}
    assert layout.masks.dataset_file is None
    assert not layout.is_luna16


CASES = [
    (["a_0000", "b_0000"], ["a", "b"], ["a", "b"]),  # nnU-Net
    (["lung_003", "lung_053"], ["lung_003"], ["lung_003", "lung_053"]),  # the Decathlon
    (["c_0001_0000", "c_0002_0000"], ["c_0001"], ["c_0001", "c_0002"]),  # numbered with four digits
    (["c_0000", "c_0001", "c_0002"], ["c_0000", "c_0001", "c_0002"], ["c_0000", "c_0001", "c_0002"]),
    (["c_0007", "c_0008"], ["c_0007"], ["c_0007", "c_0008"]),
]


@pytest.mark.parametrize(("images", "labels", "cases"), CASES)
def test_names_of_cases(tmp_path, images, labels, cases):
    fill(tmp_path, *(f"imagesTr/{name}.nii.gz" for name in (*images, f"._{images[0]}")))
    fill(tmp_path, *(f"labelsTr/{name}.mha" for name in labels), "imagesTs/z_0000.nii.gz")
    layout = find_layout(tmp_path)
    assert list(layout.scans) == cases
    assert list(layout.masks.find()) == labels
    assert layout.masks.dataset_file is None
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "nodule": 1}}))
    assert find_layout(tmp_path).masks.dataset_file == tmp_path / "dataset.json"


@pytest.mark.parametrize("labels", [["a"], []])
def test_a_case_has_one_channel(tmp_path, labels):
    fill(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", *(f"labelsTr/{name}.nii.gz" for name in labels))
    with refused(path=tmp_path / "imagesTr" / "a_0001.nii.gz"):
        find_layout(tmp_path)


@pytest.mark.parametrize("second", ["images/1.mha", "imagesTr/1.mha", "luna25_images/1.mha"])
@pytest.mark.parametrize("first", ["subset3/2.mhd", "2.nrrd", "images/2.mha"])
def test_two_layouts_in_one_folder(tmp_path, first, second):
    fill(tmp_path, first, second)
    if first.split("/")[0] == second.split("/")[0]:
        assert len(find_layout(tmp_path).scans) == 2
    else:
        with refused(path=tmp_path):
            find_layout(tmp_path)


@pytest.mark.parametrize("images", ["images/{}.mha", "images/{}.nii.gz", "imagesTr/{}.mha", "imagesTr/{}_0000.nii"])
def test_a_series_twice(tmp_path, images):
    fill(tmp_path, "images/1.nrrd" if "Tr" not in images else "imagesTr/1.nrrd", images.format(1))
    with refused():
        find_layout(tmp_path)


def test_a_folder_without_scans(tmp_path):
    fill(tmp_path, "images/1.txt", "masks/1.nii.gz")
    with refused(path=tmp_path) as caught:
        find_layout(tmp_path)
    assert all(place in str(caught.value) for place in ("subset*/", "images/", "imagesTr/", "docs/data.md"))
    with refused(path=tmp_path / "none", option="--data-dir"):
        find_layout(tmp_path / "none")


def test_annotations_of_luna16_come_first(tmp_path):
    fill(tmp_path, "images/1.2.mha")
    layout = find_layout(tmp_path)
    assert (layout.has_annotations, layout.luna25_file, layout.has_candidates) == (False, None, False)
    write_csv(tmp_path / LUNA25_FILE, LUNA25_COLUMNS, [luna25_row(uid, (1, 2, 3), label=1) for uid in ("1.2", "1.3")])
    assert (layout.has_annotations, layout.luna25_file) == (True, tmp_path / LUNA25_FILE)
    assert [(n.series_uid, n.diameter_mm) for n in list_nodules(tmp_path, {"1.2"})] == [("1.2", LUNA25_DIAMETER_MM)]
    assert len(list_nodules(tmp_path, None)) == 2
    write_csv(tmp_path / "annotations.csv", [*POSITION, "diameter_mm"], [("1.2", 1, 2, 3, 4.5)])
    assert (layout.has_annotations, layout.luna25_file) == (True, None)
    assert [(n.is_mal, n.diameter_mm) for n in list_nodules(tmp_path, {"1.2"})] == [(None, 4.5)]
    fill(tmp_path, "candidates.csv")
    assert layout.has_candidates
    shutil.move(tmp_path / "images", tmp_path / "subset0")
    (tmp_path / "candidates.csv").unlink()
    assert find_layout(tmp_path).has_candidates  # to be asked for by name
