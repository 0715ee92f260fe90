"""What tells one run from another."""

import os
import shutil
import subprocess

import pytest

from p2ch13.cache import CtCache
from p2ch13.config import Folders, LabelOptions
from p2ch13.training.provenance import fingerprint_data, get_commit
from tests.scan_files import TINY_SCANS, Ball, make_hu, to_xyz, write_scan


def git(folder, *arguments):
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env={**os.environ, **identity}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_and_whether_the_code_is_that_of_it(tmp_path):
    code = tmp_path / "repository" / "code"
    code.mkdir(parents=True)
    assert get_commit(code) is None
    git(code.parent, "init", "--quiet")
    git(code.parent, "commit", "--quiet", "--allow-empty", "--message", "something else")
    (code / "a.py").write_text("1")
    assert get_commit(code) is None  # in a repository's folder, and no part of it
    git(code.parent, "add", ".")
    git(code.parent, "commit", "--quiet", "--message", "first")
    commit = git(code, "rev-parse", "HEAD")
    assert get_commit(code) == commit
    (code / "a.py").write_text("2")
    assert get_commit(code) == f"{commit}+changes"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert get_commit() is None


def fingerprint(data_dir, labels=None, series=tuple(TINY_SCANS)):
    return fingerprint_data(CtCache(Folders(data_dir, data_dir / "no-cache"), labels), series)


def test_a_copy_of_the_data_has_the_same_fingerprint(luna_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(luna_dir, copy, copy_function=shutil.copyfile)  # with times of their own
    path, copied = (folder / "subset0" / "1.2.0.mhd" for folder in (luna_dir, copy))
    os.utime(copied, (1, 1))
    assert path.stat().st_mtime != copied.stat().st_mtime
    assert fingerprint(copy) == fingerprint(luna_dir)
    assert fingerprint(copy, series=tuple(TINY_SCANS)[::-1]) == fingerprint(luna_dir)


def test_other_data_has_another_fingerprint(luna_dir):
    annotations = luna_dir / "annotations.csv"
    text = annotations.read_text()
    fingerprints = [
        fingerprint(luna_dir),
        fingerprint(luna_dir, series=("1.2.0", "1.2.1")),
        fingerprint(luna_dir, LabelOptions(threshold_hu=-600)),
        fingerprint(luna_dir, LabelOptions("refined")),
    ]
    old, new = (",".join(map(str, to_xyz(center_irc))) for center_irc in ((7, 40, 60), (7, 40, 61)))
    annotations.write_text(text.replace(old, new))
    fingerprints.append(fingerprint(luna_dir))
    annotations.write_text(text.replace(f"{old},8.", f"{old},9."))
    fingerprints.append(fingerprint(luna_dir))
    annotations.write_text(text)
    write_scan(luna_dir / "subset0" / "1.2.1.mhd", make_hu([Ball((7, 40, 60), 6)], (17, 100, 104)))
    fingerprints.append(fingerprint(luna_dir))
    assert len(set(fingerprints)) == 7
