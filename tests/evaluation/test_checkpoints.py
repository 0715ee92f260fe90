"""Which scans are scored, and by which networks."""

import json
from pathlib import Path

import pytest

from p2ch13.config import LabelOptions
from p2ch13.evaluate import main
from p2ch13.evaluation.checkpoints import Checkpoint, choose_labels, choose_unseen, fit_labels
from p2ch13.network.checkpoint import load_checkpoint, save_checkpoint
from tests.support.checks import assert_one_line, refused
from tests.support.commands import exit_status
from tests.support.networks import CARD, write_pixel_network, write_released_network
from tests.support.scan_files import TINY_SCANS, Ball, write_luna

ALL, NOTHING_HU = list(TINY_SCANS), 3000  # no voxel is denser: such a network marks nothing
NODULE_COUNTS = {series_uid: len(balls) for series_uid, balls in TINY_SCANS.items()}
ONE_FOLD, OTHER_FOLD = ["1.2.0", "1.2.1"], ["1.2.2", "1.2.3"]


@pytest.fixture
def evaluation(folders, tmp_path):
    """Evaluate; return the exit status and, if there is a report, its content."""

    def run(*options):
        path = tmp_path / "out" / "metrics.json"
        path.unlink(missing_ok=True)
        arguments = ["--data-dir", folders.data_dir, "--output", path.parent, "--no-lung-mask", *options]
        status = exit_status(lambda: main([*map(str, arguments)], tmp_path / "released.state"))
        return status, json.loads(path.read_text()) if path.exists() else None

    return run


def write_network(path, threshold_hu=-700, bias=0.0, trn=(), val=(), test=(), init=None, **state):
    """Write a network that marks what is denser, as a run on these series would have saved it."""
    write_pixel_network(path, threshold_hu, bias=bias)
    series = {"trn": list(trn), "val": list(val)} | ({} if init is None else {"init": list(init)})
    splits = {"training": series["trn"], "validation": series["val"], "test": list(test)}
    save_checkpoint(path, {**load_checkpoint(path), "series": series, "splits": splits, **state})
    return path


def test_folds_are_merged_into_one_analysis(tmp_path, evaluation):
    """Each scan is searched by the network that was not trained on it: the other one would find all of its nodules."""
    blind = write_network(tmp_path / "blind.state", NOTHING_HU, trn=OTHER_FOLD, val=ONE_FOLD)
    sharp = write_network(tmp_path / "sharp.state", trn=ONE_FOLD, val=OTHER_FOLD)
    status, metrics = evaluation("--checkpoint", blind, sharp)
    assert status == 0
    assert metrics["settings"]["series"] == ALL
    assert metrics["settings"]["checkpoint"] == [str(blind), str(sharp)]
    assert (metrics["scans"], metrics["nodules"]["count"]) == (4, 6)
    assert metrics["nodules"]["found"] == sum(NODULE_COUNTS[uid] for uid in OTHER_FOLD)
    assert metrics["froc"]["sensitivity"] == [metrics["nodules"]["recall"]] * 7  # without false positives
    assert evaluation("--checkpoint", sharp, "--checkpoint", blind)[1]["nodules"] == metrics["nodules"]


def test_networks_that_have_not_seen_a_scan_score_it_on_average(tmp_path, evaluation):
    """The logit of tissue is 700 in one network, -600 and -800 in two others: with one of these it is 50 or -50."""
    sharp = write_network(tmp_path / "sharp.state", trn=ONE_FOLD, val=OTHER_FOLD)
    low, lower = (
        write_network(tmp_path / f"{bias}.state", NOTHING_HU, bias, ONE_FOLD, OTHER_FOLD) for bias in (-600, -800)
    )
    choices = ([sharp], [low, lower], [sharp, low], [sharp, lower])
    assert [evaluation("--checkpoint", *paths)[1]["nodules"]["found"] for paths in choices] == [3, 0, 3, 0]


