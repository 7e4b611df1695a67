import pytest

from pipeline.training.bounds import require


def test_a_value_that_fits_passes_and_another_is_named():
    require("steps", 3, "at least 0", True)
    with pytest.raises(ValueError, match="steps: expected at least 0, got -1"):
        require("steps", -1, "at least 0", False)
