"""A nodule whose outline, texture, blur and noise are known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from p2ch13.config import HU_MAX
from p2ch13.training.painting import (
    ScannerLook,
    blurred_deviation,
    draw_nodule,
    fill_voxels,
    paint_nodule,
    smooth_noise,
)
from tests.support.painted_shapes import STEP_RADIUS, fill_with, make_axes, make_ball, make_cube

AIR_HU = -860
SHARP = ScannerLook(point_spread_mm=0.0, noise_hu=0.0)


def paint(nodule, shape_irc, vx_size_irc, offset_mm=(0, 0, 0), look=SHARP, wall=None, hu=None, seed=0, axes=None):
    """Returns: HU and mask."""
    hu = np.full(shape_irc, AIR_HU, dtype=np.int16) if hu is None else hu.copy()
    wall = np.zeros(shape_irc, dtype=bool) if wall is None else wall
    axes = axes or make_axes(shape_irc, vx_size_irc, offset_mm)
    vx_size = np.array(vx_size_irc, dtype=float)
    return hu, paint_nodule(hu, axes, nodule, look, wall, vx_size, np.random.default_rng(seed)).mask


def cube(half_side_mm, **texture):
    return fill_with(make_cube(), half_side_mm / STEP_RADIUS, **texture)


def block(shape_irc, half_counts):
    """The voxels in the middle of an array of even sides."""
    mask = np.zeros(shape_irc, dtype=bool)
    mask[
        tuple(slice(size // 2 - count, size // 2 + count) for size, count in zip(shape_irc, half_counts, strict=True))
    ] = True
    return mask


@pytest.mark.parametrize(
    ("vx_size_irc", "half_counts"), [((1, 1, 1), (4, 4, 4)), ((2, 0.5, 0.5), (2, 8, 8)), ((4, 0.8, 0.8), (1, 5, 5))]
)
def test_a_cube_fills_its_voxels(vx_size_irc, half_counts):
    """Its half side is 4 mm, and its faces lie between voxels."""
    shape_irc = (8, 20, 22)
    hu, mask = paint(cube(4), shape_irc, vx_size_irc)
    assert np.array_equal(mask, block(shape_irc, half_counts))
    assert (hu[mask] == 0).all()
    assert (hu[~mask] == AIR_HU).all()


@pytest.mark.parametrize(("offset_mm", "marked"), [(-0.1, [True, True, True]), (0.1, [True, True, False])])
def test_a_half_filled_slice_is_marked(offset_mm, marked):
    """Slices of 3 mm at -2, 1 and 4 mm, and a face at 4 mm; the last one is looked at 1 mm before it, at it and after.

    Shifted by -0.1 mm, two of these places are inside; by 0.1 mm one is.
    """
    axes = [np.array([-2.0, 1.0, 4.0]) + offset_mm, *make_axes((20, 20), (1, 1), (0, 0))]
    hu, mask = paint(cube(4), (3, 20, 20), (3, 1, 1), axes=axes)
    assert mask.any(axis=(1, 2)).tolist() == marked
    share = (2 if marked[-1] else 1) / 3
    assert hu[2, 10, 10] == round(AIR_HU * (1 - share))


@pytest.mark.parametrize("vx_size_irc", [(1, 1, 1), (1.25, 0.7, 0.7), (2.5, 0.6, 0.6), (5, 0.8, 0.8)])
def test_a_ball_has_its_volume(vx_size_irc):
    """12 mm across, on average. Lobes of a deviation of 0.08 radii add 3 * 0.08^2, a fiftieth."""
    shape_irc = [2 * math.ceil(12 / size) for size in vx_size_irc]
    rng = np.random.default_rng(0)
    volumes = []
    for seed in range(40):
        offset_mm = rng.uniform(-0.5, 0.5, 3) * vx_size_irc
        _, mask = paint(fill_with(make_ball(), 6.0), shape_irc, vx_size_irc, offset_mm, seed=seed)
        volumes.append(mask.sum() * np.prod(vx_size_irc))
    assert np.mean(volumes) == pytest.approx(1.02 * 4 / 3 * math.pi * 6**3, rel=0.05)
    assert 0.05 < np.std(volumes) / np.mean(volumes) < 0.2  # each has lobes of its own


@pytest.mark.parametrize(
    ("index_mm", "fifths", "marked"),
    [(0.0, [0, 1, 1, 0], [1, 2]), (3.0, [0, 3, 0, 0], [1]), (1.3, [0, 2, 0, 0], [1]), (-1.2, [0, 0, 2, 0], [2])],
)
def test_a_nodule_thinner_than_a_slice_is_marked_where_most_of_it_is(index_mm, fifths, marked):
    """A cube of 3 mm in slices of 6 mm, each sampled at five planes 1.2 mm apart: half of the most that it fills."""
    hu, mask = paint(cube(1.5), (4, 20, 20), (6, 0.5, 0.5), offset_mm=(index_mm, 0, 0))
    assert hu[:, 10, 10].tolist() == [round(AIR_HU * (1 - count / 5)) for count in fifths]
    assert [ndx for ndx in range(4) if mask[ndx].sum() == 6 * 6] == marked
    assert mask.sum() == len(marked) * 6 * 6


@pytest.mark.parametrize(("hidden_cols", "share"), [(0, 1), (2, 0.75), (3, 0.625)])
def test_the_wall_hides_a_part_of_the_size(hidden_cols, share):
    """Of the 8 cols of a cube."""
    wall = np.zeros((8, 20, 20), dtype=bool)
    wall[:, :, 14 - hidden_cols :] = True
    axes, vx_size = make_axes((8, 20, 20), (1, 1, 1)), np.ones(3)
    hu = np.full(wall.shape, AIR_HU, dtype=np.int16)
    painted = paint_nodule(hu, axes, cube(4), SHARP, wall, vx_size, np.random.default_rng(0))
    assert painted.diameter_mm == pytest.approx(cube(4).diameter_mm * np.cbrt(share))


def test_the_wall_is_no_nodule():
    shape_irc = (8, 20, 20)
    wall = np.zeros(shape_irc, dtype=bool)
    wall[:, :, 11:] = True  # 3 of the cube's 8 cols
    background = np.where(wall, 40, AIR_HU).astype(np.int16)
    hu, mask = paint(cube(4), shape_irc, (1, 1, 1), wall=wall, hu=background)
    assert np.array_equal(mask, block(shape_irc, (4, 4, 4)) & ~wall)
    assert np.array_equal(hu, np.where(mask, 0, background))


def test_nothing_is_painted_mostly_into_the_wall():
    wall = np.zeros((8, 20, 20), dtype=bool)
    wall[:, :, 9:] = True  # 5 of 8 cols: 0.375 are left
    hu, mask = paint(cube(4), (8, 20, 20), (1, 1, 1), wall=wall)
    assert not mask.any()
    assert (hu == AIR_HU).all()


def test_denser_voxels_stay_and_are_marked():
    """A vessel of 200 HU in a nodule of 0 HU; one of -400 HU, as at its border, takes the nodule's."""
    background = np.full((8, 20, 20), AIR_HU, dtype=np.int16)
    background[:, 10, :] = 200
    background[:, 12, :] = -400
    hu, mask = paint(cube(4), (8, 20, 20), (1, 1, 1), hu=background)
    assert np.array_equal(mask, block((8, 20, 20), (4, 4, 4)))
    assert (hu[:, 10] == 200).all()
    assert (hu[:, 12][mask[:, 12]] == 0).all()
    assert (hu[:, 12][~mask[:, 12]] == -400).all()


