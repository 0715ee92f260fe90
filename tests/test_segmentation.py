import numpy as np
import pytest
import torch
from torch import nn

from p2ch13.config import HU_MAX, HU_MIN
from p2ch13.ct import Ct
from p2ch13.lungs import find_lungs
from p2ch13.model import BOOK_MODEL, UNetWrapper
from p2ch13.segmentation import find_lung_box, keep_what_touches, segment
from tests.scan_files import Ball, make_chest, make_hu, write_scan
from util.errors import InputError

VX_SIZE_XYZ = (3.0, 3.0, 3.0)
TURNS = {
    "as LUNA16 has it": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "rows and cols the other way": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "slices from head to feet": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "at an angle": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
}


class Denser(nn.Module):
    """Says nodule where the slice itself is denser than -700 HU: every ball, and the wall of a chest."""

    def forward(self, ct_slices: torch.Tensor) -> torch.Tensor:
        assert ct_slices.shape[1] == 7
        return (ct_slices[:, 3:4] > -700).float()


class Position(nn.Module):
    """Makes all that it is given recognisable: the slices' own values, some 16ths of a percent of them."""

    def forward(self, ct_slices: torch.Tensor) -> torch.Tensor:
        self.seen = ct_slices
        weights = torch.arange(1.0, 8.0).view(1, 7, 1, 1)
        return (ct_slices * weights).sum(dim=1, keepdim=True) / 2**16


@pytest.fixture
def chest():
    """A nodule in a lung and one at its surface."""
    hu = make_chest()
    hu[3:5, 40:43, 40:43] = 0
    hu[2:4, 38:41, 50:54] = 0
    return hu


def open_scan(tmp_path, hu, direction=TURNS["as LUNA16 has it"], vx_size_xyz=VX_SIZE_XYZ):
    return Ct(write_scan(tmp_path / "1.2.3.mha", hu, direction, vx_size_xyz=vx_size_xyz))


def test_every_voxel_of_every_slice(tmp_path):
    hu = make_hu([], (6, 20, 22)) + np.arange(6 * 20 * 22, dtype=np.int16).reshape(6, 20, 22)
    probability = segment(open_scan(tmp_path, hu), Position(), lung_field=False)
    padded = np.pad(hu.clip(HU_MIN, HU_MAX), ((3, 3), (0, 0), (0, 0)), mode="edge").astype(np.float64)
    expected = sum((offset + 1) * padded[offset : offset + 6] for offset in range(7)) / 2**16
    assert probability.dtype == np.float16
    np.testing.assert_allclose(probability, expected, atol=2e-3)


def test_slices_as_far_apart_as_the_model_was_trained_on(tmp_path):
    """Every second slice of 3 mm is 6 mm away."""
    hu = make_hu([], (9, 20, 22)) + np.arange(9 * 20 * 22, dtype=np.int16).reshape(9, 20, 22) // 4
    ct, model = open_scan(tmp_path, hu), Position()
    model.slice_distance_mm = 6.0
    segment(ct, model, lung_field=False)
    np.testing.assert_array_equal(model.seen[0], ct.get_slice(8, 3, 6.0))  # of the last slice
    assert model.seen[0, :, 0, 0].tolist() == hu[[2, 4, 6, 8, 8, 8, 8], 0, 0].clip(HU_MIN, HU_MAX).tolist()


def test_big_endian_voxels(tmp_path):
    hu = make_hu([], (4, 20, 22))
    hu[2, 3:6, 4:9] = 100
    path = write_scan(tmp_path / "1.2.3.mhd", hu)
    path.write_text(path.read_text().replace("MSB = False", "MSB = True"))
    (tmp_path / "1.2.3.raw").write_bytes(hu.astype(">i2").tobytes())
    np.testing.assert_array_equal(segment(Ct(path), Denser()) > 0.5, hu > -700)


def test_what_cannot_be_searched(tmp_path):
    with pytest.raises(InputError, match=r"1\.2\.3\.mha: every voxel is -900 HU"):
        segment(open_scan(tmp_path, make_hu([], (4, 20, 22))), Denser())
    ct = open_scan(tmp_path, make_hu([Ball((2, 10, 10), 2)], (4, 20, 22)))
    with pytest.raises(InputError, match=r"1\.2\.3\.mha: the model's result is NaN"):
        segment(ct, nn.Threshold(9999, float("nan")))


@pytest.mark.parametrize("direction", TURNS.values(), ids=TURNS)
def test_masks_are_exact_however_the_scan_is_turned(tmp_path, direction):
    hu = make_hu([], (9, 20, 22))
    hu[2, 3:6, 4:9] = 100
    probability = segment(open_scan(tmp_path, hu, direction), Denser(), lung_field=False)
    np.testing.assert_array_equal(probability > 0.5, hu > -700)


