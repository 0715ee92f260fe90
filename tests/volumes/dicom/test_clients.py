"""Files as dcmtk and dcm2niix write them; pydicom and SimpleITK read them too."""

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut

from p2ch13.acquisition.import_dicom import import_folder
from p2ch13.config import ImportOptions
from p2ch13.data.ct import Ct
from p2ch13.volumes.dicom.search import find_series
from tests.support.dicom_files import SERIES_UID, rewrite, rewrite_all, write_enhanced, write_series
from tests.support.tools import run_tool

# As the encoder gets them: signed, and bits in use.
STORED = [(0, 16), (0, 12), (1, 16), (1, 12)]
ENCODERS = [
    ("dcmcjpeg", "+e1"),  # JPEG lossless, first-order prediction
    ("dcmcjpeg", "+el", "+sv", "6"),
    ("dcmcjpls", "+el"),
    ("dcmcrle",),
    ("dcmconv", "+ti"),
    ("dcmconv", "+tb"),
    ("dcmconv", "+td"),
    ("dcmconv", "+te", "+g"),  # with group lengths
    ("dcmconv", "+ti", "-g", "-e"),
]
DECODERS = {"dcmcjpeg": "dcmdjpeg", "dcmcjpls": "dcmdjpls", "dcmcrle": "dcmdrle"}


def write_stored(folder, hu, signed, bits):
    files = write_series(folder, hu, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed)
    if signed:  # HU as they are
        rewrite_all(files, RescaleIntercept=0)
        for file, one in zip(files, hu, strict=True):
            rewrite(file, PixelData=one.astype("<i2").tobytes())
    return files


@pytest.mark.parametrize(("signed", "bits"), STORED)
@pytest.mark.parametrize("encoder", ENCODERS, ids=" ".join)
def test_encoded_by_dcmtk_and_decoded_again(tmp_path, hu, encoder, signed, bits):
    encoded, decoded = tmp_path / "encoded", tmp_path / "decoded"
    for folder in (encoded, decoded):
        folder.mkdir()
    for file in write_stored(tmp_path / "plain", hu, signed, bits):
        run_tool(*encoder, file, encoded / file.name)
        if encoder[0] in DECODERS:
            run_tool(DECODERS[encoder[0]], encoded / file.name, decoded / file.name)
    np.testing.assert_array_equal(Ct(tmp_path / "plain").hu, hu)
    np.testing.assert_array_equal(Ct(encoded).hu, hu)
    if encoder[0] in DECODERS:
        np.testing.assert_array_equal(Ct(decoded).hu, hu)


@pytest.mark.parametrize("encoder", ["dcmcrle", "dcmcjpeg", "dcmcjpls"])
def test_enhanced_files_encoded_by_dcmtk(tmp_path, hu, encoder):
    plain = write_enhanced(tmp_path / "ct.dcm", hu, order=[3, 0, 5, 1, 4, 2])
    (tmp_path / "encoded").mkdir()
    run_tool(encoder, plain, tmp_path / "encoded" / "ct.dcm")
    np.testing.assert_array_equal(Ct(tmp_path / "encoded").hu, hu)


def test_lossy_pixels_are_those_that_dcmtk_decodes(tmp_path, hu):
    """JPEG extended, 12 bits."""
    for folder in ("encoded", "decoded"):
        (tmp_path / folder).mkdir()
    for file in write_stored(tmp_path / "plain", hu, 0, 12):
        run_tool("dcmcjpeg", "+ee", "+q", "95", file, tmp_path / "encoded" / file.name)
        run_tool("dcmdjpeg", tmp_path / "encoded" / file.name, tmp_path / "decoded" / file.name)
    encoded, decoded = (Ct(tmp_path / folder).hu for folder in ("encoded", "decoded"))
    assert np.abs(encoded.astype(int) - decoded).max() <= 1  # decoders may round differently
    assert np.abs(encoded.astype(int) - hu).max() < 100


def test_dumped_and_made_again(tmp_path, hu):
    (tmp_path / "made").mkdir()
    for file in write_series(tmp_path / "plain", hu):
        text = tmp_path / f"{file.stem}.txt"
        text.write_text(run_tool("dcmdump", "+L", "-q", file), encoding="latin-1")
        run_tool("dump2dcm", "+te", text, tmp_path / "made" / file.name)
    np.testing.assert_array_equal(Ct(tmp_path / "made").hu, hu)


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir"])
def test_a_disk_with_a_directory(tmp_path, hu, name):
    """As hospitals hand them over: DICOMDIR and a folder of files without suffix."""
    names = [f"IM{ndx:06}" for ndx in range(len(hu))]
    files = write_series(tmp_path / "DICOM", hu, names=names, StudyDate="20200101", StudyTime="120000", StudyID="1")
    run_tool(
        "dcmmkdir", "-Pgp", "+D", tmp_path / name, "+id", tmp_path, *(file.relative_to(tmp_path) for file in files)
    )
    assert dcmread(tmp_path / name).DirectoryRecordSequence
    search = find_series(tmp_path)
    assert dict(search.left_out) == {"Media Storage Directory Storage": 1}
    np.testing.assert_array_equal(Ct(tmp_path).hu, hu)
    assert import_folder(ImportOptions(folder=tmp_path, data_dir=tmp_path / "luna", num_workers=1)).status == 0
    np.testing.assert_array_equal(Ct(tmp_path / "luna" / "subset_dicom" / f"{SERIES_UID}.mhd").hu, hu)


@pytest.mark.parametrize("cosines", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0)])
def test_nifti_of_dcm2niix(tmp_path, hu, cosines):
    """The same voxels at the same places in the patient, whatever the order of the file."""
    write_series(tmp_path / "plain", hu, cosines=cosines, Manufacturer="X", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    run_tool("dcm2niix", "-z", "y", "-f", "scan", "-o", tmp_path, tmp_path / "plain")
    dicom, nifti = Ct(tmp_path / "plain"), Ct(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(nifti.hu, dicom.hu)
    for irc in ((0, 0, 0), (5, 19, 21), (2, 3, 4)):
        assert nifti.to_xyz(irc) == pytest.approx(dicom.to_xyz(irc), abs=1e-3)


@pytest.mark.parametrize(("signed", "bits"), STORED)
def test_pydicom_and_simpleitk_read_the_same(tmp_path, hu, signed, bits):
    files = write_stored(tmp_path, hu, signed, bits)
    ct = Ct(tmp_path)
    by_pydicom = np.stack([apply_modality_lut(data.pixel_array, data) for data in map(dcmread, files)])
    np.testing.assert_array_equal(ct.hu, by_pydicom)
    np.testing.assert_array_equal(ct.hu, sitk.GetArrayFromImage(sitk.ReadImage([str(file) for file in files])))
