"""Folders, crop geometry and the options of a run: every number that is used twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from p2ch13.util.errors import InputError
from p2ch13.util.logits import to_logit

CONTEXT_SLICES_COUNT = 3  # slices on either side of the one that is segmented
CROP_WIDTH_IRC = (2 * CONTEXT_SLICES_COUNT + 1, 96, 96)  # voxels kept around a nodule
TRAINING_CROP_SIZE = 64  # rows and cols that training cuts out of these
HU_MIN, HU_MAX = -1000, 1000  # air and dense bone; scanners write anything beyond
MASK_THRESHOLD_HU = -700  # border between lung and tissue, as in the book
REFINED_THRESHOLD_HU = -600  # the same for refined labels
LABEL_KINDS = ("box", "refined", "lidc")
MISSING_XML_CHOICES = ("box", "leave-out")
PRECISIONS = ("auto", "fp32", "bf16")
AUTO_THREADS = "auto"
THREADS_HELP = "that compute, on a CPU: a number, or auto: measured at the start and every so often"
COMPILE_CHOICES = ("auto", "yes", "no")
NETWORKS = {"unet": "p2ch13.network.model:UNetWrapper"}
OPTIMIZERS = {"adam": "torch.optim:Adam", "muon": "p2ch13.training.optimizers:Muon"}
LR_SCHEDULES = ("constant", "cosine")
ACTIVATIONS = ("relu", "leaky_relu")
NODULE_THRESHOLD = 0.5  # probability above which a pixel counts as nodule
NODULE_LOGIT = to_logit(NODULE_THRESHOLD)  # the same as the network gives it
MIN_DIAMETER_MM = 3.0  # the smallest nodules that LUNA16 counts

# What --augmented turns on, all of it, and --augment-flip and so on one by one; see SegmentationAugmentation.
BOOK_AUGMENTATION: dict[str, Any] = {"flip": True, "offset": 0.03, "scale": 0.2, "rotate": True, "noise": 25.0}
# And what the book does not have.
AUGMENTATION: dict[str, Any] = {**BOOK_AUGMENTATION, "intensity": 0.1, "blur": 0.8, "resolution": 1.0}

NEGATIVES_PER_SCAN = 48  # crops without a nodule that are cached, half of them around candidates that are none
SLICES_PER_NODULE = 5  # crops that are cached of a nodule, at most, if not its centre alone is trained on

BEST_STATE = "best.state"  # what the name of a run's best model ends with
# One of them picks the best model.
BEST_METRICS = ("recall", "f1", "dice", "slice-f1", "recall-at-precision")


# Names that options and arguments of the network had in earlier versions: they are read for good, from command lines,
# `--config` files and .state files.
RENAMED = {
    "average_weights": "ema",
    "balance_sizes": "weight_by_diameter",
    "hard_negatives": "hard_negative_candidates",
    "lung_field": "lung_mask",
    "off_centre": "all_nodule_slices",
    "pixel_block": "space_to_depth",
    "projections": "intensity_projections",
    "skip_bad_batches": "skip_non_finite",
    "slice_distance": "slice_spacing_mm",
}


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(values)
    if "warm_up_cosine" in values:
        values["lr_schedule"] = "cosine" if values.pop("warm_up_cosine") else "constant"
    return {RENAMED.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True)
class Folders:
    """Where a run reads and writes. Nothing is ever written into `data_dir`."""

    data_dir: Path = Path("data/part2/luna")  # subset*/ and the CSV files
    cache_dir: Path = Path("data/cache")


@dataclass(frozen=True)
class CropChoice:
    """Which crops are trained on, besides the one through each nodule's centre; see `p2ch13.data.crops`."""

    all_nodule_slices: bool = False  # slices from one end of the nodule to the other
    negatives: bool = False  # places without a nodule
    slice_spacing_mm: float = 0.0  # mm, see `Ct.context_indexes`

    @property
    def needs_places(self) -> bool:
        """Whether there are other places than the nodules' centres."""
        return self.all_nodule_slices or self.negatives


CENTRES_ALONE = CropChoice()


@dataclass(frozen=True)
class LabelOptions:
    """What is taken for the outline of a nodule; see `p2ch13.labels`. Raises: InputError for options without sense."""

    kind: str = "box"
    threshold_hu: int | None = None  # border between lung and tissue; None: -700, for refined labels -600
    lidc_xml: Path | None = None  # folder of the readers' contours, for lidc
    missing_xml: str = "box"  # what becomes of a scan without contours

    def __post_init__(self) -> None:
        if self.kind not in LABEL_KINDS:
            raise InputError(f"--labels {self.kind}: there are no such labels, but {', '.join(LABEL_KINDS)}")
        if self.missing_xml not in MISSING_XML_CHOICES:
            raise InputError(f"--missing-xml {self.missing_xml}: it can be {' or '.join(MISSING_XML_CHOICES)}")
        if self.kind == "lidc" and self.lidc_xml is None:
            raise InputError("--labels lidc: where are the XML files of LIDC-IDRI? Say so with --lidc-xml")
        if self.kind != "lidc" and self.lidc_xml is not None:
            raise InputError(f"--lidc-xml {self.lidc_xml}: these files are for --labels lidc; give both or neither")


