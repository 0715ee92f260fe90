"""Commands on a folder of images and masks that are stored coronal and mirrored: the cache, a run, its scores."""

import json
from itertools import cycle, islice

import pytest
import SimpleITK as sitk

from p2ch13 import ablation
from p2ch13.evaluate import main as evaluate
from p2ch13.network.checkpoint import load_checkpoint
from p2ch13.precache import main as precache
from p2ch13.training.__main__ import main as train
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.mask_files import (
    LUNA25_COLUMNS,
    label_balls,
    luna25_row,
    write_candidates,
    write_image_and_mask,
    write_images,
)
from tests.support.scan_files import TINY_SCANS, to_xyz, write_csv, write_scan

MASK = ["--labels", "mask"]
CORONAL_AND_MIRRORED = [("RSA", "LAS"), ("LAS", "RSA"), ("LIP", "RSA"), ("LPI", "LIP")]  # image and mask


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, "images/{}.nii.gz", "masks/{}.mha", orientations=CORONAL_AND_MIRRORED)
    write_candidates(folder)
    return folder


def run(main, *options):
    return exit_status(lambda: main([*map(str, options)]))


def read_scores(folder):
    return json.loads((folder / "metrics.json").read_text())


def evaluate_masks(tmp_path, data_dir, masks, *options):
    """Score a data folder's own masks. Returns: Dice of all voxels, nodules, nodules found, false positives."""
    output = tmp_path / "out"
    assert run(evaluate, "--data-dir", data_dir, "--mask", data_dir / masks, "--output", output, *options) == 0
    scores = read_scores(output)
    nodules, findings = scores["nodules"], scores["findings"]
    return scores["voxels"]["dice"], nodules["count"], nodules["recall"], findings["false_positives"]


def test_training_by_masks(tmp_path, data_dir):
    folders = ["--data-dir", data_dir, "--cache-dir", tmp_path / "cache"]
    assert run(precache, *folders, *MASK, "--preset=strong", "--num-workers=1") == 0
    models = ["--models-dir", tmp_path / "models", "--runs-dir", tmp_path / "runs"]
    for preset in ("book", "strong"):
        options = [*folders, *models, "--preset", preset, *MASK, "--val-stride=2", "--samples-per-epoch=32"]
        assert run(train, *options, "--tb-prefix", preset) == 0
        (best,) = (tmp_path / "models" / preset).glob("*.best.state")
        assert load_checkpoint(best)["config"]["labels"] == "mask"
        output = tmp_path / preset
        assert run(evaluate, "--data-dir", data_dir, "--checkpoint", best, "--output", output) == 0
        scores = read_scores(output)
        assert scores["settings"]["labels"]["kind"] == "mask"
        assert (scores["scans"], scores["nodules"]["count"]) == (2, 3)


def test_masks_against_themselves(tmp_path, data_dir):
    assert evaluate_masks(tmp_path, data_dir, "masks", *MASK, "--all") == (1, 6, 1, 0)
    series = tmp_path / "series.csv"
    series.write_text("1.2.0\n1.2.3\n")
    assert evaluate_masks(tmp_path, data_dir, "masks", *MASK, "--series", series) == (1, 4, 1, 0)


@pytest.mark.parametrize("images", ["imagesTr/{}_0000.nii.gz", "imagesTr/{}.nrrd"])
def test_labels_of_nnunet_against_themselves(tmp_path, images):
    orientations = list(islice(cycle(CORONAL_AND_MIRRORED), 3))
    data_dir = write_images(tmp_path / "data", images, "labelsTr/{}.nii.gz", orientations=orientations)
    assert evaluate_masks(tmp_path, data_dir, "labelsTr", *MASK, "--all") == (1, 6, 1, 0)
    (data_dir / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "nodule": 1, "vessel": 2}}))
    options = [*MASK, "--mask-label", "1"]
    assert evaluate_masks(tmp_path, data_dir, "labelsTr", *options, "--series-uid", "1.2.1") == (1, 1, 1, 0)


def test_masks_of_several_values(tmp_path):
    """Another program's hold the same values, or are of 0 and 1."""
    balls = TINY_SCANS["1.2.0"]
    data_dir, plain_dir = tmp_path / "data", tmp_path / "plain"
    write_image_and_mask(data_dir / "images" / "1.2.0.mha", data_dir / "masks" / "1.2.0.mha", balls, values=(1, 2))
    write_image_and_mask(data_dir / "images" / "1.2.1.mha", data_dir / "masks" / "1.2.1.mha", balls[:1])
    for value, ball in enumerate(balls, start=1):
        write_scan(plain_dir / "1.2.0.mha", label_balls([ball]))
        write_scan(plain_dir / "1.2.1.mha", label_balls([]))
        for masks in ("masks", plain_dir):
            options = [*MASK, "--mask-label", value, "--series-uid", "1.2.0"]
            assert evaluate_masks(tmp_path, data_dir, masks, *options) == (1, 1, 1, 0)
    assert evaluate_masks(tmp_path, data_dir, "masks", *MASK, "--mask-label", 2, "--all") == (1, 1, 1, 0)
    assert evaluate_masks(tmp_path, data_dir, "masks", *MASK, "--all") == (1, 3, 1, 0)


