"""Stage ``evaluate`` of the segmenter: AP of teacher and student on the test images."""

from pipeline.compute.device import resolve_device
from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.evaluate_segments import SegmentInputs, evaluate_segments
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    DeviceOption,
    LabeledPctOption,
    ParamsOption,
    SeedOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.metrics_table import metrics_table
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs
from stages.segmenter.learnt_masks import open_learnt_masks

app = stage_app("Detect on the test images with the student; write AP, the detections and pictures.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the student, write metrics.json, the mask store detections/ and overlays/ below …/evaluate."""
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    run = RunInputs.open(paths, settings)
    alone = settings.evaluate.student == "warmup"
    inputs = SegmentInputs(
        prepared=run.prepared,
        test_ids=run.splits.test,
        student=(paths.warmup if alone else paths.retrain) / MODEL_FILE,
        teacher=None if alone else paths.warmup / MODEL_FILE,
        pseudo=None if alone else open_learnt_masks(paths, settings.retrain),
        annotated=MaskStore.open(paths.annotate) if alone else None,
        annotated_ids=run.splits.labeled_train,
        held_out_ids=run.splits.labeled_val,
    )
    figures = evaluate_segments(inputs, options=settings.evaluate, out=paths.evaluate, device=resolve_device(device))
    console.print(metrics_table(figures, title=f"{dataset}, {labeled_pct} % strong, seed {seed}"))


if __name__ == "__main__":
    app()
