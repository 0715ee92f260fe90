"""The test scans: prepared in the work folder, and scored at their first use."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from p2ch13.config import EvaluationOptions
from p2ch13.evaluation.checkpoints import Checkpoint
from p2ch13.evaluation.pipeline import evaluate_scans, write_results
from p2ch13.evaluation.scoring import ScanScores
from p2ch13.evaluation.summary import summarize
from p2ch13.labels.candidates import ANNOTATIONS_FILE, EXCLUDED_FILE
from p2ch13.phantom.dataset import write_phantoms
from p2ch13.phantom.uids import series_uid
from p2ch13.training.backgrounds import Background, read_backgrounds
from p2ch13.training.painted_scans import IMAGES, MASKS, write_painted_scans
from p2ch13.training.painter import Painter
from p2ch13.training.shapes import SYNTHETIC, find_shapes
from p2ch13.util.errors import InputError
from p2ch13.util.threads import available_cores
from p2ch13.volumes.files import find_scans

LIDC_SERIES = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"  # LIDC-IDRI-0001
LIDC_FOLDER, TRAINING_LUNGS, OTHER_LUNGS = "test", "training", "unverified"  # of --real
PAINTED_MM = (3.0, 25.0)
PAINTING_SEED = 0


@dataclass(frozen=True)
class Sizes:
    """How many scans, of which size."""

    phantom_count: int = 20
    phantom_seed: int = 8
    pixels: int | None = None  # rows and cols of phantoms; None: as in LUNA16
    slice_count: int | None = None
    copies: int = 3  # of each lung, with other painted nodules
    shapes: str = "lidc"  # of painted nodules, see `find_shapes`


@dataclass(frozen=True)
class Setup:
    """Networks, scans and folders.

    Attributes: left_out: by name of a scan in `TRAINING_LUNGS`, a network that was trained without it; real: folder of
        real scans, None without any; phantoms: the phantoms' folder, which is made if it is missing.
    """

    checkpoint: Path
    work_dir: Path
    phantoms: Path
    real: Path | None = None
    left_out: Mapping[str, Path] = field(default_factory=dict)
    sizes: Sizes = Sizes()


@dataclass(frozen=True)
class ScoredSet:
    """Scored scans of one kind. Attributes: data_dir: where they and their masks lie."""

    title: str
    data_dir: Path
    scans: tuple[ScanScores, ...]


class QualityScans:
    """The sets of test scans; each is None if what it needs is not given.

    Raises: InputError if a set cannot be made or scored, or a network was trained on it.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @property
    def work_dir(self) -> Path:
        return self.setup.work_dir

    @cached_property
    def painter(self) -> Painter:
        return Painter(find_shapes(self.setup.sizes.shapes, held_out=True))

    @cached_property
    def lidc(self) -> ScoredSet | None:
        """LIDC-IDRI-0001, with the voxels that two of four readers marked."""
        if self.setup.real is None:
            return None
        refuse_trained_on(self.setup.checkpoint, [LIDC_SERIES])
        data_dir = copy_lidc(self.setup.real / LIDC_FOLDER, self.work_dir / "lidc-idri-0001")
        return self.score("LIDC-IDRI-0001", self.setup.checkpoint, data_dir)

    @cached_property
    def phantoms(self) -> ScoredSet:
        """Phantoms that no training has seen."""
        series_list = make_phantoms(self.setup.phantoms, self.setup.sizes)
        refuse_trained_on(self.setup.checkpoint, series_list)
        return self.score("phantoms", self.setup.checkpoint, self.setup.phantoms)

    @cached_property
    def painted(self) -> ScoredSet | None:
        """Nodules painted into lungs that no training has seen."""
        if self.setup.real is None:
            return None
        backgrounds = read_backgrounds(self.setup.real / OTHER_LUNGS, self.work_dir, slice_spacing_mm=0.0)
        return self.paint_and_score("painted nodules in other lungs", self.setup.checkpoint, backgrounds, "painted")

    def score_left_out(self) -> Iterator[tuple[str, ScoredSet]]:
        """Score nodules painted into each training lung, by a network that was trained without it. Yields: by lung."""
        if self.setup.real is None or not self.setup.left_out:
            return
        folder = self.setup.real / TRAINING_LUNGS
        lungs = {each.series_uid: each for each in read_backgrounds(folder, self.work_dir, slice_spacing_mm=0.0)}
        unknown = set(self.setup.left_out) - set(lungs)
        if unknown:
            message = f"{min(unknown)} is no scan of {folder}; give one of {', '.join(sorted(lungs))}"
            raise InputError(message, option="--left-out")
        for name, path in self.setup.left_out.items():
            title = f"painted nodules in {name}, left out of training"
            yield name, self.paint_and_score(title, path, [lungs[name]], f"left-out-{name}")

    def paint_and_score(
        self, title: str, checkpoint: Path, backgrounds: Sequence[Background], folder: str
    ) -> ScoredSet:
        donors = {shape.series_uid for shape in self.painter.shapes} - {SYNTHETIC}
        refuse_trained_on(checkpoint, {*donors, *(each.series_uid for each in backgrounds)})
        data_dir = make_empty(self.work_dir / folder)
        write_painted_scans(backgrounds, self.painter, data_dir, self.setup.sizes.copies, PAINTED_MM, PAINTING_SEED)
        return self.score(title, checkpoint, data_dir)

    def score(self, title: str, checkpoint: Path, data_dir: Path) -> ScoredSet:
        """Score all scans of a data folder by its masks, and write the report with figures of the worst cases."""
        options = EvaluationOptions(
            data_dir=data_dir,
            checkpoint=(checkpoint,),
            all=True,
            output=self.work_dir / "evaluation" / data_dir.name,
            label_changes={"labels": "mask"},
        )
        work, results = evaluate_scans(options)
        for reason in results.skipped.values():
            raise InputError(reason)
        write_results(options, summarize(results.scans), results)
        work.close()
        return ScoredSet(title, data_dir, tuple(results.scans))


