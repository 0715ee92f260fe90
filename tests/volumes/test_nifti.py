"""Each field of NIfTI-1 and NIfTI-2 that is used: absent, zero, negative, NaN, doubled, contradicted by another."""

import gzip
import math

import nibabel as nib
import numpy as np
import pytest

from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.format_files import CHEST, ORIGIN_XYZ, SHAPE_IRC, SPACING_XYZ, write_nifti

X, Y, Z = SPACING_XYZ
RIGHT, FRONT, TOP = ORIGIN_XYZ * (-1, -1, 1)
NAN, INF = math.nan, math.inf
ROW = [-X, 0, 0, RIGHT, 0, -Y, 0, FRONT, 0, 0, Z, TOP]
NO_FORM = {"qform_code": 0, "sform_code": 0}
LEAST_SHEAR = X / 2 / (5 * Z)  # of the slices' axis: it moves the last slice by half a pixel
EXTENSION = bytes(16)
HU = CHEST.astype("<i2").tobytes()


def sheared(shear, **more):
    row = [*ROW]
    row[6] = shear * Z  # slices move to the front
    return {"srow": row, **more}


def in_units(scale):
    """All lengths in another unit."""
    row = [value * scale for value in ROW]
    return {"pixdim": [1, X * scale, Y * scale, Z * scale, 0, 0, 0, 0], "qoffset": row[3::4], "srow": row}


