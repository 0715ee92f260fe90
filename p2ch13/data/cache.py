"""CtCache: the crops and slice lists that training reads in place of scans, kept on disk."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from numpy.typing import NDArray

from p2ch13.config import (
    CENTERS_ALONE,
    CROP_WIDTH_IRC,
    NEGATIVES_PER_SCAN,
    SLICES_PER_NODULE,
    CropChoice,
    Folders,
    LabelOptions,
)
from p2ch13.data.crops import CropCenters, choose_crop_centers
from p2ch13.data.index import LazyNodules, ScanIndex
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.util.coordinates import IrcTuple, XyzTuple
from p2ch13.util.disk import FORMAT, CacheError, CorruptEntryError, cache_errors, get_cache
from p2ch13.util.disk_read_only import ReadOnlyCache, is_read_only
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import scan_signature

log = logging.getLogger(__name__)

CACHE_VERSION = 3  # raised when a mask, a crop or its storage changes; each version has its own folder


class CtCache:
    """The cache of crops and slice lists of an index's scans.

    A key holds all that its value depends on: the scan's files, the series' annotations, the label rule, the crop's
    geometry. A value whose inputs have changed is not found, and is recomputed.

    Args: index: the scans, whose masks are read for their nodules once for all; folder: the cache's.
    Attributes: `index`; `folder`; `rebuilt_count`, the number of corrupt entries that were recomputed.
    """

    def __init__(self, index: ScanIndex, folder: Path) -> None:
        self.index = index
        if not index.has_annotations:
            index.nodules = LazyNodules(self.get_nodules)
        self.folder = folder
        self._disk_folder = folder / f"version-{CACHE_VERSION}-{FORMAT}"
        self.rebuilt_count = 0

    @classmethod
    def open(cls, folders: Folders, labels: LabelOptions | None = None) -> CtCache:
        """Index a data folder and use its cache.

        Raises: InputError, see `ScanIndex`, and if all annotations are of other scans: nothing would be learned.
        """
        index = ScanIndex(folders.data_dir, labels)
        if index.lack_of_nodules is not None:
            raise index.lack_of_nodules
        return cls(index, folders.cache_dir)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open cache, for another process: it opens one where errors of the disk are expected."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, diskcache.Cache)}

    @cached_property
    def is_read_only(self) -> bool:
        """Whether entries are read, and new ones kept in memory alone, since the folder cannot be written."""
        return is_read_only(self._disk_folder)

    @cached_property
    def _disk(self) -> diskcache.Cache | ReadOnlyCache:
        """The entries on disk; a folder is created at the first lookup."""
        if not self.is_read_only:
            return get_cache(self._disk_folder, "--cache-dir")
        with cache_errors(self._disk_folder, "--cache-dir"):
            return ReadOnlyCache(self._disk_folder)

    def get_ct_raw_candidate(
        self,
        series_uid: str,
        center_xyz: Sequence[float],
        width_irc: tuple[int, int, int],
        slice_spacing_mm: float = 0.0,
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], IrcTuple]:
        """Look up or compute `Ct.get_raw_candidate`."""

        def compute() -> list[Any]:
            ct = self.index.get_ct(series_uid)
            ct_chunk, pos_chunk, center_irc = ct.get_raw_candidate(center_xyz, width_irc, slice_spacing_mm)
            return [ct_chunk, pos_chunk, list(center_irc)]

        key = self._candidate_key(series_uid, center_xyz, width_irc, slice_spacing_mm)
        ct_chunk, pos_chunk, center_irc = self._memoize(key, compute)
        return ct_chunk, pos_chunk, IrcTuple(*center_irc)

    def get_ct_sample_size(self, series_uid: str) -> tuple[int, list[int]]:
        """Look up or compute the number of slices and the indexes of the nodule slices."""

        def compute() -> list[Any]:
            ct = self.index.get_ct(series_uid)
            return [ct.shape_irc[0], ct.positive_indexes]

        slice_count, positive_indexes = self._memoize(self._sample_size_key(series_uid), compute)
        return slice_count, positive_indexes

    def get_nodules(self, series_uid: str) -> list[CandidateInfoTuple]:
        """Look up or compute `ScanIndex.find_nodules`."""

        def compute() -> list[Any]:
            return [[nodule.diameter_mm, *nodule.center_xyz] for nodule in self.index.find_nodules(series_uid)]

        return [
            CandidateInfoTuple(True, True, None, diameter_mm, series_uid, XyzTuple(*center_xyz))
            for diameter_mm, *center_xyz in self._memoize(self._nodules_key(series_uid), compute)
        ]

    def get_crop_centers(self, series_uid: str) -> CropCenters:
        """Look up or compute `choose_crop_centers` of a series."""

        def compute() -> list[Any]:
            index = self.index
            ct, nodules = index.get_ct(series_uid), index.nodules[series_uid]
            return [*choose_crop_centers(ct, nodules, index.non_nodules[series_uid], index.excluded[series_uid])]

        of_nodules, negatives = self._memoize(self._crop_centers_key(series_uid), compute)
        return CropCenters(
            [[XyzTuple(*xyz) for xyz in centers] for centers in of_nodules], [XyzTuple(*xyz) for xyz in negatives]
        )

    def find_centers(self, series_uid: str, choice: CropChoice = CENTERS_ALONE) -> CropCenters:
        """Find the centers of a series' crops: of each nodule, in the order of `index.nodules`, and of negatives."""
        centers = [[nodule.center_xyz] for nodule in self.index.nodules[series_uid]]
        if not needs_centers(choice):
            return CropCenters(centers, [])
        chosen = self.get_crop_centers(series_uid)
        return CropCenters(
            chosen.of_nodules if choice.all_nodule_slices else centers, chosen.negatives if choice.negatives else []
        )

    def is_complete(self, series_uid: str, choice: CropChoice = CENTERS_ALONE) -> bool:
        """Whether the cache has an entry for everything that training and validation read of a series.

        False for an unreadable scan: `fill` raises its error. Only `fill` checks the entries' contents.
        """
        try:
            keys = [self._sample_size_key(series_uid)]
            if not self.index.has_annotations:
                keys.append(self._nodules_key(series_uid))
            if needs_centers(choice):
                keys.append(self._crop_centers_key(series_uid))
            if not self._holds(keys):
                return False
            of_nodules, negatives = self.find_centers(series_uid, choice)
            return self._holds(
                self._candidate_key(series_uid, center_xyz, CROP_WIDTH_IRC, choice.slice_spacing_mm)
                for center_xyz in [*chain(*of_nodules), *negatives]
            )
        except CacheError:
            raise
        except InputError:
            return False

    def fill(self, series_uid: str, choice: CropChoice = CENTERS_ALONE) -> list[CandidateInfoTuple]:
        """Cache everything that training and validation read of a series; recompute corrupt entries.

        Returns: the nodules without a marked voxel in the middle of a crop.
        Raises: InputError.
        """
        self.get_ct_sample_size(series_uid)
        of_nodules, negatives = self.find_centers(series_uid, choice)
        *are_marked, _ = [
            [self._fill_crop(series_uid, center_xyz, choice.slice_spacing_mm) for center_xyz in centers]
            for centers in (*of_nodules, negatives)
        ]
        nodules = self.index.nodules[series_uid]
        return [nodule for nodule, is_marked in zip(nodules, are_marked, strict=True) if not any(is_marked)]

    def _fill_crop(self, series_uid: str, center_xyz: XyzTuple, slice_spacing_mm: float) -> bool:
        """Cache a crop. Returns: whether a voxel of its middle half is marked."""
        _, pos_chunk, _ = self.get_ct_raw_candidate(series_uid, center_xyz, CROP_WIDTH_IRC, slice_spacing_mm)
        rows, cols = (slice(width // 4, width - width // 4) for width in CROP_WIDTH_IRC[1:])
        return bool(pos_chunk[:, rows, cols].any())

    def volume(self) -> int:
        """Return the size of the cache on disk, in bytes."""
        with cache_errors(self._disk_folder, "--cache-dir"):
            return int(self._disk.volume())

    def _holds(self, keys: Iterable[str]) -> bool:
        with cache_errors(self._disk_folder, "--cache-dir"):
            return all(key in self._disk for key in keys)

    def _memoize(self, key: str, compute: Callable[[], list[Any]]) -> list[Any]:
        value = self._look_up(key)
        if value is None:
            value = compute()
            with cache_errors(self._disk_folder, "--cache-dir"):
                self._disk.set(key, value)
        return value

    def _look_up(self, key: str) -> list[Any] | None:
        try:
            with cache_errors(self._disk_folder, "--cache-dir"):
                value: list[Any] | None = self._disk.get(key)
        except CorruptEntryError as error:
            self.rebuilt_count += 1
            log.warning(f"Corrupt cache entry for {json.loads(key)[1]} ({error}); recomputing it.")
            return None
        return value

    def _nodules_key(self, series_uid: str) -> str:
        return self._key("nodules of mask", series_uid)

    def _sample_size_key(self, series_uid: str) -> str:
        return self._key("sample size", series_uid)

    def _candidate_key(
        self, series_uid: str, center_xyz: Sequence[float], width_irc: tuple[int, int, int], slice_spacing_mm: float
    ) -> str:
        spacing = [slice_spacing_mm] if slice_spacing_mm else []
        return self._key("raw candidate", series_uid, list(center_xyz), list(width_irc), *spacing)

    def _crop_centers_key(self, series_uid: str) -> str:
        nodules = [[*nodule.center_xyz, nodule.diameter_mm] for nodule in self.index.get_annotations(series_uid)]
        excluded = [[*finding.center_xyz, finding.diameter_mm] for finding in self.index.excluded[series_uid]]
        others = json.dumps([[candidate.center_xyz for candidate in self.index.non_nodules[series_uid]], excluded])
        counts = [SLICES_PER_NODULE, NEGATIVES_PER_SCAN]
        # An entry's name is part of its key: renamed, every filled cache would be lost.
        return self._key("places of crops", series_uid, nodules, zlib.crc32(others.encode()), counts)

    def _key(self, kind: str, series_uid: str, *details: Any) -> str:
        signature = scan_signature(self.index.get_path(series_uid))
        nodules = self.index.get_annotations(series_uid)
        centers = sorted(nodule.center_xyz for nodule in nodules)
        threshold_hu, rule_details = self.index.labels.rule_of(series_uid).key(nodules)
        return json.dumps([kind, series_uid, *details, threshold_hu, signature, centers, *rule_details])


def needs_centers(choice: CropChoice) -> bool:
    """Whether crops are cut at other centers than the annotated nodules'."""
    return choice.all_nodule_slices or bool(choice.negatives)


def describe_rebuilt(count: int) -> str:
    return f"Recomputed {count} corrupt cache entries. If this happens again, the disk is failing."
