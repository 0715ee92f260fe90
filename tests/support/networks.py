"""Networks whose logits are known, and a predictor that needs none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from p2ch13.network.calibration import FEATURES, Calibration
from p2ch13.network.checkpoint import save_checkpoint
from p2ch13.network.finding_scorer import SECOND_STAGE, FindingScorer, Validation
from p2ch13.network.model import BOOK_MODEL, UNetWrapper
from p2ch13.network.second_stage import SecondStage

CARD = {
    "name": "tiny 1",
    "trained_on": "two\nlungs",
    "limits": "for tests alone",
    "operating_point": "a probability of 0.5",
}
PIXEL_MODEL = {**BOOK_MODEL, "depth": 1, "wf": 0}


class FakeNetwork:
    """What detection uses of a `SegmentationNetwork`."""

    slice_spacing_mm = 0.0
    size_multiple = 4
    receptive_field = 49
    device = torch.device("cpu")

    def eval(self) -> FakeNetwork:
        return self


class Denser(FakeNetwork):
    """Marks voxels denser than -700 HU: every ball, and the chest wall."""

    def logits(self, input_batch: torch.Tensor) -> torch.Tensor:
        assert input_batch.shape[1] == 7
        return torch.where(input_batch[:, 3:4] > -700, 8.0, -8.0)


def make_pixel_network(threshold_hu: float, weight: float = 1.0, bias: float = 0.0) -> UNetWrapper:
    """Build a U-Net of one level and one filter; the logit of a pixel is weight * max(HU - threshold, 0) + bias."""
    model = UNetWrapper(**PIXEL_MODEL)
    with torch.no_grad():
        for layer, channel in ((0, 3), (3, 0)):  # both convolutions hand on one pixel of one channel
            kernel = model.unet.get_parameter(f"down_path.0.block.{layer}.weight")
            kernel.zero_()[0, channel, 1, 1] = 1
        model.unet.get_parameter("down_path.0.block.0.bias").fill_(-threshold_hu)
        model.unet.get_parameter("last.weight").fill_(weight)
        model.unet.get_parameter("last.bias").fill_(bias)
    return model.eval()


def write_pixel_network(
    path: Path, threshold_hu: float, weight: float = 1.0, bias: float = 0.0, **more: object
) -> Path:
    """Write the .state file of such a network. Args: more: further keys of the file."""
    model_state = make_pixel_network(threshold_hu, weight, bias).state_dict()
    save_checkpoint(path, {"model_state": model_state, "model_args": PIXEL_MODEL, **more})
    return path


def write_released_network(path: Path, trained_series: Sequence[str] = (), **more: Any) -> Path:
    """Write a network, as the package's own is, that marks all balls of the tiny scans."""
    return write_pixel_network(path, -700, card=CARD, trained_series=list(trained_series), **more)


def make_finding_scorer(
    weights: tuple[float, float, float] = (0.0, 1.0, 0.0),
    bias: float = 0.0,
    candidate_threshold: float = 0.1,
    default: float = 0.5,
    seed: int = 0,
) -> FindingScorer:
    """Build a tiny second stage; as it stands, the calibrated logit is the first stage's.

    Its 19 validation nodules reached 0, 0.05, ..., 0.9; its 4 scans have false positives of 0.1, 0.2, ..., 0.8.
    """
    torch.manual_seed(seed)
    return FindingScorer(
        SecondStage(filters=4).eval(),
        Calibration(FEATURES, weights, bias),
        candidate_threshold,
        {"default": default, "sensitive": default / 4},
        Validation(tuple(ndx / 20 for ndx in range(19)), tuple(ndx / 10 for ndx in range(1, 9)), scan_count=4),
    )


def write_two_stages(path: Path, threshold_hu: float, scorer: FindingScorer, **pixel: float) -> Path:
    """Write a checkpoint of a pixel network and a second stage. Args: pixel: see `make_pixel_network`."""
    model_state = make_pixel_network(threshold_hu, **pixel).state_dict()
    save_checkpoint(path, {"model_state": model_state, "model_args": PIXEL_MODEL, SECOND_STAGE: scorer.as_state()})
    return path


def is_dense(ct_slices: torch.Tensor) -> torch.Tensor:
    """Predict the masks of all balls of the tiny scans: (batch, 7, row, col) HU -> (batch, 1, row, col) bool."""
    return ct_slices[:, 3:4] > -700
