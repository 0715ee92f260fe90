"""Which recipe a run follows, and what to expect of it."""

from __future__ import annotations

from p2ch13.config import (
    PRESETS,
    AugmentationOptions,
    LossOptions,
    NetworkOptions,
    OptimizerOptions,
    SamplingOptions,
    TrainingConfig,
)
from p2ch13.util.options import as_arguments, list_options

GROUPS = (SamplingOptions, AugmentationOptions, NetworkOptions, LossOptions, OptimizerOptions)
OTHERS = ("labels", "val_negatives", "best_metric")
EXPECTED = {
    "book": "It marks most of what is denser than lung; --preset strong has far fewer false positives.",
    "strong": "It has far fewer false positives than the chapter's; a second stage removes more of them.",
}


def describe_recipe(config: TrainingConfig) -> str:
    """Name the preset, the options that differ from it, and what the preset leads to."""
    name = "book, the chapter's" if config.preset == "book" else config.preset
    changes = as_arguments(find_changes(config))
    changed = f", changed by {' '.join(changes)}" if changes else ""
    return f"Recipe: {name}{changed}. {EXPECTED[config.preset]}"


def find_changes(config: TrainingConfig) -> dict[str, object]:
    """Return those of a recipe's options that are not the preset's."""
    of_preset = {**vars(TrainingConfig()), **PRESETS[config.preset]}
    names = [*(name for group in GROUPS for name in list_options(group)), *OTHERS]
    return {name: getattr(config, name) for name in names if getattr(config, name) != of_preset[name]}
