"""The drawing of shapes: exact masks, sizes as asked for, classes told by their outlines alone."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.datasets.shape_scene.outlines import KINDS, draw_outline
from pipeline.datasets.shape_scene.scene import MIN_VISIBLE_FRAC, MIN_VISIBLE_PX, ShapeScene, _cover, render_shapes
from pipeline.datasets.shape_scene.surfaces import NOISE_PX, Surfaces, farthest_color

NAMES = tuple(KINDS)


def draw(seed: int, size_hw=(96, 96), n_objects=8, size_px=(6.0, 60.0), classes=NAMES, **options) -> ShapeScene:
    rng = np.random.default_rng(seed)
    return render_shapes(rng, size_hw=size_hw, n_objects=n_objects, size_px=size_px, classes=classes, **options)


@pytest.mark.parametrize(("size_hw", "n_objects"), [((96, 96), 8), ((64, 128), 20), ((16, 16), 3), ((96, 96), 0)])
@pytest.mark.parametrize("seed", range(4))
def test_every_object_shows(seed, size_hw, n_objects) -> None:
    scene = draw(seed, size_hw, n_objects)
    count = len(scene.class_index)
    assert scene.image.shape == (*size_hw, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label_map.shape == size_hw
    assert scene.label_map.dtype == np.int32
    assert count <= n_objects
    areas = np.bincount(scene.label_map.ravel(), minlength=count + 1)[1:]
    assert len(areas) == count
    assert (areas >= MIN_VISIBLE_PX).all()
    assert scene.image.std() > 1


def test_most_of_the_wanted_objects_come() -> None:
    counts = [len(draw(seed).class_index) for seed in range(40)]
    assert np.mean(counts) > 7.5


def test_sizes_are_log_uniform() -> None:
    sizes = np.concatenate([draw(seed).size_px for seed in range(60)])
    assert sizes.min() >= 6
    assert sizes.max() <= 60
    middle = np.sqrt(6 * 60)
    assert 0.4 < (sizes < middle).mean() < 0.6


def test_the_mask_is_the_outline_where_nothing_hides_it() -> None:
    """An object alone and whole has √(box area) as asked for, within the pixels at its edge."""
    checked = 0
    for seed in range(60):
        scene = draw(seed, n_objects=1, size_px=(20.0, 40.0))
        rows, columns = np.nonzero(scene.label_map == 1)
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 95:
            side = np.sqrt((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
            assert abs(side - scene.size_px[0]) < 2.5
            checked += 1
    assert checked > 15


def inside_outline(outline: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which places lie in a polygon, by the edges that a ray crosses."""
    inside = np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


@pytest.mark.parametrize("kind", NAMES)
def test_a_pixels_share_is_what_the_outline_covers_of_it(kind) -> None:
    """Against 12 × 12 places in each pixel, also where the outline leaves the image."""
    rng = np.random.default_rng(3)
    outline = draw_outline(rng, kind) * 14 + rng.uniform((0, 4), (8, 20))
    found = _cover(outline, (24, 24), 14.0)
    assert found is not None
    placed, whole = found
    share = np.zeros((24, 24))
    share[placed.here] = placed.share
    steps = (np.arange(24 * 12) + 0.5) / 12 - 0.5
    y, x = np.meshgrid(steps, steps, indexing="ij")
    expected = inside_outline(outline, x, y).reshape(24, 12, 24, 12).mean(axis=(1, 3))
    assert np.abs(share - expected).max() < 0.3
    assert np.abs(share - expected).mean() < 0.02
    assert abs(share.sum() - expected.sum()) < 0.05 * expected.sum() + 2
    assert whole >= (share >= 0.5).sum()


def test_the_masks_are_what_shows(monkeypatch) -> None:
    """Red, green and blue things: the colour of every pixel tells whose it is, but at edges, which mix."""
    colors = np.eye(3, dtype=np.float32)
    drawn = []

    def draw_plain(self, size_hw, scale_px, hue=None):
        drawn.append(size_hw)
        return np.broadcast_to(colors[(len(drawn) - 1) % 3], (*size_hw, 3)).copy()

    monkeypatch.setattr(Surfaces, "draw", draw_plain)
    monkeypatch.setattr(
        "pipeline.datasets.shape_scene.scene.farthest_color", lambda rng, behind, surface, least: surface
    )
    monkeypatch.setattr("pipeline.datasets.shape_scene.scene._scratch", lambda rng, canvas, most: None)
    checked = 0
    for seed in range(30):
        drawn.clear()
        scene = draw(seed, n_objects=2, size_px=(20.0, 50.0), roughness=0.0)
        if len(scene.class_index) < 2:
            continue
        # the ground is drawn first, then the object behind, then the one in front
        expected = np.array([0, 2, 1])[scene.label_map]
        shown = scene.image.argmax(axis=2)
        padded = np.pad(scene.label_map, 1, mode="edge")
        around = np.stack([padded[r : r + 96, c : c + 96] for r in range(3) for c in range(3)])
        plain = (around == scene.label_map).all(axis=0)
        np.testing.assert_array_equal(shown[plain], expected[plain])
        checked += 1
    assert checked > 15


