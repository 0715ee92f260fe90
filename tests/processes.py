"""What `test_distributed.py` has torchrun start in two processes: `processes.py WHAT RESULT_PATH OPTIONS...`."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from p2ch13.distributed import data_parallel, process_group
from p2ch13.losses import segmentation_loss
from p2ch13.model import LogitNetwork
from p2ch13.training.__main__ import main as train_from
from p2ch13.training.app import SegmentationTrainingApp
from tests.hold import hold
from util.errors import run_command


def compute_gradients(app: SegmentationTrainingApp, batch_size: int) -> list[torch.Tensor | None]:
    """Of the first step, with BatchNorm in evaluation mode."""
    model = data_parallel(LogitNetwork(app.segmentation_model), app.device).eval()
    ct_slices, label_mask, *_ = next(app.init_train_ds().batches(batch_size, app.launch))
    torch.autograd.backward(segmentation_loss(model(ct_slices), label_mask).mean())
    return [parameter.grad for parameter in app.segmentation_model.parameters()]


def validate(app: SegmentationTrainingApp) -> dict[str, float]:
    return asdict(app.do_validation(1, app.init_val_ds()))


def train_weights(app: SegmentationTrainingApp) -> list[float]:
    """How far the weights of the processes are from each other after an epoch."""
    app.training_model, app.train_step = app.init_training()
    app.do_training(1, app.init_train_ds())
    own = torch.cat([parameter.detach().flatten() for parameter in app.evaluated_model.parameters()])
    highest, lowest = own.clone(), own.clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    return [(highest - lowest).max().item(), app.optimizer.param_groups[0]["lr"]]


def train(held: str, options: Sequence[str]) -> None:
    """As `python -m p2ch13.training` does; the second process is held before its third epoch if `held` is missing."""
    if os.environ["RANK"] == "1" and not Path(held).exists():
        hold("p2ch13.training.app:SegmentationTrainingApp.do_training", held, 3)
    run_command(lambda: train_from(options))


def main(what: str, result_path: str, *options: str) -> None:
    if what == "train":
        train(result_path, options)
    app = SegmentationTrainingApp(options)
    result: Any
    with process_group(app.launch):
        if what == "gradients":
            result = compute_gradients(app, 8)
        else:
            result = validate(app) if what == "validate" else train_weights(app)
    if not app.launch.is_first:
        return
    if what == "gradients":
        torch.save(result, result_path)
    else:
        Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
