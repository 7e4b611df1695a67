import pytest

from pipeline.evaluation.average_precision import AveragePrecision
from pipeline.evaluation.given_points import GivenPoints
from pipeline.report.glossary import meaning


@pytest.mark.parametrize(
    ("name", "title", "better"),
    [
        ("mae", "MAE", "lower"),
        ("matched_iou_truth", "Matched IoU", "higher"),
        ("teacher_mae", "MAE of the teacher", "lower"),
        ("teacher_matched_iou_truth", "Matched IoU of the teacher", "higher"),
        ("matched_iou_disc_annotator", "Matched IoU of discs", ""),
        ("matched_iou_half_disc_truth", "Matched IoU of half discs", ""),
        ("f1_50_truth", "F1 at IoU ≥ 50 %", "higher"),
        ("localization_f1_8px", "Localisation F1 within 8 px", "higher"),
        ("localization_f1_radius", "Localisation F1 in the head", "higher"),
        ("localization_recall_radius", "Localisation recall in the head", "higher"),
        ("localization_precision_4.5px", "Localisation precision within 4.5 px", "higher"),
        ("mae_calibrated", "MAE, calibrated", "lower"),
        ("bias_calibrated", "Bias, calibrated", "zero"),
        ("count_threshold", "Calibrated threshold", ""),
        ("held_out_mae_calibrated", "MAE, held out, calibrated", ""),
        ("n_held_out_images", "Held-out images", ""),
        ("ap", "AP", "higher"),
        ("ap_50_agnostic", "AP50, classes not told apart", "higher"),
        ("ap_small", "AP, small", "higher"),
        ("ar_large_agnostic_given_points", "AR, large, classes not told apart, given points", "higher"),
        ("voc_ap_70", "mAP70 (VOC)", "higher"),
        ("annotate_mean_iou", "Mean IoU of the annotator's masks", "higher"),
        ("ap_class_traffic_light", "AP of traffic_light", "higher"),
        ("ap_class_tree_given_points", "AP of tree, given points", "higher"),
        ("mean_iou_given_points", "Mean IoU per point, given points", "higher"),
        ("mean_iou_class_tree_given_points", "Mean IoU per point of tree, given points", "higher"),
        ("n_points_given_points", "Points, given points", ""),
    ],
)
def test_figures_have_a_meaning(name: str, title: str, better: str) -> None:
    found = meaning(name)
    assert (found.title, found.better) == (title, better)
    assert len(found.text) > 20
    assert "{" not in found.text


def test_the_text_says_what_is_compared() -> None:
    assert "the true masks" in meaning("matched_iou_truth").text
    assert "annotator" in meaning("matched_iou_annotator").text


def test_every_figure_of_instances_has_a_meaning() -> None:
    sizes = {"small": 0.1, "medium": 0.2, "large": 0.3}
    precision = AveragePrecision(0.5, 0.5, 0.5, sizes, 0.5, sizes, {"traffic light": 0.5}, voc_ap={0.25: 0.5})
    names = [
        *precision.metrics(),
        *precision.metrics(class_agnostic=True),
        *precision.metrics(given_points=True),
        *GivenPoints(0.5, {"traffic light": 0.5}, 1).metrics(),
    ]
    assert [name for name in names if not meaning(name).text] == []
    prompted = [name for name in names if "were given as prompts" in meaning(name).text]
    assert prompted == [name for name in names if name.endswith("_given_points")] != []


def test_an_unknown_figure_stands_for_itself() -> None:
    assert meaning("novel_figure") == ("novel_figure", "", "")
    assert meaning("novel_given_points") == ("novel_given_points", "", "")
