"""One scan from Python: the same as the command finds, for whatever a scan is given as."""

import io
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as PillowImage

import p2ch13
from p2ch13 import Ct, InputError, load_detector, load_model, load_segmenter, segment
from p2ch13.config import SearchOptions
from p2ch13.detection import prediction
from p2ch13.detection.figure import GAP, PIXELS
from p2ch13.detection.prediction import Prediction, predict
from p2ch13.predict import main
from p2ch13.util.options import list_options
from tests.support.checks import refused
from tests.support.commands import run_python
from tests.support.dicom_files import write_series
from tests.support.networks import make_finding_scorer, write_pixel_network, write_two_stages
from tests.support.scan_files import Ball, ball_mask, make_hu, to_xyz, write_scan

SHAPE_IRC = (10, 40, 44)
BALLS = [Ball((5, 20, 22), 4), Ball((3, 8, 9), 2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Marks all balls."""
    return write_pixel_network(tmp_path_factory.mktemp("models") / "tiny.state", -700)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scans") / "1.2.3.nii.gz", make_hu(BALLS, SHAPE_IRC))


@pytest.fixture(scope="module")
def found(scan, checkpoint):
    return predict(scan, checkpoint=checkpoint, lung_mask=False)


def test_what_is_found(found):
    """By hand: two balls, the larger first."""
    assert [finding.number for finding in found.findings] == [1, 2]
    for finding, ball in zip(found.findings, BALLS, strict=True):
        np.testing.assert_array_equal(found.mask == finding.number, ball_mask(ball, SHAPE_IRC))
        assert finding.center_xyz == pytest.approx(to_xyz(ball.center_irc), abs=1e-3)
    assert [measures.kind for measures in found.measures] == ["solid", "solid"]
    assert found.sides == [None, None]
    assert found.facts.threshold == 0.5
    assert found.ct.to_irc(found.findings[0].center_xyz) == BALLS[0].center_irc


def zipped(folder):
    return shutil.make_archive(str(folder), "zip", folder)


WAYS = {
    "text": str,
    "path": lambda scan: scan,
    "SimpleITK": lambda scan: sitk.ReadImage(str(scan)),
    "nibabel": nibabel.load,
    "Ct": Ct,
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_give_a_scan(found, scan, checkpoint, way):
    again = p2ch13.predict(WAYS[way](scan), checkpoint=str(checkpoint), lung_mask=False)
    np.testing.assert_array_equal(again.mask, found.mask)
    centers = [[finding.center_xyz for finding in each.findings] for each in (again, found)]
    np.testing.assert_allclose(*centers, atol=2e-3)  # NIfTI's affine is float32


@pytest.mark.parametrize("give", [lambda folder: folder, zipped, lambda folder: str(min(folder.iterdir()))])
def test_dicom(tmp_path, checkpoint, give):
    folder = tmp_path / "series"
    write_series(folder, make_hu(BALLS, SHAPE_IRC))
    again = predict(give(folder), checkpoint=checkpoint, lung_mask=False)
    np.testing.assert_array_equal(again.mask > 0, make_hu(BALLS, SHAPE_IRC) > -700)


def test_as_the_command_finds(tmp_path, found, scan, checkpoint):
    out = tmp_path / "out"
    assert main(["--checkpoint", str(checkpoint), "--output", str(out), str(scan), "--no-lung-mask"]) == 0
    written, own = sitk.ReadImage(str(out / "1.2.3_mask.nii.gz")), found.mask_image()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(own), sitk.GetArrayFromImage(written))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(own, name)(), getattr(written, name)(), atol=1e-4)


def test_the_mask_image_is_in_the_order_of_the_scan(scan, checkpoint):
    """A sagittal image: the mask marks what is dense in it, in place."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(scan)), "PIR")
    own = predict(image, checkpoint=checkpoint, lung_mask=False).mask_image()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(own) > 0, sitk.GetArrayViewFromImage(image) > -700)
    assert own.GetDirection() == image.GetDirection()


def test_the_figure(found):
    """Two rows of three planes below captions, and Jupyter gets it as PNG."""
    width, height = found.figure.size
    assert width == 3 * PIXELS + 2 * GAP
    assert 2 * PIXELS < height < 2 * PIXELS + 200
    shown = PillowImage.open(io.BytesIO(found._repr_png_()))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(found.figure))
    one = found.draw(2)
    assert PIXELS < one.size[1] < PIXELS + 120
    for number in (0, 3):
        with refused():
            found.draw(number)


def test_the_contour_is_around_the_finding(checkpoint):
    """Yellow pixels of the axial plane: as wide as the ball, 9 voxels of 1 mm in a window of 50 mm."""
    scan = sitk.GetImageFromArray(make_hu([Ball((5, 20, 22), 4)], SHAPE_IRC))
    plane = np.asarray(predict(scan, checkpoint=checkpoint, lung_mask=False).figure)[-PIXELS:, :PIXELS].astype(int)
    is_yellow = (plane[..., 0] > 150) & (plane[..., 0] - plane[..., 2] > 100)
    rows, cols = np.nonzero(is_yellow)
    width = 9 / 50 * PIXELS
    assert np.ptp(cols) == pytest.approx(width, abs=5)
    assert cols.mean() == pytest.approx(PIXELS / 2, abs=3)
    assert rows.mean() == pytest.approx(PIXELS / 2, abs=3)