@dataclass(frozen=True)
class LossOptions:
    """Loss."""

    fn_weight: float = 8.0  # of the false negatives' Dice loss, the book's 2**3
    batch_dice: bool = False
    cross_entropy: float = 0.0  # weight of the pixels' cross-entropy in the loss


@dataclass(frozen=True)
class TrainingConfig(LossOptions):
    """Options of one run; every checkpoint holds them as a plain dict."""

    epochs: int = 1
    batch_size: int = 16  # crops per optimizer step, in each process
    samples_per_epoch: int = 300_000
    validation_cadence: int = 5  # epochs from one validation to the next
    val_stride: int = 10  # every tenth series is for validation
    num_workers: int = 0  # processes that read validation slices ahead
    precision: str = "auto"
    threads: int | str = AUTO_THREADS  # that compute, on a CPU
    compile: str = "auto"
    sync_batchnorm: bool = False
    seed: int = 0
    deterministic: bool = False
    skip_non_finite: bool = False  # whose loss or gradient is not finite, instead of ending the run
    checkpoint_minutes: float = 10.0  # from one last.state to the next, at most
    keep_checkpoints: int = 3  # the newest ones
    resume: str | None = None  # the .state to go on from; "" for the latest run's
    preset: str = "book"
    network: str = "unet"
    depth: int = 3  # levels of the U-Net
    filters: int = 16  # of its first level
    space_to_depth: int = 1  # rows and cols of pixels that the network takes as one
    activation: str = "relu"  # the book's
    intensity_projections: bool = False  # show the highest and lowest of the slices, too
    slice_spacing_mm: float = 0.0  # mm between the slices that the network sees; 0: neighbours
    negatives: float = 0.0  # share of each batch without a nodule at its centre
    hard_negative_candidates: int = 1  # places drawn for each negative, the hardest of which is taken
    all_nodule_slices: bool = False
    weight_by_diameter: bool = False
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    lr_schedule: str = "constant"
    ema: bool = False
    val_negatives: float = 0.0  # validation slices without nodule, for each with one
    best_metric: str = "recall"
    precision_floor: float = 0.1
    early_stop: int = 0
    augment_flip: bool = False
    augment_offset: bool = False
    augment_scale: bool = False
    augment_rotate: bool = False
    augment_noise: bool = False
    augment_intensity: bool = False
    augment_blur: bool = False
    augment_resolution: bool = False
    data_dir: str = str(Folders.data_dir)
    cache_dir: str = str(Folders.cache_dir)
    labels: str = LabelOptions.kind
    threshold_hu: int | None = LabelOptions.threshold_hu
    lidc_xml: str | None = None
    missing_xml: str = LabelOptions.missing_xml
    models_dir: str = "data/models"
    runs_dir: str = "runs"
    tb_prefix: str = "p2ch13"
    comment: str = "none"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """The options that a checkpoint holds. What it does not name is as usual; what is unknown here is left out."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in with_current_names(values).items() if name in names})

    @property
    def augmentation(self) -> dict[str, Any]:
        """Keyword arguments for SegmentationAugmentation: those that are turned on."""
        return {name: value for name, value in AUGMENTATION.items() if getattr(self, f"augment_{name}")}

    @property
    def crop_choice(self) -> CropChoice:
        return CropChoice(self.all_nodule_slices, self.negatives > 0, self.slice_spacing_mm)

    @property
    def folders(self) -> Folders:
        return Folders(Path(self.data_dir), Path(self.cache_dir))

    @property
    def label_options(self) -> LabelOptions:
        lidc_xml = None if self.lidc_xml is None else Path(self.lidc_xml)
        return LabelOptions(self.labels, self.threshold_hu, lidc_xml, self.missing_xml)


# What --preset stands for. `book` is the chapter as it stands, `strong` what was found to mark fewer vessels.
PRESETS: dict[str, dict[str, Any]] = {
    "book": {},
    "strong": {
        **{f"augment_{name}": True for name in AUGMENTATION},
        "labels": "refined",
        "filters": 32,
        "space_to_depth": 2,
        "intensity_projections": True,
        "slice_spacing_mm": 2.0,
        "batch_size": 8,
        "negatives": 0.5,
        "hard_negative_candidates": 6,
        "all_nodule_slices": True,
        "weight_by_diameter": True,
        "fn_weight": 0.3,
        "batch_dice": True,
        "cross_entropy": 10.0,
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "lr_schedule": "cosine",
        "ema": True,
        "val_negatives": 1.0,
        "best_metric": "slice-f1",
    },
}
