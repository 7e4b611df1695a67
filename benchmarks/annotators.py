"""How good each annotator is: the ablation of EDP-SAM on the frozen held-out scenes (specification EDP-SAM §7).

``python -m benchmarks.annotators``; it takes minutes and judges masks, not speed, so ``make bench`` leaves it out.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.contact_sheet import MAX_BYTES, Example, draw_sheet, encode_below
from benchmarks.report import RESULTS, open_console
from benchmarks.timed_model import benchmark_model
from pipeline.annotators.base import Annotator, MarkedImage
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.quality import judge_scene, mark_scene
from pipeline.annotators.superpixel import SuperpixelAnnotator, SuperpixelOptions
from pipeline.compute.device import one_thread_per_operation, resolve_device
from pipeline.compute.progress import track
from pipeline.datasets.crowd_scene.held_out import DENSITIES, HeldOutScene, draw_held_out, held_out_scenes
from pipeline.datasets.crowd_scene.scene import Scene
from pipeline.masks.instances import Instances
from stages.command import fails_clearly

PICTURED = "both prompts"
ABLATION = {
    PICTURED: EdpSamOptions(),
    "head prompts only": EdpSamOptions(prompts=("head",)),
    "superpixel prompts only": EdpSamOptions(prompts=("superpixel",)),
    "box prompts only": EdpSamOptions(prompts=("box",)),
    "both prompts, no exclusion": EdpSamOptions(exclusive=False),
    "both prompts, mirrored": EdpSamOptions(mirrored=True),
}
"""Row of the table → EDP-SAM's options."""
PER_KIND = 10
"""Pictures of each kind on the contact sheet."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Judged:
    """One scene, annotated and judged.

    Args:
        density: The scene's density.
        marked: Image, heads and circles.
        truth: (H, W) label map, head k is k + 1.
        instances: Row k is head k.
        figures: (N, 3): IoU inside the circle, whether it leaks into another person, whether it is a fallback or empty.
        seconds: What annotating took.
    """

    density: str
    marked: MarkedImage
    truth: NDArray[np.int32]
    instances: Instances
    figures: NDArray[np.float64]
    seconds: float


def build_ablation(weights: str, device: torch.device) -> dict[str, Annotator]:
    """Build every annotator of the table, by name.

    Raises:
        PipelineError: If the weights are not there or are not what they should be.
    """
    model = benchmark_model(weights, device)
    edp_sam = {f"`edp_sam` ({weights}), {name}": EdpSamAnnotator(model, options) for name, options in ABLATION.items()}
    return {**edp_sam, "`superpixel`": SuperpixelAnnotator(SuperpixelOptions()), "`disc`": DiscAnnotator()}


def judge_all(
    scenes: Iterable[tuple[HeldOutScene, Scene]], annotators: Mapping[str, Annotator]
) -> dict[str, list[Judged]]:
    """Annotate and judge every scene with every annotator, in one thread."""
    found: dict[str, list[Judged]] = {name: [] for name in annotators}
    with one_thread_per_operation():
        for plan, scene in scenes:
            marked = mark_scene(scene)
            for name, annotator in annotators.items():
                begin = time.perf_counter()
                instances = annotator.annotate(marked)
                seconds = time.perf_counter() - begin
                figures = judge_scene(instances, marked, scene.label_map)
                found[name].append(Judged(plan.density, marked, scene.label_map, instances, figures, seconds))
    return found


def ablation_table(found: Mapping[str, list[Judged]]) -> str:
    """Write two Markdown tables: figures over all scenes, and the rest of them by density."""
    densities = [one for one in DENSITIES if any(one == judged.density for judged in next(iter(found.values())))]
    head = ["annotator", *(f"IoU, {one}" for one in densities), "IoU, all", "leaking", "fallback", "s per image"]
    first, second = [head], [["annotator", *(f"{one}: leaking / fallback / s" for one in densities)]]
    for name, judged in found.items():
        groups = [[one for one in judged if one.density == density] for density in densities]
        iou, leaking, fallback, seconds = _means(judged)
        by_density = [f"{_means(group)[0]:.3f}" for group in groups]
        first.append([name, *by_density, f"**{iou:.3f}**", f"{leaking:.1%}", f"{fallback:.1%}", f"{seconds:.2f}"])
        rest = ("{1:.1%} / {2:.1%} / {3:.2f}".format(*_means(group)) for group in groups)
        second.append([name, *rest])
    judged = next(iter(found.values()))
    n_heads = sum(len(one.figures) for one in judged)
    note = (
        f"{len(judged)} held-out scenes, {n_heads:,} heads. *IoU*: mean over heads of mask and true visible mask, both "
        "inside the circle. *Leaking*: masks with more than a tenth of their pixels on another person. *Fallback*: "
        "heads without a mask of their own. Seconds in one thread."
    )
    return "\n\n".join([_markdown(first), note, _markdown(second)]) + "\n"


def _means(judged: list[Judged]) -> tuple[float, float, float, float]:
    """IoU, leaking share and fallback share over heads, seconds over images."""
    iou, leaking, fallback = np.concatenate([one.figures for one in judged]).mean(axis=0).tolist()
    return iou, leaking, fallback, float(np.mean([one.seconds for one in judged]))


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def pick_examples(judged: list[Judged], per_kind: int = PER_KIND) -> dict[str, list[Example]]:
    """Choose heads to show: usual successes, and each way to fail; spread evenly over the scenes.

    Successes are not the best but those in the best quarter that lie nearest to its lower end.
    """
    heads = [(one, row) for one in judged for row in range(len(one.figures))]
    figures = np.concatenate([one.figures for one in judged])
    iou, leaks, fallback = figures[:, 0], figures[:, 1] > 0, figures[:, 2] > 0
    good, bad = np.quantile(iou, [0.75, 0.1])
    fine = ~leaks & ~fallback
    succeeded = np.flatnonzero(fine & (iou >= good))
    kinds = {
        "usual successes": succeeded[np.argsort(iou[succeeded], kind="stable")][: max(1, len(succeeded) // 4)],
        "on another person": np.flatnonzero(leaks & ~fallback & (iou <= np.median(iou))),
        "wrong outline": np.flatnonzero(fine & (iou <= bad)),
        "no mask left: fallback": np.flatnonzero(fallback),
    }
    return {
        kind: [_example(*heads[one]) for one in _spread(np.sort(members), per_kind)] for kind, members in kinds.items()
    }


def _spread(members: NDArray[np.int64], count: int) -> list[int]:
    if len(members) > count:
        members = members[np.linspace(0, len(members) - 1, count).round().astype(int)]
    return [int(member) for member in members]


def _example(one: Judged, row: int) -> Example:
    mask = one.instances.label_map() == row + 1
    x, y = one.marked.points_xy[row].tolist()
    return Example(
        image=one.marked.image, mask=mask, truth=one.truth == row + 1, point_xy=(x, y),
        radius_px=float(one.marked.radius_px[row]),
        caption=f"{one.density} {one.figures[row, 0]:.2f} {one.instances.source[row]}",
    )  # fmt: skip


@app.command()
@fails_clearly
def main(
    weights: Annotated[str, typer.Option(help="Name of EDP-SAM's weights: compact, vit_b, vit_l, vit_h.")] = "compact",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    scenes: Annotated[int, typer.Option(min=1, help="Take the first so many scenes, for a quick look.")] = 64,
    out: Annotated[Path, typer.Option(help="Folder for ablation.md and examples.jpg.")] = RESULTS / "annotators",
) -> None:
    """Judge EDP-SAM, what is left of it without each part, and the plain methods where the truth is known."""
    annotators = build_ablation(weights, resolve_device(device))
    plans = held_out_scenes()
    # The check that the scenes are the frozen ones needs all of them.
    drawn = draw_held_out() if scenes >= len(plans) else [(plan, plan.render()) for plan in plans[:scenes]]
    found = judge_all(track(drawn, description="judge", total=len(drawn), unit="scenes"), annotators)
    table = ablation_table(found)
    sheet = draw_sheet(pick_examples(next(iter(found.values()))), f"EDP-SAM ({weights}), {PICTURED}, held-out scenes")
    out.mkdir(parents=True, exist_ok=True)
    (out / "ablation.md").write_text(table, encoding="utf-8")
    (out / "examples.jpg").write_bytes(encode_below(sheet, MAX_BYTES))
    console = open_console()
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {out}/", highlight=False)


if __name__ == "__main__":
    app()