def test_nothing_found(tmp_path, checkpoint):
    scan = write_scan(tmp_path / "a.mha", make_hu([Ball((5, 20, 22), 1)], SHAPE_IRC))
    found = predict(scan, checkpoint=checkpoint, lung_mask=False, min_diameter=5)
    assert found.findings == []
    assert found.figure.size[0] >= SHAPE_IRC[2]
    assert len(repr(found).splitlines()) == 1


def test_the_text(found):
    """A sentence, and a line for each finding."""
    summary, first, second = repr(found).splitlines()
    assert summary.startswith("2 findings")
    assert "solid" in first and "slices 1 to 5" in second


def test_options_are_those_of_the_command(scan, tmp_path):
    """Both balls have a logit of 0.01 * 700: a probability of 0.9991."""
    two = write_two_stages(tmp_path / "two.state", -700, make_finding_scorer(default=0.9999), weight=0.01)
    assert len(predict(scan, checkpoint=two, lung_mask=False).findings) == 0
    assert len(predict(scan, checkpoint=two, lung_mask=False, threshold="sensitive").findings) == 2
    alone = predict(scan, checkpoint=two, lung_mask=False, second_stage=False)
    assert np.isnan(alone.findings[0].second_stage_logit)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"treshold": 0.5}, "--treshold"),
        ({"threshold": 2.0}, "--threshold"),
        ({"threshold": "sensitiv"}, "--threshold"),
        ({"output": "folder"}, "--output"),
        ({"scans": ("a.mhd",)}, "--scans"),
        ({"device": "gpu"}, "--device"),
        ({"tta": 1}, "--tta"),
        ({"checkpoint": 5}, "--checkpoint"),
    ],
)
def test_mistaken_options(scan, options, name):
    with refused(option=name):
        predict(scan, **options)


@pytest.mark.parametrize("given", [5, None, np.zeros(SHAPE_IRC, np.int16), ["a.mhd"], b"a.mhd"])
def test_what_is_no_scan(checkpoint, given):
    with refused() as caught:
        predict(given, checkpoint=checkpoint)
    assert "a path, a SimpleITK image or a nibabel image" in str(caught.value)


def test_several_scans(tmp_path, checkpoint):
    for name in "ab":
        write_scan(tmp_path / "scans" / f"{name}.mha", make_hu(BALLS, SHAPE_IRC))
    with refused(path=tmp_path / "scans"):
        predict(tmp_path / "scans", checkpoint=checkpoint)


def test_no_hu(checkpoint, scan):
    """A mask as an image is refused as its file is."""
    mask = sitk.ReadImage(str(scan)) > -700
    with refused():
        predict(mask, checkpoint=checkpoint)


def test_networks_are_loaded_once(scan, tmp_path, monkeypatch):
    """Until their file changes."""
    path, loaded = write_pixel_network(tmp_path / "a.state", -700), []
    load = prediction.load_networks
    monkeypatch.setattr(prediction, "load_networks", lambda *args: loaded.append(args) or load(*args))
    for _ in range(2):
        predict(scan, checkpoint=path, lung_mask=False)
    assert len(loaded) == 1
    write_pixel_network(path, 100, card={"name": "another"})
    assert predict(scan, checkpoint=path, lung_mask=False).findings == []
    assert len(loaded) == 2
    predict(scan, checkpoint=[path, path], lung_mask=False)
    assert len(loaded) == 3


def test_paths_as_text(checkpoint):
    """Of all that load a checkpoint."""
    for load in (load_detector, load_segmenter, load_model):
        load(str(checkpoint))
        with refused():
            load("missing.state")


def test_an_image_is_no_ct(scan, checkpoint):
    with pytest.raises(InputError, match=r"Ct\(image\)"):
        segment(sitk.ReadImage(str(scan)), load_segmenter(checkpoint))


def test_all_options_of_the_search_are_described():
    for name in list_options(SearchOptions):
        assert name in predict.__doc__


ORDERS = {
    "package": "import p2ch13",
    "command first": "import p2ch13.predict, p2ch13",
    "function's module first": "import p2ch13.detection.prediction, p2ch13",
    "main": "import p2ch13.__main__, p2ch13; p2ch13.__main__.import_module('p2ch13.predict')",
    "name": "from p2ch13 import predict; import p2ch13; assert callable(predict) and callable(predict.main)",
    "module": "import p2ch13; p2ch13.predict; import p2ch13.predict as module; assert module.main",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_it_can_be_called_whatever_is_imported_first(order):
    """In a new process: the name is a function and a module at once."""
    code = f"{order}\ntry: p2ch13.predict(5)\nexcept p2ch13.InputError: print(p2ch13.predict.main.__name__)"
    assert run_python("-c", code).stdout == "main\n"


def test_the_result_is_public():
    assert p2ch13.Prediction is Prediction
