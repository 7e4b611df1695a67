"""What each figure in ``metrics.json`` means, in words for someone who meets it for the first time."""

import re
from typing import NamedTuple


class Meaning(NamedTuple):
    """A figure's name for readers, and what it says.

    Attributes:
        title: Short name.
        text: What it says, in a sentence or two.
        better: Which way is better: ``lower``, ``higher``, ``zero`` or empty.
    """

    title: str
    text: str
    better: str


_AGAINST = {"truth": "the true masks", "annotator": "the annotator's masks, which are themselves estimates"}
_MEANINGS: dict[str, Meaning] = {
    "mae": Meaning(
        "MAE",
        "Mean absolute error of the count: how many heads, or objects, a test image is off by on average.",
        "lower",
    ),
    "rmse": Meaning(
        "RMSE", "Root mean squared error of the count; large misses weigh more. Crowd papers call it MSE.", "lower"
    ),
    "nae": Meaning("NAE", "Mean error as a share of the true count, over images with heads.", "lower"),
    "bias": Meaning("Bias", "Mean of predicted minus annotated heads; above 0 the model counts too many.", "zero"),
    "mae_mean_count": Meaning(
        "MAE of the mean count", "The same error for always guessing the mean count of the labelled images.", ""
    ),
    "mae_ratio_to_mean_count": Meaning(
        "MAE / MAE of the mean count", "Below 1 the student beats the guess; 0.5 means half its error.", "lower"
    ),
    "mae_last": Meaning("MAE, last weights", "MAE with the last weights instead of the chosen ones.", "lower"),
    "rmse_last": Meaning("RMSE, last weights", "RMSE with the last weights instead of the chosen ones.", "lower"),
    "nae_last": Meaning("NAE, last weights", "NAE with the last weights instead of the chosen ones.", "lower"),
    "count_threshold": Meaning(
        "Calibrated threshold",
        "Chosen on the held-out labelled images: the logit above which a cell counts as a head in the calibrated "
        "figures (the paper's is 0), or the score above which a segmenter's detections count in MAE and matched IoU.",
        "",
    ),
    "held_out_mae": Meaning("MAE, held out", "MAE on the held-out labelled images, counting logits above 0.", ""),
    "held_out_mae_calibrated": Meaning(
        "MAE, held out, calibrated",
        "MAE on the held-out labelled images with the calibrated threshold, which was chosen for it.",
        "",
    ),
    "annotator_matched_iou_truth": Meaning(
        "Matched IoU of the annotator",
        "How well the masks that the training saw fit the true ones, on the test images.",
        "higher",
    ),
    "n_held_out_images": Meaning("Held-out images", "Labelled images that chose the calibrated threshold.", ""),
    "n_images": Meaning("Test images", "Number of images these figures are over.", ""),
    "n_heads": Meaning("Annotated heads", "In all test images.", ""),
    "n_predicted": Meaning("Predicted heads", "In all test images.", ""),
    "ap": Meaning(
        "AP",
        "COCO's mask AP: precision averaged over recall, over IoU 0.50, 0.55 … 0.95 and over classes. Detections are "
        "ranked by their score.",
        "higher",
    ),
    "ap_50": Meaning("AP50", "The same where a mask counts as found from IoU 0.5 on.", "higher"),
    "ap_75": Meaning("AP75", "The same where a mask counts as found from IoU 0.75 on.", "higher"),
    "ar": Meaning(
        "AR", "Share of the true instances that are found, averaged over the same IoUs and over classes.", "higher"
    ),
    "mean_iou": Meaning(
        "Mean IoU per point",
        "IoU of each point's mask with the point's true mask; a point without a mask is 0.",
        "higher",
    ),
    "n_true_instances": Meaning("True instances", "In all test images, crowd regions left out.", ""),
    "n_detections": Meaning("Detections", "In all test images.", ""),
    "teacher_ap": Meaning("AP of the teacher", "What the student's teacher reaches on the same images.", "higher"),
    "teacher_ap_50": Meaning("AP50 of the teacher", "The same where a mask counts as found from IoU 0.5 on.", "higher"),
    "teacher_ap_75": Meaning(
        "AP75 of the teacher", "The same where a mask counts as found from IoU 0.75 on.", "higher"
    ),
    "pseudo_label_precision": Meaning(
        "Precision of the weak masks",
        "Share of the pseudo-labels learnt from that meet a true instance of their class with IoU 0.5 or more.",
        "higher",
    ),
    "pseudo_label_recall": Meaning(
        "Recall of the weak masks", "Share of the weak images' true instances that such a pseudo-label meets.", "higher"
    ),
    "pseudo_label_mean_class_precision": Meaning(
        "Precision of the weak masks, mean of classes", "The same precision, each class counting alike.", "higher"
    ),
    "pseudo_label_mean_class_recall": Meaning(
        "Recall of the weak masks, mean of classes", "The same recall, each class counting alike.", "higher"
    ),
    "pseudo_label_mean_iou": Meaning(
        "Mean IoU of the weak masks",
        "Of the masks that the student learnt from with the true ones, over all points of "
        "the weak images; a point without a mask is 0.",
        "higher",
    ),
    "annotate_mean_iou": Meaning(
        "Mean IoU of the annotator's masks",
        "Of the masks that the network learnt from with the true ones, over all points of the training images.",
        "higher",
    ),
    "n_points": Meaning("Points", "True instances of the test images whose points were asked for.", ""),
}
_PATTERNS: tuple[tuple[str, Meaning], ...] = (
    (
        r"matched_iou_disc_(?P<against>truth|annotator)",
        Meaning("Matched IoU of discs", "The same for discs with the NNEC radius at the student's own points: "
                "what its points are worth without its masks.", ""),
    ),
    (
        r"matched_iou_half_disc_(?P<against>truth|annotator)",
        Meaning("Matched IoU of half discs", "The same for discs of half that radius at the student's own points.", ""),
    ),
    (
        r"teacher_matched_iou_(?P<against>truth|annotator)",
        Meaning("Matched IoU of the teacher", "What the student's teacher reaches on the same images, compared with "
                "{against}.", "higher"),
    ),
    (
        r"teacher_(?P<error>mae|rmse|nae)",
        Meaning("{error} of the teacher", "What the student's teacher reaches on the same images.", "lower"),
    ),
    (
        r"matched_iou_(?P<against>truth|annotator)",
        Meaning("Matched IoU", "Predicted and reference masks are matched one to one; the sum of their IoUs divided by "
                "the number of reference masks. Compared with {against}.", "higher"),
    ),
    (
        r"f1_(?P<percent>\d+)_(?P<against>truth|annotator)",
        Meaning("F1 at IoU ≥ {percent} %", "Matches of at least this IoU against all predicted and all reference masks "
                "({against}).", "higher"),
    ),
    (
        r"mean_iou_(?P<percent>\d+)_(?P<against>truth|annotator)",
        Meaning("Mean IoU at IoU ≥ {percent} %", "Mean IoU of the matches that reach it ({against}).", "higher"),
    ),
    (
        r"ap_(?P<size>small|medium|large)",
        Meaning("AP, {size}", "AP of the true instances of that size: COCO's small ends at 32² pixels, large begins at "
                "96², unless the evaluation sets other limits.", "higher"),
    ),
    (
        r"ar_(?P<size>small|medium|large)",
        Meaning("AR, {size}", "AR of the true instances of that size, with the limits of AP.", "higher"),
    ),
    (
        r"voc_ap_(?P<percent>\d+)",
        Meaning("mAP{percent} (VOC)", "Mean AP by VOC's rule at this IoU, in percent: a detection counts for the "
                "instance that it overlaps most, and the whole area under the curve is taken.", "higher"),
    ),
    (
        r"ap_class_(?P<kind>.+)",
        Meaning("AP of {kind}", "AP of one class, averaged over IoU 0.50, 0.55 … 0.95.", "higher"),
    ),
    (
        r"mean_iou_class_(?P<kind>.+)",
        Meaning("Mean IoU per point of {kind}", "The same for the points of one class.", "higher"),
    ),
    (
        r"(?P<error>mae|rmse|nae|bias)_calibrated",
        Meaning("{error}, calibrated", "{error} of the count with the threshold chosen on the held-out labelled images "
                "instead of 0.", "lower"),
    ),
    (
        r"localization_(?P<rate>f1|precision|recall)_radius",
        Meaning("Localisation {rate} in the head", "Predicted points matched one to one with annotated ones, within "
                "the head's box, or its NNEC where it has none: {share}.", "higher"),
    ),
    (
        r"localization_(?P<rate>f1|precision|recall)_(?P<reach>[\d.]+)px",
        Meaning("Localisation {rate} within {reach} px", "Predicted points matched one to one with annotated ones "
                "within this distance: {share}.", "higher"),
    ),
)  # fmt: skip

