"""Names of runs that begin at the same time."""

import pytest

from p2ch13.training.app import SegmentationTrainingApp
from p2ch13.training.run_files import CLAIM, RunFiles


def test_runs_that_begin_in_the_same_second_have_names_of_their_own(tmp_path):
    """Three processes chose the same name, before any had a file of it."""
    chosen = RunFiles(tmp_path, "2026-01-01_00.00.00", "none")
    with chosen.claimed() as first, chosen.claimed() as second, chosen.claimed() as third:
        assert first == chosen
        assert len({each.time_str for each in (first, second, third)}) == 3
        assert sorted(tmp_path.iterdir()) == sorted(each.path(CLAIM) for each in (first, second, third))
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_given_up_by_a_run_that_fails(tmp_path):
    chosen = RunFiles(tmp_path, "2026-01-01_00.00.00", "none")
    with pytest.raises(RuntimeError), chosen.claimed():
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_second_train_beside_each_other(data_options, tmp_path):
    """Both apps are made, and so named, before either has a file; the second one begins while the first one trains."""
    options = [*data_options, "--models-dir", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "r"), "--epochs", "1"]
    options += ["--samples-per-epoch", "8"]
    one, other = SegmentationTrainingApp(options), SegmentationTrainingApp(options)
    other.run.files = one.run.files
    train = one.do_training
    one.do_training = lambda *given: (other.main(), train(*given))[1]
    one.main()
    assert one.run.files != other.run.files
    states = list((tmp_path / "m").rglob("*.last.state"))
    assert sorted(states) == sorted([one.run.files.last, other.run.files.last])
    assert len(list((tmp_path / "r").rglob("events*"))) >= 2
    assert not list((tmp_path / "m").rglob(f"*.{CLAIM}"))
