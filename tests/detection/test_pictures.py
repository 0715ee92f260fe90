from functools import partial

import numpy as np
from PIL import Image as PillowImage

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.detection.findings import Finding
from p2ch13.detection.pictures import (
    CAPTION_MARGIN,
    LINE_PIXELS,
    draw_findings,
    draw_nodules,
    draw_overlay,
    enlarge,
    write_caption,
    write_png,
)
from p2ch13.util.coordinates import XyzTuple
from tests.support.networks import is_dense


def test_colors_by_hand():
    hu = np.array([[-1350.0, -600.0, 150.0, -3024.0], [-600.0, -600.0, -600.0, 3000.0]])
    predicted = np.array([[0, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    label = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    picture = draw_overlay(hu, predicted, label)
    assert picture[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255], [0, 0, 0]]
    # Half way from gray 128 to green, pink and blue.
    assert picture[1, :3].tolist() == [[64, 164, 104], [192, 109, 174], [104, 104, 192]]
    assert picture[1, 3].tolist() == [255, 255, 255]


def test_enlarge_puts_the_place_in_the_middle():
    picture = np.zeros((10, 12, 3), dtype=np.uint8)
    picture[1, 11] = 255
    enlarged = enlarge(picture, 1, 11, size=8, factor=2)
    assert enlarged.shape == (16, 16, 3)
    assert np.argwhere(enlarged[..., 0]).tolist() == [[8, 8], [8, 9], [9, 8], [9, 9]]


def test_findings_show_a_nodule_in_each_row(folders):
    captioned = draw_findings(Luna2dSegmentationDataset(2, True, folders=folders), is_dense)
    # Two validation series; three pictures side by side, the enlarged ones of 512 x 512, below captions.
    caption = 2 * CAPTION_MARGIN + LINE_PIXELS
    assert captioned.shape == (2 * (caption + 512), 3 * 512, 3)
    picture = captioned[caption:]
    assert picture[256, 512 + 256].tolist() == [230, 230, 230]  # 0 HU is 90% of the way to white
    assert picture[256, 1024 + 256].tolist() == [115, 215, 155]  # found: half green
    assert picture[50, 52].tolist() == [115, 215, 155]


def test_nodules_show_the_slice_that_has_most_of_each():
    hu = np.full((5, 40, 44), -1350, dtype=np.int16)
    labels = np.zeros(hu.shape, dtype=np.int32)
    labels[1:3, 10:13, 20:23] = 1
    labels[2, 13, 21] = 1
    labels[4, 30:33, 5:8] = 2
    finding = partial(Finding, "1.2", center_xyz=XyzTuple(0, 0, 0), logit=0.0, probability=0.5)
    captioned = draw_nodules(hu, labels, [finding(2), finding(1)])
    caption = 2 * CAPTION_MARGIN + LINE_PIXELS
    assert captioned.shape == (2 * (caption + 512), 3 * 512, 3)
    rows = np.split(captioned, 2)
    assert all(row[:caption, start : start + 256].max() == 255 for row in rows for start in (0, 512, 1024))
    picture = np.concatenate([row[caption:] for row in rows])
    yellow, black = [128, 100, 0], [0, 0, 0]
    assert picture[31, 6].tolist() == yellow
    assert picture[11, 21].tolist() == black  # of another slice
    assert picture[256, 512 + 256].tolist() == black  # enlarged, as the scanner saw it
    assert picture[256, 1024 + 256].tolist() == yellow
    assert picture[512 + 13, 21].tolist() == yellow  # slice 2
    assert picture[512 + 256, 1024 + 256].tolist() == yellow


def test_without_nodules_the_middle_slice_is_shown():
    hu = np.full((5, 4, 6), -1350, dtype=np.int16)
    hu[2] = 150
    assert (draw_nodules(hu, np.zeros(hu.shape, dtype=np.int32), [])[-4:, :6] == 255).all()


def test_a_caption_wraps_at_the_width_of_its_picture():
    picture = np.full((10, 300, 3), 7, dtype=np.uint8)
    one, three = write_caption(picture, "slice 5"), write_caption(picture, "1.2.3" * 30 + " slice 5")
    assert one.shape == (10 + 2 * CAPTION_MARGIN + LINE_PIXELS, 300, 3)
    assert three.shape[0] >= one.shape[0] + 2 * LINE_PIXELS  # a word wider than the picture takes several lines
    for captioned in (one, three):
        assert (captioned[-10:] == 7).all()
        assert captioned[:-10].max() == 255
        assert (captioned[:, -CAPTION_MARGIN:][:-10] == 0).all()  # nothing is cut off
    narrow = write_caption(picture[:, :20], "slice 5")
    assert narrow.shape == (10 + 2 * CAPTION_MARGIN + LINE_PIXELS, 256, 3)
    assert (narrow[-10:, :20] == 7).all()
    assert (narrow[-10:, 20:] == 0).all()


def test_write_png(tmp_path):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    write_png(tmp_path / "pictures" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(PillowImage.open(tmp_path / "pictures" / "a.png")), picture)
