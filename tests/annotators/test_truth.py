from pathlib import Path

import numpy as np
import pytest

from pipeline.annotators.truth import TruthAnnotator, TruthOptions
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from tests.annotators.fake_model import circle_masks, full_masks, mark


def store(folder: Path, label_map: np.ndarray, count: int) -> MaskStore:
    points_xy = np.tile([5.0, 5.0], (count, 1))
    instances = Instances.from_label_map(
        label_map,
        point_id=np.arange(count),
        points_xy=points_xy,
        radius_px=np.ones(count),
        source="truth",
        status="ok",
    )
    with MaskStore.create(folder, Provenance("truth", 1, {}, None)) as writer:
        writer.add("one", instances)
    return MaskStore.open(folder)


def test_true_masks_are_clipped_to_their_circles(tmp_path: Path) -> None:
    label_map = np.zeros((40, 40), np.int32)
    label_map[5:30, 5:15], label_map[5:30, 20:38] = 1, 3
    marked = mark([[9.0, 10.0], [2.0, 35.0], [30.0, 12.0]], (40, 40), radius_px=[8.0, 5.0, 9.5])
    instances = TruthAnnotator(store(tmp_path / "truth", label_map, 3), TruthOptions()).annotate(marked)
    expected = (label_map == np.array([1, 2, 3])[:, None, None]) & circle_masks(marked)
    np.testing.assert_array_equal(full_masks(instances), expected)
    assert instances.status.tolist() == ["ok", "empty", "ok"]
    assert instances.score.tolist() == [1, 0, 1]
    assert set(instances.source.tolist()) == {"truth"}


@pytest.mark.parametrize(("size_hw", "count"), [((40, 40), 2), ((30, 40), 3)])
def test_masks_of_other_points_are_refused(tmp_path: Path, size_hw, count) -> None:
    truth = store(tmp_path / "truth", np.zeros(size_hw, np.int32), count)
    with pytest.raises(PipelineError, match="run python -m stages.prepare again"):
        TruthAnnotator(truth, TruthOptions()).annotate(mark([[9.0, 10.0], [2.0, 35.0], [30.0, 12.0]], (40, 40)))


def test_without_true_masks_there_is_one_message() -> None:
    with pytest.raises(PipelineError, match="annotate.method: truth needs true masks"):
        TruthAnnotator(None, TruthOptions())


def test_masks_that_overlap_stay_whole_and_regions_are_no_points(tmp_path: Path) -> None:
    first, second = np.zeros((40, 40), np.bool_), np.zeros((40, 40), np.bool_)
    first[5:25, 5:25], second[10:30, 10:30] = True, True
    instances = Instances.from_windows(
        (40, 40),
        [Window(first, 0, 0), Window(second, 0, 0), Window(np.ones((40, 40), np.bool_), 0, 0)],
        point_id=np.arange(3),
        points_xy=np.array([[12.0, 12.0], [22.0, 22.0], [20.0, 20.0]]),
        radius_px=[9.0, 9.0, np.nan],
        source="truth",
        status=["ok", "ok", "ambiguous"],
    )
    with MaskStore.create(tmp_path / "truth", Provenance("truth", 1, {}, None)) as writer:
        writer.add("one", instances)
    marked = mark([[12.0, 12.0], [22.0, 22.0]], (40, 40), radius_px=[9.0, 9.0])
    truth = MaskStore.open(tmp_path / "truth")
    found = TruthAnnotator(truth, TruthOptions()).annotate(marked)
    np.testing.assert_array_equal(full_masks(found), np.stack([first, second]) & circle_masks(marked))
    whole = TruthAnnotator(truth, TruthOptions(clip=False)).annotate(marked)
    np.testing.assert_array_equal(full_masks(whole), np.stack([first, second]))
    assert whole.status.tolist() == ["ok", "ok"]