_MARKS = {
    "_given_points": (", given points", " The points of the test images were given as prompts: not comparable with "
                      "figures without them."),
    "_agnostic": (", classes not told apart", " A mask of the wrong class counts as found, too."),
}  # fmt: skip
"""Ends of a name that say how the figure was come by."""
_RATES = {
    "f1": ("F1", "twice the pairs over all predicted and annotated points"),
    "precision": ("precision", "the share of the predicted points"),
    "recall": ("recall", "the share of the annotated points"),
}
_ERRORS = {"mae": "MAE", "rmse": "RMSE", "nae": "NAE", "bias": "Bias"}


def meaning(name: str) -> Meaning:
    """Explain one figure; a name that is not known stands for itself."""
    for mark, (more_title, more_text) in _MARKS.items():
        found = meaning(name.removesuffix(mark)) if name.endswith(mark) else Meaning("", "", "")
        if found.text:
            return found._replace(title=found.title + more_title, text=found.text + more_text)
    if name in _MEANINGS:
        return _MEANINGS[name]
    for pattern, found in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            values = match.groupdict()
            if "percent" in values:
                values["percent"] = str(int(values["percent"]))
            if "against" in values:
                values["against"] = _AGAINST[values["against"]]
            if "rate" in values:
                values["rate"], values["share"] = _RATES[values["rate"]]
            better = "zero" if values.get("error") == "bias" else found.better
            if "error" in values:
                values["error"] = _ERRORS[values["error"]]
            return Meaning(found.title.format(**values), found.text.format(**values), better)
    return Meaning(name, "", "")
