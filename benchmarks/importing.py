"""Time of importing a DICOM series, beside SimpleITK's own reader of one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from benchmarks.measure import seconds
from p2ch13.acquisition.import_dicom import import_folder
from p2ch13.config import ImportOptions

SERIES_UID = "1.2.3"
REPEATS = 5


def measure_import(work_dir: Path, slice_count: int, width: int) -> tuple[float, float]:
    """Measure seconds to import a series, and to read it with SimpleITK alone: medians, alternating.

    The import also checks every file, orders the slices and writes the scan. Both read files that are in memory.
    """
    folder = work_dir / "dicom"
    write_dicom_series(folder, slice_count, width)
    ours, theirs = [], []
    options = ImportOptions(folder=folder, data_dir=work_dir / "imported", num_workers=1)
    for _ in range(REPEATS + 1):  # the first import loads pydicom's dictionaries
        ours.append(seconds(partial(import_folder, options)))
        shutil.rmtree(options.data_dir)
        theirs.append(seconds(partial(read_with_itk, folder)))
    return median(ours[1:]), median(theirs[1:])


def read_with_itk(folder: Path) -> None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    reader.Execute()


def write_dicom_series(folder: Path, slice_count: int, width: int) -> None:
    """Write slices of air and noise, 1 mm apart, as scanners do: 16 bits, uncompressed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for ndx in range(slice_count):
        make_slice(rng.integers(24, 1200, size=(width, width), dtype=np.uint16), ndx).save_as(
            folder / f"{ndx:04d}.dcm", enforce_file_format=True
        )


def make_slice(stored: np.ndarray, ndx: int) -> pydicom.Dataset:
    """Make the file of a slice whose stored values are HU + 1024."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{SERIES_UID}.{ndx + 1}"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2", SERIES_UID, "1.2.4"
    dataset.PatientID, dataset.InstanceNumber = "patient", ndx + 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, float(ndx)], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = stored.tobytes()
    return dataset
