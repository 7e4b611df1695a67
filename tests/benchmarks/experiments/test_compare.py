"""The rows of the comparison: comparable, and sharing what they can."""

from dataclasses import asdict

import pytest
import yaml

from benchmarks.experiments.compare import COMPARE, RECIPE, draw
from benchmarks.experiments.study import REPOSITORY, Run
from benchmarks.experiments.workshop import Workshop
from stages.params import load_segmenter_params
from tests.stages.test_params import leaves

MARKS = {"truth": "masks", "edp_sam": "points", "superpixel": "points", "p2seg": "points"}


@pytest.fixture
def params(tmp_path):
    return {row.key: Workshop(tmp_path, COMPARE).parameters(Run(row, 5, 0)) for row in COMPARE.rows}


def test_rows_of_one_method_share_their_masks(params):
    """Equal sections are one folder; a second training of P2Seg would find the first one's result, and show no time."""
    for section in ("prepare", "nnec"):
        assert len({yaml.safe_dump(one[section]) for one in params.values()}) == 1
    for method in MARKS:
        same = {yaml.safe_dump(one["annotate"]) for one in params.values() if one["annotate"]["method"] == method}
        assert len(same) == 1, method


def test_labels_are_those_that_the_row_reads(params):
    for row in COMPARE.rows:
        own = params[row.key]
        mark = MARKS[own["annotate"]["method"]]
        assert row.labels.share == ("dots" if own["system"] == "crowd" else mark)
        reads_points = own.get("pseudo_label", {}).get("choose") is not None  # PointWSSIS alone looks at points
        assert (row.labels.rest == "points") == reads_points, row.key
        if own["annotate"]["method"] == "p2seg":  # it learns from the points of all training images
            assert row.labels.describe(row.labeled_pcts[0]) == "points on 100 %"


def test_every_row_trains_solov2_alike(params):
    networks = [one["warmup"] for one in params.values() if one["system"] == "segmenter"]
    assert len({yaml.safe_dump([one["network"], one["views"]]) for one in networks}) == 1


OWN = {
    "solov2": ("p2seg", {"annotate.method", "splits.held_out_frac"}),
    "pldc": ("pldc", set()),
    "pointwssis": ("pointwssis", {"retrain.learn.loop.evaluate_every"}),
}
"""Parameter file → the recipe whose values it has, but for these."""
SAID_ELSEWHERE = ("datasets", "labeled_pct", "seeds", "annotate.p2seg", "evaluate.pictures", "evaluate.teacher")


@pytest.mark.parametrize("name", OWN)
def test_values_are_those_of_the_systems_own_recipe(name):
    recipe, differ = OWN[name]
    ours, theirs = (
        leaves(asdict(load_segmenter_params(path)))
        for path in (REPOSITORY / RECIPE / "params" / f"{name}.yaml", REPOSITORY / "recipes" / recipe / "params.yaml")
    )
    found = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {key for key in found if not key.startswith(SAID_ELSEWHERE)} == differ


def test_every_file_makes_p2seg_masks_as_the_recipe_does(params):
    recipe = yaml.safe_load((REPOSITORY / "recipes" / "p2seg" / "params.yaml").read_text(encoding="utf-8"))
    recipe["annotate"]["p2seg"]["seeds"].pop("source")  # the default, written down there
    for own in params.values():
        assert own["annotate"]["p2seg"] == recipe["annotate"]["p2seg"]


def test_a_tenth_of_the_images_or_more_choose(params):
    """At least ten images hold the threshold of the count."""
    for row in COMPARE.rows:
        for pct in row.labeled_pcts:
            assert 1000 * pct / 100 * params[row.key]["splits"]["held_out_frac"] >= 10


def test_scenes_are_its_own():
    seeds = {
        path.parts[-5]: yaml.safe_load(path.read_text(encoding="utf-8"))["seed"]
        for path in (REPOSITORY / "recipes").glob("*/data/shapes/raw/scenes.yaml")
    }
    assert seeds.pop(RECIPE.rpartition("/")[2]) == COMPARE.scenes["seed"] not in seeds.values()


def test_nothing_done_draws_nothing():
    assert draw(COMPARE.rows, {}) == {}
    assert draw(COMPARE.rows, {("supervised", 5, 0): {}}).keys() == {"compare.svg"}
