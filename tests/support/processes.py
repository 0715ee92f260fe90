"""What `test_distributed.py` has torchrun start in two processes: `processes.py WHAT RESULT_PATH OPTIONS...`."""

import atexit
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from p2ch13.network.model import LogitNetwork
from p2ch13.training.__main__ import main as train_from
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.distributed import data_parallel, mean_over_processes
from p2ch13.training.losses import segmentation_loss
from p2ch13.util.errors import run_command
from tests.support.hold import hold


def compute_gradients(app: SegmentationTrainingApp, batch_size: int) -> list[torch.Tensor | None]:
    """Of the first step, with BatchNorm in evaluation mode, and as if it knew how HU vary: or all is 0 or 1.

    In float64, so that rounding, which depends on how a batch is shared, is no part of what is compared.
    """
    variance = app.segmentation_model.input_batchnorm.running_var
    assert variance is not None
    variance.fill_(500.0**2)
    model = data_parallel(LogitNetwork(app.segmentation_model.double()), app.device).eval()
    ct_slices, label_mask, *_ = next(app.init_train_ds().batches(batch_size, app.launch))
    config = app.config
    losses = segmentation_loss(
        model(ct_slices.double()), label_mask, config.fn_weight, config.batch_dice, config.cross_entropy
    )
    torch.autograd.backward(mean_over_processes(losses))
    return [parameter.grad for parameter in app.segmentation_model.parameters()]


def train_with_a_bad_step(app: SegmentationTrainingApp) -> dict[str, Any]:
    """Whether the third step, of which one process's loss is bad, changes anything in either, and what is counted."""
    compute, take_step = app.compute_batch_loss, app.train_step
    steps: list[int] = []
    unchanged: list[bool] = []

    def compute_batch_loss(ct_slices: torch.Tensor, label_mask: torch.Tensor) -> Any:
        is_bad = len(steps) == 2 and not app.launch.is_first
        return compute(ct_slices * torch.nan if is_bad else ct_slices, label_mask)

    def train_step(*batch: torch.Tensor) -> Any:
        before = [value.clone() for value in app.segmentation_model.state_dict().values()]
        result = take_step(*batch)
        steps.append(1)
        after = app.segmentation_model.state_dict().values()
        unchanged.append(all(torch.equal(*pair) for pair in zip(before, after, strict=True)))
        return result

    app.compute_batch_loss, app.train_step = compute_batch_loss, train_step  # type: ignore[method-assign]
    app.do_training(1, app.init_train_ds())
    assert app.run.progress is not None
    totals = app.run.progress.totals  # of both
    return {"unchanged": copy_from_last(unchanged), "left_out": totals.left_out_count, "samples": totals.sample_count}


def copy_from_last(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=dist.get_world_size() - 1)
    return values[0]


def validate(app: SegmentationTrainingApp) -> list[dict[str, float]]:
    """The scores of slices with nodule, and those of all slices; the untrained network marks something."""
    with torch.no_grad():
        app.segmentation_model.unet.last.weight.neg_()
    scores = asdict(app.do_validation(1, app.init_val_ds()))
    of_all = scores.pop("of_all")
    del of_all["of_all"]
    return [scores, of_all]


def train_weights(app: SegmentationTrainingApp) -> list[float]:
    """How far the weights of the processes are from each other after an epoch."""
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


def check_no_thread_is_left() -> None:
    """Of those that talk to other processes: they may take the process with them, see `process_group`."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if any("gloo" in name for name in names):
        print(f"Threads are left: {names}", file=sys.stderr, flush=True)
        os._exit(70)


def main(what: str, result_path: str, *options: str) -> None:
    atexit.register(check_no_thread_is_left)
    if what == "train":
        train(result_path, options)
    app = SegmentationTrainingApp(options)
    result: Any
    with app.training_together():
        if what == "gradients":
            result = compute_gradients(app, 8)
        else:
            result = {"validate": validate, "weights": train_weights, "bad step": train_with_a_bad_step}[what](app)
    if not app.launch.is_first:
        return
    if what == "gradients":
        torch.save(result, result_path)
    else:
        Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
