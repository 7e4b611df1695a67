"""The report: one HTML file that needs nothing beside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from pipeline.evaluation.results import Evaluation, ImageResult
from pipeline.report.figures import Curve, curves_svg, density_svg, iou_svg, scatter_svg
from pipeline.report.glossary import meaning
from pipeline.report.render import render_template, show

N_WORST_ROWS = 8


@dataclass(frozen=True)
class Picture:
    """An overlay for the report.

    Args:
        rank: ``best``, ``median`` or ``worst``.
        image: The image's result.
        jpeg: Its overlay.
    """

    rank: str
    image: ImageResult
    jpeg: bytes


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows.

    Args:
        title: Headline, such as the data set's name.
        facts: Name → value of what was run: data set, labelled share, seed, options.
        evaluation: The results.
        curves: Training stage → its curves; see :func:`pipeline.report.figures.read_curves`.
        pictures: Overlays, best first.
    """

    title: str
    facts: Mapping[str, str]
    evaluation: Evaluation
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()


def render_report(content: ReportContent) -> str:
    """Give the HTML of a report; the same content gives the same text."""
    evaluation = content.evaluation
    metrics = evaluation.metrics()
    curves = curves_svg(content.curves)
    return render_template(
        "report.html",
        title=content.title,
        facts=content.facts,
        lead=_lead(metrics, evaluation.reference),
        tiles=_tiles(metrics, evaluation.reference),
        groups=_groups(metrics),
        scatter=Markup(scatter_svg(evaluation)),
        density=Markup(density_svg(evaluation)),
        iou=Markup(iou_svg(evaluation)),
        curves=None if curves is None else Markup(curves),
        pictures=[
            {
                "rank": picture.rank,
                "name": picture.image.image_id,
                "caption": image_caption(picture.image),
                "data": base64.b64encode(picture.jpeg).decode(),
            }
            for picture in content.pictures
        ],
        worst=_worst_rows(evaluation),
        n_images=len(evaluation.images),
    )


def image_caption(image: ImageResult) -> str:
    """Say in a line how one image came out."""
    off = "exact" if image.error == 0 else f"{image.error:+d}"
    return (
        f"{image.count_true} annotated, {image.count_predicted} predicted ({off}) · "
        f"matched IoU {show(image.match.mean_matched_iou)} · F1 at 0.5: {show(image.match.f1_at())}"
    )


def _lead(metrics: Mapping[str, float | int | None], reference: str) -> str:
    """Say the result in a sentence or two."""
    ratio, iou = metrics["mae_ratio_to_mean_count"], metrics[f"matched_iou_{reference}"]
    parts = [
        f"On {show(metrics['n_images'])} test images the student is off by {show(metrics['mae'])} heads on average"
    ]
    if ratio is not None:
        verdict = f"{100 * ratio:.0f} % of the error of always guessing the mean count of the labelled images"
        parts.append(f", {verdict}" if ratio < 1 else f": {verdict}, so it has not learned to count")
    parts.append(". ")
    if iou is not None:
        disc = max((metrics[f"matched_iou_{name}_{reference}"] or 0.0) for name in ("disc", "half_disc"))
        than = "above" if iou > disc else "below"
        against = "the true masks" if reference == "truth" else "the annotator's masks"
        parts.append(
            f"Its masks reach a matched IoU of {show(iou)} against {against}, {than} the {show(disc)} "
            "of the better discs at its own points."
        )
    return "".join(parts)


def _tiles(metrics: Mapping[str, float | int | None], reference: str) -> list[dict[str, str]]:
    disc, half = (metrics[f"matched_iou_{name}_{reference}"] for name in ("disc", "half_disc"))
    reach = next((name for name in metrics if name.startswith("localization_f1_") and name.endswith("px")), None)
    tiles = [
        ("mae", f"mean count: {show(metrics['mae_mean_count'])}"),
        ("nae", f"RMSE {show(metrics['rmse'])} heads"),
        (f"matched_iou_{reference}", f"discs: {show(disc)}, half discs: {show(half)}"),
        (f"f1_50_{reference}", f"mean IoU of these: {show(metrics[f'mean_iou_50_{reference}'])}"),
    ]
    if reach is not None:
        tiles.append((reach, "of points, one to one"))
    return [{"title": meaning(name).title, "value": show(metrics[name]), "note": note} for name, note in tiles]


def _groups(metrics: Mapping[str, float | int | None]) -> list[dict[str, Any]]:
    """Sort the figures into the sections of the table."""
    groups: dict[str, list[dict[str, str]]] = {"Counting": [], "Masks": [], "Points": [], "Amounts": []}
    arrows = {"lower": "lower is better", "higher": "higher is better", "zero": "0 is best", "": ""}
    for name, value in metrics.items():
        found = meaning(name)
        if name.startswith("n_"):
            group = "Amounts"
        elif name.startswith("localization"):
            group = "Points"
        elif "iou" in name or name.startswith("f1"):
            group = "Masks"
        else:
            group = "Counting"
        row = {
            "name": name,
            "title": found.title,
            "value": show(value),
            "text": found.text,
            "better": arrows[found.better],
        }
        groups[group].append(row)
    return [{"title": title, "rows": rows} for title, rows in groups.items() if rows]


def _worst_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    worst = sorted(evaluation.images, key=lambda image: (-abs(image.error), image.image_id))[:N_WORST_ROWS]
    return [
        {
            "name": image.image_id,
            "true": show(image.count_true),
            "predicted": show(image.count_predicted),
            "error": f"{image.error:+,d}",
            "iou": show(image.match.mean_matched_iou),
        }
        for image in worst
    ]
