"""The benchmark of labels: which nodule a voxel of a mask belongs to, and its table."""

import numpy as np

from benchmarks.labels import main, split_by_nodule
from p2ch13.data.ct import Ct
from tests.support.scan_files import Ball, as_nodule, ball_mask, make_hu, write_scan

TURNED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_a_mask_is_split_by_nodule(tmp_path):
    """Between centers the larger nodule gets more than half of the way."""
    balls = [Ball((8, 50, 30), 9), Ball((8, 50, 46), 5)]
    path = write_scan(tmp_path / "1.2.3.mhd", make_hu(balls), TURNED)
    nodules = [as_nodule("1.2.3", ball, TURNED) for ball in balls]
    ct = Ct(path, nodules)
    masks = [ball_mask(ball) & (np.abs(np.arange(16) - 8) < 3)[:, np.newaxis, np.newaxis] for ball in balls]
    whole = (masks[0] | masks[1])[:, ::-1, ::-1]  # in axial order
    for part, mask in zip(split_by_nodule(whole, ct, nodules), masks, strict=True):
        assert (ct.as_stored(part) == mask).all()


def test_a_smoke_test_prints_the_table(capsys):
    main(["--smoke"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| labels", "| ---", "| box", "| refined"]
    assert all(0 < float(row[2]) <= 1 for row in rows[2:])
