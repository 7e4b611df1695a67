from pathlib import Path

import numpy as np
import pytest

from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.masks.summary import summarize_store


def test_summary_counts_kinds_and_quantiles(tmp_path: Path) -> None:
    instances = Instances.from_windows(
        (20, 20), [Window(np.ones((k + 1, 1), bool), 0, 0) for k in range(5)], point_id=range(5),
        points_xy=np.zeros((5, 2)), radius_px=[1, 2, 3, 4, 5], score=[0.2, 0.4, np.nan, 0.1, 0.1],
        source=["head", "head", "head", "fallback", "fallback"], status=["ok", "ok", "ok", "fallback", "fallback"],
    )  # fmt: skip
    with MaskStore.create(tmp_path / "s", Provenance("disc", 1)) as writer:
        writer.add("a", instances)
        writer.add("b", Instances.empty((5, 5)))
    found = summarize_store(MaskStore.open(tmp_path / "s"))
    assert (found.n_images, found.n_empty_images, found.n_instances, found.most) == (2, 1, 5, 5)
    assert [(kind.source, kind.status, kind.n) for kind in found.kinds] == [
        ("head", "ok", 3),
        ("fallback", "fallback", 2),
    ]
    assert found.kinds[0].mean_score == pytest.approx(0.3)
    assert found.kinds[0].median_area_px == 2
    by_name = {column.column: column for column in found.columns}
    assert set(by_name) == {"radius_px", "area_px", "score"}
    assert by_name["score"].n == 4
    assert (by_name["radius_px"].minimum, by_name["radius_px"].median, by_name["radius_px"].maximum) == (1, 3, 5)


def test_summary_of_an_empty_store(tmp_path: Path) -> None:
    with MaskStore.create(tmp_path / "s", Provenance("disc", 1)):
        pass
    found = summarize_store(MaskStore.open(tmp_path / "s"))
    assert (found.n_images, found.n_instances, found.most, found.kinds, found.columns) == (0, 0, 0, (), ())
