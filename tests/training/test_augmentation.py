import pytest
import torch

from p2ch13.config import AUGMENTATION
from p2ch13.training.augmentation import SegmentationAugmentation, mean_of_blocks, mean_of_neighbors

BATCH_SIZE = 64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def as_batch(mask, tissue_hu=0.0, lung_hu=-900.0):
    """A batch of one picture: HU in 7 channels, and its mask."""
    label = mask.expand(BATCH_SIZE, 1, *mask.shape)
    return torch.where(label, tissue_hu, lung_hu).expand(-1, 7, -1, -1), label


def disc(row, col, radius, size=64):
    rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def centers(label):
    """(batch, 2): mean row and col of each mask, as the distance from the picture's middle in pixels."""
    rows = torch.arange(label.shape[2]) - (label.shape[2] - 1) / 2
    cols = torch.arange(label.shape[3]) - (label.shape[3] - 1) / 2
    weight = label.float() / label.sum((2, 3), keepdim=True)
    return torch.cat([(weight.sum(3) * rows).sum(2), (weight.sum(2) * cols).sum(2)], dim=1)


def test_each_one_alone_changes_its_output_and_none_does_not():
    ct_slices, label_mask = as_batch(disc(20, 25, 9))
    same = SegmentationAugmentation()(ct_slices, label_mask)
    assert torch.equal(same[0], ct_slices)
    assert torch.equal(same[1], label_mask)
    for name, value in AUGMENTATION.items():
        changed, label = SegmentationAugmentation(**{name: value})(ct_slices, label_mask)
        assert not torch.equal(changed, ct_slices), name
        assert (changed.shape, changed.dtype) == (ct_slices.shape, torch.float32)
        assert (label.shape, label.dtype) == (label_mask.shape, torch.bool)


@pytest.mark.parametrize("name", AUGMENTATION)
def test_drawn_anew_for_each_sample(name):
    """The book's code draws once for the whole batch."""
    changed, _ = SegmentationAugmentation(**{name: AUGMENTATION[name]})(*as_batch(disc(20, 25, 9)))
    expected = 4 if name == "flip" else BATCH_SIZE
    assert len({sample.numpy().tobytes() for sample in changed}) == expected


@pytest.mark.parametrize("augmentation", [{"flip": True}, {"offset": 0.3}, {"scale": 0.2}, {"rotate": True}])
def test_crop_and_mask_go_together(augmentation):
    ct_slices, label_mask = as_batch(disc(28, 36, 9))
    ct_slices, label_mask = SegmentationAugmentation(**augmentation)(ct_slices, label_mask)
    # A pixel is mask if it is more than 4/5 of the way from lung to tissue, and none if it is less than 1/5.
    middle = ct_slices[:, 3:4]
    assert middle[label_mask].min() > -900 + 0.2 * 900 - 0.1
    assert middle[~label_mask].max() < -900 + 0.8 * 900 + 0.1
    assert ((middle > -450) != label_mask).sum((1, 2, 3)).float().mean() < 10  # of 253


@pytest.mark.parametrize("size", [1, 3])
def test_a_small_label_keeps_its_area(size):
    """Squares of 1 and 9 pixels that are turned and moved: each sample has them, and none grows or shrinks for it."""
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[30 : 30 + size, 25 : 25 + size] = True
    _, label = SegmentationAugmentation(flip=True, offset=0.03, rotate=True)(*as_batch(mask))
    areas = label.sum((1, 2, 3)).float()
    assert areas.min() >= max(1, size**2 - 1)
    assert areas.max() <= size**2 + 1
    assert areas.mean().item() == pytest.approx(size**2, rel=0.04)


def test_a_label_that_leaves_the_crop_loses_what_is_outside():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:40, 62] = True  # the next column is lung, so that nothing of the label is repeated beyond the edge
    offsets = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, -2 / 32], [0, 1, 0]], [[1, 0, 0], [0, 1, 30 / 32]]])
    augmentation = SegmentationAugmentation(offset=1.0)
    augmentation._draw_transforms = lambda _: offsets
    ct_slices, label_mask = (x[:3] for x in as_batch(mask))
    _, label = augmentation(ct_slices, label_mask)
    assert label.sum((1, 2, 3)).tolist() == [20, 0, 10]  # in place, moved right by 2 cols, moved up by 30 rows


