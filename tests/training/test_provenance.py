"""What tells one run from another."""

import hashlib
import json
import os
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from p2ch13.config import CENTERS_ALONE, CropChoice, LabelOptions
from p2ch13.data.index import ScanIndex
from p2ch13.training.provenance import (
    FINGERPRINT_VERSION,
    fingerprint_data,
    fingerprint_first_version,
    get_commit,
    renew_fingerprint,
    sum_blocks,
)
from tests.support.lidc_files import block, install_database, write_database, write_readings
from tests.support.mask_files import label_balls, write_images
from tests.support.scan_files import TINY_SCANS, Ball, make_hu, to_xyz, write_scan


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


WITH_NEGATIVES = CropChoice(negatives=True)


def fingerprint(data_dir, labels=None, series=tuple(TINY_SCANS), choice=CENTERS_ALONE):
    return fingerprint_data(ScanIndex(data_dir, labels), series, choice)


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


def test_other_bytes_of_the_same_length_have_another_fingerprint(luna_dir):
    fingerprints = [fingerprint(luna_dir)]
    raw, header = (luna_dir / "subset0" / f"1.2.1.{ending}" for ending in ("raw", "mhd"))
    (np.fromfile(raw, dtype="<i2") + 1).tofile(raw)
    fingerprints.append(fingerprint(luna_dir))
    header.write_text(header.read_text().replace("1.5", "1.6"))
    fingerprints.append(fingerprint(luna_dir))
    assert len(set(fingerprints)) == 3


def remove_candidate(luna_dir):
    path = luna_dir / "candidates.csv"
    lines = path.read_text().splitlines()
    ndx = next(ndx for ndx, line in enumerate(lines) if line.startswith("1.2.3") and line.endswith(",0"))
    path.write_text("\n".join(lines[:ndx] + lines[ndx + 1 :]))


def add_excluded_finding(luna_dir):
    place = ",".join(map(str, to_xyz((8, 30, 30))))
    (luna_dir / "annotations_excluded.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.1,{place},5\n")


@pytest.mark.parametrize("change", [remove_candidate, add_excluded_finding])
def test_other_negatives_matter_where_they_are_trained_on(luna_dir, change):
    before, before_with_negatives = (fingerprint(luna_dir, choice=each) for each in (CENTERS_ALONE, WITH_NEGATIVES))
    change(luna_dir)
    assert fingerprint(luna_dir) == before
    assert fingerprint(luna_dir, choice=WITH_NEGATIVES) != before_with_negatives
    (luna_dir / "candidates.csv").unlink()
    assert fingerprint(luna_dir) == before


def test_other_crops_have_another_fingerprint(luna_dir):
    choices = [CENTERS_ALONE, WITH_NEGATIVES, CropChoice(all_nodule_slices=True), CropChoice(slice_spacing_mm=2.0)]
    assert len({fingerprint(luna_dir, choice=choice) for choice in choices}) == 4


def test_readers_files_count_by_what_is_in_them(luna_dir, tmp_path):
    path = write_readings(tmp_path / "xml" / "a.xml", "1.2.0", [[]])
    labels = LabelOptions("lidc", lidc_xml=tmp_path / "xml")
    before = fingerprint(luna_dir, labels)
    os.utime(path, (1, 1))
    assert fingerprint(luna_dir, labels) == before
    write_readings(path, "1.2.0", [[], []])
    assert fingerprint(luna_dir, labels) != before


def test_the_database_counts_by_a_series_contours(luna_dir, tmp_path, monkeypatch):
    one, other = ([[block((4, last), (20, 24), (60, 61))]] for last in (5, 6))
    path = install_database(tmp_path, {"1.2.0": one, "1.9.9": one})
    monkeypatch.syspath_prepend(tmp_path)
    labels = LabelOptions("lidc")
    before = fingerprint(luna_dir, labels)
    os.utime(path, (1, 1))
    assert fingerprint(luna_dir, labels) == before
    write_database(path, {"1.2.0": one, "1.9.9": other})
    assert fingerprint(luna_dir, labels) == before
    write_database(path, {"1.2.0": other, "1.9.9": one})
    assert fingerprint(luna_dir, labels) != before


def test_masks_count_by_what_is_in_them(tmp_path):
    data_dir = write_images(tmp_path)
    path, labels = data_dir / "masks" / "1.2.0.nii.gz", LabelOptions("mask")
    before = fingerprint(data_dir, labels)
    os.utime(path, (1, 1))
    assert fingerprint(data_dir, labels) == before
    others = [fingerprint(data_dir, LabelOptions("mask", mask_label=1))]
    write_scan(path, label_balls(TINY_SCANS["1.2.0"][:1]))
    others.append(fingerprint(data_dir, labels))
    assert len({before, *others}) == 3


def test_blocks_of_a_file(tmp_path):
    """4 blocks of 4,096 bytes from 0, 32,768, 65,536 and 98,304 on, or all of a small file."""
    path = tmp_path / "file"
    whole = bytes(98304 + 4096)
    path.write_bytes(whole)
    assert sum_blocks(path) == zlib.crc32(bytes(4 * 4096))
    for place, is_noticed in ((0, True), (4096, False), (32768, True), (65536 + 4095, True), (len(whole) - 1, True)):
        path.write_bytes(whole[:place] + b"x" + whole[place + 1 :])
        assert (sum_blocks(path) != zlib.crc32(bytes(4 * 4096))) is is_noticed, place
    path.write_bytes(b"a small file")
    assert sum_blocks(path) == zlib.crc32(b"a small file")
    path.write_bytes(b"")
    assert sum_blocks(path) == 0


def test_states_of_the_first_version(luna_dir, caplog):
    """Their fingerprints say nothing of candidates and voxels; what they do say has to be true."""
    index = ScanIndex(luna_dir)
    series = tuple(TINY_SCANS)
    current, saved = fingerprint_data(index, series), fingerprint_first_version(index, series)
    assert current.startswith(f"{FINGERPRINT_VERSION}:")
    # As it was computed before there were versions: of the UID, files, places and rule of each series.
    digest = hashlib.sha256()
    for uid in series:
        files = [[f"{uid}{end}", (luna_dir / "subset0" / f"{uid}{end}").stat().st_size] for end in (".mhd", ".raw")]
        places = [[*nodule.center_xyz, nodule.diameter_mm] for nodule in index.nodules[uid]]
        digest.update(json.dumps([uid, files, places, [-700, []]]).encode())
    assert saved == digest.hexdigest()

    assert renew_fingerprint(saved, current, index, series) == current
    assert "is of an earlier version" in caplog.text
    caplog.clear()
    assert renew_fingerprint("0" * 64, current, index, series) == "0" * 64
    assert renew_fingerprint(current, current, index, series) == current
    assert not caplog.records