@pytest.mark.parametrize("point_spread_mm", [0.5, 0.8, 1.2])
def test_an_edge_is_blurred_by_the_scanner(point_spread_mm):
    """The derivative of its profile is the point spread: a Gaussian at -5 mm, of this deviation."""
    shape_irc, step = (6, 80, 80), 0.25
    hu, _ = paint(cube(5), shape_irc, (3, step, step), look=ScannerLook(point_spread_mm, 0))
    col_mm = make_axes(shape_irc, (3, step, step))[2]
    profile = hu[3, 40, :40].astype(float)
    spread, between_mm = np.diff(profile), (col_mm[:39] + col_mm[1:40]) / 2
    center_mm = np.average(between_mm, weights=spread)
    assert center_mm == pytest.approx(-5, abs=0.05)
    assert math.sqrt(np.average((between_mm - center_mm) ** 2, weights=spread)) == pytest.approx(
        point_spread_mm, rel=0.05
    )


@pytest.mark.parametrize("point_spread_mm", [0.1, 0.35, 0.5, 0.9])
def test_noise_in_a_nodule_is_the_scans(point_spread_mm):
    hu, _ = paint(cube(20), (10, 80, 80), (5, 0.6, 0.6), look=ScannerLook(point_spread_mm, 40))
    inside = hu[2:8, 15:65, 15:65].astype(float)
    assert inside.mean() == pytest.approx(0, abs=3)
    assert inside.std() == pytest.approx(40, rel=0.05)
    slices = inside.reshape(6, -1)
    assert abs(np.corrcoef(slices)[np.triu_indices(6, 1)]).max() < 0.1  # each has noise of its own


