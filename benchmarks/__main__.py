"""``python -m benchmarks``: print a table and write ``benchmarks/results/<name>.json``."""

import importlib
from typing import Annotated

import typer

from benchmarks.measure import Row
from benchmarks.report import RESULTS, open_console, print_rows, write_rows
from stages.command import fails_clearly

SMALL_SCALES = {
    "nnec": 1.0, "annotate": 1.0, "mask_store": 0.2, "ray_workers": 1.0, "energy": 1.0, "exclusivity": 1.0,
    "point_to_region": 1.0, "matched_iou": 1.0, "training_step": 1.0, "average_precision": 0.1, "matrix_nms": 1.0,
    "point_lookup": 1.0, "p2seg": 1.0,
}  # fmt: skip
"""Benchmarks, and the share of the whole work that each does by default: together 6 minutes on two cores."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@fails_clearly
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Names; all by default: {', '.join(SMALL_SCALES)}.")] = None,
    scale: Annotated[
        float | None, typer.Option(min=0.001, max=1.0, help="Share of the whole work; by default what 6 minutes allow.")
    ] = None,
) -> None:
    """Measure speed and memory against plain references, side by side.

    The ablation of annotators is apart: python -m benchmarks.annotators. A GPU too: python -m benchmarks.annotate
    --device cuda.
    """
    names = only or list(SMALL_SCALES)
    unknown = sorted(set(names) - set(SMALL_SCALES))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: expected some of {', '.join(SMALL_SCALES)}")
    rows: list[Row] = []
    for name in names:
        open_console().print(f"{name} …", highlight=False)
        share = SMALL_SCALES[name] if scale is None else scale
        found: list[Row] = importlib.import_module(f"benchmarks.{name}").measure(scale=share)
        write_rows(name, share, found)
        rows += found
    print_rows(rows, "Benchmarks" if scale is None else f"Benchmarks at {scale:g} of the work")
    open_console().print(f"Written to {RESULTS}/", highlight=False)


if __name__ == "__main__":
    app()
