import csv
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ch13 import precache
from p2ch13.config import PRESETS, CropChoice, Folders, LabelOptions, PrecacheOptions, TrainingConfig
from p2ch13.data.cache import CtCache
from p2ch13.data.prepare import precache_command, prepare
from p2ch13.util.process_rank import ProcessRank
from tests.support.checks import assert_one_line
from tests.support.commands import exit_status
from tests.support.hold import start_held
from tests.support.scan_files import TINY_SCANS, to_xyz

REPOSITORY = Path(__file__).parents[2]
PROGRAM = "from p2ch13.precache import main; from p2ch13.util.errors import run_command; run_command(main)"
STRONG = TrainingConfig(**PRESETS["strong"])


def run(folders, *options):
    return exit_status(lambda: precache.main([*options_of(folders), *options]))


def options_of(folders):
    return ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir)]


def run_script(folders, *options):
    command = [sys.executable, str(REPOSITORY / "precache.py"), *options_of(folders), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folders.data_dir.parent)


def test_fills_the_cache_once(folders):
    first = run_script(folders, "--num-workers", "2")
    assert first.returncode == 0, first.stderr
    assert "4 scans, 4 of them to be cached; 6 nodules." in first.stdout
    assert "Cached 4 scans, skipped 0." in first.stdout
    assert " 6 nodules, 1." in first.stdout  # 6 crops of 7 * 96 * 96 * 3 bytes
    ct_cache = CtCache.open(folders)
    assert all(ct_cache.is_complete(series_uid) for series_uid in TINY_SCANS)

    again = run_script(folders)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert ": 4 scans, 6 nodules, 1." in again.stdout


def shorten(folders):
    (folders.data_dir / "subset0" / "1.2.1.raw").write_bytes(b"short")


def remove(folders):
    (folders.data_dir / "subset0" / "1.2.1.raw").unlink()


def add_nodule_outside(folders):
    with (folders.data_dir / "annotations.csv").open("a") as file:
        csv.writer(file).writerow(["1.2.1", *to_xyz((99, 5, 5)), 5])


@pytest.mark.parametrize(
    ("spoil", "name"), [(shorten, "1.2.1.raw"), (remove, "1.2.1.mhd"), (add_nodule_outside, "1.2.1.mhd")]
)
def test_a_single_unusable_scan_is_named_and_skipped(folders, capsys, spoil, name):
    spoil(folders)
    for count in (3, 0):  # it is still unusable, and named again
        assert run(folders) == 1
        output = capsys.readouterr().out
        assert "Skipped: " in output
        assert f"{name}: " in output
        assert " 5 nodules" in output  # those of the three others
        assert f"Cached {count} scans, skipped 1." in output
    ct_cache = CtCache.open(folders)
    assert [ct_cache.is_complete(uid) for uid in TINY_SCANS] == [True, False, True, True]


def test_mistakes_end_in_one_line(folders, tmp_path, capsys):
    assert run(Folders(tmp_path / "nowhere", folders.cache_dir)) == 2
    assert_one_line(capsys, "nowhere: ", "--data-dir")
    (tmp_path / "empty").mkdir()
    assert run(Folders(tmp_path / "empty", folders.cache_dir)) == 2
    assert_one_line(capsys, "empty: ")
    (tmp_path / "file").write_text("")
    assert run(Folders(folders.data_dir, tmp_path / "file")) == 2
    assert_one_line(capsys, str(tmp_path / "file"), "--cache-dir")
    assert not folders.cache_dir.exists()
    (folders.data_dir / "candidates.csv").write_text("seriesuid,coordX,coordY\n")
    assert run(folders, "--negatives", "0.5") == 2
    assert_one_line(capsys, "candidates.csv: no column coordZ, class")


def test_a_process_without_a_scan_of_its_own(folders):
    """torchrun would end all processes for a status that is not 0."""
    options = PrecacheOptions(data_dir=folders.data_dir, cache_dir=folders.cache_dir)
    assert [prepare(options, ProcessRank(rank, 5, rank, 5)).status for rank in (4, 0)] == [0, 0]


def test_nothing_but_unreadable_scans(folders, capsys):
    for path in (folders.data_dir / "subset0").glob("*.raw"):
        path.unlink()
    assert run(folders) == 2
    assert_one_line(capsys, "1.2.0.raw")


