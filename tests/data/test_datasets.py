import shlex
from functools import partial

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import DataLoader

from p2ch13 import precache
from p2ch13.config import Folders, LabelOptions, SamplingOptions
from p2ch13.data import crop_store
from p2ch13.data.cache import CtCache
from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
from p2ch13.data.sampling import EpochSampler
from p2ch13.util import memory
from p2ch13.util.process_rank import ProcessRank
from tests.support.checks import refused
from tests.support.lidc_files import block, write_readings
from tests.support.scan_files import TINY_SCANS, Ball, ball_mask, make_hu, write_scan


def open_training(folders, samples_per_epoch=40, seed=1, device="cpu", labels=None, **sampling):
    """Open the crops of 1.2.1 and 1.2.3; `sampling`: the fields of `SamplingOptions`."""
    options = SamplingOptions(**sampling)
    choices = {"samples_per_epoch": samples_per_epoch, "seed": seed, "device": device, "labels": labels}
    return TrainingLuna2dSegmentationDataset(2, False, sampling=options, folders=folders, **choices)


@pytest.fixture
def train_ds(folders):
    return open_training(folders)


def samples_of(dataset):
    return torch.stack([dataset[ndx][0] for ndx in range(len(dataset))])


def test_validation_takes_the_nodule_slices(folders):
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders)
    assert val_ds.series_list == ["1.2.0", "1.2.2"]
    # Radius 5 about slice 8 and radius 3 about slice 4: 1..13; radius 4 about slice 9: 5..13.
    expected = [("1.2.0", ndx) for ndx in range(1, 14)] + [("1.2.2", ndx) for ndx in range(5, 14)]
    assert val_ds.sample_list == expected
    assert len(val_ds) == 22


def test_validation_slices_without_nodule(folders):
    """Evenly spread over each scan; all of them if a scan has few."""
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders, negative_slices=0.5)
    # 1.2.0 has 0, 14 and 15 without nodule; 1.2.2 has 0..4, 14 and 15, of which max(4, 9 / 2) are used.
    expected = [("1.2.0", ndx) for ndx in range(16)] + [("1.2.2", ndx) for ndx in (0, 2, *range(5, 14), 4, 15)]
    assert val_ds.sample_list == sorted(expected)
    assert (len(val_ds), val_ds.nodule_slice_count) == (29, 22)


def test_full_ct_takes_every_slice(folders):
    dataset = Luna2dSegmentationDataset(series_uid="1.2.2", full_ct=True, folders=folders)
    assert dataset.sample_list == [("1.2.2", ndx) for ndx in range(16)]


def test_a_validation_sample(folders):
    hu, mask, series_uid, slice_ndx = Luna2dSegmentationDataset(2, True, folders=folders)[0]
    assert (series_uid, slice_ndx) == ("1.2.0", 1)
    assert (hu.dtype, mask.dtype) == (torch.float32, torch.bool)
    assert hu.shape == (7, 100, 104)
    assert mask.shape == (1, 100, 104)
    scan = make_hu(TINY_SCANS["1.2.0"])
    np.testing.assert_array_equal(hu, scan[[0, 0, 0, 1, 2, 3, 4]])  # slices -2 and -1 are slice 0
    np.testing.assert_array_equal(mask[0], ball_mask(TINY_SCANS["1.2.0"][1])[1])


def test_context_slices_count(folders):
    choices = {"context_slices_count": 1, "folders": folders}
    assert Luna2dSegmentationDataset(2, True, **choices)[0][0].shape == (3, 100, 104)
    train_ds = TrainingLuna2dSegmentationDataset(2, False, samples_per_epoch=4, **choices)
    assert train_ds[0][0].shape == (3, 64, 64)


def test_both_datasets_return_the_same_types(folders, train_ds):
    val_sample, trn_sample = Luna2dSegmentationDataset(2, True, folders=folders)[0], train_ds[0]
    for val_item, trn_item in zip(val_sample, trn_sample, strict=True):
        assert type(val_item) is type(trn_item)
        if isinstance(val_item, torch.Tensor):
            assert val_item.dtype == trn_item.dtype
            assert val_item.ndim == trn_item.ndim


