"""Folders, crop geometry and the options of a run: every number that is used twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT_SLICES_COUNT = 3  # slices on either side of the one that is segmented
CROP_WIDTH_IRC = (2 * CONTEXT_SLICES_COUNT + 1, 96, 96)  # voxels kept around a nodule
TRAINING_CROP_SIZE = 64  # rows and cols that training cuts out of these
HU_MIN, HU_MAX = -1000, 1000  # air and dense bone; scanners write anything beyond
MASK_THRESHOLD_HU = -700  # border between lung and tissue
PRECISIONS = ("auto", "fp32", "bf16")
COMPILE_CHOICES = ("auto", "yes", "no")
NODULE_THRESHOLD = 0.5  # probability from which a pixel counts as nodule
MIN_DIAMETER_MM = 3.0  # the smallest nodules that LUNA16 counts

# What --augmented turns on, all of it, and --augment-flip and so on one by one; see SegmentationAugmentation.
AUGMENTATION: dict[str, Any] = {"flip": True, "offset": 0.03, "scale": 0.2, "rotate": True, "noise": 25.0}


@dataclass(frozen=True)
class Folders:
    """Where a run reads and writes. Nothing is ever written into `data_dir`."""

    data_dir: Path = Path("data/part2/luna")  # subset*/ and the CSV files
    cache_dir: Path = Path("data/cache")


@dataclass(frozen=True)
class TrainingConfig:
    """Options of one run; every checkpoint holds them as a plain dict."""

    epochs: int = 1
    batch_size: int = 16  # crops per optimizer step, in each process
    samples_per_epoch: int = 300_000
    validation_cadence: int = 5  # epochs from one validation to the next
    val_stride: int = 10  # every tenth series is for validation
    num_workers: int = 0  # processes that read validation slices ahead
    precision: str = "auto"
    compile: str = "auto"
    sync_batchnorm: bool = False
    seed: int = 0
    augment_flip: bool = False
    augment_offset: bool = False
    augment_scale: bool = False
    augment_rotate: bool = False
    augment_noise: bool = False
    data_dir: str = str(Folders.data_dir)
    cache_dir: str = str(Folders.cache_dir)
    models_dir: str = "data/models"
    runs_dir: str = "runs"
    tb_prefix: str = "p2ch13"
    comment: str = "none"

    @property
    def augmentation(self) -> dict[str, Any]:
        """Keyword arguments for SegmentationAugmentation: those that are turned on."""
        return {name: value for name, value in AUGMENTATION.items() if getattr(self, f"augment_{name}")}

    @property
    def folders(self) -> Folders:
        return Folders(Path(self.data_dir), Path(self.cache_dir))
