"""A thousand scans, some of them damaged: each is reported in one line, and the others are processed as usual.

    python -m stress.damaged_scans --scans 1000 --share 0.05 --seed 0

Precache runs; then cached values are corrupted, and precache runs again. Training stops at a damaged scan and reports
it; without the damaged scans it runs, and its model searches some good scans and all damaged ones. In the end each
cached value must equal, bit for bit, that of a precache without damage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from diskcache.core import DBNAME

from p2ch13.config import Folders
from p2ch13.data.cache import CtCache
from p2ch13.util.errors import EXIT_SKIPPED, run_command
from p2ch13.util.options import argument, non_negative_int, positive_int
from stress.command_line import add_work_dir, make_parser, run_part
from stress.commands import (
    compare_caches,
    find_last,
    precache_command,
    predict_command,
    read_values,
    run,
    training_command,
)
from stress.report import LostError, Row
from stress.scans import HEADER, SHAPE_IRC, write_scans

SCAN_COUNT, SHARE = 1000, 0.05
TRAINING = ("--depth", "2", "--precision", "fp32", "--epochs", "1", "--samples-per-epoch", "64", "--val-stride", "10")
SEARCHED_COUNT = 5  # good scans to search for nodules, beside the damaged ones
UID = re.compile(r"\b1\.2\.1\d{5}\b")  # as `write_scans` makes them

Damage = Callable[[Path, np.random.Generator], None]


def main(sys_argv: Sequence[str] | None = None) -> int:
    """Returns: 1 if a damaged scan went unnoticed or did further damage."""
    return run_part("damaged scans", damage_all, build_parser().parse_args(sys_argv))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("stress.damaged_scans", __doc__)
    parser.add_argument(
        "--scans", dest="scan_count", type=positive_int, default=SCAN_COUNT, help="number of scans, at least 4"
    )
    is_share = argument(float, above=0, below=1)
    parser.add_argument("--share", type=is_share, default=SHARE, help="share of damaged scans, at least one")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of scans and damages")
    add_work_dir(parser)
    return parser


def damage_all(
    scan_count: int = SCAN_COUNT, share: float = SHARE, seed: int = 0, work_dir: Path | None = None
) -> list[Row]:
    """Raises: LostError."""
    start = time.monotonic()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(dir=work_dir) as folder:
        root = Path(folder)
        data_dir, cache_dir = root / "scans", root / "cache"
        scans = write_scans(data_dir, scan_count, rng)
        kinds = damage_scans(scans, max(1, round(share * scan_count)), rng)
        whole = [uid for uid in scans if uid not in kinds]
        check_precache(data_dir, cache_dir, kinds)
        spoiled = rng.choice(whole, max(1, round(share * len(whole))), replace=False).tolist()
        damage_values(cache_dir, spoiled, rng)
        check_rebuilt(check_precache(data_dir, cache_dir, kinds), spoiled)

        training = training_command(data_dir, cache_dir, root / "models", *TRAINING)
        check_skipped(run(training), kinds)
        damaged = set_aside([scans[uid] for uid in kinds], root / "aside")
        run(training)
        check_predict(root / "models", [scans[uid] for uid in whole[:SEARCHED_COUNT]], damaged, kinds)
        run(precache_command(data_dir, root / "fresh"))
        compare_caches(cache_dir, read_values(root / "fresh"))
    return [
        Row(
            "damaged data",
            f"precache twice, training, prediction; {scan_count:,} scans",
            f"{len(kinds)} scans in {len(set(kinds.values()))} ways, {len(spoiled)} cached values",
            len(kinds) + len(spoiled),
            time.monotonic() - start,
            note="each reported, and no other",
        )
    ]


def damage_scans(scans: Mapping[str, Path], count: int, rng: np.random.Generator) -> dict[str, str]:
    """Damage so many scans, in all ways in turn. Returns: series UID -> the way."""
    chosen = rng.choice(list(scans), count, replace=False).tolist()
    kinds = dict(zip(chosen, itertools.cycle(DAMAGES)))
    for uid, kind in kinds.items():
        DAMAGES[kind](scans[uid], rng)
    return kinds


def check_precache(data_dir: Path, cache_dir: Path, kinds: Mapping[str, str]) -> str:
    """Returns: its output. Raises: LostError if a damaged scan is not reported, or another one is not cached."""
    output = run(precache_command(data_dir, cache_dir), EXIT_SKIPPED)
    check_skipped(output, kinds)
    ct_cache = CtCache.open(Folders(data_dir, cache_dir))
    missing = [uid for uid in ct_cache.index.series_list if uid not in kinds and not ct_cache.is_complete(uid)]
    if missing:
        raise LostError(f"{len(missing)} scans are not cached, such as {missing[0]}: {output[-2000:]}")
    return output


def set_aside(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Move scans away, headers with their voxels. Returns: the new paths of the headers."""
    folder.mkdir()
    moved = []
    for path in paths:
        for file in (path.with_suffix(".raw"), path):
            if file.exists() or file.is_symlink():
                file.rename(folder / file.name)
        moved.append(folder / path.name)
    return moved