def test_training_samples_are_crops_of_the_scan(train_ds):
    """Find each in its scan, with the mask of that place."""
    found = set()
    for ndx in range(len(train_ds)):
        hu, mask, series_uid, slice_ndx = train_ds[ndx]
        assert hu.shape == (7, 64, 64)
        balls = TINY_SCANS[series_uid]
        scan, scan_mask = make_hu(balls), sum(ball_mask(ball) for ball in balls)
        # Crops reach over the edges, which are repeated.
        scan_slice, mask_slice = (np.pad(voxels[slice_ndx], 48, mode="edge") for voxels in (scan, scan_mask))
        densest = int(hu[3].sum(dim=1).argmax())  # a row that few places show
        rows = sliding_window_view(scan_slice, (64, 64))[:, :, densest]  # (row, col, 64) of each place
        places = [
            (row, col)
            for row, col in np.argwhere((rows == hu[3, densest].numpy()).all(axis=-1)).tolist()
            if np.array_equal(hu[3], scan_slice[row : row + 64, col : col + 64])
            and np.array_equal(mask[0], mask_slice[row : row + 64, col : col + 64])
        ]
        assert places
        found.update((series_uid, *place) for place in places)
    assert len(found) > 20


def test_how_samples_are_drawn(folders):
    options = {"negatives": 0.5, "hard_negative_candidates": 4, "weight_by_diameter": True}
    dataset = open_training(folders, seed=3, **options)
    diameters_mm = [2 * radius * 0.7 for radius in (6, 5, 3)]
    counts = (len(dataset.crop_list), (33, 33), 40)
    expected = EpochSampler([1, 1, 1], diameters_mm, *counts, 3, torch.device("cpu"), SamplingOptions(**options))
    assert dataset.sampler == expected
    assert dataset.sampler.candidate_count == 4
    assert open_training(folders, hard_negative_candidates=4).sampler.candidate_count == 1


def test_negatives_in_each_batch(folders):
    """Every other sample for a share of 1/2; in these tiny scans their crops of 96 rows and cols reach nodules, too."""
    dataset = open_training(folders, negatives=0.5)
    assert (dataset.epoch_samples.crop_ndxs < 3).tolist() == [True, False] * 20
    for crop in dataset.crop_list[3:]:
        for nodule in dataset.ct_cache.index.nodules[crop.series_uid]:
            assert np.linalg.norm(np.subtract(crop.center_xyz, nodule.center_xyz)) > nodule.diameter_mm / 2


def test_hard_negative_mining(folders):
    """Cut each negative at its hardest candidate, by scores that change while the batches are cut."""
    dataset = open_training(folders, negatives=0.5, hard_negative_candidates=3)
    hardness = torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 1.0])  # three nodules and four negatives
    as_drawn = [ct_slices for ct_slices, *_ in dataset.batches(2)]
    candidates = dataset.sampler.draw(1, list(range(0, 41, 2))).candidates[0, :, 1::2]  # a negative in each batch
    for step, (ct_slices, _, series_uids, slice_ndxs) in enumerate(dataset.batches(2, hardness=hardness)):
        hardest = 3 + int(hardness[3:].argmax())
        assert torch.equal(ct_slices[0], as_drawn[step][0])
        crop = dataset.crop_list[hardest]
        is_hardest = (series_uids[1], int(slice_ndxs[1])) == (crop.series_uid, int(dataset.store.slice_ndxs[hardest]))
        if hardest in candidates[:, step]:
            assert is_hardest
        hardness[3:] = hardness[3:].roll(1)


