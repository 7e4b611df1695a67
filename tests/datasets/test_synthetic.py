from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.synthetic import SyntheticReader, read_plans
from pipeline.errors import PipelineError

ROOT = Path(__file__).parents[2]
SCENES = """\
seed: 5
splits:
  test: {images: 1, height_px: 48, width_px: 64, heads: [0, 4]}
  train:
    images: 3
    height_px: 48
    width_px: 64
    heads: [3, 9]
"""


def write(folder: Path, text: str = SCENES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenes.yaml").write_text(text, encoding="utf-8")
    return folder


def read_all(folder: Path):
    reader = SyntheticReader()
    return [reader.read(entry) for entry in reader.scan(folder)]


def test_scenes_as_the_file_asks_for_them(tmp_path: Path) -> None:
    images = read_all(write(tmp_path))
    assert [image.image_id for image in images] == ["train/0000", "train/0001", "train/0002", "test/0000"]
    for image in images:
        count = len(image.points_xy)
        assert image.path is None
        assert image.pixels is not None
        assert image.pixels.shape == (48, 64, 3)
        assert image.truth is not None
        assert image.truth.max() == count
        assert image.boxes_wh_px is not None
        assert image.class_id.tolist() == [0] * count
        low, high = (3, 9) if image.split == "train" else (0, 4)
        assert low <= count <= high


def test_a_seed_fixes_all_scenes(tmp_path: Path) -> None:
    first, again = read_all(write(tmp_path / "a")), read_all(write(tmp_path / "b"))
    other = read_all(write(tmp_path / "c", SCENES.replace("seed: 5", "seed: 6")))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.pixels, two.pixels)
        np.testing.assert_array_equal(one.truth, two.truth)
        np.testing.assert_array_equal(one.points_xy, two.points_xy)
        assert not np.array_equal(one.pixels, three.pixels)
    assert not np.array_equal(first[0].pixels, first[1].pixels)


def test_a_longer_split_begins_with_the_shorter(tmp_path: Path) -> None:
    short = read_all(write(tmp_path / "a"))
    longer = SCENES.replace("images: 3", "images: 5").replace("  test: {images: 1", "  test: {images: 2")
    longer = {image.image_id: image for image in read_all(write(tmp_path / "b", longer))}
    assert len(longer) == 7
    for image in short:
        np.testing.assert_array_equal(image.pixels, longer[image.image_id].pixels)
        np.testing.assert_array_equal(image.truth, longer[image.image_id].truth)


def test_one_number_of_heads(tmp_path: Path) -> None:
    folder = write(tmp_path, SCENES.replace("[3, 9]", "[5, 5]").replace("[0, 4]", "[0, 0]"))
    assert [len(image.points_xy) for image in read_all(folder)] == [5, 5, 5, 0]


@pytest.mark.parametrize(("heads", "middle"), [([1, 63], 8), ([0, 40], 20), ([5, 3000], 122)])
def test_heads_are_as_often_few_as_many(tmp_path: Path, monkeypatch, heads, middle) -> None:
    wanted = []
    empty = render_scene(np.random.default_rng(0), size_hw=(16, 16), n_heads=0)

    def render(rng, *, size_hw, n_heads, **options):
        wanted.append(n_heads)
        return empty

    monkeypatch.setattr("pipeline.datasets.synthetic.render_scene", render)
    read_all(write(tmp_path, f"splits: {{train: {{images: 300, height_px: 64, width_px: 64, heads: {heads}}}}}"))
    assert heads[0] <= min(wanted) <= max(wanted) <= heads[1]
    assert 0.4 < np.mean([one <= middle for one in wanted]) < 0.6


def test_head_sizes_and_roughness(tmp_path: Path) -> None:
    split = "splits: {train: {images: 2, height_px: 96, width_px: 96, heads: [6, 6], head_px: [12, 14.5]%s}}"
    rough = read_all(write(tmp_path / "a", split % ""))
    plain = read_all(write(tmp_path / "b", split % ", roughness: 0"))
    for one, other in zip(rough, plain, strict=True):
        assert one.boxes_wh_px[:, 1].min() >= 12 * 0.75
        assert one.boxes_wh_px[:, 1].max() <= 14.5 * 1.25
        np.testing.assert_array_equal(one.truth, other.truth)
        assert (one.pixels != other.pixels).any()


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("splits: {train: {images: -1}}", ["splits.train.images: expected", ".height_px: expected", "got None"]),
        ("seed: -1\nsplits: {dev: {}}\nmore: 1", ["seed: expected", "splits.dev: unknown split", "more: unknown key"]),
        ("splits: {train: 3, val: {imagez: 1}}", ["splits.train: expected the keys", "splits.val.imagez: unknown key"]),
        ("seed: true\nsplits: {train: {}}", ["seed: expected a whole number of at least 0, got True"]),
        (SCENES.replace("[3, 9]", "[9, 3]"), [".heads: expected [fewest, most]", "got [9, 3]"]),
        (SCENES.replace("[3, 9]", "[3.5, 9]"), ["got [3.5, 9]"]),
        (SCENES.replace("[3, 9]", "7"), ["got 7"]),
        (SCENES.replace("height_px: 48", "height_px: 8"), ["height_px: expected a whole number from 16 to"]),
        (SCENES.replace("[3, 9]", "[3, 9]\n    head_px: [20, 10]"), ["head_px: expected [far, near]"]),
        (SCENES.replace("[3, 9]", "[3, 9]\n    head_px: []"), ["head_px: expected [far, near]"]),
        (SCENES.replace("[3, 9]", "[3, 9]\n    roughness: 2"), ["roughness: expected a number from 0 to 1, got 2"]),
    ],
)
def test_all_faults_come_at_once(tmp_path: Path, text, faults) -> None:
    with pytest.raises(PipelineError, match="scenes.yaml: mend these entries") as caught:
        SyntheticReader().scan(write(tmp_path, text))
    for fault in faults:
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splits: [", "not valid YAML"),
        ("- 1", "expected the keys seed and splits"),
        ("seed: 1", "expected the keys seed and splits"),
        ("splits: {}", "expected the keys seed and splits"),
        ("splits: {train: {}}\nsplits: {}", "not valid YAML"),
    ],
)
def test_what_is_no_list_of_scenes_is_refused(tmp_path: Path, text, message) -> None:
    with pytest.raises(PipelineError, match=f"scenes.yaml: {message}"):
        SyntheticReader().scan(write(tmp_path, text))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="scenes.yaml: no such file; .*see docs/datasets.md"):
        SyntheticReader().scan(tmp_path)


def test_the_embedded_scenes_are_sound() -> None:
    seed, plans = read_plans(ROOT / "data/synthetic/raw/scenes.yaml")
    assert seed == 0
    assert list(plans) == ["train", "test"]


def test_prepare_keeps_masks_and_points_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "data/raw")
    prepare_dataset(SyntheticReader(), folder, tmp_path / "data/prepared", tmp_path / "data", workers=1)
    prepared = Prepared.open(tmp_path / "data/prepared")
    assert prepared.truth is not None
    for row in prepared.images:
        points = prepared.points(row.image_id)
        label_map = prepared.truth.label_map(row.image_id)
        x, y = np.round(points.points_xy).astype(int).T
        assert label_map[y, x].tolist() == list(range(1, len(points) + 1))
