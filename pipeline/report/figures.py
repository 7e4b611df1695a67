"""The report's plots of counts, masks and training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.results import Evaluation
from pipeline.report.svg import ACCENT, SECOND, TEXT, THIRD, legend_above, svg_plot

Curve = tuple[list[int], list[float]]


def scatter_svg(evaluation: Evaluation) -> str:
    """Plot predicted against annotated counts, with the line on which they agree."""
    true = [image.count_true for image in evaluation.images]
    predicted = [image.count_predicted for image in evaluation.images]
    with svg_plot(5.2, 4.4) as (figure, out):
        axes = figure.subplots()
        top = max([*true, *predicted, 1]) * 1.08
        low = 0.0
        if max(true, default=0) > 50 * max(min((t for t in true if t > 0), default=1), 1):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_yscale("symlog", linthresh=1)
            top *= 1.3
        axes.plot([low, top], [low, top], color=TEXT, linewidth=1, linestyle=(0, (4, 3)), label="perfect count")
        axes.axhline(evaluation.mean_count, color=THIRD, linewidth=1.2, linestyle=":", label="mean labelled count")
        axes.scatter(true, predicted, s=34, color=ACCENT, alpha=0.75, linewidths=0, label="test image", zorder=3)
        axes.set_xlim(low, top)
        axes.set_ylim(low, top)
        axes.set_xlabel("annotated heads")
        axes.set_ylabel("predicted heads")
        legend_above(axes)
    return out[0]


def density_svg(evaluation: Evaluation) -> str:
    """Plot the count error by number of heads, beside that of always guessing the mean count."""
    rows = evaluation.error_by_density().to_pylist()
    with svg_plot(5.2, 4.4) as (figure, out):
        axes = figure.subplots()
        places = range(len(rows))
        axes.bar([x - 0.2 for x in places], [row["mae"] for row in rows], 0.4, color=ACCENT, label="student")
        axes.bar(
            [x + 0.2 for x in places], [row["mae_mean_count"] for row in rows], 0.4, color=THIRD, label="mean count"
        )
        for x, row in zip(places, rows, strict=True):
            axes.annotate(
                f"{row['mae']:.3g}", (x - 0.2, row["mae"]), xytext=(0, 2), textcoords="offset points", ha="center",
                fontsize=9,
            )  # fmt: skip
        axes.set_xticks(
            list(places), [f"{row['heads'].replace('-', ' – ')}\n{_images(row['n_images'])}" for row in rows]
        )
        axes.set_xlabel("annotated heads in the image")
        axes.set_ylabel("mean absolute error, heads")
        axes.grid(visible=False, axis="x")
        legend_above(axes)
        axes.margins(y=0.12)
    return out[0]


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def iou_svg(evaluation: Evaluation) -> str:
    """Plot the matched IoU of every test image against its number of heads, beside that of discs."""
    images = [image for image in evaluation.images if math.isfinite(image.match.mean_matched_iou)]
    with svg_plot(5.2, 3.6) as (figure, out):
        axes = figure.subplots()
        true = [image.count_true for image in images]
        for name, color, values in (
            ("discs (NNEC)", THIRD, [image.match_disc.mean_matched_iou for image in images]),
            ("discs (half NNEC)", SECOND, [image.match_half_disc.mean_matched_iou for image in images]),
            ("student's masks", ACCENT, [image.match.mean_matched_iou for image in images]),
        ):
            axes.scatter(true, values, s=26, color=color, alpha=0.75, linewidths=0, label=name)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("annotated heads in the image")
        axes.set_ylabel("matched IoU")
        legend_above(axes)
    return out[0]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Read the curves that a training left as tables of step and value.

    Args:
        folder: DVCLive's folder; its ``plots/metrics`` holds one ``.tsv`` for each figure.

    Returns:
        Name of the figure (``count/loss``) → steps and values; empty where there are none.
    """
    curves: dict[str, Curve] = {}
    root = folder / "plots" / "metrics"
    for path in sorted(root.rglob("*.tsv")):
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        names = header.split("\t")
        if "step" not in names:
            continue
        rows = [line.split("\t") for line in lines if line.strip()]
        step = names.index("step")
        value = next((i for i in range(len(names) - 1, -1, -1) if names[i] not in ("step", "timestamp")), step)
        curves[path.relative_to(root).with_suffix("").as_posix()] = (
            [int(row[step]) for row in rows],
            [float(row[value]) for row in rows],
        )
    return curves


def curves_svg(stages: Mapping[str, Mapping[str, Curve]]) -> str | None:
    """Plot the losses and the held-out errors of each training stage; None where no stage has curves.

    Args:
        stages: Name of the stage → its curves, as :func:`read_curves` gives them.
    """
    kept = {name: curves for name, curves in stages.items() if curves}
    if not kept:
        return None
    with svg_plot(10.8, 2.9 * len(kept) + 0.2) as (figure, out):
        grid = figure.subplots(len(kept), 3, squeeze=False)
        for row, (name, curves) in zip(grid, kept.items(), strict=True):
            losses = {key.removesuffix("/loss"): curve for key, curve in curves.items() if key.endswith("/loss")}
            _draw_curves(row[0], f"{name}: training loss", losses, "loss")
            held_out = {key: curve for key, curve in curves.items() if key.startswith("held_out/")}
            errors = {
                key.removeprefix("held_out/"): c for key, c in held_out.items() if key.endswith(("/mae", "/rmse"))
            }
            _draw_curves(row[1], f"{name}: held-out count error", errors, "heads", top_limit=_robust_top(errors))
            masks = {key.removeprefix("held_out/"): curve for key, curve in held_out.items() if key.endswith("iou")}
            _draw_curves(row[2], f"{name}: held-out matched IoU", masks, "IoU")
    return out[0]


def _robust_top(curves: Mapping[str, Curve]) -> float | None:
    """Keep the first wild steps of a training from flattening all that follows."""
    values = sorted(value for _, series in curves.values() for value in series if math.isfinite(value))
    return 3 * values[len(values) // 2] if len(values) >= 6 and values[-1] > 6 * values[len(values) // 2] else None


def _draw_curves(
    axes: Axes, title: str, curves: Mapping[str, Curve], unit: str, *, top_limit: float | None = None
) -> None:
    axes.set_title(title)
    if not curves:
        axes.text(0.5, 0.5, "none recorded", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    colors: Sequence[str] = (ACCENT, SECOND, THIRD, TEXT)
    for i, (name, (steps, values)) in enumerate(curves.items()):
        few = len(steps) <= 40
        axes.plot(
            steps, values, color=colors[i % len(colors)], linewidth=1.5, label=name,
            marker="o" if few else None, markersize=3,
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0, top=top_limit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(curves) > 1:
        axes.legend(loc="best", fontsize=8.5)
