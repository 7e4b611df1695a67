import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.annotators.edp_sam import EdpSamOptions
from pipeline.annotators.exclusion import ExclusionOptions
from pipeline.annotators.plan import AnnotatorPlan
from pipeline.annotators.run import LOGITS, MASKS, annotate_dataset
from pipeline.compute.cache import ResultCache
from pipeline.compute.executors import LocalExecutor
from pipeline.compute.progress import JsonLines
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import compute_radii, read_radii, write_radii
from pipeline.errors import PipelineError
from pipeline.geometry.nnec import NnecOptions
from pipeline.masks.store import MaskStore
from tests.annotators.fake_model import DiscModel
from tests.training.blobs import draw_blobs, write_tables


def write_dataset(root: Path, counts=(5, 0, 2)) -> tuple[Prepared, Path]:
    """Prepared tables of a few blob images, and their circles."""
    import cv2

    rng = np.random.default_rng(0)
    images, points = [], []
    (root / "raw").mkdir(parents=True)
    for number, count in enumerate(counts):
        pixels, points_xy, _ = draw_blobs(rng, (48, 64), count)
        path = root / "raw" / f"{number}.png"
        cv2.imwrite(str(path), pixels[:, :, ::-1])
        images.append((f"train/{number}", f"raw/{path.name}", "train", 48, 64, "", count, "{}"))
        points += [(f"train/{number}", k, x, y, k % 2, None, None, "") for k, (x, y) in enumerate(points_xy)]
    write_tables(root / "prepared", images, points)
    prepared = Prepared.open(root / "prepared")
    write_radii(root / "nnec/radii.parquet", compute_radii(prepared, NnecOptions()))
    return prepared, root / "nnec/radii.parquet"


DISC = AnnotatorPlan("disc")
HEAD_AND_BOX = AnnotatorPlan("edp_sam", EdpSamOptions(prompts=("head", "box")))


def annotate(prepared, radii, out, plan=DISC, log=lambda **_: None, workers=1, cache=None):
    return annotate_dataset(
        prepared,
        read_radii(radii),
        plan,
        out,
        executor=LocalExecutor(workers),
        cache=cache or ResultCache.open(out.parent / "cache"),
        log=log,
    )


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model(monkeypatch) -> DiscModel:
    """A network that counts what it is asked, in the place of the compact one."""
    fake = DiscModel()
    monkeypatch.setattr("pipeline.models.sam.load_sam", lambda *_, **__: fake)
    return fake


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 0, 2, 7, 1))
    plan = AnnotatorPlan("edp_sam", EdpSamOptions())
    for workers in (1, 2):
        cache = ResultCache.open(tmp_path / f"cache{workers}")
        annotate(prepared, radii, tmp_path / f"masks{workers}", plan, workers=workers, cache=cache)
    assert read_bytes(tmp_path / "masks1") == read_bytes(tmp_path / "masks2")


def test_a_second_run_computes_nothing(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    calls, before = len(model.calls), read_bytes(tmp_path / "masks")
    assert calls
    rows = []
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX, log=lambda **row: rows.append(row))
    assert len(model.calls) == calls
    assert read_bytes(tmp_path / "masks") == before
    assert [row["cached"] for row in rows] == [True, True]


def test_another_threshold_loads_no_network(tmp_path: Path, model, monkeypatch) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    calls = len(model.calls)
    monkeypatch.setattr("pipeline.models.sam.load_sam", None)
    for path in (tmp_path / "data/raw").iterdir():
        path.unlink()  # not even the pixels are needed
    other = AnnotatorPlan(
        "edp_sam", EdpSamOptions(prompts=("head", "box"), exclusion=ExclusionOptions(kappa=0.0, gamma=3.0))
    )
    annotate(prepared, radii, tmp_path / "again", other)
    assert len(model.calls) == calls
    alone = annotate(prepared, radii, tmp_path / "again", other)
    assert alone.total() == 7
    assert read_bytes(tmp_path / "again") != read_bytes(tmp_path / "masks")


def test_what_the_cache_gives_is_what_a_fresh_run_gives(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(6, 3))
    other = AnnotatorPlan("edp_sam", EdpSamOptions(exclusion=ExclusionOptions(kappa=0.1)))
    annotate(prepared, radii, tmp_path / "first", AnnotatorPlan("edp_sam", EdpSamOptions()))
    annotate(prepared, radii, tmp_path / "from_logits", other)
    annotate(prepared, radii, tmp_path / "fresh", other, cache=ResultCache.open(tmp_path / "empty"))
    assert read_bytes(tmp_path / "from_logits") == read_bytes(tmp_path / "fresh")


def test_a_new_image_costs_one_image(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 4, 3))
    whole = prepared.images.copy()
    prepared.images.pop()
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    tiles = len(model.tiles)
    prepared.images[:] = whole
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    assert len(model.tiles) == tiles + 1
    assert MaskStore.open(tmp_path / "masks").n_instances("train/2") == 3