def test_no_crop_twice_in_a_batch(folders, monkeypatch):
    """4 negatives of a batch share the only 4 negative crops of these tiny scans."""
    dataset = open_training(folders, negatives=0.5, hard_negative_candidates=6)
    assert len(dataset.crop_list) == 3 + 4
    of_batches = []
    monkeypatch.setattr(dataset.store, "cut", lambda places, crop_ndxs: of_batches.append(crop_ndxs))
    list(dataset.batches(8, hardness=torch.arange(7.0)))
    assert [sorted(crop_ndxs[1::2].tolist()) for crop_ndxs in of_batches] == [[3, 4, 5, 6]] * 5


def test_resumed_in_an_epoch_the_batches_are_the_same(folders):
    choices = {"negatives": 0.5, "hard_negative_candidates": 3, "seed": 4}
    whole = [batch[0] for batch in open_training(folders, **choices).batches(8, hardness=torch.arange(7.0))]
    rest = [
        batch[0] for batch in open_training(folders, **choices).batches(8, first_step=2, hardness=torch.arange(7.0))
    ]
    assert len(rest) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, whole[2:], strict=True))


def test_crops_of_all_nodule_slices(folders):
    dataset = open_training(folders, all_nodule_slices=True)
    slices = {}
    for ndx, crop in enumerate(dataset.crop_list):
        slices.setdefault(crop.series_uid, []).append(int(dataset.store.slice_ndxs[ndx]))
    # Radii of 6, 5 and 3 voxels of 0.7 mm and 1.5 mm more reach 3, 3 and 2 whole slices of 1.5 mm.
    assert slices == {"1.2.1": [4, 6, 7, 8, 10], "1.2.3": [5, 7, 8, 9, 11, 0, 1, 2, 3]}
    assert dataset.sampler.nodule_crop_counts == [5, 5, 4]


def test_the_split_does_not_move_with_the_labels(folders, tmp_path):
    """A series without XML is missing on its side, and the others stay where they are."""
    xml_dir = tmp_path / "xml"
    for series_uid in ("1.2.1", "1.2.2"):
        write_readings(xml_dir / f"{series_uid}.xml", series_uid, [[block((7, 9), (48, 52), (50, 54))]])
    labels = LabelOptions("lidc", lidc_xml=xml_dir, missing_xml="leave-out")
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders, labels=labels)
    train_ds = open_training(folders, 4, labels=labels)
    assert val_ds.series_list == ["1.2.2"]  # of 1.2.0 and 1.2.2
    assert train_ds.series_list == ["1.2.1"]  # of 1.2.1 and 1.2.3
    with refused(path=folders.data_dir):
        Luna2dSegmentationDataset(4, True, folders=folders, labels=labels)  # 1.2.0 alone


def test_a_warning_gives_the_command_that_fills_the_cache(folders, caplog):
    choices = {"all_nodule_slices": True, "negatives": 0.25, "slice_spacing_mm": 2.5, "labels": LabelOptions("refined")}
    open_dataset = partial(open_training, folders, 4, **choices)
    open_dataset()
    (message,) = [record.message for record in caplog.records if "p2ch13.precache" in record.message]
    command = shlex.split(message[message.index("python -m p2ch13.precache") :])
    assert precache.main(command[3:]) == 0
    caplog.clear()
    open_dataset()
    assert not caplog.records


def test_a_gpu_keeps_crops_that_leave_it_half_of_its_memory(monkeypatch):
    gpu = torch.device("cuda", 1)
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (10_000, 20_000))
    assert crop_store.choose_crops_device(gpu, 5_000) == gpu
    assert crop_store.choose_crops_device(gpu, 5_001) == torch.device("cpu")
    assert asked == [gpu, gpu]
    assert crop_store.choose_crops_device(torch.device("cpu"), 10**15) == torch.device("cpu")


