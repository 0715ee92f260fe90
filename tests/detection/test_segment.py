import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.data.ct import Ct
from p2ch13.detection.segment import (
    LOWEST_THRESHOLD,
    enlarge,
    find_lung_box,
    predict_slices,
    reconstruct_from_lungs,
    segment,
)
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.util.boxes import make_box
from p2ch13.util.coordinates import AxialOrder
from p2ch13.util.logits import to_logit
from tests.support.checks import refused
from tests.support.networks import Denser, FakeNetwork
from tests.support.scan_files import IDENTITY, Ball, make_chest, make_hu, write_scan

VX_SIZE_XYZ = (3.0, 3.0, 3.0)
TURNS = {
    "as LUNA16 has it": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "rows and cols the other way": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "slices from head to feet": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "at an angle": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
}


class NotANumber(FakeNetwork):
    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        return torch.full_like(input_batch[:, :1], torch.nan)


class Position(FakeNetwork):
    """Makes every input slice recognizable: a weighted sum of the slices."""

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        self.seen = input_batch
        weights = torch.arange(1.0, 8.0).view(1, 7, 1, 1)
        return (input_batch * weights).sum(dim=1, keepdim=True) / 2**16


def open_scan(tmp_path, hu, direction=TURNS["as LUNA16 has it"], vx_size_xyz=VX_SIZE_XYZ):
    return Ct(write_scan(tmp_path / "1.2.3.mha", hu, direction, vx_size_xyz=vx_size_xyz))


def test_every_voxel_of_every_slice(tmp_path):
    hu = make_hu([], (6, 20, 22)) + np.arange(6 * 20 * 22, dtype=np.int16).reshape(6, 20, 22)
    logits = segment(open_scan(tmp_path, hu), Position(), lung_mask=False)
    padded = np.pad(hu.clip(HU_MIN, HU_MAX), ((3, 3), (0, 0), (0, 0)), mode="edge").astype(np.float64)
    expected = sum((offset + 1) * padded[offset : offset + 6] for offset in range(7)) / 2**16
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_the_models_slice_spacing(tmp_path):
    """Every second slice of 3 mm is 6 mm away."""
    hu = make_hu([], (9, 20, 22)) + np.arange(9 * 20 * 22, dtype=np.int16).reshape(9, 20, 22) // 4
    ct, model = open_scan(tmp_path, hu), Position()
    model.slice_spacing_mm = 6.0
    segment(ct, model, lung_mask=False)
    np.testing.assert_array_equal(model.seen[0], ct.get_slice(8, 3, 6.0))  # of the last slice
    assert model.seen[0, :, 0, 0].tolist() == hu[[2, 4, 6, 8, 8, 8, 8], 0, 0].clip(HU_MIN, HU_MAX).tolist()


def test_big_endian_voxels(tmp_path):
    hu = make_hu([], (4, 20, 22))
    hu[2, 3:6, 4:9] = 100
    path = write_scan(tmp_path / "1.2.3.mhd", hu)
    path.write_text(path.read_text().replace("MSB = False", "MSB = True"))
    (tmp_path / "1.2.3.raw").write_bytes(hu.astype(">i2").tobytes())
    np.testing.assert_array_equal(segment(Ct(path), Denser()) > 0, hu > -700)


def test_unusable_scans_and_models(tmp_path):
    with refused(path=tmp_path / "1.2.3.mha"):
        segment(open_scan(tmp_path, make_hu([], (4, 20, 22))), Denser())
    ct = open_scan(tmp_path, make_hu([Ball((2, 10, 10), 2)], (4, 20, 22)))
    with refused(path=tmp_path / "1.2.3.mha"):
        segment(ct, NotANumber())


@pytest.mark.parametrize("direction", TURNS.values(), ids=TURNS)
def test_masks_are_exact_however_the_scan_is_turned(tmp_path, direction):
    hu = make_hu([], (9, 20, 22))
    hu[2, 3:6, 4:9] = 100
    logits = segment(open_scan(tmp_path, hu, direction), Denser(), lung_mask=False)
    np.testing.assert_array_equal(AxialOrder.of(np.reshape(direction, (3, 3))).to_stored(logits) > 0, hu > -700)


