import io

import numpy as np
import pytest
from PIL import Image

from pipeline.report.overlay import (
    CIRCLE_COLOR,
    PANEL_PX,
    POINT_COLOR,
    PREDICTION_COLOR,
    Overlay,
    Panel,
    draw_overlay,
    encode_jpeg,
    encode_png,
    mask_colors,
)


def overlay(size_hw: tuple[int, int], panels: list[Panel], title: str = "IMG_1") -> Overlay:
    return Overlay(title, "3 heads", np.full((*size_hw, 3), 90, dtype=np.uint8), panels)


def holds_color(picture: np.ndarray, color: str) -> bool:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(picture.astype(int) - rgb).max(axis=2) <= 3).any())


@pytest.mark.parametrize("size_hw", [(1, 1), (40, 60), (300, 2000), (1500, 900)])
def test_any_size_of_image_is_drawn(size_hw: tuple[int, int]) -> None:
    label_map = np.ones(size_hw, dtype=np.int32)
    picture = draw_overlay(overlay(size_hw, [Panel("photo"), Panel("masks", label_map=label_map)]))
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[1] <= 2 * PANEL_PX + 80
    assert picture.shape[0] <= PANEL_PX + 200


def test_points_circles_and_predictions_have_their_colors() -> None:
    points = {"points_xy": np.array([[100.0, 80.0]])}
    plain = draw_overlay(overlay((200, 300), [Panel("photo")]))
    marked = draw_overlay(overlay((200, 300), [Panel("points", radius_px=np.array([40.0]), **points)]))
    predicted = draw_overlay(overlay((200, 300), [Panel("prediction", predicted=True, **points)]))
    for color in (POINT_COLOR, CIRCLE_COLOR, PREDICTION_COLOR):
        assert not holds_color(plain, color)
    assert holds_color(marked, POINT_COLOR)
    assert holds_color(marked, CIRCLE_COLOR)
    assert holds_color(predicted, PREDICTION_COLOR)
    assert not holds_color(predicted, POINT_COLOR)


def test_masks_color_their_pixels_and_dim_the_rest() -> None:
    label_map = np.zeros((100, 100), dtype=np.int32)
    label_map[:, 50:] = 1
    picture = draw_overlay(overlay((100, 100), [Panel("masks", label_map=label_map)]))
    middle = picture.shape[0] // 2
    left, right = picture[middle, picture.shape[1] // 2 - 75], picture[middle, picture.shape[1] // 2 + 75]
    assert left.tolist() == [56, 56, 56], "0.62 of 90"
    expected = (90 + mask_colors(1)[1].astype(float)) / 2
    np.testing.assert_allclose(right, expected, atol=1)


def test_the_same_overlay_gives_the_same_bytes() -> None:
    panels = [Panel("photo", points_xy=np.array([[3.0, 3.0]]))]
    first, second = (draw_overlay(overlay((20, 30), panels)) for _ in range(2))
    assert encode_png(first) == encode_png(second)


def test_titles_are_not_read_as_formulas() -> None:
    draw_overlay(overlay((20, 30), [Panel("photo")], title="a$b_{$"))


def test_encoded_pictures_open_again() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)))), picture)
    assert Image.open(io.BytesIO(encode_jpeg(picture))).size == (30, 20)


def test_mask_colors_keep_neighbours_apart() -> None:
    colors = mask_colors(200).astype(int)
    assert colors.shape == (201, 3)
    assert colors[0].tolist() == [0, 0, 0]
    assert np.abs(np.diff(colors[1:], axis=0)).max(axis=1).min() > 60


def test_masks_of_one_class_have_one_color_which_the_legend_names() -> None:
    label_map = np.repeat(np.array([[1, 2, 3]]), 100, axis=0).repeat(40, axis=1)
    panel = Panel("masks", label_map=label_map, class_id=np.array([1, 0, 1]))
    one = Overlay("IMG_1", "", np.full((100, 120, 3), 90, np.uint8), [panel], class_names=("disc", "star"))
    picture = draw_overlay(one)
    middle = picture[picture.shape[0] // 2]
    disc, star = ((90 + mask_colors(2)[k].astype(float)) / 2 for k in (1, 2))
    shown = [middle[picture.shape[1] // 2 + offset].tolist() for offset in (-120, 0, 120)]
    assert shown == [np.rint(color).astype(int).tolist() for color in (star, disc, star)]
    for color in mask_colors(2)[1:]:
        assert holds_color(picture, "#" + "".join(f"{part:02x}" for part in color))
    plain = draw_overlay(Overlay("IMG_1", "", one.pixels, [Panel("masks", label_map=label_map)]))
    assert not (plain.shape == picture.shape and (plain == picture).all())
