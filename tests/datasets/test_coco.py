import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.base import get_reader
from pipeline.datasets.coco import CocoReader
from pipeline.datasets.flags import PointFlag
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import SIZE_HW, tree_digest, write_image, write_json
from tests.datasets.fake_masks import CROWD, SQUARE, coco_annotation, coco_content, write_coco

TRAIN = "annotations/instances_train2017.json"


def read(root: Path, reader: CocoReader | None = None):
    reader = reader or CocoReader()
    return {entry.image_id: reader.read(entry) for entry in reader.scan(root) if not entry.fault}


def prepared(root: Path, reader: CocoReader | None = None, **options: object) -> Prepared:
    prepare_dataset(reader or CocoReader(), root / "raw", root / "prepared", root, workers=1, **options)  # type: ignore[arg-type]
    return Prepared.open(root / "prepared")


def test_category_ids_with_gaps_become_dense_in_their_order(tmp_path: Path) -> None:
    first = read(write_coco(tmp_path))["train2017/000000000009"]
    assert first.class_names == ("person", "dog", "toothbrush")
    assert first.class_source_ids == (1, 18, 90)
    assert first.class_id.tolist() == [0, 2, 1]  # the crowd of dogs comes last
    assert first.size_hw == SIZE_HW


def test_points_boxes_and_crowds(tmp_path: Path) -> None:
    first = read(write_coco(tmp_path))["train2017/000000000009"]
    # pixels 2 to 9 and 3 to 8; 5 to 13 and 5 to 11; a disc around (20, 12)
    np.testing.assert_allclose(first.points_xy, [[5.5, 5.5], [9, 8], [20, 12]])
    np.testing.assert_array_equal(first.boxes_wh_px, [[8, 6], [9, 7], [13, 13]])
    assert first.point_flags is not None
    assert first.point_flags.tolist() == [0, 0, PointFlag.REGION]


def test_what_shall_be_ignored_is_a_region_too(tmp_path: Path) -> None:
    annotations = [coco_annotation(1, 9, 1, SQUARE, ignore=1), coco_annotation(2, 9, 18, SQUARE, ignore=0)]
    first = read(write_coco(tmp_path, coco_content(annotations=annotations)))["train2017/000000000009"]
    assert first.class_id.tolist() == [1, 0]
    assert first.point_flags is not None
    assert first.point_flags.tolist() == [0, PointFlag.REGION]


