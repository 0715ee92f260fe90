"""What `test_distributed.py` starts by torchrun: a training run, or several measurements in one start.

processes.py train HELD OPTIONS...
processes.py measure JOBS RESULTS    a JSON file of name -> [measurement, options]; a folder for name.pt
"""

import atexit
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from p2ch13.network.model import LogitNetwork, UNetWrapper
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
    network = cast("UNetWrapper", app.segmentation_model).double()
    assert network.input_batchnorm.running_var is not None
    network.input_batchnorm.running_var.fill_(500.0**2)
    model = data_parallel(LogitNetwork(network), app.compute.device).eval()
    ct_slices, label_mask, *_ = next(app.init_train_ds().batches(batch_size, app.process))
    losses, _ = segmentation_loss(model(ct_slices.double()), label_mask, app.config, app.config.batch_dice)
    torch.autograd.backward(mean_over_processes(losses))
    return [parameter.grad for parameter in network.parameters()]


def spoil_step(app: SegmentationTrainingApp, step: int) -> None:
    """Make the network's input NaN in one of its training steps, the first of which is number 1."""
    calls: list[int] = []

    def spoil(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if not module.training:
            return inputs
        calls.append(1)
        return (inputs[0] * torch.nan if len(calls) == step else inputs[0],)

    cast("UNetWrapper", app.segmentation_model).input_batchnorm.register_forward_pre_hook(spoil)


def record_unchanged(app: SegmentationTrainingApp) -> list[bool]:
    """Tell, step by step, whether all of the model's weights and statistics stay as they are."""
    unchanged: list[bool] = []
    take_step = app.learner.train_step

    def step(*batch: torch.Tensor) -> Any:
        before = [value.clone() for value in app.segmentation_model.state_dict().values()]
        result = take_step(*batch)
        after = app.segmentation_model.state_dict().values()
        unchanged.append(all(torch.equal(*pair) for pair in zip(before, after, strict=True)))
        return result

    app.learner.train_step = step
    return unchanged


def train_with_a_bad_step(app: SegmentationTrainingApp) -> dict[str, Any]:
    """Whether the third step, of which one process's loss is bad, changes anything in either, and what is counted."""
    if not app.process.is_first:
        spoil_step(app, 3)
    unchanged = record_unchanged(app)
    app.do_training(1, app.init_train_ds())
    totals = app.totals  # of both
    return {"unchanged": copy_from_last(unchanged), "skipped": totals.skipped_count, "samples": totals.sample_count}


def copy_from_last(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=dist.get_world_size() - 1)
    return values[0]


def validate(app: SegmentationTrainingApp) -> list[dict[str, float]]:
    """The scores of slices with nodule, and those of all slices; the untrained network marks something."""
    with torch.no_grad():
        cast("UNetWrapper", app.segmentation_model).unet.last.weight.neg_()
    scores = asdict(app.do_validation(1, app.init_val_ds()))
    of_all = scores.pop("of_all")
    del of_all["of_all"]
    return [scores, of_all]


def train_weights(app: SegmentationTrainingApp) -> list[float]:
    """How far the weights of the processes are from each other after an epoch; the last learning rate."""
    app.do_training(1, app.init_train_ds())
    own = torch.cat([parameter.detach().flatten() for parameter in app.learner.evaluated_model.parameters()])
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


MEASUREMENTS: dict[str, Callable[[SegmentationTrainingApp], Any]] = {
    "gradients": lambda app: compute_gradients(app, 8),
    "validate": validate,
    "weights": train_weights,
    "bad step": train_with_a_bad_step,
}


def measure_all(jobs_path: str, results_path: str) -> None:
    """Do one measurement after the other; the first process writes what each returns."""
    jobs = json.loads(Path(jobs_path).read_text())
    for name, (measurement, options) in jobs.items():
        app = SegmentationTrainingApp(options)
        with app.learner.training_together():
            result = MEASUREMENTS[measurement](app)
        if app.process.is_first:
            torch.save(result, Path(results_path) / f"{name}.pt")


def main(name: str, *arguments: str) -> None:
    atexit.register(check_no_thread_is_left)
    if name == "train":
        held, *options = arguments
        train(held, options)
    else:
        measure_all(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