def test_masks_without_a_nodule_are_named(tmp_path, data_dir, capsys):
    """By each command, with the values that a mask has."""
    values, place = [*MASK, "--mask-label=40"], f"{data_dir / 'masks'}: no mask that was read has voxels of value 40 ("
    for main, options, status in (
        (precache, ["--num-workers=1"], 0),
        (evaluate, ["--mask", data_dir / "masks", "--output", tmp_path / "out", "--all"], 0),
        (train, ["--val-stride=2", "--models-dir", tmp_path / "models", "--runs-dir", tmp_path / "runs"], 2),
    ):
        more = [] if main is evaluate else ["--cache-dir", tmp_path / "cache"]
        assert run(main, "--data-dir", data_dir, *more, *values, *options) == status
        output = capsys.readouterr()
        (line,) = [line for line in (output.out + output.err).splitlines() if place in line]
        assert " has 1)" in line
        assert "--mask-label" in line


def test_findings_are_scored_by_the_nodules_of_masks(tmp_path, data_dir):
    """With a list of series too: there is no table of nodules."""
    header = ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    findings = write_csv(
        tmp_path / "f.csv",
        header,
        [(uid, *to_xyz(ball.center_irc), 0.5) for uid, balls in TINY_SCANS.items() for ball in balls],
    )
    series = tmp_path / "series.csv"
    series.write_text("1.2.0\n1.2.1\n")
    options = ["--data-dir", data_dir, "--findings", findings, "--output", tmp_path / "out", *MASK]
    for more, count in (([], 6), (["--series", series], 3)):
        assert run(evaluate, *options, *more) == 0
        assert (read_scores(tmp_path / "out")["nodules"]["count"]) == count
        assert (read_scores(tmp_path / "out")["nodules"]["recall"]) == 1


def test_a_mask_that_is_not_its_scans_is_skipped_by_name(tmp_path, data_dir, capsys):
    mask = sitk.ReadImage(str(data_dir / "masks" / "1.2.0.mha"))
    mask.SetOrigin([0, 0, 0])
    sitk.WriteImage(mask, str(data_dir / "masks" / "1.2.0.mha"))
    options = ["--data-dir", data_dir, "--mask", data_dir / "masks", "--output", tmp_path / "out", "--all", *MASK]
    assert run(evaluate, *options) == 1
    assert f"Skipped: {data_dir / 'masks' / '1.2.0.mha'}: " in capsys.readouterr().out
    assert read_scores(tmp_path / "out")["scans"] == 3


def test_luna25_is_scored_by_its_centers(tmp_path):
    data_dir = write_images(tmp_path / "data", "luna25_images/{}.mha", "masks/{}.mha")
    rows = [luna25_row(uid, to_xyz(ball.center_irc), 1) for uid, balls in TINY_SCANS.items() for ball in balls]
    write_csv(data_dir / "LUNA25_Public_Training_Development_Data.csv", LUNA25_COLUMNS, rows)
    dice, count, recall, false_positives = evaluate_masks(tmp_path, data_dir, "masks", "--all")
    assert (dice, count, recall, false_positives) == (1, 6, 1, 0)  # the book's box is exactly these balls


def test_ablation_by_masks(tmp_path, data_dir, monkeypatch):
    variants = {name: ["--preset", name] for name in ("strong", "book")}
    monkeypatch.setattr(ablation, "list_variants", lambda _: {**variants, "without labels": []})
    options = ["--data-dir", data_dir, "--cache-dir", tmp_path / "cache", "--output", tmp_path / "out"]
    options += ["--val-stride", 2, "--samples-per-epoch", 16, "--seeds", 1, *MASK]
    assert run(ablation.main, *options) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ablation.md", "strong_0.json", "book_0.json"}
    record = json.loads((tmp_path / "out" / "book_0.json").read_text())
    assert record["settings"]["labels"] == record["settings"]["scored_by"] == "mask"
    assert record["scores"]["nodules"]["count"] == 3


def test_mistakes_end_in_one_line(tmp_path, data_dir, capsys):
    for options in ([], ["--labels", "refined"], ["--mask-label", "2"], [*MASK, "--mask-label", "0"]):
        assert run(evaluate, "--data-dir", data_dir, "--mask", data_dir / "masks", "--all", *options) == 2
        assert_one_line(capsys) if options[-1:] != ["0"] else capsys.readouterr()
