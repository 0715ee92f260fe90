"""The chapter in plain PyTorch, written without regard to speed: the baseline of the benchmarks.

A scan is read whole, as float32, with a mask of its size. Crops around all candidates are pickled into diskcache, and a
`DataLoader` with two worker processes reads one for each sample. The network is computed in float32, in PyTorch's
memory format. CSV files, coordinates, augmentation and loss, which are not timed against it, come from the package.
`tests/benchmarks/test_plain.py` checks that masks, samples and losses equal the package's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import diskcache
import numpy as np
import SimpleITK as sitk
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from p2ch13.config import CONTEXT_SLICES_COUNT, CROP_WIDTH_IRC, TRAINING_CROP_SIZE, Folders
from p2ch13.data.sampling import deal, find_steps
from p2ch13.evaluation.metrics import count_pixels
from p2ch13.labels.candidates import CandidateInfoTuple, get_candidate_info_list
from p2ch13.training.augmentation import SegmentationAugmentation
from p2ch13.training.losses import dice_loss
from p2ch13.util.coordinates import xyz2irc
from p2ch13.volumes.files import find_scans

WORKER_COUNT = 2
BATCH_SIZE = 16
THRESHOLD_HU = -700

Sample = tuple[torch.Tensor, torch.Tensor]


class PlainCt:
    def __init__(self, path: Path, nodules: Sequence[CandidateInfoTuple]) -> None:
        image = sitk.ReadImage(str(path))
        self.hu = np.array(sitk.GetArrayFromImage(image), dtype=np.float32)
        self.origin_xyz = np.array(image.GetOrigin())
        self.vx_size_xyz = np.array(image.GetSpacing())
        self.direction = np.array(image.GetDirection()).reshape(3, 3)
        self.positive_mask = self.build_annotation_mask(nodules)
        self.positive_indexes: list[int] = np.flatnonzero(self.positive_mask.any(axis=(1, 2))).tolist()

    def locate(self, center_xyz: Sequence[float]) -> tuple[int, int, int]:
        return xyz2irc(center_xyz, self.origin_xyz, self.vx_size_xyz, self.direction)

    def build_annotation_mask(self, nodules: Sequence[CandidateInfoTuple]) -> np.ndarray:
        boxes = np.zeros(self.hu.shape, dtype=bool)
        for nodule in nodules:
            center = self.locate(nodule.center_xyz)
            box = []
            for axis, size in enumerate(self.hu.shape):
                line = self.hu[tuple(slice(None) if ndx == axis else at for ndx, at in enumerate(center))]
                radius = 2
                while (center[axis] - radius > 0 or center[axis] + radius < size - 1) and (
                    line[max(center[axis] - radius, 0)] > THRESHOLD_HU
                    and line[min(center[axis] + radius, size - 1)] > THRESHOLD_HU
                ):
                    radius += 1
                box.append(slice(max(center[axis] - radius, 0), center[axis] + radius + 1))
            boxes[tuple(box)] = True
        return boxes & (self.hu > THRESHOLD_HU)

    def get_raw_candidate(
        self, center_xyz: Sequence[float], width_irc: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
        center = self.locate(center_xyz)
        window = np.ix_(
            *(
                np.arange(at - width // 2, at - width // 2 + width).clip(0, size - 1)
                for at, width, size in zip(center, width_irc, self.hu.shape, strict=True)
            )
        )
        return self.hu[window], self.positive_mask[window], center


@lru_cache(1)
def read_ct(path: Path, nodules: tuple[CandidateInfoTuple, ...]) -> PlainCt:
    return PlainCt(path, nodules)


class PlainData:
    """The scans and candidates of a data folder, and the cache of their crops."""

    def __init__(self, folders: Folders) -> None:
        self.scans = find_scans(folders.data_dir)
        self.candidates = get_candidate_info_list(folders.data_dir)
        self.nodules = defaultdict(list)
        for candidate in self.candidates:
            if candidate.is_nodule:
                self.nodules[candidate.series_uid].append(candidate)
        self.disk = diskcache.FanoutCache(str(folders.cache_dir), shards=8, timeout=60, size_limit=2**40)

    def get_ct(self, series_uid: str) -> PlainCt:
        return read_ct(self.scans[series_uid], tuple(self.nodules[series_uid]))

    def get_ct_raw_candidate(self, candidate: CandidateInfoTuple) -> tuple[np.ndarray, np.ndarray]:
        key = ("crop", candidate.series_uid, candidate.center_xyz)
        if key not in self.disk:
            ct_chunk, pos_chunk, _ = self.get_ct(candidate.series_uid).get_raw_candidate(
                candidate.center_xyz, CROP_WIDTH_IRC
            )
            self.disk.set(key, (ct_chunk.clip(-1000, 1000), pos_chunk))
        crop: tuple[np.ndarray, np.ndarray] = self.disk.get(key)
        return crop

    def get_positive_indexes(self, series_uid: str) -> list[int]:
        key = ("slices", series_uid)
        if key not in self.disk:
            self.disk.set(key, self.get_ct(series_uid).positive_indexes)
        indexes: list[int] = self.disk.get(key)
        return indexes

    def split(self, val_stride: int, is_val_set: bool) -> list[str]:
        series_list = sorted(self.scans)
        validation = series_list[::val_stride]
        return validation if is_val_set else [uid for uid in series_list if uid not in validation]


def precache(folders: Folders, series_list: Sequence[str]) -> None:
    """Cache the crops of all candidates and the nodule slices of the series, in two processes."""
    with ProcessPoolExecutor(WORKER_COUNT) as executor:
        list(executor.map(partial(precache_series, folders), series_list))


@lru_cache(1)
def open_data(folders: Folders) -> PlainData:
    return PlainData(folders)


def precache_series(folders: Folders, series_uid: str) -> None:
    data = open_data(folders)
    data.get_positive_indexes(series_uid)
    for candidate in data.candidates:
        if candidate.series_uid == series_uid:
            data.get_ct_raw_candidate(candidate)


class PlainTrainingDataset(Dataset[Sample]):
    def __init__(self, data: PlainData, series_list: Sequence[str], samples_per_epoch: int, seed: int = 0) -> None:
        self.data = data
        self.pos_list = [c for c in data.candidates if c.is_nodule and c.series_uid in series_list]
        self.samples_per_epoch = samples_per_epoch
        self.seed = seed

    def shuffle_samples(self, epoch_ndx: int) -> None:
        rng = np.random.default_rng([self.seed, epoch_ndx])
        step_sizes = np.diff(find_steps(self.samples_per_epoch, BATCH_SIZE, process_count=1)).tolist()
        self.nodule_ndxs = np.concatenate(deal(rng, len(self.pos_list), step_sizes))  # the package's order
        offset_count = CROP_WIDTH_IRC[1] - TRAINING_CROP_SIZE + 1
        self.offsets = rng.integers(0, [offset_count, offset_count], size=(self.samples_per_epoch, 2))

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, ndx: int) -> Sample:
        ct_chunk, pos_chunk = self.data.get_ct_raw_candidate(self.pos_list[self.nodule_ndxs[ndx]])
        row, col = self.offsets[ndx]
        window = (slice(None), slice(row, row + TRAINING_CROP_SIZE), slice(col, col + TRAINING_CROP_SIZE))
        middle = slice(CONTEXT_SLICES_COUNT, CONTEXT_SLICES_COUNT + 1)
        return torch.tensor(ct_chunk[window]), torch.tensor(pos_chunk[middle][window])


class PlainValidationDataset(Dataset[Sample]):
    def __init__(self, data: PlainData, series_list: Sequence[str]) -> None:
        self.data = data
        self.sample_list = [(uid, ndx) for uid in series_list for ndx in data.get_positive_indexes(uid)]

    def __len__(self) -> int:
        return len(self.sample_list)

    def __getitem__(self, ndx: int) -> Sample:
        series_uid, slice_ndx = self.sample_list[ndx]
        ct = self.data.get_ct(series_uid)
        neighbors = np.arange(slice_ndx - CONTEXT_SLICES_COUNT, slice_ndx + CONTEXT_SLICES_COUNT + 1)
        hu = ct.hu[neighbors.clip(0, len(ct.hu) - 1)].clip(-1000, 1000)
        return torch.tensor(hu), torch.tensor(ct.positive_mask[slice_ndx]).unsqueeze(0)


class PlainUNet(nn.Module):
    """The chapter's network; shapes and order of its parameters are those of `UNetWrapper`."""

    def __init__(self) -> None:
        super().__init__()
        self.input_batchnorm = nn.BatchNorm2d(7)
        self.down = nn.ModuleList([conv_block(7, 16), conv_block(16, 32), conv_block(32, 64)])
        self.up = nn.ModuleList(PlainUpBlock(size) for size in (64, 32))
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_batchnorm(x)
        bridges = []
        for ndx, block in enumerate(self.down):
            x = block(x if ndx == 0 else nn.functional.avg_pool2d(x, 2))
            bridges.append(x)
        for up, bridge in zip(self.up, bridges[-2::-1], strict=True):
            x = up(x, bridge)
        return torch.sigmoid(self.last(x))


