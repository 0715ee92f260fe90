"""Each field of NRRD that is used: absent, zero, negative, NaN, doubled, in another unit, contradicted by another."""

import gzip
import zlib

import numpy as np
import pytest

from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.format_files import CHEST, GAP, ORIGIN_XYZ, SHAPE_IRC, SPACING_XYZ, join, write_nrrd

HU = CHEST.astype("<i2").tobytes()
BIG = CHEST.astype(">i2").tobytes()
STEPS = np.diag(SPACING_XYZ)
NO_SPACE = {"space": GAP, "space directions": GAP, "space origin": GAP}


def vectors(columns):
    return " ".join(f"({','.join(f'{value:g}' for value in column)})" for column in np.transpose(columns))


def in_units(names, scale, to_lps=(1, 1, 1)):
    """All lengths in another unit, or along other axes."""
    scale = np.multiply(scale, to_lps)
    origin = vectors((scale * ORIGIN_XYZ)[:, None])
    return {"space units": names, "space directions": vectors(np.diag(scale) @ STEPS), "space origin": origin}


# Of the header, what is changed; of the voxels, other bytes. All are read as the chest at its place.
READ = {
    "as it is": ({}, HU),
    "space: LPS": ({"space": "LPS"}, HU),
    "space: blanks in its name": ({"space": "Left Posterior Superior"}, HU),
    "space: RAS": ({"space": "right-anterior-superior", **in_units(GAP, 1, (-1, -1, 1))}, HU),
    "space: LAS": ({"space": "las", **in_units(GAP, 1, (1, -1, 1))}, HU),
    "space units: mm": (in_units('"mm" "mm" "mm"', 1), HU),
    "space units: unknown": (in_units('"" "" ""', 1), HU),
    "space units: cm": (in_units('"cm" "cm" "cm"', 0.1), HU),
    "space units: micrometers": (in_units('"um" "\N{GREEK SMALL LETTER MU}m" "micron"', 1000), HU),
    "space units: m, without quotes": (in_units("m", 0.001), HU),
    "space units: one differs": (in_units('"cm" "mm" "mm"', (0.1, 1, 1)), HU),
    "dimension: an axis of one before": (
        {"dimension": 4, "sizes": join([1, *SHAPE_IRC[::-1]]), "space directions": f"none {vectors(STEPS)}"},
        HU,
    ),
    "dimension: an axis of one behind": (
        {"dimension": 4, "sizes": join([*SHAPE_IRC[::-1], 1]), "space directions": f"{vectors(STEPS)} none"},
        HU,
    ),
    "spacings beside directions": ({"spacings": "3 4 5"}, HU),
    "spacings in cm beside directions": ({"spacings": "0.3 0.4 0.5", "units": '"cm" "cm" "cm"'}, HU),
    "thicknesses, centerings, kinds: ignored": (
        {"thicknesses": "1 1 nan", "centerings": "node cell ???", "kinds": "RGB-color ??? none", "content": "CT: a"},
        HU,
    ),
    "measurement frame, min, max: ignored": ({"measurement frame": "(9,0,0) (0,0,0)", "min": "nan", "old max": 3}, HU),
    "fields in large letters and one word": (
        {"sizes": GAP, "SIZES": "24 20 6", "space origin": GAP, "spaceorigin": "(-36,-40,100)"},
        HU,
    ),
    "comments and keys": ({"# comment": "x", "content": "a: b = c\ndata file:=x\nsizes:=1\nModality:=CT"}, HU),
    "letters beyond ASCII": ({"content": "Thorax, \xfcberlagert"}, HU),
    "type: int16": ({"type": "int16"}, HU),
    "type: signed short int": ({"type": "signed short int"}, HU),
    "type: int": ({"type": "int"}, CHEST.astype("<i4").tobytes()),
    "type: long long": ({"type": "long long"}, CHEST.astype("<i8").tobytes()),
    "type: float": ({"type": "float"}, CHEST.astype("<f4").tobytes()),
    "type: double, big": ({"type": "double", "endian": "big"}, CHEST.astype(">f8").tobytes()),
    "endian: big": ({"endian": "big"}, BIG),
    "encoding: gzip": ({"encoding": "gzip"}, gzip.compress(HU)),
    "encoding: gz, of two parts": ({"encoding": "gz"}, gzip.compress(HU[:500]) + gzip.compress(HU[500:])),
    "encoding: text": ({"encoding": "ascii", "endian": GAP}, " ".join(map(str, CHEST.ravel())).encode()),
    "encoding: hex": ({"encoding": "hex"}, HU.hex().encode()),
    "line skip": ({"line skip": 2}, b"one\ntwo\n" + HU),
    "byte skip": ({"byte skip": 5}, b"fiver" + HU),
    "byte skip: -1": ({"byte skip": -1}, b"anything" + HU),
    "line skip and byte skip, compressed": (
        {"encoding": "gzip", "line skip": 1, "byte skip": 5},
        b"one\n" + gzip.compress(b"fiver" + HU),
    ),
}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", READ)
def test_what_is_read(tmp_path, name, line_end, caplog):
    fields, data = READ[name]
    path = write_nrrd(tmp_path / "scan.nrrd", fields, b"")
    path.write_bytes(path.read_bytes().replace(b"\n", line_end) + data)
    volume = Volume(path)
    np.testing.assert_array_equal(volume.hu, CHEST)
    np.testing.assert_allclose(volume.vx_size_xyz, SPACING_XYZ)
    np.testing.assert_allclose(volume.origin_xyz, ORIGIN_XYZ)
    np.testing.assert_allclose(volume.direction, np.eye(3), atol=1e-9)
    assert not caplog.text


