import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.masks import store as store_module
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import SCHEMA_VERSION, Provenance
from pipeline.masks.store import MaskStore

PROVENANCE = Provenance("edp_sam", 3, {"tau": 0.8, "kinds": ["head"]}, weights_sha256="ab" * 32)


def random_instances(n: int, seed: int, size_hw: tuple[int, int] = (40, 60)) -> Instances:
    rng = np.random.default_rng(seed)
    xs, ys = rng.integers(0, size_hw[1] - 6, n), rng.integers(0, size_hw[0] - 6, n)
    return Instances.from_windows(
        size_hw,
        [Window(rng.random((6, 6)) < 0.7, int(x), int(y)) for x, y in zip(xs, ys, strict=True)],
        point_id=np.sort(rng.choice(10 * n + 1, n, replace=False)),
        points_xy=rng.random((n, 2)) * 50,
        radius_px=rng.random(n) * 9,
        score=np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        leak_frac=rng.random(n),
        source=rng.choice(["head", "superpixel"], n),
        status=rng.choice(["ok", "fallback"], n),
        round=2,
    )


def some_images() -> dict[str, Instances]:
    images = {f"test/{i:02d}": random_instances(n, i) for i, n in enumerate((5, 0, 3, 17, 1, 0, 8))}
    return images | {"train/a": random_instances(4, 99, size_hw=(9, 11)), "lone": Instances.empty((1, 1))}


def write_store(path: Path, images: dict[str, Instances], provenance: Provenance = PROVENANCE) -> MaskStore:
    with MaskStore.create(path, provenance) as writer:
        for image_id, instances in images.items():
            writer.add(image_id, instances)
    return MaskStore.open(path)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_image_comes_back(tmp_path: Path) -> None:
    images = some_images()
    store = write_store(tmp_path / "s", images)
    assert store.image_ids == sorted(images)
    assert len(store) == len(images)
    for image_id, instances in images.items():
        assert store.size_hw(image_id) == instances.size_hw
        assert store.n_instances(image_id) == len(instances)
        assert store.instances(image_id).equals(instances)
        np.testing.assert_array_equal(store.label_map(image_id), instances.label_map())
    assert "test/01" in store
    assert "test/77" not in store


def test_provenance_comes_back(tmp_path: Path) -> None:
    assert write_store(tmp_path / "s", some_images()).provenance == PROVENANCE


def test_images_spread_over_groups_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "GROUP_ROWS", 4)
    monkeypatch.setattr(store_module, "FILE_GROUPS", 2)
    images = some_images()
    store = write_store(tmp_path / "s", images)
    assert [path.name for path in store.files] == ["part-0000.parquet", "part-0001.parquet"]
    for image_id in reversed(store.image_ids):
        assert store.instances(image_id).equals(images[image_id])


def test_equal_contents_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    images = some_images()
    shuffled = {image_id: images[image_id] for image_id in reversed(images)}
    shuffled = {image_id: each[np.arange(len(each))[::-1]] for image_id, each in shuffled.items()}
    write_store(tmp_path / "a", images)
    write_store(tmp_path / "b", shuffled)
    assert bytes_below(tmp_path / "a") == bytes_below(tmp_path / "b")
    again = MaskStore.open(tmp_path / "a")
    write_store(tmp_path / "c", {image_id: again.instances(image_id) for image_id in again.image_ids})
    assert bytes_below(tmp_path / "c") == bytes_below(tmp_path / "a")


def test_other_provenance_gives_other_bytes(tmp_path: Path) -> None:
    write_store(tmp_path / "a", some_images())
    write_store(tmp_path / "b", some_images(), Provenance("edp_sam", 4))
    assert bytes_below(tmp_path / "a") != bytes_below(tmp_path / "b")


@pytest.mark.parametrize("images", [{}, {"a": Instances.empty((3, 4))}])
def test_stores_without_rows(tmp_path: Path, images: dict[str, Instances]) -> None:
    store = write_store(tmp_path / "s", images)
    assert store.files == []
    assert store.read_columns(["image_id", "score"]).num_rows == 0
    for image_id in images:
        assert len(store.instances(image_id)) == 0
        assert store.label_map(image_id).shape == (3, 4)


