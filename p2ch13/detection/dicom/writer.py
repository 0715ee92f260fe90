"""The DICOM files of a scan's findings."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from p2ch13.data.ct import Ct
from p2ch13.detection.dicom.measurement_report import make_report
from p2ch13.detection.dicom.objects import Algorithm, Nodule
from p2ch13.detection.dicom.outlines import outline_findings
from p2ch13.detection.dicom.segmentation import make_segmentation
from p2ch13.detection.dicom.source import Source, read_source
from p2ch13.detection.dicom.structure_set import make_structure_set
from p2ch13.util.errors import InputError
from p2ch13.util.files import atomic_path
from p2ch13.volumes.dicom.tags import quiet_pydicom

SEG, RTSTRUCT, SR = "--dicom-seg", "--rtstruct", "--dicom-sr"  # the options that ask for an object
ENDINGS = {SEG: "_seg.dcm", RTSTRUCT: "_rtstruct.dcm", SR: "_sr.dcm"}  # of the objects' files
OF_HIGHDICOM = (SEG, SR)


def check_library(objects: Sequence[str]) -> None:
    """Raises: InputError if the library that makes the objects is not installed."""
    needed = [option for option in objects if option in OF_HIGHDICOM]
    if needed and find_spec("highdicom") is None:
        raise InputError("highdicom is not installed; pip install highdicom", option=" ".join(needed))


@dataclass(frozen=True, eq=False)
class DicomWriter:
    """Writes the objects of a DICOM series, which were found to be possible before it was searched.

    Attributes: objects: keys of `ENDINGS`.
    """

    source: Source
    objects: Sequence[str]
    algorithm: Algorithm

    @classmethod
    def of(cls, ct: Ct, objects: Sequence[str], networks: Sequence[str]) -> DicomWriter | None:
        """Return the writer of a scan; None if there is nothing to write.

        Args: networks: the names of those that search the scan.
        Raises: InputError, naming the scan or the file, if it is no DICOM series, or objects cannot refer to it.
        """
        if not objects:
            return None
        cure = f"omit {' '.join(objects)}"
        if not ct.header.dicom_slices:
            raise InputError(f"no DICOM series, of which DICOM objects are made; {cure}", path=ct.header.path)
        try:
            return cls(read_source(ct.header), objects, Algorithm.of(networks))
        except InputError as error:
            raise InputError(f"{error.message}; {cure}", path=error.path) from None

    def write(self, stem: Path, labels: NDArray[np.int32], nodules: Sequence[Nodule]) -> None:
        """Write the objects' files.

        Args:
            stem: of the files, without their endings.
            labels: (index, row, col), as stored; the finding's number of each voxel, 0 for none.
        """
        with quiet_libraries():
            for option, made in self._make(labels, nodules).items():
                with atomic_path(stem.with_name(stem.name + ENDINGS[option])) as unfinished:
                    made.save_as(unfinished, enforce_file_format=True)

    def _make(self, labels: NDArray[np.int32], nodules: Sequence[Nodule]) -> dict[str, Dataset]:
        made: dict[str, Dataset] = {}
        if SEG in self.objects:
            made[SEG] = make_segmentation(self.source, labels, nodules, self.algorithm)
        if RTSTRUCT in self.objects:
            outlines = outline_findings(self.source, labels)
            made[RTSTRUCT] = make_structure_set(self.source, outlines, nodules, self.algorithm)
        if SR in self.objects:
            segmentation = made.get(SEG)
            outlines = {} if segmentation is not None else outline_findings(self.source, labels)
            made[SR] = make_report(self.source, outlines, nodules, self.algorithm, segmentation)
        return made


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what is said of UIDs and the format of names, which are the series' own, and of each step."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_pydicom():
            yield
    finally:
        logger.setLevel(level)
