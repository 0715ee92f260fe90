import json

import numpy as np
import pytest

from p2ch13 import ablation
from p2ch13.config import PRESETS, LabelOptions, TrainingConfig
from p2ch13.detection import detector
from p2ch13.labels.candidates import ANNOTATIONS_FILE, MALIGNANCY_FILE
from p2ch13.training import provenance
from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.options import parse_config
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.scan_files import POSITION, to_xyz, write_csv


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
    network = {"filters", "space_to_depth"}
    assert left_out.pop("without blocks of pixels and filters") == network
    options = set(PRESETS["strong"]) - network - book_augmentation - further - {"val_negatives", "best_metric"}
    assert left_out == {f"without {name.replace('_', '-')}": {name} for name in options}
    for name in options:
        config = configs[f"without {name.replace('_', '-')}"]
        assert getattr(config, name) == getattr(TrainingConfig(), name)


def test_labels_of_all_variants():
    variants = ablation.list_variants("strong")
    preset, masks, threshold = (
        ablation.parse_options(given)
        for given in ([], ["--labels", "mask", "--mask-label", "2"], ["--threshold-hu", "-650"])
    )
    assert ablation.with_labels(variants, preset) == variants
    assert ablation.scoring_labels(preset) == LabelOptions("refined")
    for options, labels in ((masks, LabelOptions("mask", mask_label=2)), (threshold, LabelOptions("refined", -650))):
        changed = ablation.with_labels(variants, options)
        assert set(variants) - set(changed) == {"without labels"}
        assert {parse_config(arguments).label_options for arguments in changed.values()} == {labels}
        assert ablation.scoring_labels(options) == labels


def test_mean_and_deviation():
    # mean 0.4, squares of 0.2, 0 and 0.2 over 2
    assert ablation.format_values([0.2, 0.4, 0.6], 2) == "0.40 ± 0.20"
    assert ablation.format_values([0.5, None], 1) == "0.5"
    assert ablation.format_values([None, None], 1) == "-"


@pytest.fixture
def options(data_options, tmp_path, monkeypatch):
    variants = {name: ["--preset", name] for name in ("strong", "book")}
    monkeypatch.setattr(ablation, "list_variants", lambda _: variants)
    set_commit(monkeypatch, "c0ffee")
    return [*data_options, "--output", str(tmp_path / "out"), "--samples-per-epoch", "32", "--seeds", "2"]


def set_commit(monkeypatch, commit):
    monkeypatch.setattr(provenance, "get_commit", lambda: commit)


@pytest.fixture
def count_trained(monkeypatch):
    """How many runs a study trains, which here takes no time and gives the same scores to all."""
    runs = []
    scores = {"nodules": {"recall": 0.5}, "findings": {"false_positives_per_scan": 2.0}, "froc": {"cpm": 0.25}}
    scores["voxels"] = {"recall": 0.5, "precision": 0.5, "dice": 0.5}

    monkeypatch.setattr(ablation, "train_and_score", lambda *arguments: runs.append(arguments) or scores)

    def count(*options):
        runs.clear()
        ablation.main(options)
        return len(runs)

    return count


def test_a_study_for_real(options, tmp_path, capsys, monkeypatch):
    ablation.main(options)
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert table in capsys.readouterr().out
    lines = table.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| ", "| ---", "| strong", "| book"]
    runs = [json.loads((tmp_path / "out" / f"strong_{seed}.json").read_text())["scores"] for seed in (0, 1)]
    assert all(run["scans"] == 2 and run["slices"] == 32 and run["nodules"]["count"] == 3 for run in runs)
    expected = ablation.format_values([run["voxels"]["recall"] for run in runs], 2)
    assert lines[2].split(" | ")[4] == expected

    # Started again, it takes the scores that are there, and trains only what is new.
    trained = []
    monkeypatch.setattr(ablation, "train_and_score", lambda arguments, _: trained.append(arguments[-1]) or runs[0])
    ablation.main([*options, "--seeds", "3"])
    assert trained == ["--seed=2"] * 2
    ablation.main([*options, "--epochs", "2"])
    assert trained == ["--seed=2"] * 2 + ["--seed=0"] * 2 + ["--seed=1"] * 2


