"""Stage ``judge`` of the segmenter: which pseudo-labels are learnt from, and as what."""

from pipeline.masks.store import MaskStore
from pipeline.training.judge_segments import judge_segments
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    LabeledPctOption,
    ParamsOption,
    SeedOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.metrics_table import yield_table
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Sort the weak images' pseudo-labels into kept, ambiguous and dropped ones; no network is needed.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the stores of pseudo_label and the masks of annotate, write …/seed_SEED/judged."""
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    found = judge_segments(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        MaskStore.open(paths.refined if settings.judge.masks == "refined" else paths.pseudo_label),
        MaskStore.open(paths.held_out),
        paths.second_opinion,
        options=settings.judge,
        out=paths.judged,
    )
    console.print(yield_table(found, title=f"{paths.dataset}: pseudo-labels"))
    console.print(f"thresholds {settings.judge.quality.thresholds}; judged masks in {paths.judged}")


if __name__ == "__main__":
    app()
