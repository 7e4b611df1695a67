import numpy as np
import pytest

from benchmarks.mask_store import (
    drawn_images,
    forget,
    measure,
    paint_full_frames,
    random_instances,
    read_json_masks,
    read_store_masks,
    write_json_files,
    write_store,
)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return drawn_images(rng, np.array([3, 0, 30]), random_instances(rng, 12, (60, 80)))


def test_both_forms_hold_the_same_masks(tmp_path, images) -> None:
    write_store(tmp_path / "store", images)
    write_json_files(tmp_path / "files", images)
    forget(tmp_path)
    for image_id, rows in images:
        ours = read_store_masks(tmp_path / "store", image_id)
        plain = read_json_masks(tmp_path / "files" / f"{image_id}.json")
        assert len(ours) == len(plain) == len(rows)
        assert all(np.array_equal(one, other) for one, other in zip(ours, plain, strict=True))


def test_images_have_the_counts_asked_for(images) -> None:
    assert [len(rows) for _, rows in images] == [3, 0, 30]
    assert len({image_id for image_id, _ in images}) == 3
    assert all(len(np.unique(rows.point_id)) == len(rows) for _, rows in images)


def test_the_plain_label_map_is_the_same() -> None:
    instances = random_instances(np.random.default_rng(1), 20, (50, 70))
    np.testing.assert_array_equal(paint_full_frames(instances, range(20)), instances.label_map())
    some = paint_full_frames(instances, [4])
    assert set(np.unique(some)) == {0, 5}


def test_a_small_run_gives_its_rows() -> None:
    write, cold, label_map = measure(scale=0.0005)
    assert write.work == "750 encoded instances in 2 images"
    assert write.notes["instances_per_s"] == pytest.approx(750 / write.ours)
    assert write.met == (write.notes["instances_per_s"] >= 50_000)
    assert cold.met == (cold.ours <= 0.02)
    assert cold.notes["slowest_s"] >= cold.ours
    assert label_map.work == "2 heads, 67 × 89 px"
    assert all(row.reference and row.theirs > 0 for row in (write, cold, label_map))
