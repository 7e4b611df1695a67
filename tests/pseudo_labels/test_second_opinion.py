"""Second opinions on disk."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.pseudo_labels.second_opinion import SecondOpinions, write_second_opinions
from tests.pseudo_labels.rows_by_hand import boxes

PROBS = np.array([[0.1, 0.9], [0.25, 0.75], [0.5, 0.5]])


def write(path: Path) -> SecondOpinions:
    found = [("a", np.array([0, 2]), PROBS[:2]), ("b", np.array([1]), PROBS[2:]), ("c", np.zeros(0, int), PROBS[:0])]
    assert write_second_opinions(path, iter(found), name="prototypes", n_classes=2) == 3
    return SecondOpinions.open(path)


def test_rows_get_their_own(tmp_path: Path) -> None:
    opinions = write(tmp_path / "x.parquet")
    rows = boxes([(0, 0, 4, 4)] * 3)
    assert opinions.name == "prototypes"
    np.testing.assert_allclose(opinions.of("a", rows[[2, 0]]), PROBS[[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(opinions.of("b", rows[[1]]), PROBS[2:], rtol=1e-6)
    assert len(opinions.of("c", rows[[]])) == 0


def test_rows_without_one_are_another_store(tmp_path: Path) -> None:
    opinions = write(tmp_path / "x.parquet")
    with pytest.raises(PipelineError, match="lacks 1 of 3 rows of a"):
        opinions.of("a", boxes([(0, 0, 4, 4)] * 3))
    with pytest.raises(PipelineError, match="lacks 1 of 1 rows of unknown"):
        opinions.of("unknown", boxes([(0, 0, 4, 4)]))


def test_no_row_at_all(tmp_path: Path) -> None:
    write_second_opinions(tmp_path / "x.parquet", iter([]), name="clip", n_classes=3)
    assert SecondOpinions.open(tmp_path / "x.parquet").probs == {}


def test_a_missing_file_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"set pseudo_label.opinion to prototypes"):
        SecondOpinions.open(tmp_path / "x.parquet")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(PipelineError, match="is no table of second opinions"):
        SecondOpinions.open(tmp_path / "x.parquet")