def test_batches_come_out_on_the_device_if_the_cpu_keeps_the_crops(folders, train_ds, monkeypatch):
    """Without a GPU, with a copy function that records its calls."""
    copied = []
    monkeypatch.setattr(crop_store, "choose_crops_device", lambda device, byte_count: torch.device("cpu"))
    monkeypatch.setattr(
        crop_store, "copy_to", lambda device, values: copied.append((device.type, values.dtype)) or values
    )
    on_gpu = open_training(folders, device="cuda")
    assert on_gpu.store.windows.device.type == "cpu"
    for ours, theirs in zip(on_gpu.batches(16), train_ds.batches(16), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert set(copied) == {("cuda", torch.int16), ("cuda", torch.bool), ("cpu", torch.int16), ("cpu", torch.bool)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_crops_that_a_gpu_cannot_hold(folders, train_ds, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    on_gpu = open_training(folders, device="cuda")
    assert on_gpu.store.windows.device.type == "cpu"
    for ours, theirs in zip(on_gpu.batches(16), train_ds.batches(16), strict=True):
        assert ours[0].is_cuda and ours[1].is_cuda
        assert torch.equal(ours[0].cpu(), theirs[0]) and torch.equal(ours[1].cpu(), theirs[1])


def test_the_same_seed_gives_the_same_samples(folders, train_ds):
    same = open_training(folders)
    other = open_training(folders, seed=2)
    first = samples_of(train_ds)
    assert torch.equal(first, samples_of(same))
    assert not torch.equal(first, samples_of(other))
    for dataset in (train_ds, same):
        dataset.shuffle_samples()
    second = samples_of(train_ds)
    assert not torch.equal(first, second)
    assert torch.equal(second, samples_of(same))


@pytest.mark.parametrize("num_workers", [None, 0, 2])
def test_batches_are_the_samples_in_order(train_ds, num_workers):
    """As the dataset makes them, and as a plain data loader does."""
    loader = DataLoader(train_ds, batch_size=16, num_workers=num_workers or 0)
    batches = list(train_ds.batches(16) if num_workers is None else loader)
    assert [len(batch[0]) for batch in batches] == [16, 16, 8]
    assert torch.equal(torch.cat([batch[0] for batch in batches]), samples_of(train_ds))
    assert batches[0][1].dtype == torch.bool
    assert torch.equal(batches[0][1][7], train_ds[7][1])
    assert [uid for batch in batches for uid in batch[2]] == [train_ds[ndx][2] for ndx in range(40)]
    assert batches[0][3].tolist() == [train_ds[ndx][3] for ndx in range(16)]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_step(train_ds, processes):
    """Together they see the steps of one process with as many times the batch size."""
    alone = [batch[0] for batch in train_ds.batches(8 * processes)]
    shares = [train_ds.batches(8, ProcessRank(rank=rank, world_size=processes)) for rank in range(processes)]
    together = [torch.cat([batch[0] for batch in step]) for step in zip(*shares, strict=True)]
    assert len(together) == len(alone)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))


def test_processes_share_the_validation_series(folders):
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders)
    shares = [val_ds.group_by_series(4, ProcessRank(rank=rank, world_size=2)) for rank in range(2)]
    series = [{val_ds.sample_list[ndx][0] for batch in share for ndx in batch} for share in shares]
    assert series == [{"1.2.0"}, {"1.2.2"}]
    assert sorted(ndx for share in shares for batch in share for ndx in batch) == list(range(len(val_ds)))


def test_samples_of_an_epoch_do_not_depend_on_those_before(train_ds):
    train_ds.shuffle_samples()
    second = samples_of(train_ds)
    train_ds.shuffle_samples(7)
    train_ds.shuffle_samples(2)
    assert torch.equal(second, samples_of(train_ds))


def test_crops_on_disk_are_the_same(folders, train_ds, monkeypatch):
    monkeypatch.setattr(memory, "RELEASE_AFTER_SAMPLES", 2)
    choices = {"samples_per_epoch": len(train_ds), "seed": 1, "crops_in_memory_bytes": 0}
    on_disk = TrainingLuna2dSegmentationDataset(2, False, folders=folders, **choices)
    assert len(on_disk.store.mapped_tensors) == 2
    for ours, theirs in zip(on_disk.batches(16), train_ds.batches(16), strict=True):
        assert all(torch.equal(ours[part], theirs[part]) for part in (0, 1, 3))
    loader = DataLoader(on_disk, batch_size=16, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([batch[0] for batch in loader]), samples_of(train_ds))