# Of the header, what is changed; of the voxels, other bytes. All are read as the chest at its place.
READ = {
    "as it is": ({}, HU),
    "dim: four of one": ({"dim": [4, *SHAPE_IRC[::-1], 1, 1, 1, 1]}, HU),
    "dim: seven of one": ({"dim": [7, *SHAPE_IRC[::-1], 1, 1, 1, 1]}, HU),
    "dim: a fourth of 0, as of 1": ({"dim": [4, *SHAPE_IRC[::-1], 0, 1, 1, 1]}, HU),
    "dim: beyond the third ignored": ({"dim": [3, *SHAPE_IRC[::-1], -5, 9, 0, 77]}, HU),
    "bitpix: absent": ({"bitpix": 0}, HU),
    "datatype: float": ({"datatype": 16, "bitpix": 32}, CHEST.astype("<f4").tobytes()),
    "datatype: double": ({"datatype": 64, "bitpix": 64}, CHEST.astype("<f8").tobytes()),
    "datatype: int32": ({"datatype": 8, "bitpix": 32}, CHEST.astype("<i4").tobytes()),
    "datatype: int64": ({"datatype": 1024, "bitpix": 64}, CHEST.astype("<i8").tobytes()),
    "scl: HU + 1024": ({"scl_inter": -1024}, (CHEST + 1024).astype("<i2").tobytes()),
    "scl: unsigned": ({"scl_inter": -1024, "datatype": 512}, (CHEST + 1024).astype("<u2").tobytes()),
    "scl: unsigned, 64 bits": (
        {"scl_inter": -1024, "datatype": 1280, "bitpix": 64},
        (CHEST.astype(np.int64) + 1024).astype("<u8").tobytes(),
    ),
    "scl: a slope": (
        {"scl_slope": 0.5, "scl_inter": -1024},
        ((CHEST.astype(np.int32) + 1024) * 2).astype("<i2").tobytes(),
    ),
    "scl: a negative slope": ({"scl_slope": -1}, (-CHEST).astype("<i2").tobytes()),
    "scl_slope: 0 is none": ({"scl_slope": 0, "scl_inter": 7}, HU),
    "scl_slope: NaN is none": ({"scl_slope": NAN, "scl_inter": NAN}, HU),
    "vox_offset: an extension": ({"vox_offset": None}, EXTENSION + HU),
    "voxels: a few bytes behind them": ({}, HU + bytes(100)),
    "pixdim: 1 beside an sform": ({"qform_code": 0, "pixdim": [1] * 8}, HU),
    "pixdim: 0 beside an sform": ({"qform_code": 0, "pixdim": [0] * 8}, HU),
    "pixdim: NaN beside an sform": ({"qform_code": 0, "pixdim": [NAN] * 8}, HU),
    "pixdim: negative beside an sform": ({"qform_code": 0, "pixdim": [1, -X, Y, -Z, 0, 0, 0, 0]}, HU),
    "pixdim: rounded beside an sform": ({"pixdim": [1, X * 1.001, Y, Z, 0, 0, 0, 0]}, HU),
    "pixdim[0]: 0 is 1": ({"sform_code": 0, "pixdim": [0, X, Y, Z, 0, 0, 0, 0]}, HU),
    "sform alone": ({"qform_code": 0, "quatern": [NAN] * 3, "qoffset": [NAN] * 3}, HU),
    "qform alone": ({"sform_code": 0, "srow": [NAN] * 12}, HU),
    "quatern: rounded": ({"quatern": [0, 0, 1.0003]}, HU),
    "forms of several codes": ({"qform_code": 2, "sform_code": 4}, HU),
    "forms that differ by rounding": ({"qoffset": [RIGHT + 0.4, FRONT - 0.4, TOP]}, HU),
    "srow: a hair off a right angle": (sheared(LEAST_SHEAR / 50), HU),
    "xyzt_units: unknown": ({"xyzt_units": 0}, HU),
    "xyzt_units: micrometers": ({"xyzt_units": 3, **in_units(1000)}, HU),
    "xyzt_units: meters": ({"xyzt_units": 1, **in_units(1 / 1000)}, HU),
    "xyzt_units: mm and seconds": ({"xyzt_units": 2 + 8}, HU),
    "others are ignored": (
        {"cal_max": NAN, "toffset": INF, "slice_code": 99, "slice_start": -3, "intent_code": 1002, "dim_info": 255}
        | {"descrip": b"\xff" * 80, "intent_name": b"label"},
        HU,
    ),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", READ)
def test_what_is_read(tmp_path, name, version, caplog):
    fields, data = READ[name]
    if "vox_offset" in fields:
        fields = {"vox_offset": {1: 352, 2: 544}[version] + len(EXTENSION)}
    if fields.get("datatype") == 512:
        fields = {**fields, "bitpix": 16}
    volume = Volume(write_nifti(tmp_path / "scan.nii", fields, data, version))
    np.testing.assert_array_equal(volume.hu, CHEST)
    assert_at_its_place(volume)
    assert not caplog.text


def assert_at_its_place(volume, origin=ORIGIN_XYZ, atol_mm=0.1):
    np.testing.assert_allclose(volume.vx_size_xyz, SPACING_XYZ, rtol=1e-5)
    np.testing.assert_allclose(volume.origin_xyz, origin, atol=atol_mm * 5)
    np.testing.assert_allclose(volume.direction, np.eye(3), atol=0.005)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
def test_bytes_of_either_order(tmp_path, version, order, name):
    path = write_nifti(tmp_path / name.lower(), {"pixdim": [1, X, Y, Z, 0, 0, 0, 0]}, None, version, order)
    volume = Volume(path.rename(tmp_path / name))
    np.testing.assert_array_equal(volume.hu, CHEST)
    assert (volume.series_uid, volume.shape_irc) == (name[:4], SHAPE_IRC)
    assert_at_its_place(volume)


@pytest.mark.parametrize(("written", "named"), [("a.nii.gz", "b.nii"), ("a.nii", "b.nii.gz")])
def test_compression_is_seen_in_the_file_not_in_its_name(tmp_path, written, named):
    path = write_nifti(tmp_path / written).rename(tmp_path / named)
    np.testing.assert_array_equal(Volume(path).hu, CHEST)


def test_gzip_of_several_parts(tmp_path):
    """As pigz and bgzip write it, with padding behind."""
    content = write_nifti(tmp_path / "a.nii").read_bytes()
    parts = [gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000)]
    path = tmp_path / "b.nii.gz"
    path.write_bytes(b"".join(parts) + bytes(512))
    np.testing.assert_array_equal(Volume(path).hu, CHEST)
    path.write_bytes(b"".join(parts[:-1]))
    with refused(path):
        _ = Volume(path).hu


