"""Measure the strong preset's training loop beside its bare steps, in samples per second."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

import torch

from benchmarks.measure import Setup, seconds
from p2ch13.network.compute import keep_freed_memory
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.graphs import is_compiled
from p2ch13.training.losses import segmentation_loss
from p2ch13.training.optimizers import set_learning_rate


def measure_strong(setup: Setup) -> dict[str, list[float]]:
    """Measure the loop and a step without augmentation, not compiled ("eager") and as in a long run ("compiled").

    Returns: for each of the two the rates "step" and "loop", and "loop / step", of rates measured in succession; round
        by round. Of the first epoch, which compiles, the "seconds".
    """
    keep_freed_memory()
    sizes = setup.sizes
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(setup.cache_dir.with_name("compiled"))  # where nothing is compiled yet
    options = ("--preset", "strong", "--epochs", str(1 + sizes.rounds))
    apps = {
        name: setup.make_app(*options, "--compile", how) for name, how in (("eager", "no"), ("compiled", sizes.compile))
    }
    train_ds = apps["eager"].init_train_ds()
    batch = next(train_ds.batches(apps["eager"].config.batch_size))[:2]
    steps = {name: make_step(app, *batch) for name, app in apps.items()}
    results: defaultdict[str, list[float]] = defaultdict(list)
    for name, app in apps.items():
        results[f"{name} seconds"].append(seconds(app.do_training, 1, train_ds))  # makes the optimizer's state, too
        steps[name]()
    for round_ndx in range(1, 1 + sizes.rounds):
        for name, app in apps.items():
            step_rate = len(batch[0]) / seconds(steps[name], repeat=max(1, sizes.samples // len(batch[0])))
            loop_rate = len(train_ds) / seconds(app.do_training, 1 + round_ndx, train_ds)
            results[f"{name} step"].append(step_rate)
            results[f"{name} loop"].append(loop_rate)
            results[f"{name} loop / step"].append(loop_rate / step_rate)
    return results


def break_even(rates: Mapping[str, float]) -> float | None:
    """Compute the samples from which on compiling takes less time than it saves; None if it saves none.

    Args: rates: medians of `measure_strong`.
    """
    saved = 1 / rates["eager loop"] - 1 / rates["compiled loop"]  # seconds of each sample
    return (rates["compiled seconds"] - rates["eager seconds"]) / saved if saved > 0 else None


def make_step(app: SegmentationTrainingApp, ct_slices: torch.Tensor, label_mask: torch.Tensor) -> Callable[[], None]:
    """Make a step of nothing but forward, backward and optimizer; all of it is compiled where the app's model is."""
    loss = partial(segmentation_loss, options=app.config, over_batch=app.config.batch_dice)
    is_fused, optimizer_step = is_compiled(app.config, app.compute.device), app.optimizer.step
    take_step = torch.compile(optimizer_step) if is_fused else optimizer_step

    def step() -> None:
        set_learning_rate(app.optimizer, app.config.learning_rate)  # it is compiled anew for each rate
        app.optimizer.zero_grad()
        with app.compute.autocast():
            logits = app.learner.training_model(ct_slices)
        torch.autograd.backward(loss(logits, label_mask)[0].mean())
        take_step()

    return step
