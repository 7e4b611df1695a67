"""Stage ``judge``: which of the stored pseudo-labels are learnt, decided without the network."""

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
from stages.metrics_table import yield_table
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
    console.print(yield_table(found, title=f"{paths.dataset}: pseudo-labels"))
    console.print(f"thresholds {settings.judge.quality.thresholds}; judged masks in {paths.judged}")


if __name__ == "__main__":
    app()
