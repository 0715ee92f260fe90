import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2ch13 import precache
from p2ch13.config import PRESETS, CropChoice, Folders, LabelOptions, TrainingConfig
from p2ch13.data.cache import CtCache
from p2ch13.data.prepare import precache_command
from p2ch13.util.errors import run_command
from tests.support.checks import assert_one_line
from tests.support.hold import start_held
from tests.support.scan_files import TINY_SCANS, Ball, as_nodule

REPOSITORY = Path(__file__).parents[2]


def run(folders, *options):
    """Through `main`, with the exit status that a shell would see."""
    arguments = ["--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir), *options]
    with pytest.raises(SystemExit) as end:
        run_command(lambda: precache.main(arguments))
    return end.value.code


def script(folders, *options):
    command = [sys.executable, str(REPOSITORY / "precache.py")]
    return [*command, "--data-dir", str(folders.data_dir), "--cache-dir", str(folders.cache_dir), *options]


def run_script(folders, *options):
    return subprocess.run(script(folders, *options), capture_output=True, text=True, cwd=folders.data_dir.parent)


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


def test_a_single_unreadable_scan_is_named_and_skipped(folders, capsys):
    (folders.data_dir / "subset0" / "1.2.1.raw").write_bytes(b"short")
    assert run(folders) == 1
    output = capsys.readouterr().out
    assert "Skipped: " in output
    assert "1.2.1.raw: 5 bytes, but 1.2.1.mhd claims 332,800" in output
    assert "Cached 3 scans, skipped 1." in output
    ct_cache = CtCache.open(folders)
    assert [ct_cache.is_complete(uid) for uid in ("1.2.0", "1.2.2", "1.2.3")] == [True] * 3


def test_a_single_scan_without_voxels_is_named_and_skipped(folders, capsys):
    (folders.data_dir / "subset0" / "1.2.1.raw").unlink()
    assert run(folders) == 1
    assert "1.2.1.mhd: its data file 1.2.1.raw is missing" in capsys.readouterr().out
    assert run(folders) == 1  # it is still missing, and said so again
    assert "Cached 0 scans, skipped 1." in capsys.readouterr().out


def test_a_nodule_outside_its_scan_is_named(folders, capsys):
    path = folders.data_dir / "annotations.csv"
    nodule = as_nodule("1.2.2", Ball((99, 5, 5), 3))
    path.write_text(path.read_text() + ",".join(map(str, ["1.2.2", *nodule.center_xyz, 5])) + "\n")
    assert run(folders) == 1
    assert "1.2.2.mhd: a nodule or candidate at (-26.5, -36.5, 348.5) mm" in capsys.readouterr().out


def test_mistakes_end_in_one_line(folders, tmp_path, capsys):
    assert run(Folders(tmp_path / "nowhere", folders.cache_dir)) == 2
    assert_one_line(capsys, "nowhere: no such folder", "--data-dir")
    (tmp_path / "empty").mkdir()
    assert run(Folders(tmp_path / "empty", folders.cache_dir)) == 2
    assert_one_line(capsys, "empty: no scans")
    (tmp_path / "file").write_text("")
    assert run(Folders(folders.data_dir, tmp_path / "file")) == 2
    assert_one_line(capsys, str(tmp_path / "file"), "--cache-dir")
    assert not folders.cache_dir.exists()
    (folders.data_dir / "candidates.csv").write_text("seriesuid,coordX,coordY\n")
    assert run(folders, "--negatives", "0.5") == 2
    assert_one_line(capsys, "candidates.csv: no column coordZ, class")


def test_nothing_but_unreadable_scans(folders, capsys):
    for path in (folders.data_dir / "subset0").glob("*.raw"):
        path.unlink()
    assert run(folders) == 2
    assert_one_line(capsys, "its data file 1.2.0.raw is missing")


def test_a_mistyped_option(folders, capsys):
    with pytest.raises(SystemExit) as end:
        precache.main(["--data-dri", "x"])
    assert end.value.code == 2
    assert "unrecognized arguments: --data-dri" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        precache.main(["--num-workers", "0"])
    assert end.value.code == 2
    assert "0 is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_cached(folders, tmp_path, signal_number, status):
    """It comes when the first scan is there; processes go on with the others until it does."""
    program = (
        "from p2ch13.precache import main; from p2ch13.util.errors import run_command; import sys\n"
        "run_command(lambda: main(sys.argv[1:]))"
    )
    process = start_held(program, "tqdm:tqdm.update", tmp_path / "reached", arguments=script(folders)[2:])
    process.send_signal(signal_number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Cached entries are kept; start again to continue." in output
    assert "Traceback" not in error
    ct_cache = CtCache.open(folders)
    assert any(ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list)
    assert run(folders) == 0
    assert all(ct_cache.is_complete(series_uid) for series_uid in ct_cache.index.series_list)


def test_a_preset_needs_more_crops(folders, capsys):
    """What training with the preset reads is there, by its labels; others can be named."""
    assert run(folders) == 0
    strong = TrainingConfig(**PRESETS["strong"])
    ct_cache = CtCache.open(folders, strong.label_options)
    assert not ct_cache.is_complete("1.2.0", strong.crop_choice)
    assert run(folders, "--preset", "strong") == 0
    assert all(ct_cache.is_complete(uid, strong.crop_choice) for uid in ct_cache.index.series_list)
    box = CtCache.open(folders)
    assert not box.is_complete("1.2.0", strong.crop_choice)
    assert run(folders, "--preset", "strong", "--labels", "box") == 0
    assert box.is_complete("1.2.0", strong.crop_choice)


def test_what_decides_about_crops_can_be_named(folders):
    """Beside a preset or without one; what is cached is what training with the same options reads."""
    assert run(folders, "--preset", "strong", "--slice-spacing-mm", "1") == 0
    strong = TrainingConfig(**{**PRESETS["strong"], "slice_spacing_mm": 1.0})
    assert all(CtCache.open(folders, strong.label_options).is_complete(uid, strong.crop_choice) for uid in TINY_SCANS)
    assert not CtCache.open(folders, strong.label_options).is_complete("1.2.0", CropChoice(True, True, 2.0))

    negatives_alone = CropChoice(negatives=True)
    assert not CtCache.open(folders).is_complete("1.2.0", negatives_alone)
    assert run(folders, "--negatives", "0.25") == 0
    assert CtCache.open(folders).is_complete("1.2.0", negatives_alone)
    assert not CtCache.open(folders).is_complete("1.2.0", CropChoice(all_nodule_slices=True))
    assert run(folders, "--preset", "strong", "--labels", "box", "--slice-spacing-mm", "0", "--negatives", "0") == 0
    assert CtCache.open(folders).is_complete("1.2.0", CropChoice(all_nodule_slices=True))
    assert not CtCache.open(folders).is_complete("1.2.0", CropChoice(all_nodule_slices=True, slice_spacing_mm=2.0))


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
    program, name, *options = shlex.split(command)
    assert (program, name) == ("python", "precache.py")
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
    options = [*script(folders, "--num-workers", "2")[2:]]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (190_000, 190_000))\n"
        "from p2ch13.precache import main; from p2ch13.util.errors import run_command; run_command(main)"
    )
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(" --cache-dir")
    assert "Traceback" not in done.stderr
    assert run(folders) == 0  # what is there is no stumbling block
    ct_cache = CtCache.open(folders)
    for series_uid in ct_cache.index.series_list:
        ct_cache.fill(series_uid)
    assert ct_cache.rebuilt_count == 0


def test_a_damaged_cache_ends_in_one_line(folders, capsys):
    assert run(folders) == 0
    (database,) = folders.cache_dir.rglob("cache.db")
    database.write_bytes(b"no database" * 999)
    assert run(folders) == 2
    assert_one_line(capsys, f"{database.parent}: corrupt cache (", "remove this folder")