def test_hu_stay_in_their_range():
    """Air and dense bone are at its ends, as in prediction, which clips what the scanner wrote."""
    ct_slices = torch.tensor([-1000.0, 1000.0]).view(1, 1, 1, 2).expand(BATCH_SIZE, 7, 32, 2).clone()
    changed, _ = SegmentationAugmentation(**AUGMENTATION)(
        ct_slices, torch.zeros(BATCH_SIZE, 1, 32, 2, dtype=torch.bool)
    )
    assert (changed.min(), changed.max()) == (-1000, 1000)


def test_flip_is_one_of_four_mirrored_pictures():
    torch_flips = [(), (2,), (3,), (2, 3)]
    ct_slices = (torch.rand(1, 7, 64, 64) * 1000).expand(BATCH_SIZE, -1, -1, -1)
    changed, _ = SegmentationAugmentation(flip=True)(ct_slices, ct_slices[:, :1] > 500)
    found = [0, 0, 0, 0]
    for sample in changed:
        is_equal = [torch.allclose(sample, ct_slices.flip(dims)[0], atol=0.1) for dims in torch_flips]
        assert sum(is_equal) == 1
        found[is_equal.index(True)] += 1
    assert min(found) > BATCH_SIZE / 16  # each with probability 1/4


def test_offset_moves_both_ways_along_both_axes():
    """In the book's code it moves nothing."""
    ct_slices, label_mask = as_batch(disc(31, 31, 12) | disc(32, 32, 12))
    _, label = SegmentationAugmentation(offset=0.25)(ct_slices, label_mask)
    moved = centers(label) - centers(label_mask)
    # 0.25 of half the width of 64 pixels.
    assert moved.abs().max() <= 8 + 0.1
    for axis in range(2):
        assert moved[:, axis].max() > 6
        assert moved[:, axis].min() < -6
    assert label.sum().item() == pytest.approx(label_mask.sum().item(), rel=0.03)


def test_offset_keeps_its_share_of_crops_that_are_not_square():
    ct_slices, label_mask = as_batch(torch.nn.functional.pad(disc(31, 31, 12), (32, 32)))  # 64 rows, 128 cols
    _, label = SegmentationAugmentation(offset=0.25)(ct_slices, label_mask)
    moved = (centers(label) - centers(label_mask)).abs().amax(0)
    assert 6 < moved[0] <= 8.1
    assert 12 < moved[1] <= 16.1


def test_scale_shrinks_and_enlarges_by_its_share():
    ct_slices, label_mask = as_batch(disc(31.5, 31.5, 20))
    _, label = SegmentationAugmentation(scale=0.2)(ct_slices, label_mask)
    factors = (label.sum((1, 2, 3)) / label_mask.sum((1, 2, 3))).sqrt()
    # A step of 0.8 to 1.2 pixels in the old crop for each one in the new: 1 / 1.2 to 1 / 0.8 as large.
    assert 1 / 1.2 - 0.02 < factors.min() < 0.9
    assert 1.1 < factors.max() < 1 / 0.8 + 0.02


