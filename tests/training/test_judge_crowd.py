"""Judging crowds, on rows whose fate is known beforehand."""

import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.quality import ABOVE_ALL
from pipeline.training.judge_crowd import CrowdJudgeOptions, Yields, crowd_quality, judge_crowd
from tests.training.blobs import write_blob_dataset, write_masks

SIZE_HW = (64, 64)
FIXED = replace(crowd_quality(), thresholds="fixed", class_thr=0.5, mask_thr=0.6, margin=0.1)


def people(
    places: list[tuple[int, int]], score: list[float], quality: list[float] | None, status: list[str] | None = None
) -> Instances:
    """Squares of 6 px around points, as energy masks."""
    n = len(places)
    windows = [Window(np.ones((6, 6), dtype=bool), x - 3, y - 3) for x, y in places]
    return Instances.from_windows(
        SIZE_HW, windows, point_id=np.arange(n), points_xy=np.array(places, dtype=np.float64).reshape(n, 2),
        radius_px=np.full(n, 8.0), score=score, class_score=score if quality is not None else None,
        mask_quality=quality, source="energy", status=status or ["ok"] * n,
    )  # fmt: skip


def store_of(path: Path, rows: dict[str, Instances], weights: str = "teacher") -> MaskStore:
    with MaskStore.create(path, Provenance("energy", 1, {}, weights)) as writer:
        for image_id, each in rows.items():
            writer.add(image_id, each)
    return MaskStore.open(path)