@pytest.mark.parametrize("deviations", [0, 0.2, 0.3, 0.42, 0.5, 0.7, 1, 2])
def test_smooth_noise_keeps_its_deviation(deviations):
    noise = smooth_noise(np.random.default_rng(0), (8, 200, 200), (0, deviations, deviations))
    assert noise.std() == pytest.approx(1, rel=0.03)


def test_what_blur_leaves_of_white_noise():
    """By hand: a Gaussian of half a voxel has weights 1, exp(-2) and exp(-8) over their sum."""
    weights = np.array([1, *2 * [math.exp(-2)], *2 * [math.exp(-8)]])
    assert blurred_deviation(0.5) == pytest.approx(np.linalg.norm(weights) / weights.sum())
    assert blurred_deviation(0) == 1


def test_ground_glass_has_its_density():
    hu, mask = paint(cube(4, core=0.0, glass_hu=-612.0), (8, 20, 20), (1, 1, 1))
    assert (hu[mask] == -612).all()


def test_grain_is_the_textures_deviation():
    hu, _ = paint(cube(20, grain_hu=50.0), (16, 80, 80), (3, 0.6, 0.6))
    assert hu[3:13, 15:65, 15:65].std() == pytest.approx(50, rel=0.1)


def test_a_part_solid_nodule_has_its_core_inside():
    """Its solid part has half of the radius."""
    hu, mask = paint(fill_with(make_ball(), 10.0, core=0.5), (40, 40, 40), (0.6, 0.6, 0.6))
    z, y, x = np.meshgrid(*make_axes((40, 40, 40), (0.6, 0.6, 0.6)), indexing="ij")
    radius_mm = np.sqrt(z**2 + y**2 + x**2)
    assert (hu[radius_mm < 3.5] == 0).all()
    assert (hu[(radius_mm > 6.5) & (radius_mm < 8)] == -500).all()
    assert mask[radius_mm < 8].all()


@pytest.mark.parametrize("depth", [0.4, 0.5, 0.7])
def test_cores_reach_as_far_as_their_depth(depth):
    """On average: of a ball they are balls of so many radii, a little more since lobes deepen it."""
    nodule = fill_with(make_ball(), 10.0, core=depth)
    axes, vx_size = make_axes((30, 30, 30), (0.8, 0.8, 0.8)), np.full(3, 0.8)
    filled, _, cores = zip(
        *(fill_voxels(axes, nodule, vx_size, np.random.default_rng(seed)) for seed in range(20)), strict=True
    )
    assert np.cbrt(np.sum(cores) / np.sum(filled)) == pytest.approx(depth, rel=0.15)
    assert all((core <= whole + 1e-6).all() for core, whole in zip(cores, filled, strict=True))