def test_rotate_turns_by_any_angle_about_the_middle():
    ct_slices, label_mask = as_batch(disc(31.5, 47.5, 6))  # 16 pixels to the right of the middle
    _, label = SegmentationAugmentation(rotate=True)(ct_slices, label_mask)
    rows, cols = centers(label).T
    assert torch.allclose(torch.hypot(rows, cols), torch.tensor(16.0), atol=0.3)
    quadrants = (torch.atan2(rows, cols) // (torch.pi / 2)).long() % 4
    assert torch.bincount(quadrants, minlength=4).min() > BATCH_SIZE / 16


def test_noise_has_its_standard_deviation_and_spares_the_mask():
    ct_slices, label_mask = as_batch(disc(20, 25, 9))
    changed, label = SegmentationAugmentation(noise=25.0)(ct_slices, label_mask)
    noise = changed - ct_slices
    assert noise.std().item() == pytest.approx(25, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.2)
    assert noise[0].std(0).min() > 0  # not the same in all channels
    assert torch.equal(label, label_mask)


def test_seeded():
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(SegmentationAugmentation(**AUGMENTATION)(*as_batch(disc(20, 25, 9))))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu():
    ct_slices, label_mask = (x.cuda() for x in as_batch(disc(20, 25, 9)))
    changed, label = SegmentationAugmentation(**AUGMENTATION)(ct_slices, label_mask)
    assert changed.is_cuda and label.is_cuda


def test_blur_and_sharpening_keep_the_mean():
    """A point of 450 HU is spread over its 3x3, or raised; weights are between -0.4 and 0.8 of the mean."""
    ct_slices = torch.zeros(BATCH_SIZE, 7, 9, 9)
    ct_slices[:, :, 4, 4] = 450.0
    changed, _ = SegmentationAugmentation(blur=0.8)(ct_slices, torch.zeros(BATCH_SIZE, 1, 9, 9, dtype=torch.bool))
    assert torch.allclose(changed.sum((2, 3)), torch.tensor(450.0), atol=0.01)
    weights = changed[:, 0, 3, 3] / 50  # of the mean, which is 50
    assert torch.allclose(changed[:, :, 4, 4], (450 - 400 * weights)[:, None].expand(-1, 7), atol=0.01)
    assert -0.4 <= weights.min() < -0.2
    assert 0.6 < weights.max() <= 0.8


@pytest.mark.parametrize("shape", [(64, 64), (5, 4), (4, 7), (1, 2)])
def test_mean_of_blocks(shape):
    ct_slices = torch.rand(2, 7, *shape) * 1000
    expected = torch.nn.functional.avg_pool2d(ct_slices, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(mean_of_blocks(ct_slices), expected)


def test_mean_of_neighbors_by_hand():
    """The edge repeats: the first row and col count twice in a corner of the mean."""
    ct_slices = torch.tensor([[9.0, 18, 27], [36, 45, 54], [63, 72, 81]]).view(1, 1, 3, 3)
    expected = [[21.0, 27, 33], [39, 45, 51], [57, 63, 69]]  # the first: (4 * 9 + 2 * 18 + 2 * 36 + 45) / 9
    assert torch.allclose(mean_of_neighbors(ct_slices)[0, 0], torch.tensor(expected))


def test_coarser_pixels_and_thinner_slices():
    """HU that rise by 100 from slice to slice do so by 50 to 100 after it; a flat picture stays flat."""
    ramp = (100.0 * torch.arange(-3, 4)).view(1, 7, 1, 1).expand(BATCH_SIZE, 7, 16, 16)
    changed, _ = SegmentationAugmentation(resolution=1.0)(ramp, torch.zeros(BATCH_SIZE, 1, 16, 16, dtype=torch.bool))
    steps = changed[:, 1:, 0, 0] - changed[:, :-1, 0, 0]
    assert torch.allclose(steps, steps[:, :1].expand(-1, 6), atol=0.01)
    assert 50 <= steps.min() < 60 < 90 < steps.max() <= 100
    assert torch.allclose(changed[:, 3], torch.tensor(0.0), atol=0.01)  # the slice whose mask it is stays in its place
    stripes = torch.tensor([0.0, 100.0]).repeat(8).expand(BATCH_SIZE, 7, 16, 16)  # what pixels of 2x2 cannot show
    changed, _ = SegmentationAugmentation(resolution=1.0)(stripes, torch.zeros(BATCH_SIZE, 1, 16, 16, dtype=torch.bool))
    contrast = changed[:, 3, 8, 9] - changed[:, 3, 8, 8]
    assert contrast.min() < 20 < 80 < contrast.max() <= 100


def test_contrast_and_level():
    """About -1000 HU, which the level alone moves; both are found from 2 pixels that stay within -1000..1000."""
    ct_slices = torch.tensor([-600.0, 400.0]).view(1, 1, 1, 2).expand(BATCH_SIZE, 7, 1, 2)
    changed, _ = SegmentationAugmentation(intensity=0.1)(ct_slices, torch.zeros(BATCH_SIZE, 1, 1, 2, dtype=torch.bool))
    contrast = (changed[:, 0, 0, 1] - changed[:, 0, 0, 0]) / 1000
    level = changed[:, 0, 0, 0] + 1000 - 400 * contrast
    assert level.abs().max() <= 100 < 1.2 * level.abs().max()
    assert (contrast - 1).abs().max() <= 0.1 < 1.2 * (contrast - 1).abs().max()
