import numpy as np
import pytest

from tests.support.scan_files import make_chest


@pytest.fixture
def chest() -> np.ndarray:
    """A nodule in a lung and one at its surface."""
    hu = make_chest()
    hu[3:5, 40:43, 40:43] = 0
    hu[2:4, 38:41, 50:54] = 0
    return hu
