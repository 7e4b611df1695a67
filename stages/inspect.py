"""A look inside a mask store: what it holds, and one image with its masks."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.compute.files import atomic_write_bytes
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import IMAGES_FILE, Prepared
from pipeline.masks.store import MaskStore
from pipeline.masks.summary import summarize_store
from pipeline.report.output import store_overlay
from pipeline.report.overlay import draw_overlay, encode_png
from stages.command import console, fails_clearly, stage_app
from stages.summary_tables import columns_table, kinds_table

StoreArgument = Annotated[Path, typer.Argument(help="Folder of a mask store, such as data/synthetic/annotate.")]

app = stage_app("Look inside a mask store that annotate, pseudo_label or prepare (truth/) wrote.")


@app.command()
@fails_clearly
def summary(store: StoreArgument) -> None:
    """Print counts, scores and statuses of a store, and what made it."""
    opened = MaskStore.open(store)
    found = summarize_store(opened)
    made_by = opened.provenance
    console.print(f"[bold]{made_by.algorithm}[/] version {made_by.algorithm_version}", highlight=False)
    if made_by.weights_sha256:
        console.print(f"weights sha256 {made_by.weights_sha256}", highlight=False, soft_wrap=True)
    if made_by.params:
        console.print(f"params {json.dumps(made_by.params)}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{found.n_instances:,} instances in {found.n_images:,} images ({found.n_empty_images:,} without any, "
        f"at most {found.most:,} in one)",
        highlight=False,
    )
    if found.kinds:
        console.print(kinds_table(found))
        console.print(columns_table(found))


@app.command()
@fails_clearly
def show(
    store: StoreArgument,
    image_id: Annotated[str, typer.Argument(help="Image of the store, such as test/0003.")],
    out: Annotated[Path | None, typer.Option("--out", help="PNG to write; by default the image's name, here.")] = None,
    prepared: Annotated[
        Path | None,
        typer.Option("--prepared", help="Folder of prepare with the photo; by default looked for beside the store."),
    ] = None,
) -> None:
    """Draw one image with its points, circles and masks as a PNG."""
    opened = MaskStore.open(store)
    size_hw = opened.size_hw(image_id)
    folder = prepared or _prepared_near(store)
    if folder is None:
        console.print("no prepared folder near the store: drawing on grey (name one with --prepared)", highlight=False)
        pixels = np.full((*size_hw, 3), 96, dtype=np.uint8)
    else:
        pixels = read_image_rgb(Prepared.open(folder).image(image_id).path)
    target = out or Path(f"{image_id.replace('/', '_')}.png")
    atomic_write_bytes(target, encode_png(draw_overlay(store_overlay(image_id, opened, pixels))))
    console.print(f"{target}: {opened.n_instances(image_id)} instances", highlight=False, soft_wrap=True)


def _prepared_near(store: Path) -> Path | None:
    """Find the data set's ``prepared`` folder among the store's own parents and their children."""
    for parent in store.resolve().parents:
        for folder in (parent, parent / "prepared"):
            if (folder / IMAGES_FILE).is_file() and (folder / "points.parquet").is_file():
                return folder
    return None


if __name__ == "__main__":
    app()