def test_objects_touch_and_hide_each_other() -> None:
    touching = hidden = 0
    for seed in range(20):
        label_map = draw(seed).label_map
        a, b = label_map[:, 1:], label_map[:, :-1]
        touching += bool(((a != b) & (a > 0) & (b > 0)).any())
    assert touching > 12
    # behind another: the first object is in front and whole, the second may be hidden up to the limit
    for seed in range(60):
        scene = draw(seed, (64, 64), 2, (30.0, 31.0), ("square",))
        if len(scene.class_index) == 2:
            shares = np.bincount(scene.label_map.ravel(), minlength=3)[1:] / scene.size_px**2
            hidden += shares.min() < 0.75 * shares.max()
    assert hidden > 5
    assert MIN_VISIBLE_FRAC < 0.75


@pytest.mark.parametrize("kind", NAMES)
def test_an_outline_is_centred_and_of_unit_size(kind) -> None:
    rng = np.random.default_rng(0)
    outlines = [draw_outline(rng, kind) for _ in range(20)]
    for outline in outlines:
        low, high = outline.min(axis=0), outline.max(axis=0)
        np.testing.assert_allclose(low + high, 0, atol=1e-9)
        assert np.prod(high - low) == pytest.approx(1)
    assert not np.array_equal(outlines[0], outlines[1])


def axis_ratio(outline: np.ndarray) -> float:
    """Length over width of a filled outline, from the second moments of its inside."""
    y, x = np.mgrid[-1:1:121j, -1:1:121j]
    inside = inside_outline(outline, x, y)
    low, high = np.linalg.eigvalsh(np.cov(np.stack([x[inside], y[inside]])))
    return float(np.sqrt(high / low))


def test_look_alikes_are_alike_but_not_the_same() -> None:
    rng = np.random.default_rng(1)
    discs = [axis_ratio(draw_outline(rng, "disc")) for _ in range(60)]
    ellipses = [axis_ratio(draw_outline(rng, "ellipse")) for _ in range(60)]
    assert np.quantile(discs, 0.95) < np.quantile(ellipses, 0.05)
    assert min(ellipses) < 1.6


def test_colour_and_texture_do_not_give_the_class_away() -> None:
    """A classifier on what an object's pixels look like, wherever they lie, does no better than chance."""
    features, classes = [], []
    for seed in range(120):
        scene = draw(seed, size_px=(14.0, 40.0), classes=NAMES[:6])
        for index, class_index in enumerate(scene.class_index):
            # a square in the middle of the object, alike for all classes
            pixels = np.argwhere(scene.label_map == index + 1)
            row, column = pixels[np.argmin(((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1))]
            patch = scene.image[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 3) / 255
            features.append([*patch.mean(axis=0), *patch.std(axis=0)])
            classes.append(class_index)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    accuracy = cross_val_score(model, np.array(features), np.array(classes), cv=5).mean()
    assert len(classes) > 700
    assert accuracy < 1 / 6 + 0.06


def test_objects_stand_out_from_what_is_behind_them() -> None:
    rng = np.random.default_rng(4)
    grey = np.full(3, 0.5, np.float32)
    surface = np.full((5, 5, 3), 0.55, np.float32)
    moved = farthest_color(rng, grey, surface, least=0.2)
    assert np.abs(moved.mean(axis=(0, 1)) - grey).max() >= 0.19
    assert farthest_color(rng, grey, surface, least=0.01) is surface


def test_weights_make_classes_rare() -> None:
    counts = np.zeros(2)
    for seed in range(60):
        scene = draw(seed, classes=("disc", "square"), weights=(9.0, 1.0))
        counts += np.bincount(scene.class_index, minlength=2)
    assert 0.04 < counts[1] / counts.sum() < 0.17


def test_the_same_state_gives_the_same_scene() -> None:
    one, two, other = draw(1), draw(1), draw(2)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.label_map, two.label_map)
    assert not np.array_equal(one.image, other.image)
    plain = draw(1, roughness=0.0)
    np.testing.assert_array_equal(one.label_map, plain.label_map)
    assert (plain.image != one.image).any()


def test_a_surface_may_be_larger_than_the_noise() -> None:
    surface = Surfaces(np.random.default_rng(0)).draw((3 * NOISE_PX, 2), 30.0)
    assert surface.shape == (3 * NOISE_PX, 2, 3)
    assert np.isfinite(surface).all()
