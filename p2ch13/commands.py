"""The commands: their names, their modules, and how to type them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

PROGRAM = "p2ch13"


class Command(NamedTuple):
    """A command of the program."""

    module: str  # below `p2ch13`; it has a `main` that takes the command's arguments
    text: str  # what it does, in a line


# In the order in which one needs them.
COMMANDS = {
    "demo": Command("demo", "try all of it on synthetic scans, in minutes"),
    "predict": Command("predict", "find the nodules of CT scans"),
    "view": Command("view", "write a page with all slices of a scan and its findings"),
    "evaluate": Command("evaluate", "score a network, masks or findings against annotations"),
    "download": Command("download", "download LUNA16, or verify that it is complete"),
    "import-dicom": Command("import_dicom", "convert DICOM series for training and evaluation"),
    "phantom": Command("phantom", "generate synthetic scans with nodules"),
    "precache": Command("precache", "fill the cache of crops before training"),
    "train": Command("training", "train the first stage, which marks voxels"),
    "cross-validate": Command("cross_validate", "train and score LUNA16's ten folds, and merge their scores"),
    "second-stage": Command("second_stage", "train the second stage, which scores findings"),
    "export": Command("export", "write a network as ONNX, torch.export or safetensors"),
    "ablation": Command("ablation", "measure what each option of a recipe contributes"),
    "paint": Command("paint", "paint nodules with their masks into CT scans"),
}


def spell(name: str, *arguments: str) -> str:
    """Return a command as one types it: `p2ch13 NAME` where that is how this process was started, else with its module.

    In a checkout that is not installed, modules are all there is.
    """
    if Path(sys.argv[0]).stem == PROGRAM:
        return shlex.join([PROGRAM, name, *arguments])
    return shlex.join(["python", "-m", f"{PROGRAM}.{COMMANDS[name].module}", *arguments])
