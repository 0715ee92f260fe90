"""Each command's options: read without what takes long to import, listed for the docs, under earlier names too."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2ch13.config import COMMANDS, PRESETS, RENAMED, RENAMED_VALUES, TrainingConfig, make_parser
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.training.options import parse_config
from p2ch13.util.options import as_flag, list_options

REPOSITORY = Path(__file__).parents[1]
SLOW = {"torch", "SimpleITK", "numpy", "requests"}


@pytest.mark.parametrize("name", [*COMMANDS, "phantom"])
def test_help_waits_for_no_slow_import(name):
    """Nor does a mistyped option."""
    for option, status in (("--help", 0), ("--mistyped", 2)):
        code = (
            "import runpy, sys\n"
            f"sys.argv = ['x', {option!r}]\n"
            f"try: runpy.run_module('p2ch13.{name}', run_name='__main__', alter_sys=True)\n"
            f"finally: print('loaded', sorted({SLOW} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == status, done.stderr
        assert done.stdout.splitlines()[-1] == "loaded []"
        assert "--help" in done.stdout if status == 0 else "error: " in done.stderr.splitlines()[-1]


def test_table_of_all_options():
    done = subprocess.run(
        [sys.executable, "-m", "p2ch13.config"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    _, *sections = done.stdout.split("### `python -m p2ch13.")
    tables = {section.partition("`")[0]: section for section in sections}
    assert set(tables) == {*COMMANDS, "phantom"}
    for name, groups in {**COMMANDS, "phantom": (PhantomOptions,)}.items():
        for option in (option for group in groups for option in list_options(group).values()):
            assert f"| `{option.flag}` |" in tables[name]


def test_presets_hold_options():
    for preset in PRESETS.values():
        TrainingConfig(**preset)
    assert TrainingConfig.from_dict({**TrainingConfig(**PRESETS["strong"]).as_dict(), "unknown": 1}) == TrainingConfig(
        **PRESETS["strong"]
    )


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("predict", ["s", "--checkpoint=a", "--output=b", "--no-lung-field"], {"lung_mask": False}),
        ("evaluate", ["--lung-field"], {"lung_mask": True}),
        ("precache", ["--off-centre", "--slice-distance=2"], {"all_nodule_slices": True, "slice_spacing_mm": 2}),
    ],
)
def test_earlier_names_on_each_command_line(command, arguments, expected):
    parser = make_parser(COMMANDS[command][0], "x", None)
    assert expected.items() <= vars(parser.parse_args(arguments)).items()
    assert not any(as_flag(old) in parser.format_help() for old in RENAMED)


def test_earlier_names_of_training(tmp_path):
    old = ["--slice-distance=2", "--off-centre", "--balance-sizes", "--hard-negatives=6", "--average-weights"]
    old += ["--pixel-block=2", "--projections", "--skip-bad-batches", "--warm-up-cosine"]
    config = parse_config(old)
    today = TrainingConfig(
        slice_spacing_mm=2, all_nodule_slices=True, weight_by_diameter=True, hard_negative_candidates=6, ema=True,
        space_to_depth=2, intensity_projections=True, skip_non_finite=True, lr_schedule="cosine",
    )  # fmt: skip
    assert config == today
    assert parse_config([*old, "--no-off-centre", "--no-warm-up-cosine"]).lr_schedule == "constant"
    names = {new: old for old, new in RENAMED.items()}
    values = {names.get(name, name): value for name, value in today.as_dict().items()}
    values["warm_up_cosine"] = {new: old for old, new in RENAMED_VALUES["warm_up_cosine"].items()}["cosine"]
    assert TrainingConfig.from_dict(values) == today
