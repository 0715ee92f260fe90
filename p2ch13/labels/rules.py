"""Choose the label rule of each scan: the book's box, the refined rule, LIDC-IDRI's readers, or mask files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2ch13.config import MASK_THRESHOLD_HU, REFINED_THRESHOLD_HU, LabelOptions
from p2ch13.labels.box import BoxRule
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.lidc import ReadingSource, find_outlined, mark_consensus, mark_readings, mark_seen
from p2ch13.labels.lidc_database import find_database, list_series
from p2ch13.labels.lidc_xml import find_readings
from p2ch13.labels.mask import MaskFolder, MaskRule, list_values
from p2ch13.labels.refined import REFINED_RULE, RefinedRule
from p2ch13.labels.regions import LabelRule, MaskRegion, Scan, as_region, find_component
from p2ch13.util.boxes import BoxMask
from p2ch13.util.errors import InputError


@dataclass(frozen=True)
class LidcRule(LabelRule):
    """Mark the consensus of LIDC-IDRI's readers, annotated or not.

    A nodule's region is the component nearest to its center, within its radius plus a voxel. The refined rule marks an
    annotated nodule without one, whose readers agree on no voxel: without a mask, training would use it as a negative.
    """

    source: ReadingSource

    def key(self, nodules: Sequence[CandidateInfoTuple]) -> tuple[None, list[Any]]:
        return None, ["lidc", *self.source.key(), *REFINED_RULE.key(nodules)]

    def mark_nodule(self, scan: Scan, nodule: CandidateInfoTuple) -> MaskRegion:
        components = [BoxMask(part.box, part.mark(part.box)) for part in scan.parts]  # reads the file once
        component = find_component([one for one in components if one.mask.any()], scan, nodule)
        return REFINED_RULE.mark_nodule(scan, nodule) if component is None else as_region(component)

    def mark_scan(self, scan: Scan) -> list[MaskRegion]:
        components = list(map(scan.place_stored, mark_consensus(self.source, scan.header)))
        unmarked = [nodule for nodule in scan.nodules if find_component(components, scan, nodule) is None]
        return [*map(as_region, components), *REFINED_RULE.mark_nodules(scan, unmarked)]

    def mark_seen(self, scan: Scan) -> list[MaskRegion]:
        """Mark the contours of single readers as well; LUNA16 counts them neither as nodules nor as non-nodules."""
        seen = map(scan.place_stored, mark_seen(self.source, scan.header))
        return [*scan.parts, *map(as_region, seen)]

    def mark_readers(self, scan: Scan) -> list[list[BoxMask]]:
        """Mark what each reader outlined of each nodule of the scan, without readers who outlined nothing of it.

        Returns: for each of `scan.nodules`, a mask for each reader; see `find_outlined`.
        """
        stored = mark_readings(self.source, scan.header)
        readings = [[scan.place_stored(part) for part in reading] for reading in stored]
        regions = self.mark_nodules(scan, scan.nodules)
        return [find_outlined(BoxMask(region.box, region.mark(region.box)), readings) for region in regions]


class Labels:
    """Assign a label rule to each scan.

    Args:
        options: the user's choice.
        series_list: the scans' UIDs.
        masks: beside the scans.
    Attributes: `series_list`, the labeled scans; `mask_values`, of the nodules' voxels in masks, none: all above 0;
        `notes`, messages for the user.
    Raises: InputError if the readers' files or the masks cannot be used, or no scan is left.
    """

    def __init__(self, options: LabelOptions, series_list: Sequence[str], masks: MaskFolder | None = None) -> None:
        self.series_list = list(series_list)
        self.mask_values: tuple[int, ...] = ()
        self.notes: list[str] = []
        self._rules: dict[str, LabelRule] = {}  # by series UID, where not the default
        self._default_rule: LabelRule = BoxRule(pick(options.threshold_hu, MASK_THRESHOLD_HU))
        if options.labels == "refined":
            self._default_rule = RefinedRule(pick(options.threshold_hu, REFINED_THRESHOLD_HU))
        if options.labels == "lidc":
            self._find_readings(options.lidc_xml, options.missing_xml == "leave-out")
        if options.labels == "mask":
            if masks is None:
                raise ValueError("labels from masks need a folder of masks")
            self.mask_values = masks.choose_values(options.mask_label)
            self._find_masks(masks)

    def rule_of(self, series_uid: str) -> LabelRule:
        return self._rules.get(series_uid, self._default_rule)

    def _find_readings(self, xml_dir: Path | None, leave_out: bool) -> None:
        found: Mapping[str, ReadingSource]
        if xml_dir is None:
            path, option = find_database(), "--labels"
            found = list_series(path)
        else:
            path, option = xml_dir, "--lidc-xml"
            found, unreadable = find_readings(path)
            self.notes += [f"Not used: {line}" for line in unreadable]
        self._rules = {
            series_uid: LidcRule(found[series_uid]) for series_uid in self.series_list if series_uid in found
        }
        scan_count, labeled_count = len(self.series_list), len(self._rules)
        if leave_out:
            self.series_list = list(self._rules)
        if not self.series_list:
            raise InputError(
                f"no readings of any of the {scan_count} scans; correct {option}", path=path, option=option
            )
        note = f"Labels: readers' contours of {labeled_count} of {scan_count} scans"
        if labeled_count < scan_count:
            note += f"; the others are {'left out' if leave_out else 'marked with the box'}"
        self.notes.append(f"{note}.")

    def _find_masks(self, masks: MaskFolder) -> None:
        found = masks.find()
        self._rules = {uid: MaskRule(found[uid], self.mask_values) for uid in self.series_list if uid in found}
        without_mask = [uid for uid in self.series_list if uid not in found]
        without_scan = [uid for uid in found if uid not in self._rules]
        self.series_list = list(self._rules)
        if not self.series_list:
            message = f"no mask of any of the {len(without_mask)} scans, such as {without_mask[0]}.nii.gz; add them"
            raise InputError(message, path=masks.path, option="--labels")
        self.notes.append(f"Labels: masks of {len(self._rules)} of {len(self._rules) + len(without_mask)} scans.")
        if without_mask:
            self.notes.append(f"Left out for want of a mask: {len(without_mask)}, such as {without_mask[0]}.")
        if without_scan:
            self.notes.append(f"Masks without a scan: {len(without_scan)}, such as {found[without_scan[0]].name}.")
        if not self.mask_values:
            self._note_values(found[self.series_list[0]])

    def _note_values(self, mask_path: Path) -> None:
        """Note that several values are nodule, by the first mask: reading all would take too long."""
        with suppress(InputError):  # its scan is skipped with this error
            values = list_values(mask_path)
            if len(values) > 1:
                listed = ", ".join(map(str, values))
                self.notes.append(
                    f"All voxels above 0 are nodule: {mask_path.name} has {listed}. --mask-label chooses one of them."
                )


def pick(value: int | None, default: int) -> int:
    return default if value is None else value
