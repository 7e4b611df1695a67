import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.report.output import result_overlay, store_overlay, write_evaluation
from pipeline.training.curves import write_curves
from tests.report.scenes import evaluation_of, write_scene_dataset


def write(root: Path) -> Path:
    prepared, store = write_scene_dataset(root)
    write_curves(root / "warmup", [(5, {"count/loss": 1.0})])
    write_evaluation(
        root / "evaluate",
        evaluation_of(store),
        prepared=prepared,
        reference=store,
        title="Crowds",
        facts={"Seed": "0"},
        curve_folders={"Teacher": root / "warmup", "Student": root / "none"},
    )
    return root / "evaluate"


def test_everything_is_written(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert json.loads((folder / "metrics.json").read_text())["mae"] == 0.5
    assert pq.read_table(folder / "per_image.parquet").num_rows == 2
    counts = pa_csv.read_csv(folder / "plots" / "counts.csv")
    assert counts.to_pydict() == {"image_id": ["test/a", "test/b"], "count_true": [3, 0], "count_predicted": [3, 1]}
    assert pa_csv.read_csv(folder / "plots" / "error_by_density.csv")["mae"].to_pylist() == [1.0, 0.0]
    assert sorted(path.name for path in (folder / "overlays").iterdir()) == ["best.png", "median.png"]
    with Image.open(folder / "overlays" / "best.png") as picture:
        assert picture.size[0] > 200
    assert "Teacher: training loss" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 7
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_broken_photo_leaves_the_old_output(tmp_path: Path) -> None:
    folder = write(tmp_path)
    before = (folder / "metrics.json").read_bytes()
    prepared, store = Prepared.open(tmp_path / "prepared"), MaskStore.open(tmp_path / "annotate")
    (tmp_path / "raw" / "a.png").write_bytes(b"no picture")
    with pytest.raises(PipelineError, match=r"a\.png"):
        write_evaluation(
            folder, evaluation_of(store), prepared=prepared, reference=store, title="", facts={}, curve_folders={}
        )
    assert (folder / "metrics.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_matched_masks_share_their_label_with_the_reference(tmp_path: Path) -> None:
    prepared, store = write_scene_dataset(tmp_path)
    result = evaluation_of(store).images[0]
    panels = result_overlay(result, prepared, store, "annotator").panels
    reference, predicted = panels[2].label_map, panels[3].label_map
    assert reference is not None
    assert predicted is not None
    assert "annotator" in panels[2].title
    for p, t in zip(result.match.predicted, result.match.true, strict=True):
        assert set(np.unique(predicted[result.predicted.label_map() == p])) == {t}
    alone = result_overlay(evaluation_of(store).images[1], prepared, store, "truth").panels[3].label_map
    assert alone is not None
    assert np.unique(alone).tolist() == [0, 1]


def test_a_store_is_drawn_with_its_statuses(tmp_path: Path) -> None:
    _, store = write_scene_dataset(tmp_path)
    drawn = store_overlay("test/a", store, np.zeros((40, 60, 3), dtype=np.uint8))
    assert drawn.subtitle == "disc · 3 instances · 3 ok"
    assert store_overlay("test/b", store, np.zeros((40, 60, 3), dtype=np.uint8)).subtitle == "disc · 0 instances"
