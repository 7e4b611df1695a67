from pipeline.annotators.base import Annotator
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.quality import CircleAnnotator
from pipeline.annotators.superpixel import SuperpixelAnnotator, SuperpixelOptions
from tests.annotators.fake_model import DiscModel, mark


def test_every_annotator_is_one() -> None:
    annotators: list[Annotator] = [
        DiscAnnotator(),
        CircleAnnotator(),
        SuperpixelAnnotator(SuperpixelOptions()),
        EdpSamAnnotator(DiscModel(), EdpSamOptions()),
    ]
    marked = mark([[5.0, 6.0], [20.0, 9.0]], (16, 32))
    assert marked.size_hw == (16, 32)
    for annotator in annotators:
        assert annotator.name
        assert annotator.algorithm_version >= 1
        assert annotator.weights_sha256 is None or len(annotator.weights_sha256) == 64
        assert len(annotator.annotate(marked)) == 2
