"""Stage ``judge``: which of the stored pseudo-labels are learnt, decided without the network."""

from rich.table import Table

from pipeline.masks.store import MaskStore
from pipeline.training.judge_crowd import judge_crowd
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    LabeledPctOption,
    ParamsOption,
    RoundOption,
    SeedOption,
    TeacherOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.params import load_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Keep, doubt or drop the teacher's pseudo-labels.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    round: RoundOption = None,  # noqa: A002 - the option's name
    teacher: TeacherOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the masks of pseudo_label, write masks and thresholds below …/judged; seconds, on any machine."""
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher)
    inputs = RunInputs.open(paths, settings)
    found = judge_crowd(
        inputs.prepared,
        MaskStore.open(paths.pseudo_label),
        MaskStore.open(paths.held_out),
        MaskStore.open(paths.annotate),
        labeled=[*inputs.splits.labeled_train, *inputs.splits.labeled_val],
        options=settings.judge,
        out=paths.judged,
    )
    title = f"{paths.dataset}: thresholds {settings.judge.quality.thresholds}, in {paths.judged}"
    table = Table("density", "dropped", "ambiguous", "kept", "class", "mask", title=title, title_justify="left")
    for k, (name, counts) in enumerate(zip(found.names, found.rows.tolist(), strict=True)):
        limits = ("", "") if found.limits is None else (found.limits.class_thr[k], found.limits.mask_thr[k])
        shown = [each if isinstance(each, str) else f"≥ {each:.3f}" if each <= 1 else "none kept" for each in limits]
        table.add_row(name, *(f"{count:,}" for count in counts), *shown)
    console.print(table)


if __name__ == "__main__":
    app()