def test_the_network_sees_axial_slices_with_rows_to_the_back(tmp_path):
    """Of a sagittal scan, too: index runs to the left, rows to the feet, cols to the back."""
    hu = (make_hu([], (4, 5, 6)) + np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)).astype(np.int16)
    model = Position()
    # Columns: col along +y, row along -z, index along +x.
    segment(open_scan(tmp_path, hu, (0, 0, 1, 1, 0, 0, 0, -1, 0)), model, lung_field=False)
    head = model.seen[-1, 3]  # the last slice is the one nearest to the head: row 0
    np.testing.assert_array_equal(head, hu[:, 0, :].T)  # (row to the back, col to the left)


def test_flips_do_not_change_what_looks_at_single_pixels(tmp_path, chest):
    ct = open_scan(tmp_path, chest)
    np.testing.assert_array_equal(segment(ct, Denser(), tta=True), segment(ct, Denser()))


def test_flips_are_averaged(tmp_path):
    class Ramp(nn.Module):
        def forward(self, ct_slices):
            _, _, rows, cols = ct_slices.shape
            ramp = torch.arange(rows).view(-1, 1) / 8 + torch.arange(cols).view(1, -1) / 64
            return ramp.expand(len(ct_slices), 1, rows, cols)

    ct = open_scan(tmp_path, make_hu([Ball((1, 2, 2), 1)], (2, 4, 6)))
    probability = segment(ct, Ramp(), lung_field=False, tta=True)
    np.testing.assert_allclose(probability, 1.5 / 8 + 2.5 / 64)


def test_only_the_box_of_the_lungs_is_computed(tmp_path):
    hu = np.pad(make_chest((4, 96, 128)), ((6, 5), (0, 0), (0, 0)), constant_values=40)
    ct = open_scan(tmp_path, hu)
    shapes = []

    class Spy(Denser):
        def forward(self, ct_slices):
            shapes.append(tuple(ct_slices.shape))
            return super().forward(ct_slices)

    lungs = np.zeros((15, 300, 300), dtype=bool)
    lungs[6:10, 100:150, 70:200] = True
    assert find_lung_box(lungs) == (slice(5, 11), slice(64, 192), slice(32, 240))
    segment(ct, Spy())
    assert len(shapes) == 6


def test_lung_field_keeps_what_touches_the_lungs(tmp_path, chest):
    chest[3:6, 10:14, 60:68] = -800  # around the next one: else all of the chest would touch the lungs
    chest[4, 11:13, 62:66] = 0
    ct = open_scan(tmp_path, chest)
    assert segment(ct, Denser(), lung_field=False)[4, 11, 63] == 1
    probability = segment(ct, Denser())
    assert probability[4, 11, 63] == 0
    assert probability[4, 41, 41] == 1
    assert probability[3, 39, 52] == 1


def test_without_lungs_the_whole_scan_is_searched(tmp_path, caplog):
    hu = make_hu([], (6, 20, 22))
    hu[2, 3:6, 4:9] = 100
    probability = segment(open_scan(tmp_path, hu), Denser())
    np.testing.assert_array_equal(probability > 0.5, hu > -700)
    assert "1.2.3.mha: no lungs found" in caplog.text


@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.5, 0.75])
def test_what_touches_the_lungs_is_kept_at_every_threshold(threshold):
    """A row: lung on the left, then a hill that touches it, a saddle at 0.3, a higher hill behind it."""
    probability = np.array([[[0.2, 0.9, 0.8, 0.6, 0.3, 0.7, 0.8, 0.05, 0.9]]], dtype=np.float16)
    lungs = np.array([[[1, 1, 0, 0, 0, 0, 0, 0, 0]]], dtype=bool)
    kept = {
        0.1: [1, 1, 1, 1, 1, 1, 1, 0, 0],
        0.35: [0, 1, 1, 1, 0, 0, 0, 0, 0],
        0.5: [0, 1, 1, 1, 0, 0, 0, 0, 0],
        0.75: [0, 1, 1, 0, 0, 0, 0, 0, 0],
    }[threshold]
    before = probability.copy()
    keep_what_touches(probability, lungs)
    assert (probability[0, 0] > threshold).tolist() == [bool(value) for value in kept]
    np.testing.assert_array_equal(probability[0, 0, :4], before[0, 0, :4])


def test_a_margin_around_the_lungs_is_as_good_as_whole_slices(tmp_path):
    torch.manual_seed(0)
    model = UNetWrapper(**BOOK_MODEL)
    hu = np.pad(make_chest((3, 96, 128)), ((0, 0), (60, 60), (60, 60)), constant_values=-1000)
    hu += np.random.default_rng(0).normal(0, 60, hu.shape).astype(np.int16)
    model(torch.randn(4, 7, 32, 32) * 400 - 600)  # moves the statistics of BatchNorm
    ct = open_scan(tmp_path, hu)
    lungs = find_lungs(ct.hu, ct.vx_size_xyz)
    assert find_lung_box(lungs)[1].start > 0
    difference = np.abs(segment(ct, model)[lungs].astype(float) - segment(ct, model, lung_field=False)[lungs])
    assert difference.max() < 0.01
    assert segment(ct, model)[lungs].std() > 0.01
