import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.run import annotate_dataset
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


def annotate(prepared, radii, out, annotator=None, options=None, log=lambda **_: None):
    return annotate_dataset(prepared, read_radii(radii), annotator or DiscAnnotator(), out, options=options, log=log)


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data", counts=(5, 0, 2, 7, 1))
    stores = []
    for workers in (1, 3):
        out = tmp_path / f"masks{workers}"
        annotator = EdpSamAnnotator(DiscModel(), EdpSamOptions())
        circles = read_radii(radii)
        annotate_dataset(prepared, circles, annotator, out, options=None, log=lambda **_: None, workers=workers)
        stores.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert stores[0] == stores[1]


def test_every_image_gets_its_rows(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    options = EdpSamOptions(prompts=("head", "box"))
    with JsonLines(tmp_path / "log.jsonl") as log:
        statuses = annotate(
            prepared, radii, tmp_path / "masks", EdpSamAnnotator(DiscModel(), options), options, log.write
        )
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
    assert store.provenance.algorithm_version == 1
    assert store.provenance.weights_sha256 == "f" * 64
    assert store.provenance.params["exclusion"]["kappa"] == 0.7
    assert list(store.provenance.params["prompts"]) == ["head", "box"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == store.image_ids
    assert [line["n_points"] for line in lines] == [5, 0, 2]
    assert sum(line.get("ok", 0) + line.get("fallback", 0) + line.get("empty", 0) for line in lines) == 7


def test_the_same_run_writes_the_same_bytes(tmp_path: Path) -> None:
    prepared, radii = write_dataset(tmp_path / "data")
    for name in ("first", "second"):
        annotate(prepared, radii, tmp_path / name)
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")]
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
    before = {path.name: path.read_bytes() for path in (tmp_path / "masks").iterdir()}
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
        annotate(prepared, radii, tmp_path / "masks")
    assert {path.name: path.read_bytes() for path in (tmp_path / "masks").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "masks"]
