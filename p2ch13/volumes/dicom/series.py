"""Put together the slices of each CT series, in whichever folders its files lie."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2ch13.util.errors import InputError
from p2ch13.volumes.dicom.kinds import UNNAMED, name_object
from p2ch13.volumes.dicom.slices import DicomSlice, read_slices
from p2ch13.volumes.dicom.tags import Tags, damaged, read_tags, seems_dicom

FORBIDDEN = frozenset('/\\<>:"|?*')  # in a file's name, on one system or another
NAME_LENGTH = 128
Key = tuple[str, ...]  # the series UID, or "", the origin and the folder


@dataclass(frozen=True, eq=False)
class Series:
    """A CT series, from all folders that hold a part of it.

    Attributes: name: its UID, or the name of its folder if it has none; folder: the innermost that holds all of it;
        files: sorted, with those that hold a slice twice; slices: in the order of their files; fault: why it cannot be
        read, if known.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    slices: tuple[DicomSlice, ...] = ()
    has_uid: bool = True
    patient_id: str = ""
    study: str = ""
    is_original: bool = True
    fault: InputError | None = None

    @cached_property
    def folders(self) -> frozenset[Path]:
        return frozenset(file.parent for file in self.files)

    def describe(self) -> str:
        return f"{self.name} ({len(self.slices)} slices{'' if self.is_original else ', derived'})"


ORIGIN_KEYWORDS = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")


class Origin(NamedTuple):
    """What all slices of a series have in common."""

    patient_id: str
    study: str
    frame_of_reference: str


@dataclass
class Group:
    """What was found of one series, or of slices that name none but have their origin and folder in common."""

    origins: dict[Path, Origin] = field(default_factory=dict)  # of the files with its slices
    slices: list[DicomSlice] = field(default_factory=list)
    faults: list[InputError] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)  # files of its CT class that claim another modality
    original_count: int = 0


