from pathlib import Path

import pytest

from pipeline.datasets.scene_file import count_fault, is_number, is_number_pair, is_whole, read_scene_file
from pipeline.errors import PipelineError

SCENES = """
seed: 3
tint: red
splits:
  test: {images: 1, height_px: 16, width_px: 17}
  train: {images: 2, height_px: 18, width_px: 19, things: [1, 2]}
"""


def read(path: Path, text: str):
    path.write_text(text)
    return read_scene_file(
        path,
        plan_faults=lambda fields: count_fault(fields, "things") if "things" in fields else [],
        plan_keys=("things",),
        file_faults=lambda content: ["tint: expected red"] if content.get("tint", "red") != "red" else [],
        file_keys=("tint",),
    )


def test_splits_come_in_their_order_and_further_keys_apart(tmp_path: Path) -> None:
    seed, splits, more = read(tmp_path / "scenes.yaml", SCENES)
    assert seed == 3
    assert list(splits) == ["train", "test"]
    assert splits["train"]["things"] == [1, 2]
    assert more == {"tint": "red"}


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = "tint: blue\nhue: 1\nsplits: {train: {images: 1, height_px: 18, width_px: 15, things: [3, 2]}, dev: {}}"
    with pytest.raises(PipelineError, match=r"scenes\.yaml: mend these entries \(5 found\)") as caught:
        read(tmp_path / "scenes.yaml", text)
    for fault in (
        "hue: unknown key; expected seed, tint and splits",
        "tint: expected red",
        "splits.train.width_px: expected a whole",
        "splits.train.things: expected [fewest, most] with whole numbers",
        "splits.dev: unknown split",
    ):
        assert fault in str(caught.value)


@pytest.mark.parametrize(("value", "whole", "number"), [(3, True, True), (3.0, False, True), (True, False, False)])
def test_numbers(value: object, whole: bool, number: bool) -> None:
    assert is_whole(value, 0, 9) == whole
    assert is_number(value, 0, 9) == number
    assert not is_number(10, 0, 9)


@pytest.mark.parametrize(
    ("value", "fits"),
    [([2, 3.5], True), ([3, 3], True), ([3, 2], False), ([2], False), ("23", False), ([1, 10], False)],
)
def test_pairs(value: object, fits: bool) -> None:
    assert is_number_pair(value, 2, 9) == fits