@pytest.mark.parametrize(
    ("options", "series"),
    [
        ([], ["1.2.0"]),
        (["--split", "val"], ["1.2.0"]),
        (["--split", "test"], ["1.2.3"]),
        (["--val-stride", "2"], ["1.2.0", "1.2.2"]),
        (["--all"], ALL),
        (["--splits", "splits.json"], ["1.2.1"]),
        (["--splits", "splits.json", "--split", "test"], ["1.2.0", "1.2.2"]),
    ],
)
def test_series_that_are_chosen(tmp_path, monkeypatch, evaluation, options, series):
    monkeypatch.chdir(tmp_path)
    Path("splits.json").write_text(json.dumps({"validation": ["1.2.1"], "test": ["1.2.2", "1.2.0"]}))
    path = write_network(tmp_path / "a.state", trn=["1.2.1", "1.2.2"], val=["1.2.0"], test=["1.2.3"])
    status, metrics = evaluation("--checkpoint", path, *options)
    assert (status, metrics["settings"]["series"]) == (0, series)


@pytest.mark.parametrize(
    "options",
    [
        ["--split", "test"],  # its run had none
        ["--split", "train"],
        ["--split", "test", "--all"],
        ["--splits", "splits.json", "--all"],
        ["--splits", "splits.json", "--split", "test"],
        ["--splits", "missing.json"],
    ],
)
def test_choices_that_cannot_be(tmp_path, monkeypatch, evaluation, capsys, options):
    monkeypatch.chdir(tmp_path)
    Path("splits.json").write_text(json.dumps({"validation": ["1.2.1"]}))
    path = write_network(tmp_path / "a.state", trn=["1.2.1"], val=["1.2.0"])
    assert evaluation("--checkpoint", path, *options) == (2, None)
    if "train" not in options and options[0] != "--split":
        assert_one_line(capsys, ".json" if "--all" not in options else "--splits")


@pytest.mark.parametrize(
    ("options", "series"),
    [
        ([], ["1.2.0", "1.2.1"]),  # its validation series too: no weight was trained on it
        (["--split", "val"], ["1.2.1"]),
        (["--val-stride", "2"], ["1.2.0", "1.2.2"]),
        (["--all"], ALL),
        (["--series-uid", "1.2.3"], ["1.2.3"]),
    ],
)
def test_the_network_in_the_package_scores_what_it_was_not_trained_on(tmp_path, evaluation, options, series):
    path = tmp_path / "released.state"
    write_released_network(path, ["1.2.3", "1.9"], series={"trn": ["1.2.2"], "val": ["1.2.1"]})
    status, metrics = evaluation(*options)
    assert (status, metrics["settings"]["series"], metrics["settings"]["checkpoint"]) == (0, series, [str(path)])
    assert metrics["nodules"]["found"] == sum(NODULE_COUNTS[uid] for uid in series)
    assert evaluation("--checkpoint", path, *options)[1] == metrics


def test_the_network_in_the_package_and_others(tmp_path, evaluation, capsys):
    assert evaluation() == (2, None)  # there is none
    assert_one_line(capsys, "released.state: ", "--checkpoint")
    one = write_released_network(tmp_path / "released.state", ["1.2.0", "1.2.1"])
    other = write_released_network(tmp_path / "other.state", ["1.2.0", "1.2.2"])
    run = write_network(tmp_path / "run.state", trn=["1.2.0"], val=["1.2.3"])
    assert evaluation("--checkpoint", one, other)[1]["settings"]["series"] == ["1.2.1", "1.2.2", "1.2.3"]
    assert evaluation("--checkpoint", one, run)[1]["settings"]["series"] == ["1.2.3"]
    write_released_network(one, ALL)
    capsys.readouterr()
    assert evaluation() == (2, None)
    assert_one_line(capsys, "4 scans", "--all")


def test_evaluation_names_the_network(tmp_path, evaluation, capsys):
    write_released_network(tmp_path / "released.state")
    assert evaluation()[0] == 0
    assert sum("trained on two lungs" in line for line in capsys.readouterr().out.splitlines()) == 1
    assert Checkpoint.read(tmp_path / "released.state").card.limits == CARD["limits"]