def test_a_failed_run_keeps_what_it_finished(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 4, 3))
    last = prepared.image("train/2").path
    pixels = last.read_bytes()
    last.unlink()
    with pytest.raises(PipelineError, match="2.png"):
        annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    last.write_bytes(pixels)
    rows = []
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX, log=lambda **row: rows.append(row))
    assert {row["image_id"]: row["cached"] for row in rows} == {"train/0": True, "train/1": True, "train/2": False}


def test_a_damaged_entry_is_made_once_more(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 4))
    annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    before = read_bytes(tmp_path / "masks")
    for kind in (MASKS, LOGITS):
        for entry in (tmp_path / "cache" / kind).glob("*/*"):
            data = bytearray(entry.read_bytes())
            data[-3] ^= 1
            entry.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged entry"):
        annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX)
    assert read_bytes(tmp_path / "masks") == before


def test_a_read_only_cache_fails_no_run(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 4))
    cache = ResultCache.open(tmp_path / "cache")
    cache.writable = False
    with pytest.warns(UserWarning, match="read only"):
        annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX, cache=cache)
    annotate(prepared, radii, tmp_path / "writable", HEAD_AND_BOX, cache=ResultCache.open(tmp_path / "other"))
    assert read_bytes(tmp_path / "masks") == read_bytes(tmp_path / "writable")


def test_every_image_gets_its_rows(tmp_path: Path, model) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    with JsonLines(tmp_path / "log.jsonl") as log:
        statuses = annotate(prepared, radii, tmp_path / "masks", HEAD_AND_BOX, log.write)
    store = MaskStore.open(tmp_path / "masks")
    assert store.image_ids == ["train/0", "train/1", "train/2"]
    assert [store.n_instances(image_id) for image_id in store.image_ids] == [5, 0, 2]
    assert statuses.total() == 7
    for image_id in store.image_ids:
        rows, points = store.instances(image_id), prepared.points(image_id)
        assert rows.size_hw == (48, 64)
        assert rows.point_id.tolist() == points.point_id.tolist()
        assert rows.class_id.tolist() == points.class_id.tolist()
        np.testing.assert_array_equal(rows.points_xy, points.points_xy)
        np.testing.assert_array_equal(rows.radius_px, read_radii(radii).of(image_id))
    assert store.provenance.algorithm == "edp_sam"
    assert store.provenance.algorithm_version == 3
    assert len(store.provenance.weights_sha256) == 64
    assert store.provenance.params["exclusion"]["kappa"] == 0.7
    assert list(store.provenance.params["prompts"]) == ["head", "box"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["image_id"]: line["n_points"] for line in lines} == {"train/0": 5, "train/2": 2}
    assert sum(line.get("ok", 0) + line.get("fallback", 0) + line.get("empty", 0) for line in lines) == 7


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    for name in ("first", "second"):
        annotate(prepared, radii, tmp_path / name, cache=ResultCache.open(tmp_path / f"{name} cache"))
    written = [read_bytes(tmp_path / name) for name in ("first", "second")]
    assert written[0] == written[1]
    assert "images.parquet" in written[0]


def test_no_options_stand_as_no_parameters(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(1,))
    annotate(prepared, radii, tmp_path / "masks")
    assert MaskStore.open(tmp_path / "masks").provenance.params == {}


def test_a_data_set_without_any_head(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(0, 0))
    assert annotate(prepared, radii, tmp_path / "masks").total() == 0
    assert MaskStore.open(tmp_path / "masks").instances("train/1").size_hw == (48, 64)


def test_circles_of_other_points_are_refused(tmp_path: Path) -> None:
    prepared, _ = write_dataset(tmp_path / "data")
    old = tmp_path / "old.parquet"
    write_radii(old, compute_radii(prepared, NnecOptions())[1:])
    with pytest.raises(PipelineError, match="has 0 radii for image 'train/0', prepare counted 5 points; run"):
        annotate(prepared, old, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("harm", ["gone", "torn", "resized"])
def test_an_error_leaves_nothing_half_written(tmp_path: Path, harm) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    annotate(prepared, radii, tmp_path / "masks")
    before = read_bytes(tmp_path / "masks")
    last = prepared.image("train/2").path
    if harm == "gone":
        last.unlink()
    elif harm == "torn":
        last.write_bytes(last.read_bytes()[:60])
    else:
        last.write_bytes((tmp_path / "data/raw/0.png").read_bytes())
        prepared.images[2] = type(prepared.images[2])(
            "train/2", last, "train", (40, 64), "", prepared.images[2].n_points
        )
    with pytest.raises(PipelineError, match="2.png"):
        annotate(prepared, radii, tmp_path / "masks", cache=ResultCache.open(tmp_path / "empty"))
    assert read_bytes(tmp_path / "masks") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "empty", "masks"]