def test_beyond_the_end(train_ds):
    assert len(train_ds) == 40
    with pytest.raises(IndexError):
        train_ds[40]


def test_slices_of_different_sizes_are_not_in_one_batch(folders):
    write_scan(folders.data_dir / "subset0" / "1.2.2.mhd", make_hu([Ball((9, 60, 40), 4)], (16, 80, 60)))
    val_ds = Luna2dSegmentationDataset(2, True, folders=folders)
    batches = list(DataLoader(val_ds, batch_sampler=val_ds.group_by_series(4)))
    assert [tuple(hu.shape) for hu, *_ in batches] == [(4, 7, 100, 104)] * 3 + [(1, 7, 100, 104)] + [
        (4, 7, 80, 60), (4, 7, 80, 60), (1, 7, 80, 60)
    ]  # fmt: skip


def test_no_nodule_for_training(folders):
    path = folders.data_dir / "annotations.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith(("1.2.1", "1.2.3"))))
    with refused(path=None, option=None):
        TrainingLuna2dSegmentationDataset(2, False, folders=folders)


def test_default_length(folders):
    assert len(TrainingLuna2dSegmentationDataset(2, False, folders=folders)) == 300_000


def test_real_ct(luna_sample, tmp_path):
    val_ds = Luna2dSegmentationDataset(3, True, folders=Folders(luna_sample, tmp_path))
    assert len(val_ds.series_list) == 1
    assert [slice_ndx for _, slice_ndx in val_ds.sample_list] == list(range(2, 13))
    assert all(val_ds[ndx][1].any() for ndx in range(len(val_ds)))


def test_corrupt_crops_are_counted_and_recomputed(folders, train_ds):
    whole = samples_of(train_ds)
    values = sorted(folders.cache_dir.rglob("*.val"))
    for path in values[:2]:
        path.write_bytes(path.read_bytes()[:-1])
    for rebuilt_count in (2, 0):
        again = open_training(folders)
        assert again.ct_cache.rebuilt_count == rebuilt_count
        assert torch.equal(samples_of(again), whole)


def remove_voxels(folders, series_uid):
    (folders.data_dir / "subset0" / f"{series_uid}.raw").unlink()


def add_nodule_outside(folders, series_uid):
    with (folders.data_dir / "annotations.csv").open("a") as file:
        print(series_uid, 1000, 1000, 1000, 5, sep=",", file=file)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("spoil", [remove_voxels, add_nodule_outside])
def test_a_scan_that_cannot_be_used_is_named_and_left_out(folders, caplog, spoil, is_cached):
    if is_cached:
        for series_uid in TINY_SCANS:
            CtCache.open(folders).fill(series_uid)
    for series_uid in ("1.2.1", "1.2.2"):  # with a stride of 2, one of each side
        spoil(folders, series_uid)
    training = TrainingLuna2dSegmentationDataset(2, False, folders=folders, samples_per_epoch=4)
    validation = Luna2dSegmentationDataset(2, True, folders=folders)
    assert (training.series_list, validation.series_list) == (["1.2.3"], ["1.2.0"])
    assert {crop.series_uid for crop in training.crop_list} == {"1.2.3"}
    assert {series_uid for series_uid, _ in validation.sample_list} == {"1.2.0"}
    assert ["1.2.1.mhd" in text or "1.2.2.mhd" in text for text in caplog.messages if "Skipped" in text] == [True, True]


def test_without_a_scan_that_can_be_read_the_first_is_named(folders):
    for series_uid in ("1.2.1", "1.2.3"):
        remove_voxels(folders, series_uid)
    with refused(path=folders.data_dir / "subset0" / "1.2.1.mhd"):
        TrainingLuna2dSegmentationDataset(2, False, folders=folders, samples_per_epoch=4)
