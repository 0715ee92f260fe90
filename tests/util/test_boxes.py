import itertools

import numpy as np
import pytest

from p2ch13.util import boxes
from p2ch13.util.boxes import (
    BoxMask,
    enclose,
    inside,
    intersect,
    make_box,
    merge_touching,
    shape_of,
    split_components,
    widen,
)


def box(*ends):
    return make_box(ends[::2], ends[1::2])


def test_what_boxes_have_in_common():
    one, other = box(0, 4, 2, 6, 1, 9), box(3, 7, 0, 5, 4, 6)
    assert intersect(one, other) == box(3, 4, 2, 5, 4, 6)
    assert intersect(one, box(4, 7, 0, 5, 4, 6)) is None  # they meet, but share no voxel
    assert shape_of(one) == (4, 4, 8)
    assert enclose([one, other]) == box(0, 7, 0, 6, 1, 9)
    assert inside(box(3, 4, 2, 5, 4, 6), one) == box(3, 4, 0, 3, 3, 5)


def test_boxes_that_touch_are_merged():
    a, b, c = box(0, 2, 0, 2, 0, 2), box(2, 4, 2, 4, 2, 4), box(9, 10, 9, 10, 9, 10)
    assert merge_touching([a, c, b]) == [c, box(0, 4, 0, 4, 0, 4)]  # a and b by a corner
    assert merge_touching([a, box(3, 4, 0, 2, 0, 2)]) == [a, box(3, 4, 0, 2, 0, 2)]  # a voxel between them
    # The last one connects two that did not touch.
    assert merge_touching([a, box(4, 6, 0, 2, 0, 2), box(2, 4, 0, 2, 0, 2)]) == [box(0, 6, 0, 2, 0, 2)]


@pytest.mark.parametrize("large", [0, 2**22])
@pytest.mark.parametrize("fully_connected", [False, True])
def test_components_by_flood_fill(monkeypatch, fully_connected, large):
    monkeypatch.setattr(boxes, "LARGE", large)  # from there on, blocks are split first
    monkeypatch.setattr(boxes, "BLOCK", 2)
    mask = np.random.default_rng(0).random((5, 7, 9)) < (0.15 if fully_connected else 0.35)
    largest_step = 3 if fully_connected else 1
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() <= largest_step]
    left, expected = set(map(tuple, np.argwhere(mask).tolist())), set()
    while left:
        todo, component = [left.pop()], set()
        while todo:
            voxel = todo.pop()
            component.add(voxel)
            near = {tuple(np.add(voxel, step).tolist()) for step in steps} & left
            todo += near
            left -= near
        expected.add(frozenset(component))
    whole = BoxMask(box(10, 15, 20, 27, 30, 39), mask)
    components = split_components(whole, fully_connected)
    voxels = [list(map(tuple, np.argwhere(widen(one, whole.box).mask).tolist())) for one in components]
    assert set(map(frozenset, voxels)) == expected
    assert len(voxels) == len(expected)
    assert [one[0] for one in voxels] == sorted(one[0] for one in voxels)  # by their first voxels
    assert all(one.mask.any(axis=axes)[[0, -1]].all() for one in components for axes in [(1, 2), (0, 2), (0, 1)])
    assert split_components(BoxMask(whole.box, np.zeros_like(mask)), fully_connected) == []
