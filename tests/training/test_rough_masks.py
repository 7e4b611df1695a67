import pytest

from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.training.rough_masks import write_rough_masks
from pipeline.training.segment_inference import PointGuidedOptions
from pipeline.training.segmenter import train_segmenter_teacher
from tests.training.shapes_home import CPU, OPTIONS, place_below, split_shapes, write_shapes


def test_each_early_checkpoint_gives_a_store_of_the_strong_images(tmp_path):
    shapes = write_shapes(tmp_path)
    splits = split_shapes(shapes)
    train_segmenter_teacher(
        shapes, splits, shapes.truth, options=OPTIONS, seed=0, place=place_below(tmp_path, "warmup")
    )
    where = {"out": tmp_path / "rough", "log": tmp_path / "rough.jsonl", "device": CPU, "n_classes": 2}
    stores = write_rough_masks(
        shapes, splits, tmp_path / "warmup", options=PointGuidedOptions(choose="random"), **where
    )
    assert [store.path.name for store in stores] == ["early_1"]
    assert set(stores[0].image_ids) == {*splits.labeled_train, *splits.labeled_val}
    assert stores[0].provenance.params["choose"] == "best"
    assert MaskStore.open(tmp_path / "rough" / "early_1").provenance == stores[0].provenance
    with pytest.raises(PipelineError, match="has no early weights, .*warmup.early_fracs"):
        write_rough_masks(shapes, splits, tmp_path, options=PointGuidedOptions(), **where)
