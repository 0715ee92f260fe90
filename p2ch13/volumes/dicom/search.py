"""Find the CT series of a folder and all folders in it, of a zip archive, or of one of a series' files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2ch13.util.errors import InputError
from p2ch13.util.progress import progress_bar
from p2ch13.volumes.dicom.archive import is_archive, is_packed, open_archive
from p2ch13.volumes.dicom.kinds import DIRECTORY, name_object
from p2ch13.volumes.dicom.series import Collection, Series
from p2ch13.volumes.dicom.tags import read_tags, seems_dicom

log = logging.getLogger(__name__)

SEARCH_SHOWN_AFTER_S = 2.0
SHOWN_SERIES = 10


@dataclass
class Search:
    """What was found.

    Attributes: path: what was searched; series: sorted by name; left_out: kinds and numbers of all other DICOM objects;
        packed: archives in the folders, which were not searched.
    """

    path: Path
    series: list[Series] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    packed: list[Path] = field(default_factory=list)

    def describe_left_out(self) -> str:
        return ", ".join(f"{kind} ({count})" for kind, count in sorted(self.left_out.items()))

    def report_left_out(self) -> None:
        if self.left_out:
            kinds = self.describe_left_out()
            log.info(f"{self.path}: passing over DICOM objects that are no slices of a scan: {kinds}.")
        if self.packed:
            names = shorten([file.name for file in self.packed])
            log.info(f"{self.path}: not looking into archives ({names}); to search one, name it, or unpack it.")

    def choose(self, series_uid: str | None = None) -> Series:
        """Return the series of this name, or the largest original one; name the others.

        Raises: InputError if there is none.
        """
        named = [each for each in self.series if series_uid in (None, each.name)]
        if not named:
            raise self.nothing("CT series" if series_uid is None else f"series {series_uid}")
        return choose_largest(named)

    def nothing(self, wanted: str) -> InputError:
        """Return the error that there is nothing of this kind, but others."""
        names = [each.name for each in self.series]
        there = f"; there is {shorten(names)}" if names else ""
        there += f"; it holds DICOM objects that are none: {self.describe_left_out()}" if self.left_out else ""
        packed = shorten([file.name for file in self.packed])
        there += f"; it holds archives, unpack them: {packed}" if packed else ""
        return InputError(f"no {wanted} here{there or '; choose another folder'}", path=self.path)

    def originals(self) -> list[Series]:
        """Return the series without those that were computed of others here, and name these."""
        originals = [each for each in self.series if each.is_original]
        kept = [each for each in self.series if each.is_original or not any(is_made_of(each, one) for one in originals)]
        made = [each.describe() for each in self.series if each not in kept]
        if made:
            log.info(f"{self.path}: passing over what was computed of other series: {shorten(made)}.")
        return kept

    def alternatives(self) -> list[list[Series]]:
        """Group the original series that are alternatives: of one study, and in the same folder."""
        groups: list[list[Series]] = []
        for each in self.originals():
            like = [group for group in groups if any(are_alternatives(each, other) for other in group)]
            groups = [group for group in groups if group not in like]
            groups.append([*(one for group in like for one in group), each])
        return groups


def are_alternatives(one: Series, other: Series) -> bool:
    return is_same_study(one, other) and bool(one.folders & other.folders)


def is_made_of(derived: Series, other: Series) -> bool:
    """Tell whether a derived series may be computed of another one; without a study, of one in its folder."""
    return is_same_study(derived, other) and (bool(derived.study) or bool(derived.folders & other.folders))


def is_same_study(one: Series, other: Series) -> bool:
    return (one.patient_id, one.study) == (other.patient_id, other.study)


def choose_largest(series: Sequence[Series]) -> Series:
    """Choose the original series with the most slices, and name the others."""
    chosen = max(series, key=lambda each: (each.is_original, len(each.slices)))
    if len(series) > 1:
        others = [each.describe() for each in series if each is not chosen]
        log.info(
            f"{chosen.folder}: {len(series)} CT series; using the largest original one, {chosen.describe()}, not "
            f"{shorten(others)}. --series-uid selects another."
        )
    return chosen


def shorten(names: Sequence[str]) -> str:
    """List names, of many the first ones."""
    more = f" and {len(names) - SHOWN_SERIES} more" if len(names) > SHOWN_SERIES else ""
    return ", ".join(names[:SHOWN_SERIES]) + more


def holds_series(path: Path) -> bool:
    """Tell whether a path can be searched: a folder, a zip archive or a DICOM file."""
    return path.is_dir() or is_archive(path) or (path.is_file() and seems_dicom(path))


def find_series(path: Path) -> Search:
    """Find the CT series of a folder or zip archive at any depth, or a file's series among the files of its folder.

    Raises: InputError for an archive that cannot be unpacked, and a file that is no CT image.
    """
    folder = open_archive(path)
    if folder.is_file():
        return find_series_of(folder)
    return replace(search_folders(folder, list_folders(folder)), path=path)


def find_series_of(file: Path) -> Search:
    """Find the series that a file belongs to; of a DICOMDIR, those of its folder.

    Raises: InputError if it is no CT image or cannot be read.
    """
    kind = name_object(read_tags(file))
    if kind == DIRECTORY:
        return replace(search_folders(file.parent, list_folders(file.parent)), path=file)
    if kind:
        raise InputError(f"holds no CT slice, but {kind}; give a file or the folder of a CT series", path=file)
    found = search_folders(file.parent, [file.parent])
    own = [each for each in found.series if file in each.files]
    if not own:
        raise InputError("holds no slice of a scan; give a file or the folder of a CT series", path=file)
    return Search(file, own)


def list_folders(folder: Path) -> list[Path]:
    """List a folder and those in it, sorted, also behind links; hidden ones belong to programs."""
    folders, seen = [], set()
    for name, below, _ in os.walk(folder, onerror=report_unreadable, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        folders.append(Path(name))
        below[:] = [each for each in below if not each.startswith(".")]
    return sorted(folders)


def report_unreadable(error: OSError) -> None:
    log.warning(f"{error.filename}: cannot be searched ({error.strerror}); a series may have files there.")


def search_folders(path: Path, folders: Sequence[Path]) -> Search:
    """Read the tags of all DICOM files of these folders and put together those of one series."""
    collection, packed = Collection(), []
    with progress_bar(len(folders), "Searching", "folder", delay_s=SEARCH_SHOWN_AFTER_S) as bar:
        for folder in folders:
            for file in sorted(folder.iterdir()):
                if is_packed(file):
                    packed.append(file)
                if file.is_file() or (file.is_symlink() and not file.exists()):  # a link to nowhere may be a slice
                    collection.add(file)
            bar.update()
    return Search(path, collection.list_series(path), collection.left_out, packed)