def test_margin():
    """A ball of 12 mm with a margin of 3 mm is half as dense 1.5 mm below its outline; the mask has all of it."""
    axes, vx_size = make_axes((30, 30, 30), (1.0, 1.0, 1.0)), np.ones(3)
    soft, sharp = (replace(fill_with(make_ball(), 12.0), margin_mm=margin_mm) for margin_mm in (3.0, 0.0))
    radii = []
    for seed in range(8):  # each with lobes of its own
        filled, density, _ = fill_voxels(axes, soft, vx_size, np.random.default_rng(seed))
        same, full, _ = fill_voxels(axes, sharp, vx_size, np.random.default_rng(seed))
        np.testing.assert_array_equal(filled, same)
        np.testing.assert_array_equal(full, same)
        radii.append(np.cbrt(np.count_nonzero(density >= 0.5) / np.count_nonzero(filled >= 0.5)))
    assert np.mean(radii) == pytest.approx(10.5 / 12, rel=0.03)


def test_slices_that_repeat_look_alike():
    """As the first slice does at a scan's end, noise included; the others have noise of their own."""
    axes = [np.array([0.0, 0, 0, 0, 3, 6, 9]), *make_axes((20, 20), (1, 1), (0, 0))]
    look = ScannerLook(0.5, 30)
    hu, mask = paint(cube(8, grain_hu=30), (7, 20, 20), (3, 1, 1), axes=axes, look=look)
    assert all(np.array_equal(hu[0], hu[ndx]) and np.array_equal(mask[0], mask[ndx]) for ndx in (1, 2, 3))
    assert not np.array_equal(hu[0], hu[4])
    assert mask.any(axis=(1, 2)).tolist() == [*6 * [True], False]


@pytest.mark.parametrize("offset_mm", [(40, 0, 0), (0, -40, 0), (0, 0, 40), (40, 40, 40)])
def test_a_nodule_outside_the_window_changes_nothing(offset_mm):
    hu, mask = paint(cube(4), (8, 20, 20), (1, 1, 1), offset_mm)
    assert not mask.any()
    assert (hu == AIR_HU).all()


def test_a_nodule_is_cut_off_at_the_windows_edge():
    hu, mask = paint(cube(4), (8, 20, 20), (1, 1, 1), offset_mm=(0, 0, 10))
    assert mask.any(axis=(0, 1)).tolist() == [*4 * [True], *16 * [False]]
    assert np.array_equal(hu == 0, mask)


def test_a_seed_gives_the_same_nodule_again():
    nodule = fill_with(make_ball(), 5.0, grain_hu=40.0)
    look = ScannerLook(0.5, 30)
    one, again, other = (paint(nodule, (8, 20, 20), (1, 1, 1), look=look, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_calcium_stays_within_what_training_sees():
    hu, _ = paint(cube(4, solid_hu=1800.0), (8, 20, 20), (1, 1, 1))
    assert hu.max() == HU_MAX


def test_drawn_nodules_keep_volume_and_texture():
    """Turned, mirrored and stretched, the shape's volume stays; densities are those of CT."""
    nodules = [draw_nodule(np.random.default_rng(seed), make_ball(), 8.0) for seed in range(300)]
    assert np.abs([np.linalg.det(each.transform) for each in nodules]) == pytest.approx(1 / 4**3)
    assert {np.sign(np.linalg.det(each.transform)) for each in nodules} == {-1, 1}
    glass = [each for each in nodules if each.core == 0]
    part_solid = [each for each in nodules if 0 < each.core < 1]
    assert len(glass) / 300 == pytest.approx(0.17, abs=0.06)
    assert len(part_solid) / 300 == pytest.approx(0.17, abs=0.06)
    assert all(-700 <= each.glass_hu <= -380 for each in glass)
    assert all(0.3 <= each.core <= 0.75 and each.solid_hu > each.glass_hu for each in part_solid)


def test_a_nodules_reach_holds_its_grid():
    """Of a shape that is twice as long along z: its grid reaches 2 * 2 * 5 mm there."""
    nodule = fill_with(make_ball(), 5.0)
    nodule.transform[0, 0] /= 2
    assert nodule.reach_mm.tolist() == pytest.approx([20, 10, 10])