SHEARED = STEPS.copy()
SHEARED[1, 2] = 1.3
REFUSED = {
    "space: letters of another program": {"space": "RAI"},
    "space: that of four dimensions": {"space": "right-anterior-superior-time"},
    "space: its letters": {"space": "LPST"},
    "dimension: not that of sizes": {"dimension": 2},
    "dimension: absent": {"dimension": GAP},
    "dimension: two": {"dimension": 2, "sizes": "24 120", "space directions": "(3,0,0) (0,4,0)"},
    "dimension: three values per voxel": {
        "dimension": 4,
        "sizes": "3 24 20 2",
        "space directions": f"none {vectors(STEPS)}",
    },
    "dimension: two volumes": {"dimension": 4, "sizes": "24 20 3 2", "space directions": f"{vectors(STEPS)} none"},
    "sizes: absent": {"sizes": GAP},
    "sizes: 0": {"sizes": "24 0 6"},
    "sizes: negative": {"sizes": "24 20 -6"},
    "sizes: a slice more than there is": {"sizes": "24 20 7"},
    "sizes: a slice less than there is": {"sizes": "24 20 5"},
    "sizes twice": {"sizes": "24 20 6\nsizes: 20 24 6"},
    "type: absent": {"type": GAP},
    "type: block": {"type": "block"},
    "type: another length": {"type": "int"},
    "encoding: absent": {"encoding": GAP},
    "encoding: bzip2": {"encoding": "bzip2"},
    "encoding: gzip of raw voxels": {"encoding": "gzip"},
    "encoding: text of raw voxels": {"encoding": "text"},
    "encoding: hex of raw voxels": {"encoding": "hex"},
    "endian: absent": {"endian": GAP},
    "endian: neither": {"endian": "middle"},
    "data file": {"data file": "other.raw"},
    "line skip: negative": {"line skip": -1},
    "byte skip: -2": {"byte skip": -2},
    "byte skip: -1 and compressed": {"byte skip": -1, "encoding": "gzip"},
    "byte skip: beyond the end": {"byte skip": 10**8},
    "space directions and spacings: absent": {**NO_SPACE},
    "space directions: one is none": {"space directions": "(3,0,0) (0,4,0) none"},
    "space directions: two of three": {"space directions": "(3,0,0) (0,4,0)"},
    "space directions: zeros": {"space directions": "(3,0,0) (0,0,0) (0,0,5)"},
    "space directions: NaN": {"space directions": "(3,0,0) (0,nan,0) (0,0,5)"},
    "space directions: two numbers": {"space directions": "(3,0) (0,4) (0,0)"},
    "space directions: no vectors": {"space directions": "3 4 5"},
    "space directions: sheared": {"space directions": vectors(SHEARED)},
    "space directions: alike": {"space directions": "(3,0,0) (3,0,0) (0,0,5)"},
    "space directions: of a micrometer": in_units('"um" "um" "um"', 1),
    "space directions: of a meter": in_units('"m" "m" "m"', 1),
    "spacings: not the directions'": {"spacings": "3 4 10"},
    "spacings: 0": {**NO_SPACE, "spacings": "3 0 5"},
    "spacings: negative": {**NO_SPACE, "spacings": "3 4 -5"},
    "spacings: NaN": {**NO_SPACE, "spacings": "3 4 nan"},
    "spacings: infinite": {**NO_SPACE, "spacings": "3 4 inf"},
    "spacings: two of three": {**NO_SPACE, "spacings": "3 4"},
    "units: inches": {**NO_SPACE, "spacings": "3 4 5", "units": '"in" "in" "in"'},
    "space units: inches": {"space units": '"in" "in" "in"'},
    "space units: two of three": {"space units": '"mm" "mm"'},
    "space origin: NaN": {"space origin": "(0,nan,0)"},
    "space origin: two of three": {"space origin": "(0,0)"},
    "space origin: beyond all scanners": {"space origin": "(0,0,1e9)"},
    "space and space dimension": {"space dimension": 3},
    "a line that is no field": {"content": "CT\nsizes 24 20 6"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    path = write_nrrd(tmp_path / "scan.nrrd", REFUSED[name])
    with refused(path):
        _ = Volume(path).hu


GUESSED = {
    "spacings alone": {**NO_SPACE, "spacings": "3 4 5"},
    "spacings in cm, and a fourth axis": (
        {**NO_SPACE, "dimension": 4, "sizes": "24 20 6 1", "spacings": ".3 .4 .5 nan", "units": '"cm" "cm" "cm" ""'}
    ),
    "spacings in the units of space": {**NO_SPACE, "spacings": ".3 .4 .5", "space units": '"cm" "cm" "cm"'},
    "spacings, with units twice": {
        **NO_SPACE,
        "spacings": ".3 .4 .5",
        "units": '"cm" "cm" "cm"',
        "space units": '"mm" "mm" "mm"',
    },
    "no space": {"space": GAP, "space dimension": 3},
    "a space of the scanner": {"space": "scanner-xyz"},
    "a space without a patient": {"space": "3D-right-handed"},
    "no origin": {"space origin": GAP},
}


@pytest.mark.parametrize("name", GUESSED)
def test_a_place_that_is_not_given_is_warned_of(tmp_path, name, caplog):
    path = write_nrrd(tmp_path / "scan.nrrd", GUESSED[name])
    volume = Volume(path)
    np.testing.assert_array_equal(volume.hu, CHEST)
    np.testing.assert_allclose(volume.vx_size_xyz, SPACING_XYZ)
    (line,) = caplog.messages
    assert str(path) in line


def test_damaged_streams(tmp_path):
    stream = gzip.compress(HU)
    for data in (stream[:-1], stream[:-200], stream[:-6] + b"\0" + stream[-5:], zlib.compress(HU[:-2]), b""):
        path = write_nrrd(tmp_path / "scan.nrrd", {"encoding": "gzip"}, data)
        with refused(path):
            _ = Volume(path).hu