def check_predict(models_dir: Path, whole: Sequence[Path], damaged: Sequence[Path], kinds: Mapping[str, str]) -> None:
    """Raises: LostError if there is no model, a damaged scan is not reported, or a good one not searched."""
    checkpoint = find_last(models_dir)
    if checkpoint is None:
        raise LostError("training has written no last.state")
    output_dir = models_dir.with_name("found")
    check_skipped(run(predict_command(checkpoint, [*whole, *damaged], output_dir), EXIT_SKIPPED), kinds)
    masks = sorted(path.name.partition("_mask")[0] for path in output_dir.glob("*_mask.*"))
    if masks != sorted(path.stem for path in whole):
        raise LostError(f"the masks are of {', '.join(masks) or 'no scan'}")


def check_skipped(output: str, kinds: Mapping[str, str]) -> None:
    """Raises: LostError unless each damaged scan is reported in one line, and no other one."""
    lines = [line for line in output.splitlines() if "Skipped: " in line]
    named = Counter(uid for line in lines for uid in set(UID.findall(line)))
    missed = [f"{uid} ({kinds[uid]})" for uid in sorted(set(kinds) - set(named))]
    if missed:
        raise LostError(f"damaged and not reported: {', '.join(missed)}")
    if len(lines) != len(kinds) or set(named) != set(kinds):
        raise LostError(f"{len(lines)} lines report {len(named)} scans; {len(kinds)} are damaged")


def check_rebuilt(output: str, spoiled: Collection[str]) -> None:
    """Raises: LostError unless the corrupt value of each of these scans is reported once, and no other one."""
    named = sorted(re.findall(r"Corrupt cache entry for (\S+) \(", output))
    if named != sorted(spoiled):
        raise LostError(f"{len(spoiled)} cached values are corrupt, and {len(named)} reported: {', '.join(named)}")