def test_the_network_sees_axial_slices(tmp_path):
    """Of a sagittal scan as well: index runs to the left, rows to the feet, cols to the back."""
    hu = (make_hu([], (4, 5, 6)) + np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)).astype(np.int16)
    model = Position()
    # Columns: col along +y, row along -z, index along +x.
    segment(open_scan(tmp_path, hu, (0, 0, 1, 1, 0, 0, 0, -1, 0)), model, lung_mask=False)
    head = model.seen[-1, 3]  # the last slice is the one nearest to the head: row 0
    np.testing.assert_array_equal(head, hu[:, 0, :].T)  # (row to the back, col to the left)


def test_flips_do_not_change_a_pixelwise_model(tmp_path, chest):
    ct = open_scan(tmp_path, chest)
    np.testing.assert_array_equal(segment(ct, Denser(), tta=True), segment(ct, Denser()))


def test_flips_are_averaged(tmp_path):
    class Ramp(FakeNetwork):
        def logits(self, input_batch):
            _, _, rows, cols = input_batch.shape
            ramp = torch.arange(rows).view(-1, 1) / 8 + torch.arange(cols).view(1, -1) / 64
            return ramp.expand(len(input_batch), 1, rows, cols)

    ct = open_scan(tmp_path, make_hu([Ball((1, 2, 2), 1)], (2, 4, 6)))
    logits = segment(ct, Ramp(), lung_mask=False, tta=True)
    np.testing.assert_allclose(logits, 1.5 / 8 + 2.5 / 64)


def test_only_the_box_of_the_lungs_is_computed(tmp_path):
    hu = np.pad(make_chest((4, 96, 128)), ((6, 5), (0, 0), (0, 0)), constant_values=40)
    ct = open_scan(tmp_path, hu)
    shapes = []

    class Spy(Denser):
        def logits(self, input_batch):
            shapes.append(tuple(input_batch.shape))
            return super().logits(input_batch)

    lungs = np.zeros((15, 300, 300), dtype=bool)
    lungs[6:10, 100:150, 70:200] = True
    assert find_lung_box(lungs, 30, 16) == (slice(5, 11), slice(64, 192), slice(32, 240))
    assert find_lung_box(lungs, 24, 4) == (slice(5, 11), slice(76, 176), slice(44, 224))
    assert find_lung_box(lungs, 108, 16) == (slice(5, 11), slice(0, 272), slice(0, 300))
    segment(ct, Spy())
    assert len(shapes) == 6


def test_the_lung_mask_keeps_components_that_touch_the_lungs(tmp_path, chest):
    chest[3:6, 10:14, 60:68] = -800  # around the next one: else all of the chest would touch the lungs
    chest[4, 11:13, 62:66] = 0
    ct = open_scan(tmp_path, chest)
    assert segment(ct, Denser(), lung_mask=False)[4, 11, 63] == 8
    logits = segment(ct, Denser())
    assert logits[4, 11, 63] == np.float32(to_logit(LOWEST_THRESHOLD))
    assert logits[4, 41, 41] == 8
    assert logits[3, 39, 52] == 8
    assert logits[0, 0, 0] == -np.inf  # beyond the box of the lungs


def test_without_lungs_the_whole_scan_is_searched(tmp_path, caplog):
    hu = make_hu([], (6, 20, 22))
    hu[2, 3:6, 4:9] = 100
    logits = segment(open_scan(tmp_path, hu), Denser())
    np.testing.assert_array_equal(logits > 0, hu > -700)
    assert "1.2.3.mha: no lungs found" in caplog.text


def test_reconstruction_by_hand():
    """A row: lung on the left, a hill that touches it, a saddle just below 0, a higher hill behind it."""
    logits = np.array([[[-1.4, 2.2, 1.4, 0.4, -0.006, 2.2, 2.2, -3.0, 2.2]]], dtype=np.float32)
    lungs = np.array([[[1, 1, 0, 0, 0, 0, 0, 0, 0]]], dtype=bool)
    reconstruct_from_lungs(logits, lungs, floor=-4.0)
    expected = np.array([-1.4, 2.2, 1.4, 0.4, -0.006, -0.006, -0.006, -3.0, -3.0], dtype=np.float32)
    np.testing.assert_array_equal(logits[0, 0], expected)


