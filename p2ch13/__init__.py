"""Lung nodule segmentation on LUNA16, after chapter 13 of "Deep Learning with PyTorch".

The public names; each loads its module, and what that needs, at its first use:

    Ct                                 one scan: HU, geometry, nodule mask, crops
    CandidateInfoTuple                 an annotated nodule or a candidate
    get_candidate_info_list            the nodules and candidates of a data folder
    InputError                         the error for unusable input: message, path, line, option
    xyz2irc, irc2xyz                   patient coordinates (mm) <-> voxels
    Luna2dSegmentationDataset          whole slices with their masks
    TrainingLuna2dSegmentationDataset  random crops around nodules
    SegmentationAugmentation           random augmentation on the device
    SegmentationTrainingApp            a training run
    UNet, UNetWrapper                  the network; HU -> probability
    load_model                         a checkpoint -> UNetWrapper
    load_segmenter                     the same, checked for whole slices, on the device
    segment                            scan -> logit of each voxel
    find_nodules, Finding              logits -> labeled components, one finding each
    detect                             scan -> logits, labels, findings
    write_phantoms                     synthetic scans in LUNA16's layout
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2ch13.data.ct import Ct
    from p2ch13.data.datasets import Luna2dSegmentationDataset, TrainingLuna2dSegmentationDataset
    from p2ch13.detection.findings import Finding, find_nodules
    from p2ch13.detection.segment import detect, load_segmenter, segment
    from p2ch13.labels.candidates import CandidateInfoTuple, get_candidate_info_list
    from p2ch13.network.checkpoint import load_model
    from p2ch13.network.model import UNetWrapper
    from p2ch13.phantom.dataset import write_phantoms
    from p2ch13.training.app import SegmentationTrainingApp
    from p2ch13.training.augmentation import SegmentationAugmentation
    from p2ch13.util.coordinates import irc2xyz, xyz2irc
    from p2ch13.util.errors import InputError
    from p2ch13.util.unet import UNet

__version__ = "0.1.0"
__all__ = [
    "CandidateInfoTuple",
    "Ct",
    "Finding",
    "InputError",
    "Luna2dSegmentationDataset",
    "SegmentationAugmentation",
    "SegmentationTrainingApp",
    "TrainingLuna2dSegmentationDataset",
    "UNet",
    "UNetWrapper",
    "__version__",
    "detect",
    "find_nodules",
    "get_candidate_info_list",
    "irc2xyz",
    "load_model",
    "load_segmenter",
    "segment",
    "write_phantoms",
    "xyz2irc",
]
_NAMES_OF = {
    "data.ct": ("Ct",),
    "data.datasets": ("Luna2dSegmentationDataset", "TrainingLuna2dSegmentationDataset"),
    "detection.findings": ("Finding", "find_nodules"),
    "detection.segment": ("detect", "load_segmenter", "segment"),
    "labels.candidates": ("CandidateInfoTuple", "get_candidate_info_list"),
    "network.checkpoint": ("load_model",),
    "network.model": ("UNetWrapper",),
    "phantom.dataset": ("write_phantoms",),
    "training.app": ("SegmentationTrainingApp",),
    "training.augmentation": ("SegmentationAugmentation",),
    "util.coordinates": ("irc2xyz", "xyz2irc"),
    "util.errors": ("InputError",),
    "util.unet": ("UNet",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

# A checkout without symbolic links (Windows) has util/ beside p2ch13/ only.
if not Path(__file__).with_name("util").is_dir():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
