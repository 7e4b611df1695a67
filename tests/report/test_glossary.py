import pytest

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


def test_an_unknown_figure_stands_for_itself() -> None:
    assert meaning("novel_figure") == ("novel_figure", "", "")