def test_networks_that_cannot_be_averaged(tmp_path, evaluation):
    """Of other slice spacings: each may score what the other has seen, and both together nothing."""
    one = write_network(tmp_path / "one.state", trn=ONE_FOLD, val=OTHER_FOLD)
    other = write_network(tmp_path / "other.state", trn=OTHER_FOLD, val=ONE_FOLD)
    state = load_checkpoint(other)
    save_checkpoint(other, {**state, "model_args": {**state["model_args"], "slice_spacing_mm": 2.0}})
    assert evaluation("--checkpoint", one, other)[0] == 0
    for path in (one, other):
        save_checkpoint(path, {**load_checkpoint(path), "series": {"trn": [], "val": []}})
    assert evaluation("--checkpoint", one, other, "--all") == (2, None)


def test_networks_of_other_labels_need_a_choice(tmp_path, evaluation):
    box = write_network(tmp_path / "box.state", val=ALL, config={"labels": "box"})
    refined = write_network(tmp_path / "refined.state", val=ALL, config={"labels": "refined"})
    assert evaluation("--checkpoint", box, refined) == (2, None)
    assert evaluation("--checkpoint", box, refined, "--labels", "refined")[0] == 0
    one, other = (Checkpoint.read(path) for path in (box, refined))
    with refused(path=refined, option="--labels"):
        choose_labels([one, other], {})
    assert choose_labels([one, other], {"labels": "box"}) == choose_labels([], {}) == LabelOptions()


def test_scans_of_the_network_that_a_run_began_from_are_seen(tmp_path, evaluation, capsys):
    path = write_network(tmp_path / "a.state", trn=["1.2.1"], val=["1.2.0", "1.2.2"], init=["1.2.2", "1.9"])
    checkpoint = Checkpoint.read(path)
    assert checkpoint.training == {"1.2.1", "1.2.2", "1.9"}
    assert evaluation("--checkpoint", path)[0] == 0
    assert "trained on 1 of these 2 scans" in capsys.readouterr().out


def test_all_networks_score_a_scan_that_all_have_seen():
    one, other = Checkpoint(Path("a"), training=frozenset("xy")), Checkpoint(Path("b"), training=frozenset("x"))
    assert choose_unseen([one, other], "x") == [one, other]
    assert choose_unseen([one, other], "y") == [other]
    assert choose_unseen([one, other], "z") == [one, other]


def test_a_scan_is_scored_by_the_networks_that_it_says_most_about():
    """Those that kept it for testing; else those that nothing of it has touched; else those that it has only chosen."""
    tested = Checkpoint(Path("a"), training=frozenset("x"), validation=frozenset("y"), test=frozenset("z"))
    other = Checkpoint(Path("b"), training=frozenset("xw"), validation=frozenset("z"))
    fresh = Checkpoint(Path("c"), training=frozenset("w"))
    checkpoints = [tested, other, fresh]
    chosen = {uid: choose_unseen(checkpoints, uid) for uid in "zyxw"}
    assert chosen == {"z": [tested], "y": [other, fresh], "x": [fresh], "w": [tested]}
    assert choose_unseen([tested, other], "y") == [other]
    assert choose_unseen([tested], "y") == [tested]


def test_labels_of_a_folder_without_masks(tmp_path):
    """Annotations take the place of masks that nobody asked for; without either, masks are asked for."""
    data_dir = write_luna(tmp_path / "luna", {"1.2.3": [Ball((8, 50, 52), 5)]})
    masks = LabelOptions(labels="mask")
    assert fit_labels(masks, {}, data_dir) == LabelOptions(labels="refined")
    assert fit_labels(masks, {"labels": "mask"}, data_dir) == masks
    assert fit_labels(LabelOptions(), {}, data_dir) == LabelOptions()
    (data_dir / "masks").mkdir()
    assert fit_labels(masks, {}, data_dir) == masks
    (data_dir / "masks").rmdir()
    (data_dir / "annotations.csv").unlink()
    (data_dir / "annotations_with_malignancy.csv").unlink()
    assert fit_labels(masks, {}, data_dir) == masks
