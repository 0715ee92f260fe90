"""The recipe of the network in the package: commands of `make weights` have the options that it gives them."""

import shlex
import subprocess

import pytest

from benchmarks.held_out import read_held_out
from p2ch13.config import COMMANDS, make_parser
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.phantom.uids import series_uid
from p2ch13.util.options import merge
from p2ch13.weights import WEIGHTS
from tests.support.commands import REPOSITORY

VARIABLES = {"BACKGROUNDS": "some lungs", "WEIGHTS_SAMPLES": "64", "WEIGHTS_STATE": "new.state"}


@pytest.fixture(scope="module")
def commands():
    """Module or script of each Python process that the recipe starts -> its arguments."""
    variables = [f"{name}={value}" for name, value in VARIABLES.items()]
    make = ["make", "--dry-run", "--always-make", "weights", *variables]
    done = subprocess.run(make, check=True, cwd=REPOSITORY, capture_output=True, text=True)
    lines = [shlex.split(line) for line in done.stdout.replace("\\\n", " ").replace(";", "\n").splitlines()]
    python = [words[1:] for words in lines if words and words[0].endswith("bin/python")]
    return {words[1] if words[0] == "-m" else words[0]: words[2 if words[0] == "-m" else 1 :] for words in python}


def parse(commands, program, command):
    return merge(COMMANDS[command], vars(make_parser(COMMANDS[command], program, "").parse_args(commands[program])))


def test_the_recipe(commands):
    precache, training = parse(commands, "precache.py", "precache"), parse(commands, "p2ch13.training", "training")
    second_stage = parse(commands, "p2ch13.second_stage", "second_stage")
    assert precache.labels == training.labels == "mask"
    assert precache.preset == training.preset == "strong"
    assert len({(each.data_dir, each.cache_dir) for each in (precache, training, second_stage)}) == 1
    assert str(training.backgrounds) == str(second_stage.backgrounds) == "some lungs"
    assert training.nodule_shapes == second_stage.nodule_shapes == "both"
    assert training.samples_per_epoch == 64
    assert str(second_stage.output) == "new.state"


def test_backgrounds_are_checked_before_anything_is_made(commands):
    programs = list(commands)
    assert commands["benchmarks.held_out"] == ["some lungs"]
    assert programs.index("benchmarks.held_out") < programs.index("p2ch13.phantom")
    assert programs[-1] == "benchmarks.model_card"


def test_no_test_scan_was_trained_on():
    if not WEIGHTS.is_file():
        pytest.skip("no network in this checkout")
    trained = [name.lower() for name in load_checkpoint(WEIGHTS)["trained_series"]]
    parts = [part for scan in read_held_out() for part in scan.names] + [series_uid(8, ndx) for ndx in range(20)]
    assert not [name for name in trained for part in parts if part in name]


def test_phantoms_are_not_those_of_the_scores(commands):
    assert commands["p2ch13.phantom"][-2:] == ["--seed", "7"]  # benchmarks.quality scores those of seed 8
