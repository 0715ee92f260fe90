"""Each command's options: read without what takes long to import, listed for the docs, under earlier names too."""

import pytest

from p2ch13.config import COMMANDS, LABEL_DEFAULTS, RENAMED, LabelOptions, TrainingConfig, make_parser
from p2ch13.phantom.__main__ import PhantomOptions
from p2ch13.training.options import parse_config
from p2ch13.util.options import as_arguments, as_flag, list_options
from tests.support.commands import REPOSITORY, run_python

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
        done = run_python("-c", code, status=status)
        assert done.stdout.splitlines()[-1] == "loaded []"
        assert "--help" in done.stdout if status == 0 else "error: " in done.stderr.splitlines()[-1]


def test_table_of_all_options():
    """All that each --help lists; the page in docs/ is current."""
    printed = run_python("-m", "p2ch13.config").stdout
    assert (REPOSITORY / "docs" / "options.md").read_text() == printed
    _, *sections = printed.split("### `python -m p2ch13.")
    tables = {section.partition("`")[0]: section for section in sections}
    assert set(tables) == {*COMMANDS, "phantom"}
    for name, options in {**COMMANDS, "phantom": PhantomOptions}.items():
        others = list_options(LabelOptions) if name in LABEL_DEFAULTS else {}
        assert all(f"| `{each.flag}` |" in tables[name] for each in ({**list_options(options), **others}).values())


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("predict", ["s", "--checkpoint=a", "--output=b", "--no-lung-field"], {"lung_mask": False}),
        ("evaluate", ["--lung-field"], {"lung_mask": True}),
        ("precache", ["--off-centre", "--slice-distance=2"], {"all_nodule_slices": True, "slice_spacing_mm": 2}),
    ],
)
def test_earlier_names_on_each_command_line(command, arguments, expected):
    parser = make_parser(COMMANDS[command], "x", None)
    assert expected.items() <= vars(parser.parse_args(arguments)).items()
    assert not any(as_flag(old) in parser.format_help() for old in RENAMED)


def test_earlier_names_of_training():
    old = {
        "slice_distance": 2.0, "off_centre": True, "balance_sizes": True, "hard_negatives": 6, "average_weights": True,
        "pixel_block": 2, "projections": True, "skip_bad_batches": True, "warm_up_cosine": True,
    }  # fmt: skip
    today = TrainingConfig(
        slice_spacing_mm=2.0, all_nodule_slices=True, weight_by_diameter=True, hard_negative_candidates=6, ema=True,
        space_to_depth=2, intensity_projections=True, skip_non_finite=True, lr_schedule="cosine",
    )  # fmt: skip
    assert parse_config(as_arguments(old)) == TrainingConfig.from_dict({**old, "unknown": 1}) == today
    switched_off = parse_config([*as_arguments(old), "--no-off-centre", "--no-warm-up-cosine"])
    assert (switched_off.all_nodule_slices, switched_off.lr_schedule) == (False, "constant")
    assert TrainingConfig.from_dict({"warm_up_cosine": False}) == TrainingConfig()
