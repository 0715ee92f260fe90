"""The chapter's training and search with MONAI, as its documentation writes them: a peer for the benchmarks.

`CacheDataset` keeps scans and labels in memory, without copies and with the labels' voxels listed beforehand, as the
guide to fast training in MONAI's documentation has it. Its transforms cut crops of 7 slices around nodules, turn,
shift and scale them, and add noise; `DiceCELoss` is minimized. Network, scans, labels, crops, batches and the strength
of each augmentation are those of the recipe `book`. All is computed in float32, MONAI's default.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.measure import Setup, open_slices, seconds
from benchmarks.plain import BATCH_SIZE, PlainData
from p2ch13.config import BOOK_AUGMENTATION, CONTEXT_SLICES_COUNT, HU_MAX, HU_MIN, TRAINING_CROP_SIZE
from p2ch13.detection.segment import predict_slices
from p2ch13.network.compute import keep_freed_memory
from p2ch13.network.model import BOOK_MODEL, BOOK_NETWORK, LogitNetwork, SegmentationNetwork, build_network

INSTALL = "MONAI is not installed: its rows stay empty. pip install '.[bench]'"
WORKER_COUNTS = 0, 2  # processes that load; the faster number counts
SCANS_AT_ONCE = 4  # in a batch, each with as many crops
SLICE_COUNT = 2 * CONTEXT_SLICES_COUNT + 1
BOTH = ("image", "label")


def is_installed() -> bool:
    return importlib.util.find_spec("monai") is not None


def measure_monai(setup: Setup) -> dict[str, list[float]]:
    """Measure samples per second of the training loop."""
    dataset, rates = make_dataset(setup), []
    for worker_count in WORKER_COUNTS:
        training = MonaiTraining(make_loader(dataset, worker_count))
        batches = training.train(setup.sizes.samples)
        first = len(next(batches))  # starts the worker processes
        rates.append((setup.sizes.samples - first) / seconds(list, batches))
    return {"loop": [max(rates)]}


def measure_whole_scan(setup: Setup) -> tuple[list[float], list[float]]:
    """Measure slices per second of the package's forward passes and of MONAI's sliding window, alternating.

    The same network computes all voxels of the same whole slices.
    """
    keep_freed_memory()
    ct, box = open_slices(setup)
    slice_count = box[0].stop
    model = build_network(BOOK_NETWORK, BOOK_MODEL).eval()
    search = make_searcher(model)

    def search_by_package() -> None:
        for _ in predict_slices(ct, box, model, tta=False, pixel_mm=0.0, precision="auto"):
            pass

    def search_by_monai() -> None:
        for ndx in range(slice_count):
            search(torch.from_numpy(ct.context_slices([ndx], CONTEXT_SLICES_COUNT)).float())

    package, monai = list[float](), list[float]()
    for _ in range(1 + setup.sizes.rounds):  # the first time prepares kernels
        package.append(slice_count / seconds(search_by_package))
        monai.append(slice_count / seconds(search_by_monai))
    return package[1:], monai[1:]


def make_searcher(model: SegmentationNetwork) -> Any:
    """Return MONAI's function of slices (slice, 7, row, col) in HU to logits, by windows as large as training crops."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(roi_size=(TRAINING_CROP_SIZE, TRAINING_CROP_SIZE), sw_batch_size=BATCH_SIZE)
    network = LogitNetwork(model)
    return torch.inference_mode()(lambda slices: inferer(slices, network))


class MonaiTraining:
    """Training on a loader's batches."""

    def __init__(self, loader: Any) -> None:
        from monai.losses import DiceCELoss

        self.loader = loader
        self.model = LogitNetwork(build_network(BOOK_NETWORK, BOOK_MODEL))
        self.loss = DiceCELoss(sigmoid=True)
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def train(self, sample_count: int) -> Iterator[torch.Tensor]:
        """Train on so many samples. Yields: each batch's crops, after its step."""
        self.model.train()
        while sample_count > 0:
            for batch in self.loader:
                crops, masks = (batch[name][:sample_count] for name in BOTH)
                self.optimizer.zero_grad()
                torch.autograd.backward(self.loss(self.model(crops), masks))
                self.optimizer.step()
                yield crops
                sample_count -= len(crops)
                if not sample_count:
                    break


def make_loader(dataset: Any, worker_count: int) -> Any:
    """Return MONAI's loader of batches of crops."""
    from monai.data import DataLoader

    return DataLoader(dataset, batch_size=SCANS_AT_ONCE, shuffle=True, num_workers=worker_count)


def make_dataset(setup: Setup) -> Any:
    """Return MONAI's dataset of crops of the first training scans, as many as fit in memory."""
    from monai.data import CacheDataset

    data = PlainData(setup.folders)
    series_list = [uid for uid in data.split(setup.val_stride, is_val_set=False) if data.get_positive_indexes(uid)]
    cts = (data.get_ct(series_uid) for series_uid in series_list[: setup.sizes.peer_scans])
    scans = [{"image": ct.hu, "label": ct.positive_mask} for ct in cts]
    return CacheDataset(scans, make_transforms(), num_workers=0, progress=False, copy_cache=False)


def make_transforms() -> Any:
    """Return the transforms from a scan and its label (index, row, col) to crops (7, row, col) and (1, row, col)."""
    from monai import transforms as mt

    return mt.Compose(
        [
            mt.EnsureChannelFirstd(keys=BOTH, channel_dim="no_channel"),
            mt.ScaleIntensityRanged(keys="image", a_min=HU_MIN, a_max=HU_MAX, b_min=HU_MIN, b_max=HU_MAX, clip=True),
            mt.FgBgToIndicesd(keys="label"),
            mt.RandCropByPosNegLabeld(
                keys=BOTH,
                label_key="label",
                spatial_size=(SLICE_COUNT, TRAINING_CROP_SIZE, TRAINING_CROP_SIZE),
                pos=1,
                neg=0,
                num_samples=BATCH_SIZE // SCANS_AT_ONCE,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            mt.SqueezeDimd(keys=BOTH, dim=0),  # slices become channels
            mt.Lambdad(keys="label", func=keep_middle_slice),
            *make_augmentation(),
        ]
    )


def make_augmentation() -> list[Any]:
    """Return the recipe's augmentation: flips, shifts, scales, any rotation, and noise."""
    from monai import transforms as mt

    strength = BOOK_AUGMENTATION
    shift_pixels = strength["offset"] * TRAINING_CROP_SIZE / 2
    return [
        mt.RandFlipd(keys=BOTH, prob=0.5, spatial_axis=0),
        mt.RandFlipd(keys=BOTH, prob=0.5, spatial_axis=1),
        mt.RandAffined(
            keys=BOTH,
            prob=1.0,
            rotate_range=math.pi,
            translate_range=(shift_pixels, shift_pixels),
            scale_range=(strength["scale"], strength["scale"]),
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
        mt.RandGaussianNoised(keys="image", prob=1.0, std=strength["noise"], sample_std=False),
    ]


def keep_middle_slice(label: torch.Tensor) -> torch.Tensor:
    """(7, row, col) -> (1, row, col)."""
    return label[CONTEXT_SLICES_COUNT : CONTEXT_SLICES_COUNT + 1]