def refuse_trained_on(checkpoint: Path, series_list: Iterable[str]) -> None:
    """Raises: InputError if a network was trained on one of these series, or shapes of its nodules."""
    seen = Checkpoint.read(checkpoint).training.intersection(series_list)
    if seen:
        raise InputError(f"it was trained on {min(seen)}, which it would be scored on; leave it out", path=checkpoint)


def copy_lidc(source: Path, data_dir: Path) -> Path:
    """Make a data folder of the scan, its consensus mask and LUNA16's rows.

    Raises: InputError if a file is missing.
    """
    make_empty(data_dir)
    copies = {
        f"{LIDC_SERIES}.nii.gz": data_dir / IMAGES / f"{LIDC_SERIES}.nii.gz",
        f"{LIDC_SERIES}_consensus.nii.gz": data_dir / MASKS / f"{LIDC_SERIES}.nii.gz",
        ANNOTATIONS_FILE: data_dir / ANNOTATIONS_FILE,
        EXCLUDED_FILE: data_dir / EXCLUDED_FILE,
    }
    for name, target in copies.items():
        if not (source / name).is_file():
            raise InputError("no such file; --real needs it in its folder test/", path=source / name, option="--real")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target)
    return data_dir


def make_phantoms(folder: Path, sizes: Sizes) -> list[str]:
    """Write the phantoms, if the folder is missing. Returns: their series. Raises: InputError if it holds others."""
    series_list = [series_uid(sizes.phantom_seed, ndx) for ndx in range(sizes.phantom_count)]
    if not folder.exists():
        write_phantoms(
            folder, sizes.phantom_count, sizes.phantom_seed, available_cores(), sizes.pixels, sizes.slice_count
        )
    if set(find_scans(folder)) != set(series_list):
        made_by = f"--scans {sizes.phantom_count} --seed {sizes.phantom_seed}"
        message = f"not the phantoms of {made_by}; choose a folder that does not exist yet"
        raise InputError(message, path=folder, option="--phantoms")
    return series_list


def make_empty(folder: Path) -> Path:
    """Make a folder of the work folder, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
