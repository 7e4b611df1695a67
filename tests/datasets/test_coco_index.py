import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.coco_index import index_coco, read_annotations
from pipeline.errors import PipelineError
from tests.datasets.fake_masks import coco_annotation, coco_content


def write(path: Path, content: object, **options: object) -> Path:
    path.write_text(json.dumps(content, **options), encoding="utf-8")  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_annotation_is_found_again(tmp_path: Path, options: dict[str, object], turned: bool, bom: bytes) -> None:
    content = coco_content()
    content["images"][1]["file_name"] = "straße/漢字.jpg"
    content["categories"][0]["name"] = "naïve ☃"
    content["annotations"][2]["caption"] = 'tricky "]}, [{ ü'
    content["annotations"] += [coco_annotation(600 + k, 77, 1, []) for k in range(2)]
    path = write(tmp_path / "x.json", dict(reversed(content.items())) if turned else content, **options)
    path.write_bytes(bom + path.read_bytes())
    index = index_coco(path)
    assert [image.file_name for image in index.images] == [image["file_name"] for image in content["images"]]
    assert index.categories == {1: "person", 18: "naïve ☃", 90: "toothbrush"}
    assert list(index.categories) == [1, 18, 90]
    assert index.orphans == {"77": 2}
    for image, raw in zip(index.images, content["images"], strict=True):
        expected = [one for one in content["annotations"] if one["image_id"] == raw["id"]]
        assert read_annotations(path, image.spans) == expected
        assert image.size_hw == (raw["height"], raw["width"])


def test_ids_may_be_text_and_sizes_unknown(tmp_path: Path) -> None:
    image = {"id": "ä漢", "file_name": "a.jpg"}
    content = coco_content(images=[image], annotations=[coco_annotation(1, "ä漢", 1, [])])  # type: ignore[arg-type]
    index = index_coco(write(tmp_path / "x.json", content, ensure_ascii=False))
    assert index.images[0].size_hw is None
    assert len(index.images[0].spans) == 1


def test_a_file_without_annotations_in_its_list(tmp_path: Path) -> None:
    index = index_coco(write(tmp_path / "x.json", coco_content(annotations=[])))
    assert [image.spans.shape for image in index.images] == [(0, 2)] * 3


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not a readable COCO file"),
        ("[1]", "not a readable COCO file .expected an object with the lists"),
        ('{"images": [{"id": 1}, {"id"', "not a readable COCO file"),
        ('{"images": [{"id": 1} {"id": 2}]}', "expected ',' at byte 22"),
        ('{"images": [3]}', "images holds 3, expected objects"),
        ('{"images": [], "annotations": {}, "categories": []}', "annotations missing; is it another kind"),
        ('{"images": [], "categories": []}', "annotations missing; is it another kind"),
        ("[" * 100_000, "not a readable COCO file"),
        ('{"info": ' + "[" * 100_000, "not a readable COCO file"),
    ],
)
def test_what_is_no_instances_file_is_explained(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(PipelineError, match=rf"x\.json: .*{match}"):
        index_coco(tmp_path / "x.json")


def test_all_faults_of_the_images_come_at_once(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}, {"id": None, "file_name": "c.jpg"}]
    images += [{"id": 4, "file_name": ""}, {"id": 5, "file_name": "d.jpg", "height": 2.5}]
    with pytest.raises(PipelineError, match=r"mend these images \(4 found\)") as caught:
        index_coco(write(tmp_path / "x.json", coco_content(images=images)))
    for part in ("row 1: id 1 stands twice", "row 2: expected an id", "row 3: expected", "row 4: height and width"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("categories", "match"),
    [
        ([], "there are none"),
        ([{"id": 1}], "row 0: expected a whole id and a name"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "row 1: id 1 stands twice"),
    ],
)
def test_faults_of_the_categories(tmp_path: Path, categories: list[object], match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        index_coco(write(tmp_path / "x.json", coco_content(categories=categories)))


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", coco_content())
    spans = index_coco(path).images[0].spans
    path.write_text("x" * 40)
    with pytest.raises(PipelineError, match=r"x\.json: has changed while it was read"):
        read_annotations(path, spans)
    assert read_annotations(path, np.zeros((0, 2), np.int64)) == []


def test_annotations_of_many_mixed_images_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    owners = np.random.default_rng(0).choice([9, 25, 30], 600).tolist()
    annotations = [{"id": number, "image_id": owner} for number, owner in enumerate(owners)]
    path = write(tmp_path / "x.json", coco_content(annotations=annotations))
    for image, owner in zip(index_coco(path).images, (9, 25, 30), strict=True):
        found = [one["id"] for one in read_annotations(path, image.spans)]
        assert found == [number for number, one in enumerate(owners) if one == owner]
