"""``python -m stages.weights``: list, fetch, verify and train the weights of promptable models."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pipeline.annotators.quality import held_out_quality, weights_and_baselines
from pipeline.compute.device import resolve_device
from pipeline.compute.progress import JsonLines, byte_progress, track
from pipeline.datasets.crowd_scene.held_out import draw_held_out
from pipeline.models.pretrained import WEIGHTS, fetch_weights, find_weights, verify_weights
from pipeline.training.prompt_scenes import PromptableOptions
from pipeline.training.promptable import save_compact_weights, train_compact_sam
from stages.command import DeviceOption, console, fails_clearly, stage_app

app = stage_app("Weights of Segment Anything models: list, fetch, verify, and train the compact one.")

ScenesOption = Annotated[bool, typer.Option(help="Measure on the held-out scenes, not only the digest.")]
NameArgument = Annotated[str, typer.Argument(help=f"One of {', '.join(WEIGHTS)}.", metavar="NAME")]


@app.command("list")
@fails_clearly
def list_weights() -> None:
    """List the weights, where each file belongs and whether it is there."""
    table = Table("name", Column("file", overflow="fold"), "there", Column("published at", overflow="fold"))
    for weights in WEIGHTS.values():
        there = "yes" if weights.path().is_file() else "no"
        table.add_row(weights.name, str(weights.path()), there, weights.url or "ships with the repository")
    console.print(table)


@app.command()
@fails_clearly
def fetch(name: NameArgument) -> None:
    """Download weights, going on where a broken download stopped, and check their SHA-256."""
    weights = find_weights(name)
    with byte_progress(f"fetch {weights.file_name}") as progress:
        path = fetch_weights(weights, progress=progress)
    console.print(f"{path}: SHA-256 is right", highlight=False)


@app.command()
@fails_clearly
def verify(name: NameArgument, device: DeviceOption = "auto", scenes: ScenesOption = True) -> None:
    """Check a file's SHA-256, then measure the model on the 64 frozen held-out scenes beside the bare disc."""
    console.print(f"{name}: SHA-256 {verify_weights(find_weights(name))}", highlight=False)
    if not scenes:
        return
    annotators = weights_and_baselines(name, resolve_device(device))
    quality = held_out_quality(track(draw_held_out(), description="annotate", unit="scenes"), annotators)
    columns = "annotator", "density", "heads", "mean IoU in circle", "leaking", "fallback"
    table = Table(*columns, title="64 held-out scenes", title_justify="left")
    for annotator, groups in quality.items():
        for density, row in groups.items():
            shares = f"{row.circle_iou:.3f}", f"{row.leak_share:.1%}", f"{row.fallback_share:.1%}"
            table.add_row(annotator, density, f"{row.n_heads:,}", *shares)
    console.print(table)


@app.command("train-compact")
@fails_clearly
def train_compact(
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = find_weights("compact").path(),  # noqa: B008
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of 4 scenes.")] = PromptableOptions.steps,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of scenes, prompts and first weights.")
    ] = PromptableOptions.seed,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that draw scenes.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Train the compact model on endless synthetic crowds; a run that was killed goes on from its last checkpoint."""
    options = PromptableOptions(steps=steps, seed=seed)
    with JsonLines(Path("logs/train-compact.jsonl"), append=True) as log:
        sam = train_compact_sam(
            options,
            device=resolve_device(device),
            resume=Path("resume/train-compact"),
            workers=workers,
            report=lambda row: log.write(**row),
        )
    digest = save_compact_weights(sam, out)
    console.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}", highlight=False)


if __name__ == "__main__":
    app()