class PlainUpBlock(nn.Module):
    def __init__(self, in_size: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_size, in_size // 2, 2, stride=2)
        self.block = conv_block(in_size, in_size // 2)

    def forward(self, x: torch.Tensor, bridge: torch.Tensor) -> torch.Tensor:
        return self.block(torch.cat([self.up(x), bridge], dim=1))  # type: ignore[no-any-return]


def conv_block(in_size: int, out_size: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(in_size, out_size, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out_size)),
        *(nn.Conv2d(out_size, out_size, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(out_size)),
    )


class PlainTraining:
    def __init__(self, augmentation: SegmentationAugmentation, batch_size: int = BATCH_SIZE) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = PlainUNet().to(self.device)
        self.augmentation = augmentation
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.batch_size = batch_size

    def train(self, dataset: Dataset[Sample]) -> Iterator[torch.Tensor]:
        """Train for an epoch. Yields: the losses of each batch's samples."""
        self.model.train()
        # With a generator of its own: augmentation alone draws from PyTorch's.
        for batch in DataLoader(dataset, self.batch_size, num_workers=WORKER_COUNT, generator=torch.Generator()):
            self.optimizer.zero_grad()
            losses, _ = self.compute_batch_loss(batch)
            torch.autograd.backward(losses.mean())
            self.optimizer.step()
            yield losses.detach()

    @torch.no_grad()
    def validate(self, dataset: Dataset[Sample]) -> Iterator[torch.Tensor]:
        """Validate; the batch size is that of training, as in the book."""
        self.model.eval()
        for batch in DataLoader(dataset, self.batch_size, num_workers=WORKER_COUNT):
            losses, _ = self.compute_batch_loss(batch)
            yield losses

    def compute_batch_loss(self, batch: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        ct_slices, label_mask = (x.to(self.device) for x in batch)
        if self.model.training:
            ct_slices, label_mask = self.augmentation(ct_slices, label_mask)
        nodule_prob = self.model(ct_slices)
        losses = dice_loss(nodule_prob, label_mask) + 8 * dice_loss(nodule_prob * label_mask, label_mask)
        return losses, count_pixels(nodule_prob > 0.5, label_mask)