@pytest.mark.parametrize(("option", "value"), [("--data-dri", "x"), ("--num-workers", "0")])
def test_a_mistyped_option(capsys, option, value):
    assert exit_status(lambda: precache.main([option, value])) == 2
    assert option in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_cached(folders, tmp_path, signal_number, status):
    """It comes when the first scan is there; processes go on with the others until it does."""
    process = start_held(PROGRAM, "tqdm:tqdm.update", tmp_path / "reached", arguments=options_of(folders))
    process.send_signal(signal_number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Cached entries are kept; start again to continue." in output
    assert "Traceback" not in error
    ct_cache = CtCache.open(folders)
    assert any(ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list)
    assert run(folders) == 0
    assert all(ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list)


PRESET, BOX = ["--preset", "strong"], ["--labels", "box"]


@pytest.mark.parametrize(
    ("options", "labels", "cached", "not_cached"),
    [
        (PRESET, STRONG.label_options, STRONG.crop_choice, CropChoice()),
        ([*PRESET, "--slice-spacing-mm", "1"], STRONG.label_options, CropChoice(True, True, 1.0), STRONG.crop_choice),
        ([*PRESET, *BOX], LabelOptions(), STRONG.crop_choice, CropChoice()),
        (["--labels", "refined"], LabelOptions("refined"), CropChoice(), STRONG.crop_choice),
        (["--negatives", "0.25"], LabelOptions(), CropChoice(negatives=True), CropChoice(all_nodule_slices=True)),
        (
            [*PRESET, *BOX, "--slice-spacing-mm", "0", "--negatives", "0"],
            LabelOptions(),
            CropChoice(all_nodule_slices=True),
            CropChoice(all_nodule_slices=True, slice_spacing_mm=2.0),
        ),
    ],
)
def test_what_is_cached_is_what_training_with_the_same_options_reads(folders, options, labels, cached, not_cached):
    """By its labels and crops, which can be named beside a preset or without one."""
    ct_cache = CtCache.open(folders, labels)
    assert not ct_cache.is_complete("1.2.0", cached)
    assert run(folders, *options) == 0
    assert all(ct_cache.is_complete(series_uid, cached) for series_uid in TINY_SCANS)
    assert not ct_cache.is_complete("1.2.0", not_cached)


@pytest.mark.parametrize(
    ("labels", "choice", "negatives"),
    [
        (LabelOptions(), CropChoice(), 0.0),
        (LabelOptions("refined", -650), CropChoice(True, True, 2.0), 0.5),
        (LabelOptions("lidc", None, Path("a folder/xml"), "leave-out"), CropChoice(negatives=True), 0.25),
    ],
)
def test_the_command_for_a_training(labels, choice, negatives):
    command = precache_command(Folders(Path("my luna"), Path("c")), labels, choice, negatives)
    python, switch, module, *options = shlex.split(command)
    assert (python, switch, module) == ("python", "-m", "p2ch13.precache")
    parsed = precache.parse_options(options)
    assert parsed.part(Folders) == Folders(Path("my luna"), Path("c"))
    assert parsed.part(LabelOptions) == labels
    assert (parsed.crop_choice, parsed.negatives) == (choice, negatives)


def test_candidates_are_asked_for_where_they_are_needed(folders, capsys):
    """As in training: box labels without negatives need none."""
    (folders.data_dir / "candidates.csv").unlink()
    assert run(folders) == 0
    assert all(CtCache.open(folders).is_complete(uid) for uid in TINY_SCANS)
    capsys.readouterr()
    assert run(folders, "--negatives", "0.5") == 2
    assert_one_line(capsys, "candidates.csv: no such file")


def damage(value_file, ndx):
    data = bytearray(value_file.read_bytes())
    if ndx % 3 == 0:
        value_file.unlink()
        return
    data[len(data) // 2] ^= 4
    value_file.write_bytes(data[:-1] if ndx % 3 == 1 else data)


def test_damaged_values_are_counted_and_made_anew(folders, capsys):
    assert run(folders) == 0
    values = {path: path.read_bytes() for path in folders.cache_dir.rglob("*.val")}
    assert len(values) == 6  # one for each nodule; the rest is in the database
    for ndx, path in enumerate(sorted(values)[:4]):
        damage(path, ndx)
    capsys.readouterr()
    assert run(folders) == 0
    output = capsys.readouterr().out
    assert "Recomputed 4 corrupt cache entries" in output
    assert "Cached 0 scans, skipped 0." in output
    assert sorted(path.read_bytes() for path in folders.cache_dir.rglob("*.val")) == sorted(values.values())
    assert run(folders) == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_a_full_disk_ends_in_one_line(folders):
    """A limit on the size of files, which a crop is larger than, and the database is not."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (190_000, 190_000))\n{PROGRAM}"
    command = [sys.executable, "-c", code, *options_of(folders), "--num-workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(" --cache-dir")
    assert "Traceback" not in done.stderr
    assert run(folders) == 0  # what is there is no stumbling block
    ct_cache = CtCache.open(folders)
    for series_uid in TINY_SCANS:
        ct_cache.fill(series_uid)
    assert ct_cache.rebuilt_count == 0


def test_a_damaged_cache_ends_in_one_line(folders, capsys):
    assert run(folders) == 0
    (database,) = folders.cache_dir.rglob("cache.db")
    database.write_bytes(b"no database" * 999)
    assert run(folders) == 2
    assert_one_line(capsys, f"{database.parent}: corrupt cache (", "remove this folder")