def damage_values(cache_dir: Path, series: Collection[str], rng: np.random.Generator) -> None:
    """Truncate the cached crop of each of these series, flip a bit of it, or remove it, in turn."""
    (database,) = cache_dir.rglob(DBNAME)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT key, filename FROM Cache WHERE filename IS NOT NULL").fetchall()
    files = {json.loads(key)[1]: database.parent / name for key, name in rows}  # a crop of each series, see `CtCache`
    for turn, series_uid in enumerate(series):
        file = files[series_uid]
        data = bytearray(file.read_bytes())
        at = int(rng.integers(len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        if turn % 3 == 2:
            file.unlink()
        else:
            file.write_bytes(data if turn % 3 else data[:at])


def cut_voxels(path: Path, rng: np.random.Generator) -> None:
    data = path.with_suffix(".raw").read_bytes()
    path.with_suffix(".raw").write_bytes(data[: rng.integers(1, len(data))])


def add_voxels(path: Path, rng: np.random.Generator) -> None:
    with path.with_suffix(".raw").open("ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 10_000))))


def empty_voxels(path: Path, rng: np.random.Generator) -> None:
    path.with_suffix(".raw").write_bytes(b"")


def remove_voxels(path: Path, rng: np.random.Generator) -> None:
    path.with_suffix(".raw").unlink()


def forbid_voxels(path: Path, rng: np.random.Generator) -> None:
    path.with_suffix(".raw").chmod(0)


def make_voxels_nan(path: Path, rng: np.random.Generator) -> None:
    voxels = np.zeros(SHAPE_IRC, "<f4")
    voxels[tuple(rng.integers(SHAPE_IRC))] = np.nan
    path.with_suffix(".raw").write_bytes(voxels.tobytes())
    set_field(path, rng, "ElementType", "MET_FLOAT")


def shift_voxels(path: Path, rng: np.random.Generator) -> None:
    """HU + 1024, as without RescaleIntercept."""
    data_file = path.with_suffix(".raw")
    data_file.write_bytes((np.frombuffer(data_file.read_bytes(), "<i2") + 1024).astype("<i2").tobytes())


def scramble_header(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(len(HEADER)))


def empty_header(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def cut_header(path: Path, rng: np.random.Generator) -> None:
    text = path.read_text()
    path.write_text(text[: rng.integers(1, text.index("ElementDataFile"))])


def lose_header(path: Path, rng: np.random.Generator) -> None:
    path.unlink()
    path.symlink_to("gone")


def remove_field(path: Path, rng: np.random.Generator, key: str) -> None:
    path.write_text(re.sub(rf"^{key} = .*\n", "", path.read_text(), flags=re.MULTILINE))


def set_field(path: Path, rng: np.random.Generator, key: str, value: str) -> None:
    path.write_text(re.sub(rf"^{key} = .*$", f"{key} = {value}", path.read_text(), flags=re.MULTILINE))


SLICES, ROWS, COLS = SHAPE_IRC
DAMAGES: dict[str, Damage] = {
    "voxels cut short": cut_voxels,
    "no voxels": remove_voxels,
    "scrambled header": scramble_header,
    "spacing NaN": partial(set_field, key="ElementSpacing", value="nan 1 1"),
    "one more slice in the header": partial(set_field, key="DimSize", value=f"{COLS} {ROWS} {SLICES + 1}"),
    "more voxels than claimed": add_voxels,
    "file of voxels empty": empty_voxels,
    "header empty": empty_header,
    "header cut short": cut_header,
    "header a link to nothing": lose_header,
    "a voxel NaN": make_voxels_nan,
    "a million slices in the header": partial(set_field, key="DimSize", value=f"{COLS} {ROWS} 1000000"),
    "no slices in the header": partial(set_field, key="DimSize", value=f"{COLS} {ROWS} 0"),
    "spacing 0": partial(set_field, key="ElementSpacing", value="1 1 0"),
    "spacing of atoms": partial(set_field, key="ElementSpacing", value="1e-7 1e-7 1e-7"),
    "spacing of mountains": partial(set_field, key="ElementSpacing", value="1e6 1e6 1e6"),
    "origin no number": partial(set_field, key="Offset", value="0 0 here"),
    "no voxel size": partial(remove_field, key="ElementSpacing"),
    "a unit of its own": partial(set_field, key="CompressedData", value="False\nDistanceUnits = in"),
    "bytes swapped": partial(set_field, key="BinaryDataByteOrderMSB", value="True"),
    "HU + 1024": shift_voxels,
    "a tilted gantry": partial(set_field, key="TransformMatrix", value="1 0 0 0 1 0 0 0.258819 0.965926"),
    "axes in one plane": partial(set_field, key="TransformMatrix", value="1 0 0 0 1 0 0 1 0"),
    "two dimensions": partial(set_field, key="NDims", value="2"),
    "voxels of another type": partial(set_field, key="ElementType", value="MET_DOUBLE"),
    "voxels elsewhere": partial(set_field, key="ElementDataFile", value="../candidates.csv"),
}
if os.geteuid() != 0:  # root may read everything
    DAMAGES["voxels that may not be read"] = forbid_voxels


if __name__ == "__main__":
    run_command(main)
