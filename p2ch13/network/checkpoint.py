"""Save and load .state files: plain tensors, numbers and texts, no code."""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from p2ch13.config import NETWORKS, with_current_names
from p2ch13.network.finding_scorer import SECOND_STAGE, FindingScorer
from p2ch13.network.model import BOOK_MODEL, BOOK_NETWORK, UNNAMED_ACTIVATION, SegmentationNetwork, build_network
from p2ch13.network.unreadable import SAVE_ANEW, explain_unreadable, find_damaged_member
from p2ch13.util.errors import InputError, one_line
from p2ch13.util.files import FileName, atomic_write

PIXEL_MM = "pixel_mm"  # key of the size of the pixels that a network searches
WRAPPED_IN_PARALLEL = "module."
WRAPPED_BY_COMPILE = re.compile(r"(?<![^.])_orig_mod\.")
NAMES_SHOWN, REASON_LENGTH = 5, 200  # of names and characters in errors
# Errors of reading a file that is no checkpoint as one.
UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ArithmeticError, ValueError, TypeError),
    *(AttributeError, AssertionError, struct.error),
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a .state file; it appears under its name only when it is complete."""
    content = io.BytesIO()  # torch.save raises RuntimeError on a full disk: serialize in memory first
    torch.save(state, content)
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a .state file onto the CPU. Only data load: a pickle that holds code is refused.

    PyTorch does not compare the checksums in a file, so that bytes which were lost on the way would be weights.
    Raises: InputError if the file is missing, corrupt, or not a checkpoint of a segmentation model.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{what}; name a .state file: training writes them below --models-dir", path=path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's on pickles of other programs, which it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(f"not read as a checkpoint: {explain_unreadable(path, error)}", path=path) from None
    damaged = find_damaged_member(path)
    if damaged is not None:
        raise InputError(f"corrupt: the checksum of {damaged} in it is another; copy or download it again", path=path)
    if not isinstance(state, dict) or not isinstance(state.get("model_state"), Mapping):
        there = ", ".join(map(str, list(state)[:NAMES_SHOWN])) if isinstance(state, dict) else type(state).__name__
        message = f"no model_state in it, but {there or 'nothing'}; {SAVE_ANEW}"
        raise InputError(message, path=path)
    return state


def load_model(path: FileName, network: str | None = None) -> SegmentationNetwork:
    """Load the model of a .state file, ours or the book's, onto the CPU and in evaluation mode.

    Args: network: the `package.module:Class` that the user allows to be imported. A file's own name imports nothing:
        it is one of `NETWORKS`, or this one.
    Raises: InputError if the file cannot be read, names another network, or holds weights that do not fit it or are not
        finite.
    """
    path = Path(path)
    return build_model(path, load_checkpoint(path), network)


def build_model(path: Path, state: Mapping[str, Any], network: str | None = None) -> SegmentationNetwork:
    """Build the model of a .state file that is read. Args, Raises: see `load_model`."""
    name = check_allowed(path, state.get("network", BOOK_NETWORK), network)
    try:
        model_args = read_model_args(name, state)
        weights = state["model_state"]
        if name in NETWORKS:
            with torch.device("meta"):  # allocates nothing: a file can claim a network of any size
                model = build_network(name, model_args)
                model.load_state_dict(unwrap(weights, model), strict=True, assign=True)
        model = build_network(name, model_args)
        model.load_state_dict(unwrap(weights, model), strict=True)
    except InputError:
        raise
    except UNREADABLE as error:
        reason = one_line(error)[:REASON_LENGTH]
        raise InputError(f"its weights do not fit the network that it names ({reason})", path=path) from None
    if name in NETWORKS:  # others may have reasons of their own, such as a mask of -inf
        check_weights(path, model)
    return model.eval()


def read_model_args(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a .state file's network, under their names of today; the book's for files without any.

    Args: name: of the network, as the file has it.
    Raises: one of `UNREADABLE` for a corrupt file.
    """
    model_args = BOOK_MODEL
    if "model_args" in state:
        unnamed = {"activation": UNNAMED_ACTIVATION} if name == BOOK_NETWORK else {}
        model_args = {**unnamed, **with_current_names(state["model_args"])}
    config = with_current_names(state.get("config", {}))  # of files whose `model_args` have no spacing
    return {"slice_spacing_mm": float(config.get("slice_spacing_mm", 0.0)), **model_args}


def check_weights(path: Path, model: SegmentationNetwork) -> None:
    """Raises: InputError, with their name, if weights are not finite."""
    broken = next((key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()), None)
    if broken is not None:
        message = f"its weights {broken} are not finite, as of a training that diverged; use an earlier .state file"
        raise InputError(message, path=path)


def unwrap(weights: Mapping[str, torch.Tensor], model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """Return weights under the names that a network has for them, without those of what it was wrapped in.

    DataParallel and DistributedDataParallel put `module.` before all names, torch.compile `_orig_mod.` before those of
    what it compiles. `consume_prefix_in_state_dict_if_present` knows one prefix, and changes its argument.
    """
    own_names = model.state_dict().keys()
    names = [WRAPPED_BY_COMPILE.sub("", name) for name in weights]
    while names and not own_names & names and all(name.startswith(WRAPPED_IN_PARALLEL) for name in names):
        names = [name.removeprefix(WRAPPED_IN_PARALLEL) for name in names]
    return dict(zip(names, weights.values(), strict=True)) if own_names >= set(names) else weights


def build_finding_scorer(path: Path, state: Mapping[str, Any]) -> FindingScorer | None:
    """Build the second stage of a .state file that is read; None if it has none.

    Raises: InputError if that part is corrupt.
    """
    if SECOND_STAGE not in state:
        return None
    try:
        return FindingScorer.from_state(state[SECOND_STAGE])
    except UNREADABLE as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        cure = "it is corrupt; --no-second-stage uses the first stage alone"
        raise InputError(f"its second stage cannot be used ({reason}); {cure}", path=path) from None


def read_pixel_mm(path: Path, state: Mapping[str, Any]) -> float:
    """Read the size of the pixels that a .state file's network searches, see `p2ch13.detection.segment`; 0 without.

    Raises: InputError if it is none.
    """
    value = state.get(PIXEL_MM, 0.0)
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"corrupt: {PIXEL_MM} is {value!r}; train it again", path=path)
    return float(value)


def check_allowed(path: Path, name: Any, network: str | None) -> str:
    """Return a file's name of its network. Raises: InputError unless it is registered or the user's `network`."""
    if isinstance(name, str) and (name == network or (network is None and name in NETWORKS)):
        return name
    if network is None:
        raise InputError(f"its network is {name!r}; if you trust that code, allow it: --network {name}", path=path)
    raise InputError(f"its network is {name!r}, not {network!r}; correct --network", path=path)


def check_finite(path: Path, state: Mapping[str, Any]) -> None:
    """Check that a state can be resumed. Raises: InputError if weights or the optimizer's values are not finite."""
    names = ("model_state", "trained_state", "optimizer_state")
    if not all(tensor.isfinite().all() for name in names for tensor in find_tensors(state[name])):
        raise InputError(
            "not written, since the model's weights are not finite; earlier files stay. Start anew with a lower "
            "--learning-rate",
            path=path,
        )


def find_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in a dictionary of dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from find_tensors(item)