class Collection:
    """Sorts files, one after the other. Attributes: `left_out`: kinds and numbers of other DICOM objects."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._groups: dict[Key, Group] = defaultdict(Group)
        self._lost: list[tuple[Path, InputError]] = []  # damaged files that could be of any series in their folder

    def add(self, file: Path) -> None:
        """Put the slices of a file to their series, or count it; keep the error of a damaged one."""
        try:
            if seems_dicom(file):
                self._add_tags(read_tags(file))
        except InputError as error:
            self._lost.append((file, error))

    def _add_tags(self, tags: Tags) -> None:
        kind = name_object(tags)
        if kind in ("", UNNAMED) and tags.pixels is None:  # cut short, whatever of its tags is there
            raise damaged(tags.file, "no pixel data")
        if kind:
            self.left_out[kind] += 1
            return
        uid = tags.text("SeriesInstanceUID")
        origin = Origin(*map(tags.text, ORIGIN_KEYWORDS))
        key = (uid,) if uid else ("", *origin, str(tags.file.parent))
        group = self._groups[key]
        modality = tags.text("Modality").upper()
        if modality not in ("", "CT"):
            group.others[tags.file] = modality
            return
        for slice_kind, one in read_slices(tags):
            if slice_kind.left_out:
                self.left_out[slice_kind.left_out] += 1
                continue
            group.origins[tags.file] = origin
            if isinstance(one, DicomSlice):
                group.slices.append(one)
                group.original_count += slice_kind.is_original
            else:
                group.faults.append(one)

    def list_series(self, root: Path) -> list[Series]:
        """Return the series of all files, sorted by name. Args: root: the folder that was searched."""
        groups = {key: group for key, group in self._groups.items() if group.origins}
        self.left_out.update(
            one for group in self._groups.values() if not group.origins for one in group.others.values()
        )
        names = choose_names(root, groups)
        series = [make_series(names[key], bool(key[0]), group) for key, group in groups.items()]
        for file, error in self._lost:
            could_be = [each for each in series if file.parent in each.folders]
            if not could_be:
                series.append(Series(file.name, file.parent, (file,), fault=error))
            for each in could_be:
                series[series.index(each)] = replace(each, fault=each.fault or error)
        return sorted(series, key=lambda each: each.name)


def make_series(name: str, has_uid: bool, group: Group) -> Series:
    """Make a series of its slices; an instance that is there twice is one slice."""
    fault = next(iter(group.faults), None) or find_contradiction(group)
    try:
        slices = drop_copies(group.slices)
        if has_uid and not is_safe(name):
            first = next(iter(group.origins))
            raise InputError(f"SeriesInstanceUID {name!r} is no name for a file; correct it, with dcmodify", path=first)
    except InputError as error:
        slices, fault = group.slices, fault or error
    origin = next(iter(group.origins.values()))
    return Series(
        name=name,
        folder=Path(os.path.commonpath(file.parent for file in group.origins)),
        files=tuple(group.origins),
        slices=tuple(slices),
        has_uid=has_uid,
        patient_id=origin.patient_id,
        study=origin.study,
        is_original=2 * group.original_count > len(group.slices),
        fault=fault,
    )


def find_contradiction(group: Group) -> InputError | None:
    """Find a file of another modality, patient, study or frame of reference than most; one without agrees with all."""
    for file, modality in group.others.items():
        return InputError(f"Modality {modality} in a CT series; export the series again", path=file)
    for ndx, keyword in enumerate(ORIGIN_KEYWORDS):
        values = {file: origin[ndx] for file, origin in group.origins.items()}
        counts = Counter(value for value in values.values() if value)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            file = next(file for file, value in values.items() if value not in ("", usual))
            other = next(file for file, value in values.items() if value == usual)
            return InputError(
                f"its {keyword} is not that of {other.name}, in one series; give each scan a SeriesInstanceUID "
                "of their own, with dcmodify",
                path=file,
            )
    return None


def drop_copies(slices: Iterable[DicomSlice]) -> list[DicomSlice]:
    """Keep one of the slices that are one instance, or one slice that was given two instances.

    Raises: InputError if one instance has two kinds of pixels, or one image two places.
    """
    kept: dict[object, DicomSlice] = {}
    for one in slices:
        # Without the position, a program that gives all files one UID would leave a single slice.
        key = (one.instance, one.frame, one.position_xyz) if one.instance else one
        other = kept.setdefault(key, one)
        if other is not one and not has_same_pixels(one, other):
            raise InputError(f"other pixels than {other.file}, the same instance; remove one of the two", path=one.file)
    check_places(kept.values())
    return drop_renamed(kept.values())


def check_places(slices: Iterable[DicomSlice]) -> None:
    """Raises: InputError if two slices are the same instance, with the same pixels, at two places."""
    first: dict[object, DicomSlice] = {}
    for one in slices:
        other = first.setdefault((one.instance or one.file, one.frame), one)
        if other is not one and has_same_pixels(one, other):
            message = f"the same instance as {other.file}, but at another position; remove the wrong one"
            raise InputError(message, path=one.file)


def drop_renamed(slices: Iterable[DicomSlice]) -> list[DicomSlice]:
    """Keep one of the slices of one place and number whose pixels are the same, but not their SOPInstanceUID.

    Programs that remove what identifies patients may give a copy of a file another one, or none.
    """
    kept: dict[object, list[DicomSlice]] = defaultdict(list)
    for one in slices:
        alike = kept[one.position_xyz, one.cosines, one.number, one.acquisition, one.phase]
        if not any(has_same_pixels(one, other) for other in alike):
            alike.append(one)
    return [one for alike in kept.values() for one in alike]


def has_same_pixels(one: DicomSlice, other: DicomSlice) -> bool:
    return np.array_equal(one.read_hu(), other.read_hu())


def is_safe(name: str) -> bool:
    """Tell whether a text can be a file's name, and nothing else than one."""
    is_plain = name.isascii() and name.isprintable() and not FORBIDDEN & set(name)
    return is_plain and 0 < len(name) <= NAME_LENGTH and not name.startswith(".")


def choose_names(root: Path, keys: Iterable[Key]) -> dict[Key, str]:
    """Name each group by its series UID, or by its folder: the way to it if others are called alike, and a number."""
    folders = {key: Path(key[-1]) for key in keys if not key[0]}
    alike = Counter(folder.resolve().name for folder in set(folders.values()))
    shared = Counter(folders.values())
    numbers: Counter[Path] = Counter()
    names = {key: key[0] for key in keys}
    for key, folder in folders.items():
        own = folder.resolve().name
        text = as_text(own if alike[own] == 1 else "-".join(folder.relative_to(root).parts) or own)
        numbers[folder] += 1
        names[key] = f"{text}-{numbers[folder]}" if shared[folder] > 1 else text
    return names


def as_text(name: str) -> str:
    """Return a file's name; in Latin-1 if it is no UTF-8, which no library could write."""
    raw = os.fsencode(name)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