def test_columns_of_all_rows_stand_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "GROUP_ROWS", 4)
    images = some_images()
    table = write_store(tmp_path / "s", images).read_columns(["image_id", "point_id", "score"])
    keys = list(zip(table["image_id"].to_pylist(), table["point_id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert len(keys) == sum(len(instances) for instances in images.values())
    assert table["score"].null_count == sum(int(np.isnan(instances.score).sum()) for instances in images.values())


def write_half(path: Path) -> None:
    with MaskStore.create(path, PROVENANCE) as writer:
        writer.add("x", random_instances(3, 0))
        raise RuntimeError("killed")


def test_a_failed_write_leaves_the_old_store(tmp_path: Path) -> None:
    write_store(tmp_path / "s", some_images())
    before = bytes_below(tmp_path / "s")
    with pytest.raises(RuntimeError, match="killed"):
        write_half(tmp_path / "s")
    assert bytes_below(tmp_path / "s") == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def write_twice(path: Path) -> None:
    with MaskStore.create(path, PROVENANCE) as writer:
        writer.add("a", Instances.empty((1, 1)))
        writer.add("a", Instances.empty((1, 1)))


def test_an_image_added_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' was added twice"):
        write_twice(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def rewrite_metadata(path: Path, **changes: str) -> None:
    table = pq.read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()} | changes
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s", some_images())
    rewrite_metadata(tmp_path / "s" / "images.parquet", **{"mask_store.schema_version": str(SCHEMA_VERSION + 1)})
    with pytest.raises(
        PipelineError, match=rf"images\.parquet: written with .*version 2, .*reads version {SCHEMA_VERSION}"
    ):
        MaskStore.open(tmp_path / "s")


def test_a_part_of_another_version_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", some_images())
    rewrite_metadata(tmp_path / "s" / "part-0000.parquet", **{"mask_store.schema_version": "0"})
    with pytest.raises(PipelineError, match=r"part-0000\.parquet: written with mask store schema version 0"):
        store.instances("test/00")


def test_damaged_provenance_is_named(tmp_path: Path) -> None:
    write_store(tmp_path / "s", some_images())
    rewrite_metadata(tmp_path / "s" / "images.parquet", **{"mask_store.provenance": json.dumps({"wrong": 1})})
    with pytest.raises(PipelineError, match=r"images\.parquet: its provenance cannot be read"):
        MaskStore.open(tmp_path / "s")


def test_what_is_not_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"gone: expected a mask store, but the folder does not exist"):
        MaskStore.open(tmp_path / "gone")
    with pytest.raises(PipelineError, match=r"has no images\.parquet"):
        MaskStore.open(tmp_path)
    (tmp_path / "images.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(PipelineError, match=r"images\.parquet: cannot be read as Parquet"):
        MaskStore.open(tmp_path)
    pq.write_table(pq.read_table(write_store(tmp_path / "s", {}).path / "images.parquet").replace_schema_metadata(None),
                   tmp_path / "images.parquet")  # fmt: skip
    with pytest.raises(PipelineError, match=r"images\.parquet: not a file of a mask store"):
        MaskStore.open(tmp_path)


def test_missing_and_damaged_parts_are_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", some_images())
    part = tmp_path / "s" / "part-0000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2])
    with pytest.raises(PipelineError, match=r"part-0000\.parquet: cannot be read as Parquet"):
        store.instances("test/00")
    part.unlink()
    with pytest.raises(PipelineError, match=r"part-0000\.parquet: is missing from the store"):
        store.instances("test/00")
    assert len(store.instances("test/01")) == 0, "an image without instances needs no part"


def test_an_unknown_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has no image 'nobody'; it lists 9 images, the first is 'lone'"):
        write_store(tmp_path / "s", some_images()).instances("nobody")


def with_optional(instances: Instances, seed: int) -> Instances:
    rng, n = np.random.default_rng(seed), len(instances)
    probs = rng.random((n, 3)).astype(np.float32)
    probs[rng.random(n) < 0.4] = np.nan
    return dataclasses.replace(
        instances,
        nms_decay=np.where(rng.random(n) < 0.3, np.nan, rng.random(n)),
        class_probs=probs,
        prob_q8=[None if rng.random() < 0.3 else rng.bytes(int(rng.integers(0, 9))) for _ in range(n)],
    )


def test_optional_columns_come_back_beside_images_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "GROUP_ROWS", 9)
    images = some_images()
    for seed, image_id in enumerate(("test/03", "test/04", "train/a")):
        images[image_id] = with_optional(images[image_id], seed)
    store = write_store(tmp_path / "s", images)
    assert len(store.files) == 1
    for image_id, instances in images.items():
        assert store.instances(image_id).equals(instances)
    assert images["test/03"].class_probs is not None
    written = store.read_columns(["point_id", "nms_decay", "class_probs"])
    assert written["nms_decay"].null_count >= len(images["test/00"])


def test_a_store_has_only_the_optional_columns_that_a_method_gives(tmp_path: Path) -> None:
    plain, some = random_instances(4, 0), random_instances(4, 0)
    some = dataclasses.replace(some, nms_decay=[0.5, 1.0, np.nan, 0.1])
    without, more = (write_store(tmp_path / name, {"a": rows}) for name, rows in (("p", plain), ("q", some)))
    names = pq.read_schema(without.files[0]).names
    assert names[-1] == "round"
    assert pq.read_schema(more.files[0]).names == [*names, "nms_decay"]
    assert without.read_columns(["nms_decay", "score"])["nms_decay"].to_pylist() == [None] * 4
    assert more.read_columns(["nms_decay"])["nms_decay"].to_pylist() == pytest.approx([0.5, 1.0, None, 0.1])
