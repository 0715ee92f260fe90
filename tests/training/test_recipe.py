import pytest

from p2ch13.config import PRESETS, TrainingConfig
from p2ch13.training.options import parse_config
from p2ch13.training.recipe import describe_recipe, find_changes


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_as_it_stands_has_no_changes(preset):
    assert find_changes(parse_config(["--preset", preset, "--epochs", "3", "--seed", "4", "--data-dir", "x"])) == {}


def test_changes_are_named_as_options():
    config = parse_config(["--preset", "strong", "--fn-weight", "0.4", "--no-ema", "--labels", "mask"])
    assert find_changes(config) == {"fn_weight": 0.4, "ema": False, "labels": "mask"}
    assert "strong, changed by --fn-weight=0.4 --no-ema --labels=mask" in describe_recipe(config)


def test_the_books_augmentation_is_a_change():
    changes = find_changes(parse_config(["--augmented"]))
    assert set(changes) == {f"augment_{name}" for name in ("flip", "offset", "scale", "rotate", "noise")}


def test_every_option_of_a_preset_is_one_of_the_recipe():
    for values in PRESETS.values():
        book = TrainingConfig(**values)
        assert set(find_changes(book)) == set(values)
