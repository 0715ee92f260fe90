import json

import pytest

from p2ch13 import ablation
from p2ch13.config import PRESETS, TrainingConfig
from p2ch13.training.options import parse_config
from tests.checks import assert_one_line
from util.errors import run_command


def run(*options):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: ablation.main(options))
    return end.value.code


def test_each_variant_leaves_out_one_option():
    configs = {name: parse_config(options) for name, options in ablation.list_variants("strong").items()}
    strong = vars(configs.pop("strong"))
    assert configs.pop("book") == parse_config(["--augmented"])
    left_out = {
        name: {key for key, value in vars(config).items() if value != strong[key]} for name, config in configs.items()
    }
    book_augmentation = {f"augment_{name}" for name in ("flip", "offset", "scale", "rotate", "noise")}
    further = {"augment_intensity", "augment_blur", "augment_resolution"}
    assert left_out.pop("without the book's augmentation") == book_augmentation
    assert left_out.pop("without further augmentation") == further
    network = {"filters", "pixel_block"}
    assert left_out.pop("without blocks of pixels and filters") == network
    options = set(PRESETS["strong"]) - network - book_augmentation - further - {"val_negatives", "best_metric"}
    assert left_out == {f"without {name.replace('_', '-')}": {name} for name in options}
    for name in options:
        config = configs[f"without {name.replace('_', '-')}"]
        assert getattr(config, name) == getattr(TrainingConfig(), name)


def test_three_seeds_each():
    assert ablation.build_parser().parse_args([]).seeds == 3


def test_mean_and_deviation():
    # mean 0.4, squares of 0.2, 0 and 0.2 over 2
    assert ablation.format_values([0.2, 0.4, 0.6], 2) == "0.40 ± 0.20"
    assert ablation.format_values([0.5, None], 1) == "0.5"
    assert ablation.format_values([None, None], 1) == "-"


@pytest.fixture
def options(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ablation, "list_variants", lambda _: {"strong": ["--preset", "strong"], "book": ["--preset", "book"]}
    )
    folder = [
        "--data-dir",
        str(folders.data_dir),
        "--cache-dir",
        str(folders.cache_dir),
        "--output",
        str(tmp_path / "out"),
    ]
    return [*folder, "--val-stride", "2", "--samples-per-epoch", "32", "--seeds", "2"]


def test_a_study_for_real(options, tmp_path, capsys, monkeypatch):
    ablation.main(options)
    printed = capsys.readouterr().out
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert table in printed
    lines = table.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| ", "| ---", "| strong", "| book"]
    runs = [json.loads((tmp_path / "out" / f"strong_{seed}.json").read_text())["scores"] for seed in (0, 1)]
    assert all(run["scans"] == 2 and run["slices"] == 32 and run["nodules"]["count"] == 3 for run in runs)
    expected = ablation.format_values([run["voxels"]["recall"] for run in runs], 2)
    assert lines[2].split(" | ")[4] == expected

    # Started again, it takes the scores that are there, and trains only what is new.
    trained = []
    scores = runs[0]
    monkeypatch.setattr(ablation, "train_and_score", lambda command_line, _: trained.append(command_line[-1]) or scores)
    ablation.main([*options, "--seeds", "3"])
    assert trained == ["2", "2"]
    ablation.main([*options, "--epochs", "2"])
    assert trained == ["2", "2", "0", "0", "1", "1"]


def test_mistakes_end_in_one_line(options, tmp_path, capsys):
    assert run(*options, "--data-dir", str(tmp_path / "nowhere")) == 2
    assert_one_line(capsys, "nowhere: no such folder")
    assert run("--seeds", "0") == 2
