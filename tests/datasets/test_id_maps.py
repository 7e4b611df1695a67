from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.id_maps import id_windows, present_ids, read_id_map
from pipeline.errors import PipelineError
from tests.datasets.fake_masks import city_map, save_palette


def test_numbers_are_read_as_they_are_stored(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    save_palette(tmp_path / "p.png", values)
    np.testing.assert_array_equal(read_id_map(tmp_path / "p.png", modes=("P",), expected="x"), values)
    Image.fromarray(city_map()).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read_id_map(tmp_path / "i.png", modes=("I;16", "I"), expected="x"), city_map())
    rgba = np.random.default_rng(1).integers(0, 256, (7, 9, 4), dtype=np.uint8)
    rgba[..., 3] = np.arange(9)  # an alpha of 0 must not wipe the others out
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_id_map(tmp_path / "a.png", modes=("RGBA",), expected="x"), rgba)


def test_what_a_tool_has_saved_anew_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    save_palette(path, np.zeros((3, 3), np.uint8))
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(PipelineError, match=r"p\.png: expected a palette image, got an image of mode RGB; take"):
        read_id_map(path, modes=("P",), expected="a palette image")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PipelineError, match=r"p\.png: not a readable image"):
        read_id_map(path, modes=("P",), expected="a palette image")
    with pytest.raises(PipelineError, match=r"q\.png: not a readable image"):
        read_id_map(tmp_path / "q.png", modes=("P",), expected="a palette image")


def test_windows_are_the_pixels_of_each_number() -> None:
    id_map = np.random.default_rng(2).integers(0, 5, (12, 15)).astype(np.uint16) * 9000
    ids = present_ids(id_map)
    assert ids == [0, 9000, 18000, 27000, 36000]
    for number, window in zip([36000, 9000], id_windows(id_map, [36000, 9000]), strict=True):
        mask = np.zeros(id_map.shape, np.bool_)
        height, width = window.mask.shape
        mask[window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
        np.testing.assert_array_equal(mask, id_map == number)
    assert id_windows(id_map, []) == []
