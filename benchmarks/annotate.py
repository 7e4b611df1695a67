"""EDP-SAM: what it takes beside the network, against the plain loop, and how much memory.

``python -m benchmarks.annotate --device cuda`` measures the large models' shapes on a GPU instead.
"""

import dataclasses
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.accelerator import SHAPES, measure_shape, peak_bf16_tflops
from benchmarks.crowds import mirrored_crowd
from benchmarks.measure import Row, seconds_of
from benchmarks.peak_memory import peaks
from benchmarks.report import open_console, print_rows, write_results, write_rows
from benchmarks.sam_loop import loop_seconds, whole_image
from benchmarks.timed_model import TimedModel, benchmark_model
from pipeline.annotators.base import MarkedImage
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.superpixel import grow_regions
from pipeline.compute.device import one_thread_per_operation, resolve_device
from pipeline.geometry.tiles import Tile, plan_tiles
from stages.command import fails_clearly

SIZE_HW, HEADS = (3000, 4000), 1000
MEMORY_HEADS = (250, 1000)
SAMPLE, SAMPLE_WHOLE = 24, 6
ROUNDS = 2
MIN_RADIUS_MODEL_PX = 36.0
"""Scale of the tiles, the compact model's default, said aloud so that both forms have the same tiles."""
OUTSIDE_REACH, LOOP_REACH, MEMORY_REACH = 0.15, 1 / 8, 1.1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure(
    *,
    scale: float = 1.0,
    weights: str = "compact",
    memory_heads: tuple[int, ...] = MEMORY_HEADS,
    sample: int = SAMPLE,
    sample_whole: int = SAMPLE_WHOLE,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Measure on one image; ``scale`` below 1 takes a part of its area with as much of its heads.

    Args:
        scale: Share of the heads and of the pixels.
        weights: Name of the weights, or ``random``.
        memory_heads: Heads of the images whose peak memory is compared, at scale 1; the first is the reference.
        sample: Heads that the plain loop annotates tile by tile, to be extrapolated to all.
        sample_whole: Heads that the plain loop annotates in the whole image, likewise.
        rounds: How often each form runs; the best counts.

    Raises:
        PipelineError: If the weights are not there or are not what they should be.
    """
    size_hw = round(SIZE_HW[0] * scale**0.5), round(SIZE_HW[1] * scale**0.5)
    marked = mirrored_crowd(max(2, round(HEADS * scale)), size_hw=size_hw)
    model = TimedModel(benchmark_model(weights, torch.device("cpu")))
    annotator = EdpSamAnnotator(model.as_model, EdpSamOptions(min_radius_model_px=MIN_RADIUS_MODEL_PX))
    found = []
    regions_s = seconds_of(lambda: found.append(grow_regions(marked, EdpSamOptions().superpixel).boxes_xyxy()))
    boxes_xyxy, tiles = found[0], _tiles(marked, model.input_px)
    wholes, in_image, in_tiles = [], [], []
    with one_thread_per_operation():
        annotator.annotate(_corner(marked))  # the first call of every kind of operation is slower
        for _ in range(rounds):
            model.restart()
            whole_s = seconds_of(lambda: annotator.annotate(marked))
            wholes.append((whole_s, model.encode_s, model.decode_s))
            in_image.append(loop_seconds(model.sam, marked, whole_image(marked), boxes_xyxy, sample=sample_whole))
            in_tiles.append(loop_seconds(model.sam, marked, tiles, boxes_xyxy, sample=sample))
    work = f"{len(marked.points_xy):,} heads, {size_hw[0]:,} × {size_hw[1]:,} px, one thread"
    whole_s, encode_s, decode_s = min(wholes)
    outside_s = whole_s - encode_s - decode_s
    outside = Row(
        "annotate, all but the network", work, outside_s, "the whole call", whole_s, f"≤ {OUTSIDE_REACH} ×",
        met=outside_s <= OUTSIDE_REACH * whole_s,
        notes={"encode_s": encode_s, "decode_s": decode_s, "tiles": len(tiles)},
    )  # fmt: skip
    rows = [outside]
    for name, loops, reach in (("image set whole", in_image, LOOP_REACH), ("same tiles", in_tiles, None)):
        loop = min(loops, key=lambda one: one.total_s)
        loop_s = regions_s + loop.total_s
        reference = f"SamPredictor loop, {name}, full frames ({loop.n_sampled} heads, extrapolated)"
        against = Row(
            "annotate, whole", work, whole_s, reference, loop_s,
            "" if reach is None else f"≤ {reach} × ({1 / reach:.0f} × faster)",
            met=None if reach is None else whole_s <= reach * loop_s,
            notes={"grow_regions_s": regions_s, **dataclasses.asdict(loop)},
        )  # fmt: skip
        rows.append(against)
    return [*rows, _memory_row([max(2, round(n * scale)) for n in memory_heads], size_hw, weights)]


def _corner(marked: MarkedImage) -> MarkedImage:
    """Two heads of an image."""
    columns = {name: getattr(marked, name)[:2] for name in ("points_xy", "radius_px", "point_id", "class_id")}
    return dataclasses.replace(marked, **columns)


def _tiles(marked: MarkedImage, model_px: int) -> list[Tile]:
    return plan_tiles(
        marked.points_xy, marked.radius_px, size_hw=marked.size_hw, model_px=model_px,
        min_radius_model_px=MIN_RADIUS_MODEL_PX, max_magnification=EdpSamOptions().max_magnification,
    )  # fmt: skip


def _memory_row(counts: list[int], size_hw: tuple[int, int], weights: str) -> Row:
    found = peaks(counts, size_hw, weights)
    first, most = found[0], max(found[1:] or found, key=lambda one: one.peak_mib)
    listed = " / ".join(f"{one.n_heads:,}" for one in found)
    return Row(
        "annotate, peak memory", f"{listed} heads, {size_hw[0]:,} × {size_hw[1]:,} px", most.peak_mib,
        f"the same with {first.n_heads:,} heads", first.peak_mib, f"≤ {MEMORY_REACH} ×",
        met=most.peak_mib <= MEMORY_REACH * first.peak_mib, unit="MiB",
        notes={f"{name}_{one.n_heads}_heads": value for one in found for name, value in dataclasses.asdict(one).items()
               if name != "n_heads"},
    )  # fmt: skip


@app.command()
@fails_clearly
def main(
    device: Annotated[str, typer.Option(help="cpu, or cuda or cuda:N for the large models' shapes.")] = "cpu",
    weights: Annotated[str, typer.Option(help="On the CPU: name of the weights.")] = "compact",
    scale: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of the heads and of the pixels.")] = 1.0,
    memory_heads: Annotated[
        list[int], typer.Option(min=2, help="On the CPU: heads of an image whose peak memory is compared; repeat.")
    ] = list(MEMORY_HEADS),  # noqa: B006 - Typer copies it
    sample: Annotated[int, typer.Option(min=1, help="On the CPU: heads that the plain loop annotates.")] = SAMPLE,
    shape: Annotated[list[str], typer.Option(help="On a GPU: shapes to measure; repeat.")] = list(SHAPES),  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="On a GPU: tiles in a batch of the encoder alone.")] = 8,
    compiled: Annotated[bool, typer.Option("--compiled", help="On a GPU: compile the encoder first.")] = False,
    peak_tflops: Annotated[
        float | None, typer.Option(help="On a GPU: its dense bf16 peak, where its name is not known here.")
    ] = None,
) -> None:
    """Measure EDP-SAM's annotator; on a GPU with random weights, in bfloat16."""
    target = resolve_device(device)
    if target.type == "cuda":
        _print_shapes(target, shape, scale, peak_tflops, batch=batch, compiled=compiled)
        return
    rows = measure(scale=scale, weights=weights, memory_heads=tuple(memory_heads), sample=sample)
    write_rows("annotate", scale, rows)
    print_rows(rows, f"annotate with {weights} weights")


def _print_shapes(
    device: torch.device, names: list[str], scale: float, tflops: float | None, *, batch: int, compiled: bool
) -> None:
    card = torch.cuda.get_device_name(device)
    peak = tflops or peak_bf16_tflops(card)
    size_hw = round(SIZE_HW[0] * scale**0.5), round(SIZE_HW[1] * scale**0.5)
    marked = mirrored_crowd(max(2, round(HEADS * scale)), size_hw=size_hw)
    table = Table(
        "shape", "images/s", "prompts/s", "outside encoder and decoder", "encoder tiles/s", "TFLOP/s",
        "of the bf16 peak", title=f"{card}: {len(marked.points_xy):,} heads on {size_hw[0]:,} × {size_hw[1]:,} px",
    )  # fmt: skip
    rows = []
    for name in names:
        row = measure_shape(name, device, marked, batch=batch, compiled=compiled)
        share = row.peak_share(peak)
        table.add_row(
            name, f"{row.images_per_s:.2f}", f"{row.prompts_per_s:,.0f}", f"{row.outside_share:.0%}",
            f"{row.encoder_tiles_per_s:.1f}", f"{row.encoder_tflops:.0f}", "?" if share is None else f"{share:.0%}",
        )  # fmt: skip
        rows.append({**row.figures(), "bf16_peak_share": share})
    write_results(
        "annotate_cuda", {"device": card, "bf16_peak_tflops": peak, "scale": scale, "compiled": compiled, "rows": rows}
    )
    open_console().print(table)


if __name__ == "__main__":
    app()