def test_excluded_findings_count_as_in_evaluate(folders, data_options, monkeypatch):
    """Each of the two validation scans has a false alarm; that of 1.2.0 lies in an excluded place."""

    def segment(ct, model, **options):
        logits = np.full(ct.shape_irc, -9, dtype=np.float32)
        logits[4:8, 80:90, 90:100] = 9
        return logits

    monkeypatch.setattr(detector, "segment", segment)
    monkeypatch.setattr(SegmentationTrainingApp, "do_training", lambda *args: None)
    nodules = [("1.2.0", *to_xyz((6, 85, 95)), -1)]
    write_csv(folders.data_dir / "annotations_excluded.csv", [*POSITION, "diameter_mm"], nodules)
    assert ablation.train_and_score(data_options, LabelOptions("refined"))["findings"] == {
        "count": 2, "irrelevant": 1, "false_positives": 1, "false_positives_per_scan": 0.5
    }  # fmt: skip


def test_other_data_are_scored_anew(options, count_trained, folders):
    assert count_trained(*options) == 4
    assert count_trained(*options) == 0
    write_csv(folders.data_dir / "annotations_excluded.csv", POSITION, [("1.2.0", 0, 0, 0)])
    assert count_trained(*options) == 4
    write_csv(folders.data_dir / "annotations_excluded.csv", POSITION, [("1.2.0", 9, 0, 0)])
    assert count_trained(*options) == 4
    assert count_trained(*options) == 0
    candidates = folders.data_dir / "candidates.csv"
    with candidates.open("a") as file:
        print("1.2.1", *to_xyz((8, 30, 60)), 0, sep=",", file=file)
    assert count_trained(*options) == 2  # strong's: the book's recipe has no negatives
    for path in (folders.data_dir / name for name in (ANNOTATIONS_FILE, MALIGNANCY_FILE)):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))  # a nodule less
    assert count_trained(*options) == 4


def test_another_commit_scores_anew_unless_any_will_do(options, count_trained, tmp_path, monkeypatch):
    assert count_trained(*options) == 4
    set_commit(monkeypatch, "decade")
    assert count_trained(*options, "--any-commit", "--seeds", "3") == 2
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert table.endswith("|\n\nScores of 2 commits of the code: c0ffee, decade.\n")
    assert count_trained(*options, "--seeds", "3") == 4
    assert "commits" not in (tmp_path / "out" / "ablation.md").read_text()
    monkeypatch.setattr(provenance, "get_versions", lambda: {"torch": "another"})
    assert count_trained(*options, "--any-commit") == 4


def test_uncommitted_changes_are_never_the_same(options, count_trained, monkeypatch, capsys):
    set_commit(monkeypatch, "c0ffee+changes")
    for _ in range(2):
        assert count_trained(*options) == 4
        assert "changes that are not committed" in capsys.readouterr().out
    assert count_trained(*options, "--any-commit") == 0


def test_files_that_do_not_say_enough_are_scored_anew(options, count_trained, tmp_path):
    """Those that were written before data and commit stood in them, too."""
    assert count_trained(*options) == 4
    for ndx, key in enumerate(("commit", "data", "scores", "versions")):
        path = tmp_path / "out" / f"{('book', 'strong')[ndx // 2]}_{ndx % 2}.json"
        run = json.loads(path.read_text())
        del run[key]
        path.write_text(json.dumps(run))
    assert count_trained(*options) == 4
    (tmp_path / "out" / "book_0.json").write_text('["no", "dict"]')
    assert count_trained(*options) == 1


def test_mistakes_end_in_one_line(options, tmp_path, capsys):
    assert exit_status(lambda: ablation.main([*options, "--data-dir", str(tmp_path / "nowhere")])) == 2
    assert_one_line(capsys, str(tmp_path / "nowhere"))
    assert exit_status(lambda: ablation.main(["--seeds", "0"])) == 2
