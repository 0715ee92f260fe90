"""ScanIndex: the scans, annotations and label rules of a data folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from p2ch13.config import LabelOptions
from p2ch13.data.ct import Ct
from p2ch13.data.patients import find_patients
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
from p2ch13.util.errors import InputError
from p2ch13.volumes.files import find_scans, no_such_series


class ScanIndex:
    """The scans, annotations and label rules of a data folder.

    Args:
        data_dir: the folder with scans and CSV files, in LUNA16's layout.
        labels: how nodules are marked; None: the book's box.
        nodules: annotations that replace those of the folder's CSV files.
    Attributes: `all_scans`, series UID -> path of all scans on disk, sorted, and `all_series`, their UIDs;
        `series_list`, those that the labels keep; `scans`, series UID -> path; `nodules`, series UID -> its nodules,
        largest first; `patients`, series UID -> patient; `labels`.
    Raises: InputError for a folder or file that cannot be used.
    """

    def __init__(
        self,
        data_dir: Path,
        labels: LabelOptions | None = None,
        nodules: Iterable[CandidateInfoTuple] | None = None,
    ) -> None:
        self.data_dir = data_dir
        scans = find_scans(data_dir)
        self.all_scans = scans
        self.all_series = list(scans)
        self.patients = find_patients(data_dir, scans)
        self.labels = Labels(labels or LabelOptions(), self.all_series)
        self.series_list = self.labels.series_list
        self.scans = {series_uid: scans[series_uid] for series_uid in self.series_list}
        self.nodules = group_by_series(get_nodule_info_list(data_dir, scans=self.scans) if nodules is None else nodules)
        self._latest_ct: Ct | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Drop the open scan for a worker process: pickle would copy its memory map."""
        return {**self.__dict__, "_latest_ct": None}

    @cached_property
    def non_nodules(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its candidates that are not nodules; read on demand, since LUNA16 has half a million."""
        return group_by_series(sort_candidates(read_non_nodules(self.data_dir, self.scans)))

    @cached_property
    def excluded(self) -> defaultdict[str, list[CandidateInfoTuple]]:
        """Series UID -> its excluded findings; empty without an annotations_excluded.csv."""
        csv_path = find_excluded_file(self.data_dir)
        return group_by_series(sort_candidates(read_excluded(csv_path, self.scans)) if csv_path else [])

    def get_path(self, series_uid: str) -> Path:
        """Raises: InputError for a series that is not indexed."""
        if series_uid not in self.scans:
            raise no_such_series(series_uid)
        return self.scans[series_uid]

    def get_ct(self, series_uid: str) -> Ct:
        """Open a scan. The latest one stays open, because samples come series by series.

        Raises: InputError if there is no such scan or it cannot be read.
        """
        if self._latest_ct is None or self._latest_ct.series_uid != series_uid:
            path, rule = self.get_path(series_uid), self.labels.rule_of(series_uid)
            self._latest_ct = Ct(path, self.nodules[series_uid], rule)
        return self._latest_ct

    def keep_labeled(self, series_list: Sequence[str]) -> list[str]:
        """Keep the series that have labels. Raises: InputError if none has."""
        kept = [series_uid for series_uid in series_list if series_uid in self.scans]
        if not kept:
            raise InputError(
                f"the labels skip all of the {len(series_list)} requested scans; choose others with --val-stride or "
                "--series-uid, or add --missing-xml box",
                path=self.data_dir,
            )
        return kept
