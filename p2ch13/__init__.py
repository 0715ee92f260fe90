"""Lung nodule segmentation on LUNA16, after chapter 13 of "Deep Learning with PyTorch".

The public names; each loads its module, and what that needs, at its first use:

    predict                            a scan's path or image -> its nodules, with the network in the package
    Prediction                         what it returns: findings, mask, geometry, figure
    Ct                                 one scan: HU, geometry, nodule mask, crops
    CandidateInfoTuple                 an annotated nodule or a candidate
    get_candidate_info_list            the nodules and candidates of a data folder
    xyz2irc, irc2xyz                   patient coordinates (mm) <-> voxels
    Folders                            the data folder and the cache
    Luna2dSegmentationDataset          whole slices with their masks
    TrainingLuna2dSegmentationDataset  random crops around nodules
    SegmentationAugmentation           random augmentation on the device
    SegmentationTrainingApp            a training run
    UNet, UNetWrapper                  the network; HU -> probability
    load_model                         a checkpoint -> UNetWrapper
    load_segmenter                     the same for whole slices, on the device
    load_detector, Detector            a checkpoint -> both stages, on the device
    segment                            scan -> logit of each voxel
    find_nodules, Finding              logits -> labeled components, one finding each
    detect                             scan -> logits, labels, findings
    write_phantoms                     synthetic scans in LUNA16's layout
    InputError                         the error for unusable input: message, path, line, option
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers
    from p2ch13.config import Folders as Folders
    from p2ch13.data.ct import Ct as Ct
    from p2ch13.data.datasets import Luna2dSegmentationDataset as Luna2dSegmentationDataset
    from p2ch13.data.datasets import TrainingLuna2dSegmentationDataset as TrainingLuna2dSegmentationDataset
    from p2ch13.detection.detector import Detector as Detector
    from p2ch13.detection.detector import detect as detect
    from p2ch13.detection.detector import load_detector as load_detector
    from p2ch13.detection.findings import Finding as Finding
    from p2ch13.detection.findings import find_nodules as find_nodules
    from p2ch13.detection.prediction import Prediction as Prediction
    from p2ch13.detection.prediction import predict as predict
    from p2ch13.detection.segment import load_segmenter as load_segmenter
    from p2ch13.detection.segment import segment as segment
    from p2ch13.labels.candidates import CandidateInfoTuple as CandidateInfoTuple
    from p2ch13.labels.candidates import get_candidate_info_list as get_candidate_info_list
    from p2ch13.network.checkpoint import load_model as load_model
    from p2ch13.network.model import UNetWrapper as UNetWrapper
    from p2ch13.phantom.dataset import write_phantoms as write_phantoms
    from p2ch13.training.app import SegmentationTrainingApp as SegmentationTrainingApp
    from p2ch13.training.augmentation import SegmentationAugmentation as SegmentationAugmentation
    from p2ch13.util.coordinates import irc2xyz as irc2xyz
    from p2ch13.util.coordinates import xyz2irc as xyz2irc
    from p2ch13.util.errors import InputError as InputError
    from p2ch13.util.unet import UNet as UNet

__version__ = "0.1.0"
_MODULES = {
    "config": "Folders",
    "data.ct": "Ct",
    "data.datasets": "Luna2dSegmentationDataset TrainingLuna2dSegmentationDataset",
    "detection.detector": "Detector detect load_detector",
    "detection.findings": "Finding find_nodules",
    "detection.prediction": "Prediction predict",
    "detection.segment": "load_segmenter segment",
    "labels.candidates": "CandidateInfoTuple get_candidate_info_list",
    "network.checkpoint": "load_model",
    "network.model": "UNetWrapper",
    "phantom.dataset": "write_phantoms",
    "training.app": "SegmentationTrainingApp",
    "training.augmentation": "SegmentationAugmentation",
    "util.coordinates": "irc2xyz xyz2irc",
    "util.errors": "InputError",
    "util.unet": "UNet",
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names.split()}
__all__ = ["__version__", *_MODULE_OF]

# In a checkout without symbolic links, as on Windows, `p2ch13/util` is no folder: util/ is found beside p2ch13/.
if not Path(__file__).with_name("util").is_dir():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "predict":  # the command's module, which Python sets this name to, calls the function: see there
        return import_module(f"{__name__}.predict")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
