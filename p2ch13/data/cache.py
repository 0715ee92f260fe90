"""What training reads instead of scans: crops around nodules and the slices that hold nodule, kept on disk."""

from __future__ import annotations

import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
from numpy.typing import NDArray

from p2ch13.config import (
    CENTRES_ALONE,
    CROP_WIDTH_IRC,
    HU_MAX,
    HU_MIN,
    NEGATIVES_PER_SCAN,
    SLICES_PER_NODULE,
    CropChoice,
    Folders,
    LabelOptions,
)
from p2ch13.data.crops import CropCenters, choose_crop_centers
from p2ch13.data.ct import Ct
from p2ch13.labels.candidates import (
    CandidateInfoTuple,
    find_excluded_file,
    get_nodule_info_list,
    group_by_series,
    read_excluded,
    read_non_nodules,
    sort_candidates,
)
from p2ch13.labels.rules import Labels
from p2ch13.util.coordinates import IrcTuple, XyzTuple
from p2ch13.util.disk import FORMAT, CacheError, DamagedEntryError, cache_errors, get_cache
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import find_scans, no_such_series, scan_signature

log = logging.getLogger(__name__)

CACHE_VERSION = 2  # raised when a mask, a crop or the way they are stored changes: each has a folder of its own


class CtCache:
    """The scans of a data folder, and the cache of what was made from them.

    A cached value is found again only while its scan's files, the annotations of its series and the way they are
    marked are what they were; otherwise it is made anew.

    Args:
        folders: where the scans and the CSV files are, and the cache.
        labels: how nodules are marked.
        nodules: in place of those of the data folder's CSV files.
    Attributes: `all_series`, sorted UIDs of the scans on disk, which are what is split into training and validation;
        `series_list`, those of them that the labels do not leave out; `nodules`, series UID -> its nodules, largest
        first; `labels`; `folder`, the cache's; `rebuilt_count`, the cached values that were found damaged by now, and
        made anew.
    Raises: InputError for a folder or file that cannot be used.
    """

    def __init__(
        self,
        folders: Folders,
        labels: LabelOptions | None = None,
        nodules: Iterable[CandidateInfoTuple] | None = None,
    ) -> None:
        self.data_dir = folders.data_dir
        scans = find_scans(folders.data_dir)
        self.all_series = list(scans)
        self.labels = Labels(labels or LabelOptions(), self.all_series)
        self.series_list = self.labels.series_list
        self.scans = {series_uid: scans[series_uid] for series_uid in self.series_list}
        self.nodules: defaultdict[str, list[CandidateInfoTuple]] = defaultdict(list)
        for nodule in get_nodule_info_list(folders.data_dir, scans=self.scans) if nodules is None else nodules:
            self.nodules[nodule.series_uid].append(nodule)
        self.folder = folders.cache_dir
        self._disk_folder = self.folder / f"version-{CACHE_VERSION}-{FORMAT}"
        self.rebuilt_count = 0
        self._latest_ct: Ct | None = None

    @cached_property
    def _disk(self) -> diskcache.Cache:
        """Opened when something is looked up: who reads scans alone needs no cache."""
        return get_cache(self._disk_folder, "--cache-dir")

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process: without the open scan, whose memory map would be copied as an array."""
        return {**self.__dict__, "_latest_ct": None}

    def keep_labelled(self, series_list: Sequence[str]) -> list[str]:
        """Those series that the labels do not leave out. Raises: InputError if that is none."""
        labelled = set(self.series_list)
        kept = [series_uid for series_uid in series_list if series_uid in labelled]
        if not kept:
            raise InputError(
                f"{self.data_dir}: the labels leave out all of the {len(series_list)} scans that are asked for; choose "
                "others with --val-stride or --series-uid, or say --missing-xml box"
            )
        return kept

    def get_ct(self, series_uid: str) -> Ct:
        """Open a scan. The latest one stays open, because samples come series by series.

        Raises: InputError if there is no such scan or it cannot be read.
        """
        if self._latest_ct is None or self._latest_ct.series_uid != series_uid:
            path, rule = self._find_scan(series_uid), self.labels.rule_of(series_uid)
            self._latest_ct = Ct(path, self.nodules[series_uid], rule)
        return self._latest_ct

    def get_ct_raw_candidate(
        self,
        series_uid: str,
        center_xyz: Sequence[float],
        width_irc: tuple[int, int, int],
        slice_spacing_mm: float = 0.0,
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], IrcTuple]:
        """`Ct.get_raw_candidate`, its HU clipped to -1000..1000, from the cache."""

        def compute() -> list[Any]:
            ct = self.get_ct(series_uid)
            ct_chunk, pos_chunk, center_irc = ct.get_raw_candidate(center_xyz, width_irc, slice_spacing_mm)
            return [ct_chunk.clip(HU_MIN, HU_MAX), pos_chunk, list(center_irc)]

        key = self._candidate_key(series_uid, center_xyz, width_irc, slice_spacing_mm)
        ct_chunk, pos_chunk, center_irc = self._memoize(key, compute)
        return ct_chunk, pos_chunk, IrcTuple(*center_irc)

    def get_ct_sample_size(self, series_uid: str) -> tuple[int, list[int]]:
        """The number of slices and the indexes of those that hold nodule, from the cache."""

        def compute() -> list[Any]:
            ct = self.get_ct(series_uid)
            return [ct.shape_irc[0], ct.positive_indexes]

        slice_count, positive_indexes = self._memoize(self._sample_size_key(series_uid), compute)
        return slice_count, positive_indexes

    def get_crop_places(self, series_uid: str) -> CropCenters:
        """`choose_crop_centers` for the series' nodules, candidates and excluded findings, from the cache."""

        def compute() -> list[Any]:
            ct, nodules = self.get_ct(series_uid), self.nodules[series_uid]
            non_nodules, excluded = self.non_nodules[series_uid], self.excluded[series_uid]
            return [*choose_crop_centers(ct, nodules, non_nodules, excluded)]

        of_nodules, negatives = self._memoize(self._crop_places_key(series_uid), compute)
        return CropCenters(
            [[XyzTuple(*xyz) for xyz in places] for places in of_nodules], [XyzTuple(*xyz) for xyz in negatives]
        )

    def find_centers(self, series_uid: str, choice: CropChoice = CENTRES_ALONE) -> CropCenters:
        """The centres of a series' crops: the places of each nodule, in the order of `nodules`, and the negatives."""
        centers = [[nodule.center_xyz] for nodule in self.nodules[series_uid]]
        if not choice.needs_places:
            return CropCenters(centers, [])
        places = self.get_crop_places(series_uid)
        return CropCenters(
            places.of_nodules if choice.all_nodule_slices else centers, places.negatives if choice.negatives else []
        )

    def is_complete(self, series_uid: str, choice: CropChoice = CENTRES_ALONE) -> bool:
        """Whether the cache has an entry for all that training and validation read of a series.

        Of a scan that cannot be read it has not, and `fill` says why. Whether the entries are whole, `fill` finds out.
        """
        try:
            keys = [self._sample_size_key(series_uid)]
            if choice.needs_places:
                keys.append(self._crop_places_key(series_uid))
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

    def fill(self, series_uid: str, choice: CropChoice = CENTRES_ALONE) -> None:
        """Put into the cache all that training and validation read of a series.

        What is there already is read, which is how a damaged value is noticed; it is made anew. Raises: InputError.
        """
        self.get_ct_sample_size(series_uid)
        of_nodules, negatives = self.find_centers(series_uid, choice)
        for center_xyz in [*chain(*of_nodules), *negatives]:
            self.get_ct_raw_candidate(series_uid, center_xyz, CROP_WIDTH_IRC, choice.slice_spacing_mm)

    @cached_property
    def non_nodules(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its candidates that are none. Half a million rows in LUNA16: read when they are asked for."""
        return group_by_series(sort_candidates(read_non_nodules(self.data_dir, self.scans)))

    @cached_property
    def excluded(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its excluded findings; none where the data folder has no annotations_excluded.csv."""
        csv_path = find_excluded_file(self.data_dir)
        return group_by_series(sort_candidates(read_excluded(csv_path, self.scans)) if csv_path else [])

    def volume(self) -> int:
        """The size of the cache on disk, in bytes."""
        with cache_errors(self._disk_folder, "--cache-dir"):
            return int(self._disk.volume())

    def _find_scan(self, series_uid: str) -> Path:
        if series_uid not in self.scans:
            raise no_such_series(series_uid)
        return self.scans[series_uid]

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
        except DamagedEntryError as error:
            self.rebuilt_count += 1
            log.warning(f"A cached value of {json.loads(key)[1]} is damaged ({error}); it is made anew.")
            return None
        return value

    def _sample_size_key(self, series_uid: str) -> str:
        return self._key("sample size", series_uid)

    def _candidate_key(
        self, series_uid: str, center_xyz: Sequence[float], width_irc: tuple[int, int, int], slice_spacing_mm: float
    ) -> str:
        distance = [slice_spacing_mm] if slice_spacing_mm else []
        return self._key("raw candidate", series_uid, list(center_xyz), list(width_irc), *distance)

    def _crop_places_key(self, series_uid: str) -> str:
        nodules = [[*nodule.center_xyz, nodule.diameter_mm] for nodule in self.nodules[series_uid]]
        excluded = [[*finding.center_xyz, finding.diameter_mm] for finding in self.excluded[series_uid]]
        others = json.dumps([[candidate.center_xyz for candidate in self.non_nodules[series_uid]], excluded])
        counts = [SLICES_PER_NODULE, NEGATIVES_PER_SCAN]
        return self._key("places of crops", series_uid, nodules, zlib.crc32(others.encode()), counts)

    def _key(self, kind: str, series_uid: str, *details: Any) -> str:
        """All that the value depends on."""
        signature = scan_signature(self._find_scan(series_uid))
        centers = sorted(nodule.center_xyz for nodule in self.nodules[series_uid])
        threshold_hu, rule_details = self.labels.rule_of(series_uid).key(self.nodules[series_uid])
        return json.dumps([kind, series_uid, *details, threshold_hu, signature, centers, *rule_details])


def describe_rebuilt(count: int) -> str:
    return f"Damaged values in the cache, which are made anew: {count}. If this comes back, the disk is failing."