def test_reconstruction_keeps_components_at_every_threshold():
    """Compare with components at each threshold: those with a voxel in the lungs stay whole."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (4, 16, 18)).astype(np.float32)
    lungs = np.zeros(logits.shape, dtype=bool)
    lungs[:, 5:9, 3:6] = True
    reached = logits.copy()
    floor = float(np.quantile(logits, 0.1))
    reconstruct_from_lungs(reached, lungs, floor)
    np.testing.assert_array_equal(reached[lungs], logits[lungs])
    np.testing.assert_array_equal(reached[logits < floor], logits[logits < floor])
    for threshold in [floor, *np.quantile(logits, np.linspace(0.12, 0.98, 44))]:
        components = sitk.GetArrayFromImage(
            sitk.ConnectedComponent(sitk.GetImageFromArray((logits > threshold).astype(np.uint8)), True)
        )
        touching = np.setdiff1d(components[lungs], [0])
        np.testing.assert_array_equal(reached > threshold, np.isin(components, touching))


def settled(**arguments) -> UNetWrapper:
    """Build a network of random weights, normalized by its input's statistics: logits are of order 1."""
    torch.manual_seed(0)
    model = UNetWrapper(**{**BOOK_MODEL, "wf": 2, **arguments})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 7, 96, 96) * 400 - 600)
    return model.eval()


@pytest.mark.parametrize("up_mode", ["upconv", "upsample"])
@pytest.mark.parametrize("space_to_depth", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_box_of_the_lungs_gives_the_logits_of_whole_slices(tmp_path, depth, space_to_depth, up_mode):
    """Inside the lungs, with each network's own margin and alignment; rows and cols are not multiples of it."""
    model = settled(depth=depth, space_to_depth=space_to_depth, up_mode=up_mode)
    margin = model.receptive_field // 2
    size, lung = 2 * margin + 2 * model.size_multiple + 107, 20
    hu = np.random.default_rng(0).normal(-600, 300, (1, size, size)).astype(np.int16)
    ct = open_scan(tmp_path, hu, IDENTITY)
    lungs = np.zeros(hu.shape, dtype=bool)
    start = margin + model.size_multiple + 41
    lungs[:, start : start + lung, start : start + lung] = True
    box = find_lung_box(lungs, margin, model.size_multiple)
    assert box[1].start > 0
    assert box[2].stop < size
    (boxed,) = predict_slices(ct, box, model, tta=False, pixel_mm=0.0, precision="fp32")
    (whole,) = predict_slices(ct, make_box((0, 0, 0), hu.shape), model, tta=False, pixel_mm=0.0, precision="fp32")
    inside = lungs[box][0]
    assert np.abs(boxed[0][inside] - whole[0][box[1:]][inside]).max() < 1e-5 * max(1, np.abs(whole).max())
    assert whole[0][box[1:]][inside].std() > 0.01


@pytest.mark.parametrize(
    ("size_mm", "pixel_mm", "shape"),
    [
        ((1.0, 1.0), 0.0, (20, 22)),
        ((1.0, 1.0), 0.5, (40, 44)),
        ((1.0, 0.75), 0.5, (40, 33)),
        ((0.4, 0.5), 0.5, (20, 22)),
        ((0.4, 0.6), 0.5, (20, 26)),
    ],
)
def test_slices_of_large_pixels_are_enlarged(size_mm, pixel_mm, shape):
    """A plane stays a plane between the outermost pixels' centers."""
    rows, cols = torch.arange(20.0).view(-1, 1), torch.arange(22.0)
    enlarged = enlarge((3 * rows - 2 * cols).expand(2, 7, 20, 22), size_mm, pixel_mm)
    assert enlarged.shape == (2, 7, *shape)
    at_row, at_col = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(shape, (20, 22), strict=True))
    expected = 3 * at_row.clip(0, 19)[:, None] - 2 * at_col.clip(0, 21)
    np.testing.assert_allclose(enlarged[1, 3], expected, atol=1e-4)


@pytest.mark.parametrize(("pixel_mm", "seen"), [(0.0, (20, 22)), (1.5, (40, 44)), (4.0, (20, 22))])
def test_logits_of_enlarged_slices_have_the_scans_shape(tmp_path, pixel_mm, seen):
    """The network of a weighted sum is linear: of a plane its logits are a plane, whatever the pixels' size."""
    index, row, col = np.ogrid[:6, :20, :22]
    ct = open_scan(tmp_path, (10 * index + 5 * row - 6 * col - 850).astype(np.int16))
    network = Position()
    logits = segment(ct, network, pixel_mm=pixel_mm, lung_mask=False)
    assert network.seen.shape[2:] == seen
    plain = segment(ct, Position(), lung_mask=False)
    assert logits.shape == ct.shape_irc
    np.testing.assert_allclose(logits[:, 1:-1, 1:-1], plain[:, 1:-1, 1:-1], atol=1e-5)