CROWD = people(
    [(10, 10), (20, 10), (10, 50), (50, 50)], [0.9, 0.45, 0.2, 0.7], [0.7, 0.7, 0.7, 0.7],
    ["ok", "ambiguous", "ambiguous", "ambiguous"],
)  # fmt: skip
"""Kept, in doubt, dropped, and kept though it was not confident; the first two are 10 px apart."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_blob_dataset(tmp_path / "data", n_train=2, n_test=0)
    return tmp_path


def judge(data: Path, rows: Instances, options: CrowdJudgeOptions, **changes: Any) -> tuple[Yields, Instances]:
    prepared = Prepared.open(data / "data" / "prepared")
    truth = MaskStore.open(data / "data" / "annotate")
    pseudo = store_of(data / "pseudo", {"train/01": rows})
    held_out = changes.get("held_out") or store_of(data / "held_out", {})
    found = judge_crowd(
        prepared, pseudo, held_out, truth, labeled=["train/00"], options=options, out=data / "judged"
    )  # fmt: skip
    return found, MaskStore.open(data / "judged" / "masks").instances("train/01")


def test_off_leaves_every_row_as_it_is(data: Path) -> None:
    found, rows = judge(data, CROWD, CrowdJudgeOptions())
    assert rows.equals(CROWD)
    assert found.rows.tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 2]]
    assert found.limits is None


def test_nobody_is_removed_and_thresholds_replace_confidence(data: Path) -> None:
    found, rows = judge(data, CROWD, CrowdJudgeOptions(quality=FIXED))
    assert rows.status.tolist() == ["ok", "ambiguous", "ambiguous", "ok"]
    assert found.names == ("dense < 12 px", "12 to 24 px", "sparse ≥ 24 px")
    assert found.rows.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 1]]
    written = json.loads((data / "judged" / "thresholds.json").read_text(encoding="utf-8"))
    assert written["strata"] == list(found.names)
    assert written["limits"]["class_thr"] == [0.5, 0.5, 0.5]


def test_dropped_people_can_be_removed(data: Path) -> None:
    rows = judge(data, CROWD, CrowdJudgeOptions(quality=FIXED, dropped="remove"))[1]
    assert rows.point_id.tolist() == [0, 1, 3]


def test_each_density_has_its_own_threshold(data: Path) -> None:
    strict = replace(FIXED, class_thr=(0.95, 0.5, 0.75))
    rows = judge(data, CROWD, CrowdJudgeOptions(quality=strict))[1]
    assert rows.status.tolist() == ["ambiguous"] * 4
    with pytest.raises(PipelineError, match=r"class_thr: expected one number, or one for each of 1 classes"):
        judge(data, CROWD, CrowdJudgeOptions(quality=strict, density_edges_px=()))


def test_a_row_without_pixels_is_never_kept(data: Path) -> None:
    empty = replace(CROWD, status=np.array(["empty", *CROWD.status[1:]]), mask_quality=[0.0, 0.7, 0.7, 0.7])
    found, rows = judge(data, empty, CrowdJudgeOptions(quality=FIXED))
    assert rows.status.tolist()[0] == "empty"
    assert found.rows[:, 2].sum() == 1


def test_an_old_store_without_qualities_is_refused(data: Path) -> None:
    old = people([(10, 10), (30, 30)], [0.9, 0.9], None)
    with pytest.raises(PipelineError, match="class_score: 2 of 2 rows have none.*run the pseudo_label stage") as caught:
        judge(data, old, CrowdJudgeOptions(quality=FIXED))
    assert len(str(caught.value).splitlines()) == 1
    assert not (data / "judged").exists()
    judge(data, old, CrowdJudgeOptions())


def labeled_density(data: Path) -> np.ndarray:
    points = np.asarray(Prepared.open(data / "data" / "prepared").points("train/00").points_xy)
    apart = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(len(points))
    return apart.min(axis=1)


def test_adaptive_starts_from_the_labelled_heads_of_each_density(data: Path) -> None:
    nearest = labeled_density(data)
    edge = float(np.sort(nearest)[1])  # one head is denser, or two that are each other's nearest
    n_dense = int((nearest < edge).sum()) or 2
    edge = float(np.nextafter(edge, 99)) if not (nearest < edge).any() else edge
    quality = replace(FIXED, thresholds="adaptive", foreground_thr=1.0)  # no row moves a threshold
    found = judge(data, CROWD, CrowdJudgeOptions(quality=quality, density_edges_px=(edge,)))[0]
    counts = np.array([n_dense, len(nearest) - n_dense])
    assert found.limits is not None
    np.testing.assert_allclose(found.limits.class_thr, 0.3 + 0.5 * counts / counts.max())


def test_a_density_that_no_label_shows_is_refused_by_name(data: Path) -> None:
    quality = replace(FIXED, thresholds="adaptive")
    with pytest.raises(PipelineError, match=r"none of \d+ is in 'dense < 0\.01 px'; change judge.density_edges_px"):
        judge(data, CROWD, CrowdJudgeOptions(quality=quality, density_edges_px=(0.01,)))


def held_out(data: Path, *, right: bool, weights: str = "teacher") -> MaskStore:
    """True masks of a held-out image, or masks where nothing is, with scores of 0.8."""
    truth = MaskStore.open(data / "data" / "annotate").instances("train/00")
    n = len(truth)
    rows = replace(
        truth, score=np.full(n, 0.8), class_score=np.full(n, 0.8), mask_quality=np.full(n, 0.7),
        source=np.full(n, "energy"),
    )  # fmt: skip
    if not right:
        spots = np.argwhere(truth.label_map() == 0)[:: 4096 // 5][:n]
        windows = [Window(np.ones((1, 1), dtype=bool), int(x), int(y)) for y, x in spots]
        rows = Instances.from_windows(
            SIZE_HW, windows, point_id=np.arange(len(windows)), points_xy=spots[:, ::-1].astype(float), radius_px=3.0
            * np.ones(len(windows)), class_score=np.full(len(windows), 0.8), mask_quality=np.full(len(windows), 0.7),
            source="energy", status="ok",
        )  # fmt: skip
    return store_of(data / "held_out", {"train/00": rows}, weights)


@pytest.mark.parametrize("right", [True, False])
def test_calibrated_learns_what_a_score_stands_for(data: Path, right: bool) -> None:
    options = CrowdJudgeOptions(quality=replace(FIXED, thresholds="calibrated"), density_edges_px=())
    found, rows = judge(data, CROWD, options, held_out=held_out(data, right=right))
    assert found.limits is not None
    assert found.limits.class_thr == (pytest.approx(0.8, abs=1e-6),) if right else (ABOVE_ALL,)
    assert rows.status.tolist() == (["ok"] if right else ["ambiguous"]) + ["ambiguous"] * 3


def test_calibrated_needs_held_out_images_of_the_same_teacher(data: Path) -> None:
    options = CrowdJudgeOptions(quality=replace(FIXED, thresholds="calibrated"), density_edges_px=())
    with pytest.raises(PipelineError, match="learns from held-out labelled images, and there is none"):
        judge(data, CROWD, options)
    with pytest.raises(PipelineError, match=r"held_out: was made with another teacher than .*pseudo; run"):
        judge(data, CROWD, options, held_out=held_out(data, right=True, weights="another"))


def test_a_judged_folder_is_replaced_whole(data: Path) -> None:
    judge(data, CROWD, CrowdJudgeOptions())
    (data / "judged" / "stray").write_text("")
    judge(data, CROWD, CrowdJudgeOptions(quality=FIXED))
    assert sorted(path.name for path in (data / "judged").iterdir()) == [
        "class_reliability.csv", "corrections.parquet", "mask_reliability.csv", "masks", "plane.csv", "quality.html",
        "thresholds.json", "yield.csv",
    ]  # fmt: skip


def test_the_page_shows_held_out_heads_by_density(data: Path) -> None:
    judge(data, CROWD, CrowdJudgeOptions(quality=FIXED), held_out=held_out(data, right=True))
    page = (data / "judged" / "quality.html").read_text(encoding="utf-8")
    assert all(html.escape(name) in page for name in CrowdJudgeOptions().names)
    plane = (data / "judged" / "plane.csv").read_text(encoding="utf-8").splitlines()
    assert len(plane) > 1


@pytest.mark.parametrize("edges", [(0.0,), (8.0, 8.0), (16.0, 8.0), (-1.0,), (float("nan"),)])
def test_edges_ascend_from_above_zero(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="density_edges_px: expected ascending numbers above 0"):
        CrowdJudgeOptions(density_edges_px=edges)


def test_a_store_of_no_image(data: Path) -> None:
    write_masks(data / "none", {})
    prepared, none = Prepared.open(data / "data" / "prepared"), MaskStore.open(data / "none")
    found = judge_crowd(
        prepared, none, none, none, labeled=[], options=CrowdJudgeOptions(quality=FIXED), out=data / "judged"
    )  # fmt: skip
    assert found.rows.sum() == 0
