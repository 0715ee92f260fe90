"""Time and memory of predict and evaluate: parts are added up, and the scans that are searched are made."""

import time
from pkgutil import resolve_name

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.searching import FORWARD, PARTS, Times, timed, timed_parts, write_chest
from p2ch13.detection import segment
from p2ch13.phantom.scan import make_phantom


def test_shares_of_a_command():
    times = Times(total=10.0)
    times.parts.update({"first stage": 6.0, "second stage": 1.5, "report": 0.5})
    assert times.forward_share == pytest.approx(0.75)
    assert str(times) == "first stage 6.00, second stage 1.50, report 0.50, rest 2.00; all 10.0 s"


def test_calls_are_added_up(monkeypatch):
    now = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    parts = {"part": 1.0}
    divide = timed(divmod, parts, "part")
    assert divide(7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        divide(7, 0)
    assert parts == {"part": 1 + 2 + 3}


def test_functions_are_as_before_afterward():
    originals = {name: resolve_name(target) for name, target in PARTS.items()}
    with timed_parts() as times:
        values = np.zeros((2, 3, 3), np.float32)
        segment.reconstruct_from_lungs(values, values > 0, -1.0)
    assert {name: resolve_name(target) for name, target in PARTS.items()} == originals
    assert list(times.parts) == ["border of the lungs"]
    assert set(FORWARD) <= set(PARTS)


def test_a_chest_that_is_repeated_upside_down(tmp_path):
    short, long = write_chest(tmp_path / "chests", (3, 9), pixels=48, phantom_slices=4)
    phantom = make_phantom(0, 0, 48, 4)
    turn = phantom.direction_xy
    hu = sitk.GetArrayFromImage(sitk.ReadImage(str(long)))
    assert np.array_equal(hu, phantom.hu[[0, 1, 2, 3, 3, 2, 1, 0, 0], ::turn, ::turn])
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(short))), hu[:3])
    assert sitk.ReadImage(str(long)).GetSpacing() == pytest.approx(phantom.spacing_xyz.tolist())
