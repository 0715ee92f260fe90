"""One synthetic chest with nodules, stored in every order of axes: the same samples, findings and scores."""

import numpy as np
import pytest
import torch

from p2ch13.data.crops import choose_crop_centers
from p2ch13.data.ct import Ct
from p2ch13.detection.detector import Detector, detect
from p2ch13.detection.segment import segment
from p2ch13.evaluation.scoring import score_scan
from p2ch13.labels.box import BOOK_RULE
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.labels.refined import REFINED_RULE
from p2ch13.network.model import UNetWrapper
from p2ch13.util.coordinates import irc2xyz
from tests.support.scan_files import ORIENTATIONS, ORIGIN_XYZ, make_chest, write_scan, write_turned

VX_SIZE_XYZ = (3.0, 3.0, 3.0)
WIDTH_IRC = (7, 24, 24)


def make_nodule(center_irc):
    center_xyz = irc2xyz(center_irc, ORIGIN_XYZ, VX_SIZE_XYZ, np.eye(3))
    return CandidateInfoTuple(True, True, None, 12.0, "1.2", center_xyz)


NODULES = [make_nodule((5, 41, 41)), make_nodule((2, 36, 90))]


@pytest.fixture(scope="module")
def axial_path(tmp_path_factory):
    hu = make_chest((12, 96, 128))
    hu += np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.int16)
    hu[4:7, 40:43, 40:44] = 20
    hu[1:4, 35:38, 88:93] = -100
    return write_scan(tmp_path_factory.mktemp("axial") / "1.2.mha", hu, vx_size_xyz=VX_SIZE_XYZ)


@pytest.fixture(scope="module")
def model(axial_path):
    """A network of random weights that marks 1 voxel in 200."""
    torch.manual_seed(0)
    network = UNetWrapper(in_channels=7, n_classes=1, depth=2, wf=2, padding=True, batch_norm=True, up_mode="upconv")
    with torch.inference_mode():
        network.train()(torch.randn(4, 7, 32, 32) * 300 - 600)  # settles the statistics
    logits = segment(Ct(axial_path), network, lung_mask=False, precision="fp32")
    with torch.inference_mode():
        network.unet.last.bias -= float(np.quantile(logits, 0.995))
    return network


def describe(ct, model):
    """Return all that is made of a scan, as plain values and arrays."""
    centers = choose_crop_centers(ct, ct.nodules, [])
    crops = [ct.get_raw_candidate(nodule.center_xyz, WIDTH_IRC, 6.0) for nodule in ct.nodules]
    logits, labels, findings = detect(ct, Detector(model), threshold=0.5, min_diameter_mm=0.0, precision="fp32")
    scores = score_scan(ct, labels, findings)
    places = [*centers.of_nodules[0], *centers.of_nodules[1], *centers.negatives]
    plain = [
        (finding.number, finding.logit, finding.volume_mm3, finding.first_slice, finding.last_slice)
        for finding in findings
    ]
    return {
        "arrays": [ct.positive_mask, *(part for crop in crops for part in crop), logits, labels],
        "positions": [*places, *(finding.center_xyz for finding in findings)],
        "plain": [ct.positive_indexes, plain, scores.voxels, scores.match.hits.tolist()],
    }


@pytest.mark.parametrize("rule", [BOOK_RULE, REFINED_RULE], ids=["box", "refined"])
def test_the_same_samples_findings_and_scores(tmp_path, axial_path, model, rule):
    expected = describe(Ct(axial_path, NODULES, rule), model)
    assert len(expected["plain"][1]) > 1  # there are findings to compare
    for orientation in ORIENTATIONS:
        path = write_turned(tmp_path / orientation / "1.2.nii.gz", orientation, axial_path)
        found = describe(Ct(path, NODULES, rule), model)
        assert found["plain"] == expected["plain"], orientation
        np.testing.assert_allclose(found["positions"], expected["positions"], atol=2e-3)
        for one, other in zip(found["arrays"], expected["arrays"], strict=True):
            np.testing.assert_array_equal(one, other)
