import json

import pytest

from p2ch13.config import PRESETS, TrainingConfig
from p2ch13.training.__main__ import main
from p2ch13.training.options import parse_config
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status


def test_presets():
    assert parse_config([]) == TrainingConfig()
    strong = parse_config(["--preset", "strong"])
    assert {name: getattr(strong, name) for name in PRESETS["strong"]} == PRESETS["strong"]
    changed = parse_config(["--preset", "strong", "--no-all-nodule-slices", "--negatives", "0.25"])
    assert (changed.all_nodule_slices, changed.negatives, changed.ema) == (False, 0.25, True)


def test_options_from_a_file(tmp_path, capsys):
    path = tmp_path / "config.json"
    content = {"preset": "strong", "epochs": 7, "negatives": 1, "all_nodule_slices": False, "comment": "w4"}
    path.write_text(json.dumps(content))
    config = parse_config(["--config", str(path), "--epochs", "3", "--no-batch-dice"])
    assert (config.epochs, config.negatives, config.all_nodule_slices, config.comment) == (3, 1, False, "w4")
    assert (config.batch_dice, config.ema) == (False, True)
    assert parse_config(["--config", str(path)]).threads == "auto"
    assert parse_config(["--config", str(path), "--threads", "4"]).threads == 4
    for content, option in {
        '{"epoch": 3}': "--epoch",
        '{"epochs": true}': "--epochs",
        '{"epochs": [3]}': "--epochs",
        '{"negatives": 1.5}': "--negatives",
        '{"negatives": NaN}': "--negatives",
        '{"data_dir": 3}': "--data-dir",
        '{"comment": "../w4"}': "comment",
        '{"threads": "many"}': "--threads",
        '{"network": "os.system"}': "--network",
        '{"warm_up_cosine": 1}': "--lr-schedule",
        "[1]": None,
        "{": None,
        "[" * 100_000: None,
    }.items():
        path.write_text(content)
        with refused(path=path, option=option):
            parse_config(["--config", str(path)])
    assert exit_status(lambda: main(["--config", str(path)])) == 2
    assert_one_line(capsys, "config.json: ")
    with refused(option="--deterministic"):
        parse_config(["--deterministic", "--compile", "yes"])
    with refused(option="--resume"):
        path.write_text("{}")
        parse_config(["--resume", "--config", str(path)])


def write_config(path, *options):
    """A run's config.json, which names every option."""
    path.write_text(json.dumps(parse_config(options).as_dict()))
    return ["--config", str(path)]


FOLDERS = ("--data-dir", "a", "--models-dir", "b")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("other", PRESETS)
def test_a_preset_takes_the_place_of_a_files(tmp_path, preset, other):
    """What the file's run had from its preset gives way, what it had of its own does not."""
    of_run = [*FOLDERS, "--epochs", "7", "--learning-rate", "0.5"]
    config = parse_config([*write_config(tmp_path / "config.json", "--preset", other, *of_run), "--preset", preset])
    assert config == parse_config(["--preset", preset, *of_run])


def test_options_of_ones_own_outlive_a_preset(tmp_path):
    given = write_config(tmp_path / "config.json", "--preset", "strong", "--filters", "64", "--no-all-nodule-slices")
    assert parse_config(given) == parse_config(["--preset", "strong", "--filters", "64", "--no-all-nodule-slices"])
    assert parse_config([*given, "--preset", "strong"]) == parse_config(given)
    book = parse_config([*given, "--preset", "book", "--negatives", "0.25"])
    assert book == parse_config(["--preset", "book", "--filters", "64", "--negatives", "0.25"])


def test_augmentation_options():
    assert parse_config([]).augmentation == {}
    assert parse_config(["--augment-flip", "--augment-noise"]).augmentation == {"flip": True, "noise": 25.0}
    assert list(parse_config(["--augmented"]).augmentation) == ["flip", "offset", "scale", "rotate", "noise"]


def test_the_books_options_keep_their_names_and_defaults():
    config = parse_config([])
    assert (config.batch_size, config.epochs, config.tb_prefix, config.comment) == (16, 1, "p2ch13", "none")
    assert (config.preset, config.keep_checkpoints) == ("book", 3)
    config = parse_config(["--batch-size=4", "--num-workers=1", "--epochs=3", "--tb-prefix=a", "--augment-scale", "w4"])
    assert (config.batch_size, config.num_workers, config.epochs, config.tb_prefix) == (4, 1, 3, "a")
    assert (config.augment_scale, config.comment) == (True, "w4")


@pytest.mark.parametrize("mistyped", ["--epoch-count=3", "--epochs=0", "--precision=fp8", "../comment"])
def test_mistyped_options(capsys, mistyped):
    assert exit_status(lambda: main([mistyped])) == 2
    assert mistyped.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]
