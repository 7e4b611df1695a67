from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.prepared import ImageRow
from pipeline.datasets.splits import SplitOptions, Splits, split_images
from pipeline.errors import PipelineError


def rows(**counts: int) -> list[ImageRow]:
    return [
        ImageRow(f"{split}/images/IMG_{k}", Path("x"), split, (4, 4), "", 0)
        for split, count in counts.items()
        for k in range(1, count + 1)
    ]


def split(images: list[ImageRow], pct: int = 10, seed: int = 0, frac: float = 0.2, **options: Path) -> Splits:
    return split_images(images, labeled_pct=pct, seed=seed, held_out_frac=frac, list_file=options.get("list_file"))


@settings(max_examples=60, deadline=None)
@given(
    n_train=st.integers(2, 60),
    n_val=st.integers(0, 3),
    n_test=st.integers(1, 5),
    pct=st.integers(25, 100),
    seed=st.integers(0, 5),
    frac=st.floats(0.01, 0.99),
)
def test_groups_are_disjoint_and_complete(
    n_train: int, n_val: int, n_test: int, pct: int, seed: int, frac: float
) -> None:
    result = split(rows(train=n_train, val=n_val, test=n_test), pct, seed, frac)
    groups = (result.labeled_train, result.labeled_val, result.unlabeled, result.test)
    assert sorted(name for group in groups for name in group) == sorted(
        row.image_id for row in rows(train=n_train, val=n_val, test=n_test)
    )
    assert result.labeled_train
    assert result.labeled_val
    assert all(name.startswith("test/") for name in result.test)
    assert not any(name.startswith("test/") for group in groups[:3] for name in group)
    if n_val:
        assert all(name.startswith("val/") for name in result.labeled_val)
        assert len(result.labeled_train) == max(1, (pct * n_train + 50) // 100)


@settings(max_examples=60, deadline=None)
@given(n_train=st.integers(10, 80), n_val=st.integers(0, 1), seed=st.integers(0, 9), frac=st.floats(0.05, 0.9))
def test_shares_are_nested(n_train: int, n_val: int, seed: int, frac: float) -> None:
    images = rows(train=n_train, val=n_val, test=1)
    results = [split(images, pct, seed, frac) for pct in (5, 10, 40, 100)]
    for small, large in pairwise(results):
        assert set(small.labeled_train) <= set(large.labeled_train)
        assert set(small.labeled_val) <= set(large.labeled_val)


@pytest.mark.parametrize(
    ("n_train", "pct", "frac", "n_labeled", "n_held_out"),
    [
        (300, 5, 0.2, 15, 3),
        (300, 10, 0.2, 30, 6),
        (300, 40, 0.2, 120, 24),
        (300, 100, 0.2, 300, 60),
        (20, 10, 0.2, 2, 1),
        (3, 17, 0.2, 2, 1),  # one image becomes two
        (100, 10, 0.9, 10, 8),
    ],
)
def test_sizes(n_train: int, pct: int, frac: float, n_labeled: int, n_held_out: int) -> None:
    result = split(rows(train=n_train, test=1), pct, frac=frac)
    assert len(result.labeled_val) == n_held_out
    assert len(result.labeled_train) + len(result.labeled_val) == n_labeled


def test_the_order_of_the_images_does_not_matter_and_the_seed_does() -> None:
    images = rows(train=50, test=2)
    assert split(images) == split(images[::-1])
    assert split(images, seed=0).labeled_train != split(images, seed=1).labeled_train


def test_without_test_images_validation_images_are_the_test() -> None:
    images = [*rows(train=20, val=4), ImageRow("hidden/1", Path("x"), "hidden", (4, 4), "", 0)]
    result = split(images, pct=50)
    assert result.test == tuple(f"val/images/IMG_{k}" for k in range(1, 5))
    assert all(name.startswith("train/") for name in result.labeled_val)
    assert "hidden/1" not in {*result.labeled_train, *result.labeled_val, *result.unlabeled, *result.test}


@pytest.mark.parametrize(
    "text",
    [
        "IMG_1\nIMG_2\nIMG_3\n",
        "IMG_1.jpg\r\n\r\nIMG_2.jpg\r\nIMG_3.jpg",
        "\ufefftrain/images/IMG_1\ntrain/images/IMG_2.jpg\nIMG_3\nIMG_3\n",
        "some/where/IMG_1.jpg\n  IMG_2 \nx\\IMG_3.png\n",
    ],
)
def test_list_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "5.txt"
    path.write_bytes(text.encode())
    result = split(rows(train=9, val=1, test=3), list_file=path)
    assert result.labeled_train == tuple(f"train/images/IMG_{k}" for k in (1, 2, 3))
    held_out = split(rows(train=9, test=3), list_file=path)
    assert len(held_out.labeled_val) == 1
    assert {*held_out.labeled_train, *held_out.labeled_val} == set(result.labeled_train)


def test_faults_of_a_list_file_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "5.txt"
    path.write_text("IMG_1\nIMG_99\nIMG_98.jpg\n")
    images = [*rows(train=9, test=9), ImageRow("train/more/IMG_1", Path("x"), "train", (4, 4), "", 0)]
    with pytest.raises(PipelineError) as caught:
        split(images, list_file=path)
    message = str(caught.value)
    assert "line 1: 'IMG_1' fits 2 images, such as train/images/IMG_1 and train/more/IMG_1" in message
    assert "line 2: 'IMG_99' is no training image" in message
    assert "line 3: 'IMG_98.jpg' is no training image" in message


@pytest.mark.parametrize(
    ("counts", "pct", "text", "match"),
    [
        ({"train": 1, "test": 1}, 10, None, "has 1 training images; at least 2 are needed"),
        ({"train": 0, "val": 1, "test": 1}, 10, None, "has 0 training images; at least 1 are needed"),
        ({"train": 9, "test": 1}, 0, None, "labeled_pct: expected 1 to 100, got 0"),
        ({"train": 9, "test": 1}, 5, None, "5 % of 9 training images is no image; give at least 6 %, or name"),
        ({"train": 9, "val": 1, "test": 1}, 1, None, "1 % of 9 training images is no image"),
        ({"train": 9, "test": 1}, 10, "IMG_1\n", "names 1 training images; at least 2 are needed"),
        ({"train": 9, "test": 1}, 10, "missing", "the list of labelled images cannot be read"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, counts: dict[str, int], pct: int, text: str | None, match: str) -> None:
    path = tmp_path / "list.txt"
    if text not in (None, "missing"):
        path.write_text(str(text))
    with pytest.raises(PipelineError, match=match):
        split_images(
            rows(**counts), labeled_pct=pct, seed=0, held_out_frac=0.2, list_file=None if text is None else path
        )


@pytest.mark.parametrize("frac", [0.0, 1.0, -0.1])
def test_the_held_out_share_has_bounds(frac: float) -> None:
    with pytest.raises(ValueError, match=f"held_out_frac must be above 0 and below 1, got {frac}"):
        SplitOptions(held_out_frac=frac)
