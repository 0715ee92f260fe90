"""Values that are no HU of a chest are refused, whatever the command and format; what can be one passes."""

import re

import numpy as np
import pytest

from p2ch13.evaluate import main as evaluate
from p2ch13.import_dicom import main as import_dicom
from p2ch13.precache import main as precache
from p2ch13.predict import main as predict
from p2ch13.training.__main__ import main as train
from p2ch13.volumes.chest import check_chest
from p2ch13.volumes.volume import Volume
from tests.support.checks import refused
from tests.support.commands import exit_status
from tests.support.dicom_files import write_series
from tests.support.networks import write_pixel_network
from tests.support.scan_files import TINY_SCANS, make_chest, make_hu, write_luna, write_scan

CHEST = make_chest()
NOISE = np.random.default_rng(0).normal(0, 60, CHEST.shape).astype(np.int16)
IS_CORNER = np.hypot(*np.ogrid[-1:1:96j, -1:1:128j]) > 1


def padded(hu, value):
    return np.where(IS_CORNER, np.int16(value), hu)


FINE = {
    "a chest": CHEST,
    "with noise below air": CHEST + NOISE,
    "padded as LUNA16": padded(CHEST, -3024),
    "padded by the least value": padded(CHEST, -32768),
    "padded with two values": np.where(np.arange(128) < 9, np.int16(-2048), padded(CHEST, -3024)),
    "lung alone": make_hu([], (3, 20, 22)),
    "one slice": CHEST[:1],
    "metal": np.where(CHEST > 20, np.int16(30_000), CHEST),
    "clipped to a wide window": CHEST.clip(-1000, 400),
    "a window down to lung": (CHEST + NOISE).clip(-700, 200),
    "tissue with noise, air without": np.where(CHEST > 0, CHEST + NOISE // 4, CHEST),
    "air in the last slice alone": np.concatenate([np.full((7, 96, 128), 40, np.int16), CHEST[:1]]),
}
NOISY = CHEST + NOISE // 2
PICTURE = ((NOISY.clip(-1000, 400) + 1000) / 1400 * 255).astype(np.int16)
SHIFTED = {
    "a picture - 1024": PICTURE - 1024,
    "an inverted picture - 1000": 255 - PICTURE - 1000,
    "HU + 500": NOISY + 500,
    "lung alone, with noise": make_hu([], (3, 20, 22)) + NOISE[:3, :20, :22] // 2,
}
WRONG = {
    "HU + 1024, padded with -1000": padded(NOISY + 1024, -1000),
    "HU + 1024, padded with -1024 and -1000": np.where(
        np.arange(128) < 9, np.int16(-1000), padded(NOISY + 1024, -1024)
    ),
    "a picture, padded with -1000": padded(PICTURE, -1000),
    "magnetic resonance, padded with -1000": padded(np.random.default_rng(1).gamma(2, 150, CHEST.shape), -1000),
    "HU + 1024": CHEST + 1024,
    "HU + 1000": CHEST + 1000,
    "HU + 1024 with noise": CHEST + NOISE + 1024,
    "HU + 1024, padded with -2000": padded(CHEST + 1024, -2000),
    "HU - 1024": CHEST - 1024,
    "HU - 1024, padded": padded(CHEST - 1024 + NOISE, -4048),
    "a picture of 0 to 255": ((CHEST.clip(-1000, 400) + 1000) / 1400 * 255).astype(np.int16),
    "a narrow window": CHEST.clip(-160, 240),
    "mg/ml": (CHEST // 100 + 12).astype(np.int16),
    "0 and 1": (CHEST > -500).astype(np.int16),
    "labels of 0 to 4": (np.digitize(CHEST, [-990, -900, -500, 0])).astype(np.int16),
    "nothing": np.zeros_like(CHEST),
    "bytes swapped": CHEST.byteswap(),
    "random bytes": np.random.default_rng(0).integers(-(2**15), 2**15, CHEST.shape).astype(np.int16),
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("name", FINE)
def test_what_passes(tmp_path, name, order):
    check_chest(tmp_path, FINE[name].transpose(order))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(tmp_path, name, order):
    with refused(tmp_path):
        check_chest(tmp_path, WRONG[name].transpose(order))


def test_what_the_values_look_like(tmp_path):
    for name, words in {"0 and 1": "0, 1, so it is a mask", "HU + 1024": "HU + 1024", "HU - 1024": "twice"}.items():
        with refused(tmp_path) as caught:
            check_chest(tmp_path, WRONG[name])
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("first", "value", "is_warned"),
    [(5, 0, True), (7, 0, True), (0, 40, True), (5, -1024, False), (8, 0, False)],  # -1024: beyond what was scanned
)
def test_slices_without_content_are_warned_of(tmp_path, first, value, is_warned, caplog):
    """As in a file whose length was set before its content arrived: zeros are water in HU."""
    hu = NOISY.copy()
    hu[first : first + 3] = value
    Volume(write_scan(tmp_path / "scan.mhd", hu, vx_size_xyz=(3, 3, 3))).hu  # noqa: B018 (its values are checked)
    assert [f"{tmp_path / 'scan.mhd'}: " in message for message in caplog.messages] == [True] * is_warned


@pytest.mark.parametrize("name", SHIFTED)
def test_a_scan_without_soft_tissue_is_warned_of(tmp_path, name, caplog):
    """It can be lung alone, and such scans are drawn; a picture minus 1024 has the same values."""
    for path, hu, is_warned in ((tmp_path / "a.mhd", SHIFTED[name], True), (tmp_path / "b.mhd", NOISY, False)):
        caplog.clear()
        Volume(write_scan(path, hu.astype(np.int16), vx_size_xyz=(3, 3, 3))).hu  # noqa: B018 (its values are checked)
        assert any("soft tissue" in message for message in caplog.messages) == is_warned


@pytest.mark.parametrize("suffix", ["mhd", "mha", "nii.gz", "nrrd"])
@pytest.mark.parametrize("name", ["HU + 1024", "a picture of 0 to 255", "0 and 1"])
def test_predict_of_one_scan_and_of_several(tmp_path, name, suffix, capsys):
    wrong = write_scan(tmp_path / "scans" / f"wrong.{suffix}", WRONG[name])
    options = ["--checkpoint", str(write_pixel_network(tmp_path / "seg.state", -700)), "--output", str(tmp_path / "o")]
    with refused(wrong):
        predict([str(wrong), *options])
    write_scan(tmp_path / "scans" / "good.mhd", CHEST)
    assert predict([str(tmp_path / "scans"), *options]) == 1
    assert re.search(f"Skipped: .*wrong.{suffix}: ", capsys.readouterr().out)
    assert [path.name for path in (tmp_path / "o").glob("*_mask.*")] == ["good_mask.nii.gz"]


def test_precache_training_and_evaluation(tmp_path, capsys):
    data_dir = write_luna(tmp_path / "luna", TINY_SCANS)
    wrong = write_scan(data_dir / "subset0" / "1.2.2.mhd", make_hu(TINY_SCANS["1.2.2"]) + 1024)
    folders = ["--data-dir", str(data_dir), "--cache-dir", str(tmp_path / "cache")]
    assert exit_status(lambda: precache([*folders, "--num-workers", "1"])) == 1
    assert re.search(f"Skipped: {wrong}: ", capsys.readouterr().out)
    runs = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs"), "--val-stride", "2"]
    exit_status(lambda: train([*folders, *runs, "--samples-per-epoch", "8"]))
    output = capsys.readouterr()
    assert f"{wrong}: " in output.out + output.err
    checkpoint = write_pixel_network(tmp_path / "seg.state", -700)
    options = ["--data-dir", str(data_dir), "--checkpoint", str(checkpoint), "--all", "--output", str(tmp_path / "e")]
    assert exit_status(lambda: evaluate([*options, "--labels", "box"])) == 1
    assert re.search(f"Skipped: {wrong}: ", capsys.readouterr().out)


def test_import(tmp_path):
    """Stored values whose rescaling another program has done before."""
    write_series(tmp_path / "ct", CHEST + 1024)
    with refused():
        import_dicom([str(tmp_path / "ct"), "--data-dir", str(tmp_path / "data")])
    assert not [*tmp_path.glob("data/**/*.mhd")]
