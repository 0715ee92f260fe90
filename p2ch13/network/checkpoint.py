"""Save and load a .state file: plain tensors, numbers and texts, no code."""

from __future__ import annotations

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from p2ch13.config import with_current_names
from p2ch13.network.model import BOOK_MODEL, UNNAMED_ACTIVATION, UNetWrapper
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_write

# What a file that is no checkpoint, read as one, can end in.
UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ArithmeticError, ValueError, TypeError),
    *(AttributeError, AssertionError, struct.error),
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a .state file; it appears under its name only when it is complete."""
    content = io.BytesIO()  # torch.save has words of its own for a full disk
    torch.save(state, content)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a .state file onto the CPU. It can hold data only: a pickle with code in it is refused.

    Raises: InputError if the file is missing, damaged, or not a checkpoint of a segmentation model.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; training writes its .state files below --models-dir")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as a checkpoint ({reason}); it is damaged or holds code") from None
    if not isinstance(state, dict) or "model_state" not in state:
        raise InputError(f"{path}: no model_state in it; this is not a checkpoint of a segmentation model")
    return state


def load_model(path: Path) -> UNetWrapper:
    """The model of a .state file, ours or the book's, in evaluation mode on the CPU.

    Raises: InputError if the file cannot be read or its weights do not fit the model that it names.
    """
    state = load_checkpoint(path)
    try:
        model_args = BOOK_MODEL
        if "model_args" in state:
            model_args = {"activation": UNNAMED_ACTIVATION, **with_current_names(state["model_args"])}
        with torch.device("meta"):  # sees whether all fits before there is memory for it, however large it claims to be
            UNetWrapper(**model_args).load_state_dict(state["model_state"], strict=True, assign=True)
        model = UNetWrapper(**model_args)
        model.load_state_dict(state["model_state"], strict=True)
        model.slice_spacing_mm = float(with_current_names(state.get("config", {})).get("slice_spacing_mm", 0.0))
        if not 0 <= model.slice_spacing_mm < math.inf:
            raise ValueError(f"slices {model.slice_spacing_mm} mm apart")
    except UNREADABLE as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise InputError(f"{path}: its weights fit no U-Net of the shape that it names ({reason})") from None
    return model.eval()
