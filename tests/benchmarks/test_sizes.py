"""The benchmark of sizes: a shape of known size, errors by hand, and its tables."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sizes import Pair, Sizes, by_class, main, measure_on, open_phantom
from p2ch13.phantom.nodules import draw_nodule
from p2ch13.phantom.scan import make_phantom


def test_a_round_nodule_has_its_diameter():
    rng = np.random.default_rng(0)
    nodule = draw_nodule(rng, np.zeros(3), 9.0)
    smooth = replace(nodule.outline, amplitude=0.0)
    ball = replace(nodule, stretch_xyz=np.ones(3), outline=smooth, spikes=np.empty((0, 4), np.float32), cavity=0.0)
    sizes = measure_on(ball, np.array([0.3, 0.3, 0.6]), rng)
    assert sizes.long_mm == pytest.approx(9, abs=0.2)
    assert sizes.mean_mm == pytest.approx(9, abs=0.2)
    assert sizes.mm3 == pytest.approx(math.pi / 6 * 9**3, rel=0.03)


def test_errors_by_hand():
    true = Sizes(8, 6, 100)
    pairs = [
        Pair(Sizes(8.5, 6, 110), true, 7),
        Pair(Sizes(8, 5, 90), true, 9.9),
        Pair(Sizes(21, 15, 3000), Sizes(20, 15, 2000), 17)
    ]  # fmt: skip
    small, large = by_class(pairs)
    assert (small["class"], small["nodules"]) == ("6 to under 10 mm", 2)
    assert [small[f"{name}_bias"] for name in ("long_mm", "short_mm", "mean_mm", "volume")] == pytest.approx(
        [0.25, -0.5, -0.125, 0]
    )
    assert [small[f"{name}_spread"] for name in ("long_mm", "short_mm", "volume")] == pytest.approx([0.25, 0.5, 0.1])
    assert (large["class"], large["volume_bias"]) == ("10 mm and more", 0.5)


@pytest.mark.parametrize("index", [0, 1])
def test_phantoms_are_opened_with_their_nodules(tmp_path, index):
    phantom = make_phantom(3, index, 96, 8)
    for turn in (1, -1):
        turned = replace(phantom, direction_xy=turn)
        ct, mask = open_phantom(turned, tmp_path / f"{turn}.mha")
        assert ct.shape_irc == mask.shape == phantom.hu.shape
        origin = np.array(turned.origin_xyz)
        np.testing.assert_array_equal(ct.hu[:, ::turn, ::turn], phantom.hu)
        first = ct.to_xyz((0, 0, 0) if turn == 1 else (0, 95, 95))
        assert first == pytest.approx(origin, abs=1e-3)


@pytest.mark.slow
def test_a_smoke_test_prints_the_tables(capsys):
    main(["--smoke"])
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[0] == "| measuring"
    assert rows[-3:] == ["| solid", "| part-solid", "| ground-glass"]
