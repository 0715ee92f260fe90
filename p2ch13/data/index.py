"""ScanIndex: the scans, annotations and label rules of a data folder."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.data.layouts import find_layout, list_nodules
from p2ch13.labels.candidates import (
    CandidateInfoTuple,
    find_excluded_file,
    group_by_series,
    read_excluded,
    read_non_nodules,
    sort_candidates,
)
from p2ch13.labels.luna25 import no_diameters
from p2ch13.labels.mask import find_nodules
from p2ch13.labels.patients import find_patients
from p2ch13.labels.rules import Labels
from p2ch13.labels.series_names import OtherSeriesError
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import no_such_series

log = logging.getLogger(__name__)


class LazyNodules(dict[str, list[CandidateInfoTuple]]):
    """Series UID -> its nodules, which are found at the first use. Args: find: finds those of a series."""

    def __init__(self, find: Callable[[str], list[CandidateInfoTuple]]) -> None:
        super().__init__()
        self.find = find

    def __missing__(self, series_uid: str) -> list[CandidateInfoTuple]:
        nodules = self[series_uid] = self.find(series_uid)
        return nodules


class ScanIndex:
    """The scans, annotations and label rules of a data folder.

    Args:
        data_dir: the folder, in one of the layouts of `p2ch13.data.layouts`.
        labels: how nodules are marked; None: the book's box.
        nodules: annotations that replace those of the folder's CSV files.
    Attributes: `all_series`, sorted UIDs of the scans on disk, which are split into training and validation;
        `series_list`, those that the labels keep; `scans`, series UID -> path; `has_annotations`, whether nodules are
        annotated, or else are the components of the masks; `nodules`, series UID -> its nodules, largest first; masks
        are read one by one, as their nodules are used; `lack_of_nodules`, the error of annotations that are all of
        other scans; `patients`, series UID -> patient; `labels`.
    Raises: InputError for a folder or file that cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        labels: LabelOptions | None = None,
        nodules: Iterable[CandidateInfoTuple] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.layout = find_layout(data_dir)
        options = labels or LabelOptions()
        self.all_series = list(self.layout.scans)
        self.patients = find_patients(data_dir, self.all_series)
        self.labels = Labels(options, self.all_series, self.layout.masks)
        self.series_list = self.labels.series_list
        self.scans = {series_uid: self.layout.scans[series_uid] for series_uid in self.series_list}
        self.lack_of_nodules: OtherSeriesError | None = None
        annotations = self._read_annotations(options.labels) if nodules is None else nodules
        self.has_annotations = annotations is not None
        self.nodules: dict[str, list[CandidateInfoTuple]] = (
            LazyNodules(self.find_nodules) if annotations is None else group_by_series(annotations)
        )
        self._latest_ct: Ct | None = None

    def _read_annotations(self, label_kind: str) -> list[CandidateInfoTuple] | None:
        """Read the nodules of the CSV files; None if there are none and the masks have them."""
        layout = self.layout
        if not layout.has_annotations:
            if label_kind == "mask":
                return None
            if not layout.is_luna16:
                message = "no annotations.csv; train and score by the masks, with --labels mask"
                raise InputError(message, path=self.data_dir, option="--labels")
        if layout.luna25_file is not None and label_kind == "refined":
            raise no_diameters(layout.luna25_file)
        try:
            nodules = list_nodules(self.data_dir, layout.scans)
        except OtherSeriesError as error:
            if not self._has_candidates():
                raise
            log.warning(f"No nodule: {error}.")
            self.lack_of_nodules, nodules = error, []
        return [nodule for nodule in nodules if nodule.series_uid in self.scans]

    def _has_candidates(self) -> bool:
        """Whether the list of candidates is of these scans: LUNA16's are in all of its scans, its nodules in most."""
        with suppress(InputError):
            return any(self.non_nodules.values())
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Drop the open scan for a worker process: pickle would copy its memory map."""
        return {**self.__dict__, "_latest_ct": None}

    @cached_property
    def non_nodules(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its candidates that are not nodules, if any; read on demand, as LUNA16 has half a million."""
        non_nodules = read_non_nodules(self.data_dir, self.layout.scans) if self.layout.has_candidates else []
        return group_by_series(sort_candidates(non_nodules))

    @cached_property
    def excluded(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its excluded findings; empty without an annotations_excluded.csv."""
        csv_path = find_excluded_file(self.data_dir)
        return group_by_series(sort_candidates(read_excluded(csv_path, self.layout.scans)) if csv_path else [])

    def get_path(self, series_uid: str) -> Path:
        """Raises: InputError for a series that is not indexed."""
        if series_uid not in self.scans:
            raise no_such_series(series_uid)
        return self.scans[series_uid]

    def get_ct(self, series_uid: str) -> Ct:
        """Open a scan. The latest one stays open, because samples come series by series.

        Raises: InputError if there is no such scan or it cannot be read.
        """
        path, rule = self.get_path(series_uid), self.labels.rule_of(series_uid)
        nodules = self.nodules[series_uid]  # of a mask that is read for them the scan is open then
        if self._latest_ct is None or self._latest_ct.series_uid != series_uid:
            self._latest_ct = Ct(path, nodules, rule, series_uid)
        return self._latest_ct

    def is_readable(self, series_uid: str) -> bool:
        """Whether a scan's header can be read."""
        with suppress(InputError):
            return self.get_ct(series_uid).header is not None
        return False

    def get_annotations(self, series_uid: str) -> list[CandidateInfoTuple]:
        """Return the annotated nodules of a scan; none where nodules are the components of its mask."""
        return self.nodules[series_uid] if self.has_annotations else []

    def find_nodules(self, series_uid: str) -> list[CandidateInfoTuple]:
        """Make nodules of the components of a scan's mask, and leave the scan open: its mask is read once.

        Raises: InputError, see `get_ct`.
        """
        ct = self._latest_ct = Ct(self.get_path(series_uid), (), self.labels.rule_of(series_uid), series_uid)
        nodules = find_nodules(ct)
        ct.nodules = tuple(nodules)
        return nodules

    def no_nodules(self, series_list: Sequence[str]) -> InputError | None:
        """Explain that none of these series has a nodule, where nodules are the components of masks; else None."""
        if self.has_annotations or not series_list:
            return None
        return self.layout.masks.no_nodules(series_list[0], self.labels.mask_values)

    def keep_labeled(self, series_list: Sequence[str]) -> list[str]:
        """Keep the series that have labels. Raises: InputError if none has."""
        kept = [series_uid for series_uid in series_list if series_uid in self.scans]
        if not kept:
            raise InputError(
                f"the labels skip all of the {len(series_list)} requested scans; choose others with --val-stride or "
                "--series-uid, or add --missing-xml box, or masks",
                path=self.data_dir,
            )
        return kept