def test_a_turn_of_the_third_axis(tmp_path):
    """By pixdim[0] alone: slices from head to feet."""
    volume = Volume(write_nifti(tmp_path / "a.nii", {"sform_code": 0, "pixdim": [-1, X, Y, Z, 0, 0, 0, 0]}))
    np.testing.assert_array_equal(volume.hu, CHEST[::-1])
    assert_at_its_place(volume, ORIGIN_XYZ - (0, 0, 5 * Z))


SIZES = {"dim": [3, *SHAPE_IRC[::-1], 1, 1, 1, 1]}
REFUSED = {
    "sizeof_hdr": {"sizeof_hdr": 0},
    "magic: none, as Analyze has": {"magic": b""},
    "magic: a pair of files": {"magic": b"ni1"},
    "dim[0]: 0": {"dim": [0, *SHAPE_IRC[::-1], 1, 1, 1, 1]},
    "dim[0]: 2": {"dim": [2, *SHAPE_IRC[::-1], 1, 1, 1, 1]},
    "dim[0]: 8": {"dim": [8, *SHAPE_IRC[::-1], 1, 1, 1, 1]},
    "dim[0]: negative": {"dim": [-3, *SHAPE_IRC[::-1], 1, 1, 1, 1]},
    "dim: 0": {"dim": [3, 24, 20, 0, 1, 1, 1, 1]},
    "dim: negative": {"dim": [3, 24, -20, 6, 1, 1, 1, 1]},
    "dim: two volumes": {"dim": [4, 24, 20, 3, 2, 1, 1, 1]},
    "dim: vectors": {"dim": [5, 24, 20, 2, 1, 3, 1, 1]},
    "dim: a slice more than there is": {"dim": [3, 24, 20, 7, 1, 1, 1, 1]},
    "dim: a slice less than there is": {"dim": [3, 24, 20, 5, 1, 1, 1, 1]},
    "datatype: 0": {"datatype": 0},
    "datatype: bits": {"datatype": 1, "bitpix": 1},
    "datatype: colors": {"datatype": 128, "bitpix": 24},
    "datatype: complex": {"datatype": 32, "bitpix": 64},
    "bitpix: not the datatype's": {"bitpix": 8},
    "vox_offset: 0": {"vox_offset": 0},
    "vox_offset: in the header": {"vox_offset": 300},
    "vox_offset: negative": {"vox_offset": -352},
    "vox_offset: half a byte": {"vox_offset": 352.5},
    "vox_offset: NaN": {"vox_offset": NAN},
    "vox_offset: beyond the end": {"vox_offset": 1e9},
    "scl_slope: infinite": {"scl_slope": INF},
    "scl_inter: NaN": {"scl_inter": NAN},
    "scl_inter: infinite": {"scl_inter": -INF},
    "xyzt_units: none of NIfTI's": {"xyzt_units": 5},
    "xyzt_units: m of lengths in mm": {"xyzt_units": 1},
    "xyzt_units: micrometers of lengths in mm": {"xyzt_units": 3},
    "qform_code: negative": {"qform_code": -1},
    "sform_code: negative": {"sform_code": -1},
    "pixdim: 0": {"pixdim": [1, X, 0, Z, 0, 0, 0, 0], "sform_code": 0},
    "pixdim: negative": {"pixdim": [1, -X, Y, Z, 0, 0, 0, 0]},
    "pixdim: NaN": {"pixdim": [1, X, Y, NAN, 0, 0, 0, 0]},
    "pixdim: infinite": {"pixdim": [1, X, Y, INF, 0, 0, 0, 0], "sform_code": 0},
    "pixdim: not the sform's": {"pixdim": [1, X, Y, 2 * Z, 0, 0, 0, 0], "qform_code": 0},
    "pixdim: absent, without a form": {"pixdim": [0] * 8, **NO_FORM},
    "nothing is known": {"pixdim": [1] * 8, "xyzt_units": 0, **NO_FORM},
    "pixdim[0]: NaN": {"pixdim": [NAN, X, Y, Z, 0, 0, 0, 0]},
    "quatern: NaN": {"quatern": [0, NAN, 1]},
    "quatern: too long": {"quatern": [0, 0.2, 1]},
    "qoffset: NaN": {"qoffset": [RIGHT, NAN, TOP]},
    "srow: NaN": {"srow": [*ROW[:3], NAN, *ROW[4:]]},
    "srow: no column": {"srow": [0, 0, 0, RIGHT, *ROW[4:]], "qform_code": 0},
    "srow: two axes alike": {"srow": [-X, -Y, 0, RIGHT, 0, 0, 0, FRONT, 0, 0, Z, TOP], "qform_code": 0},
    "forms: other places": {"qoffset": [RIGHT, FRONT, TOP + 10]},
    "forms: other directions": {"quatern": [0, 0, 0]},
    "forms: a tilted gantry": sheared(math.tan(math.radians(15))),
    "sform: a tilted gantry": sheared(math.tan(math.radians(15)), qform_code=0, pixdim=[1, X, Y, 0, 0, 0, 0, 0]),
    "sform: a slight tilt": sheared(LEAST_SHEAR * 2.1, qform_code=0),
    "a place beyond all scanners": {"qoffset": [1e7, 0, 0], "sform_code": 0},
    "voxels of a meter": in_units(1000),
    "voxels of a micrometer": in_units(1 / 1000),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name, version):
    fields = REFUSED[name]
    if version == 2 and isinstance(fields.get("vox_offset"), float):
        fields = {"vox_offset": 2**62}  # an integer there
    path = write_nifti(tmp_path / "scan.nii", fields, None, version)
    with refused(path):
        _ = Volume(path).hu