def test_masks_that_overlap_stay_whole_in_the_store(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    data = prepared(tmp_path)
    assert data.truth is not None
    rows = data.truth.instances("train2017/000000000009")
    masks = np.zeros((3, *SIZE_HW), np.bool_)
    for row in range(3):
        window = rows.window(row)
        height, width = window.mask.shape
        masks[row, window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
    squares = np.zeros((2, *SIZE_HW), np.bool_)
    squares[0, 3:9, 2:10], squares[1, 5:12, 5:14] = True, True
    assert (squares[0] & squares[1]).any()
    np.testing.assert_array_equal(masks, [*squares, CROWD])
    assert rows.status.tolist() == ["ok", "ok", "ambiguous"]
    assert rows.class_id.tolist() == [0, 2, 1]
    assert np.isnan(rows.radius_px).tolist() == [False, False, True]


def test_regions_are_counted_but_give_no_point(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    data = prepared(tmp_path)
    assert data.class_names == ("person", "dog", "toothbrush")
    assert data.class_source_ids == (1, 18, 90)
    assert data.source["counts"] == {"train": {"images": 3, "points": 5}, "val": {"images": 1, "points": 0}}
    assert data.source["flagged"] == {"region": 1}
    counts = [(row.image_id, row.n_points, row.n_regions) for row in data.images]
    assert counts == [
        ("train2017/000000000009", 2, 1), ("train2017/000000000025", 0, 0), ("train2017/000000000030", 2, 0),
        ("val2017/000000000025", 0, 0),
    ]  # fmt: skip
    assert [len(data.points(row.image_id)) for row in data.images] == [2, 0, 2, 0]
    assert data.points("train2017/000000000009").flags == ("", "")
    assert data.points("train2017/000000000009", regions=True).flags == ("", "", "region")
    assert data.points("train2017/000000000030").class_id.tolist() == [2, 0]
    assert data.points("train2017/000000000030").point_id.tolist() == [0, 1]


def test_random_points_lie_in_their_masks(tmp_path: Path) -> None:
    write_coco(tmp_path / "raw")
    center = prepared(tmp_path).points("train2017/000000000030").points_xy
    readers = [CocoReader(points="random", points_seed=seed) for seed in (0, 0, 1)]
    points = [prepared(tmp_path, reader).points("train2017/000000000030").points_xy for reader in readers]
    np.testing.assert_array_equal(points[0], points[1])
    assert not np.array_equal(points[0], points[2])
    assert not np.array_equal(points[0], center)
    for x, y in np.concatenate(points)[::2]:
        assert 2 <= x <= 9
        assert 3 <= y <= 8


def change(root: Path, **content: object) -> Path:
    write_coco(root, coco_content(**content))
    return root


def test_annotations_of_missing_images_are_told(tmp_path: Path) -> None:
    orphans = [coco_annotation(1, 77, 1, SQUARE), coco_annotation(2, 77, 1, SQUARE)]
    change(tmp_path, annotations=[*coco_content()["annotations"], *orphans])
    (tmp_path / "train2017/000000000025.jpg").unlink()
    entries = {entry.image_id: entry for entry in CocoReader().scan(tmp_path)}
    faults = [entry.fault for entry in entries.values() if entry.fault]
    assert len(faults) == 2
    assert "000000000025.jpg: annotation without image; expected" in faults[0]
    assert "2 annotations are of image 77, which the list images does not have; remove them" in faults[1]


def test_empty_polygons_and_boxes_become_flagged_rows(tmp_path: Path) -> None:
    change(tmp_path / "raw", annotations=[
        coco_annotation(1, 9, 1, [], bbox=[12.0, 3.0, 8.0, 6.0]),
        coco_annotation(2, 9, 1, [[]], bbox=[100.0, 3.0, 8.0, 6.0]),
        coco_annotation(3, 9, 1, SQUARE, bbox=[2.0, 3.0, 0.0, 6.0]),
        coco_annotation(4, 9, 1, [[90.0, 3.0, 99.0, 3.0, 99.0, 9.0]], bbox=[4.0, 4.0, 0.0, 0.0]),
    ])  # fmt: skip
    data = prepared(tmp_path)
    points = data.points("train2017/000000000009")
    assert points.flags == ("no_mask", "outside|no_mask", "bad_box", "bad_box|no_mask")
    np.testing.assert_allclose(points.points_xy, [[15.5, 5.5], [103.5, 5.5], [5.5, 5.5], [3.5, 3.5]])
    assert data.truth is not None
    assert data.truth.instances("train2017/000000000009").status.tolist() == ["empty", "empty", "ok", "empty"]


@pytest.mark.parametrize(
    ("annotation", "match"),
    [
        (coco_annotation(7, 9, 5, SQUARE), "annotation 7: category_id 5 is none of the file's categories"),
        (coco_annotation(7, 9, [1], SQUARE), r"annotation 7: category_id \[1\] is none"),  # type: ignore[arg-type]
        (
            coco_annotation(7, 9, 1, {"size": [9, 9], "counts": [81]}),
            r"annotation 7: segmentation: its size is \[9, 9\]",
        ),
        (coco_annotation(7, 9, 1, [[1, 2, 3, 4, 5, 6, 7]]), "annotation 7: segmentation: a polygon has 7 numbers"),
        (coco_annotation(7, 9, 1, SQUARE, bbox=[1, 2, 3]), r"annotation 7: bbox: expected \[x, y, width, height\]"),
        (coco_annotation(7, 9, 1, [], bbox=None), "annotation 7: has neither a mask with pixels nor a bbox"),
    ],
)
def test_an_annotation_that_cannot_be_used_names_its_image(tmp_path: Path, annotation: object, match: str) -> None:
    change(tmp_path / "raw", annotations=[annotation])
    with pytest.raises(
        PipelineError, match=rf"instances_train2017\.json: mend or remove these .*0009\.jpg.*\n.*{match}"
    ):
        prepared(tmp_path)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(("size_hw", "remedy"), [((24, 30), "of one copy"), ((32, 24), "its EXIF data turn it")])
def test_masks_of_another_size_than_the_image_are_refused(
    tmp_path: Path, size_hw: tuple[int, int], remedy: str
) -> None:
    write_coco(tmp_path / "raw")
    write_image(tmp_path / "raw/train2017/000000000030.jpg", size_hw)
    size = rf"{size_hw[1]} × {size_hw[0]} pixels \(width × height\)"
    with pytest.raises(PipelineError, match=rf"0030\.jpg: is {size}, .*_train2017\.json says 32 × 24; .*{remedy}"):
        prepared(tmp_path)


def test_a_size_that_is_not_stated_is_the_images(tmp_path: Path) -> None:
    images = [{key: image[key] for key in ("id", "file_name")} for image in coco_content()["images"]]
    change(tmp_path, images=images)
    assert read(tmp_path)["train2017/000000000009"].truth[0].mask.sum() == 48


def test_other_names_and_folders(tmp_path: Path) -> None:
    content = coco_content()
    for image in content["images"]:
        image["file_name"] = f"deep/{image['id']}.jpg"
        write_image(tmp_path / "raw/mine" / image["file_name"])
    write_json(tmp_path / "raw/labels.json", content)
    reader = get_reader("coco", {"annotations": {"train": "labels.json"}, "images": {"train": "mine"}})
    assert reader.published == {}
    data = prepared(tmp_path, reader)  # type: ignore[arg-type]
    assert [row.image_id for row in data.images] == ["mine/deep/25", "mine/deep/30", "mine/deep/9"]
    assert data.source["options"]["images"] == {"train": "mine"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"annotations": {"dev": "a.json"}}, "annotations must name files of train, val, test, got dev"),
        ({"annotations": {}}, "annotations must name files of train, val, test, got none"),
        (
            {"annotations": {"test": "a.json"}},
            "images must name the folder of every split of annotations; test missing",
        ),
        ({"points": "corner"}, "points must be one of center, random"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        get_reader("coco", options)


def test_missing_files_and_other_categories_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"option annotations \(2 found\)"):
        CocoReader().scan(tmp_path)
    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    write_json(path, {**json.loads(path.read_text()), "categories": [{"id": 1, "name": "person"}]})
    with pytest.raises(PipelineError, match=r"the splits must have the same categories.*\n.*instances_val2017"):
        CocoReader().scan(tmp_path)


def test_a_worker_gets_its_own_image_only(tmp_path: Path) -> None:
    many = [coco_annotation(k, 30, 1, SQUARE) for k in range(3000)]
    change(tmp_path, annotations=[coco_annotation(9000, 9, 1, SQUARE), *many])
    entries = {entry.image_id: entry for entry in CocoReader().scan(tmp_path)}
    few, lot = entries["train2017/000000000009"], entries["train2017/000000000030"]
    assert len(pickle.dumps(few)) < 1500
    assert len(pickle.dumps(lot)) < 16 * 3000 + 1500
    assert len(CocoReader().read(pickle.loads(pickle.dumps(lot))).points_xy) == 3000


def test_the_raw_data_stay_as_they_are_and_workers_change_nothing(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        images = [{"id": k, "file_name": f"{k}.jpg", "height": 24, "width": 32} for k in range(9)]
        annotations = [coco_annotation(k, k % 9, (1, 18, 90)[k % 3], SQUARE, iscrowd=int(k == 7)) for k in range(20)]
        write_coco(tmp_path / name / "raw", coco_content(images=images, annotations=annotations))
        before = tree_digest(tmp_path / name / "raw")
        prepare_dataset(
            CocoReader(), tmp_path / name / "raw", tmp_path / name / "prepared", tmp_path / name, workers=workers
        )
        assert tree_digest(tmp_path / name / "raw") == before
    assert tree_digest(tmp_path / "one/prepared") == tree_digest(tmp_path / "two/prepared")
