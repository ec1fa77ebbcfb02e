from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def model():
    return FIXTURES / "tiny-plm"


@pytest.fixture
def text():
    return FIXTURES / "text" / "calibration.txt"