def test_a_tilt_is_refused_with_its_angle(tmp_path):
    for fields in (
        REFUSED["forms: a tilted gantry"],
        sheared(-math.tan(math.radians(15)), qform_code=0, pixdim=[1] * 8),
    ):
        path = write_nifti(tmp_path / "scan.nii", fields)
        with refused(path) as caught:
            Volume(path)
        assert "15.0 degrees" in str(caught.value)


@pytest.mark.parametrize("ndx", [0, 1000, CHEST.size - 1])  # in the first slice, a middle one, the last one
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_voxels_that_are_no_numbers(tmp_path, ndx, value, name):
    values = CHEST.astype("<f4").ravel()
    values[ndx] = value
    path = write_nifti(tmp_path / name, {"datatype": 16, "bitpix": 32}, values.tobytes())
    with refused(path):
        _ = Volume(path).hu


def test_an_unknown_orientation_is_read_as_the_standard_does_and_warned_of(tmp_path, caplog):
    """Columns to the right, rows to the front, from 0 on: the first voxel in axial order is the last one of a slice."""
    path = write_nifti(tmp_path / "scan.nii.gz", NO_FORM)
    volume = Volume(path)
    np.testing.assert_array_equal(volume.hu, CHEST[:, ::-1, ::-1])
    np.testing.assert_allclose(volume.origin_xyz, (-23 * X, -19 * Y, 0))
    assert_at_its_place(volume, volume.origin_xyz)
    (line,) = caplog.messages
    assert str(path) in line
    np.testing.assert_allclose(nib.load(path).header.get_base_affine()[:3, :3], np.diag([-X, Y, Z]))  # nibabel's guess


def test_a_length_in_another_unit_is_warned_of(tmp_path, caplog):
    _ = Volume(write_nifti(tmp_path / "scan.nii", in_units(0.5))).hu
    (line,) = caplog.messages
    assert "36 x 40 x 15 mm" in line
