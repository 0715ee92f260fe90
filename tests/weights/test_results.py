"""What the network in the package makes of made-up input: it changes with the network alone."""

import numpy as np
import pytest
import torch

from p2ch13.data.ct import Ct
from p2ch13.detection.detector import detect, load_detector
from p2ch13.phantom import write_phantoms
from p2ch13.weights import WEIGHTS, find_weights

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="make weights has not been run here")

ROWS = (8, 24, 40)
LOGITS = [
    [-10.4428, -11.3525, -11.5505, -11.6794, -10.9056, -12.0278],
    [-10.6517, -4.5853, 6.1694, -3.0518, -8.8187, -12.5097],
    [-11.0229, -10.4524, -9.8015, -10.2308, -10.3786, -8.9635],
]  # of every eighth column from the fifth on
CENTERS_XYZ = [
    (113.0, -92.2, -43.5),
    (150.5, -110.1, -37.7),
]  # mm, of the findings at the default threshold, most probable first


def make_input():
    """A ball of tissue in lung that fades from slice to slice, beside a wall: (1, 7, 48, 48) in HU."""
    row, col = np.ogrid[:48, :48]
    away = np.sqrt((row - 24.0) ** 2 + (col - 20.0) ** 2)
    slices = [
        np.where(col > 40, 40.0, -860 + 880 / (1 + np.exp(1.5 * (away - 7 + 1.5 * abs(ndx - 3))))) for ndx in range(7)
    ]
    return torch.from_numpy(np.stack(slices)[np.newaxis].astype(np.float32))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_phantoms(folder, scan_count=1, seed=8, pixels=256, slice_count=32)
    (scan,) = folder.glob("subset*/*.mhd")
    return Ct(scan)


def test_logits():
    with torch.inference_mode():
        logits = load_detector(find_weights()).network.logits(make_input())[0, 0]
    np.testing.assert_allclose(logits[list(ROWS), 4::8], LOGITS, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_findings_on_a_phantom(phantom, precision):
    """The same above the threshold in both, in any order; their centers within a voxel of 1.1 mm."""
    findings = detect(phantom, load_detector(find_weights()), precision=precision).findings
    found = sorted(finding.center_xyz for finding in findings)
    assert len(found) == len(CENTERS_XYZ)
    np.testing.assert_allclose(found, sorted(CENTERS_XYZ), atol=1.1)
