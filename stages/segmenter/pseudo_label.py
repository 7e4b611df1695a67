"""Stage ``pseudo_label`` of the segmenter: the teacher's masks at the weak images' points."""

from pipeline.compute.device import resolve_device
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.segment_inference import write_point_guided
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
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Give every point of the weak images the mask that the teacher sees there.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the teacher of warmup, write a mask store, a row for each point, below …/seed_SEED/pseudo_label."""
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    found = write_point_guided(
        inputs.prepared,
        inputs.splits.unlabeled,
        paths.warmup / MODEL_FILE,
        options=settings.pseudo_label,
        n_classes=len(inputs.prepared.class_names),
        seed=seed,
        out=paths.pseudo_label,
        log=paths.logs / "pseudo_label.jsonl",
        device=resolve_device(device),
    )
    listed = ", ".join(f"{count:,} {status}" for status, count in sorted(found.items(), key=lambda one: -one[1]))
    console.print(
        f"points of {len(inputs.splits.unlabeled):,} weak images: {listed or 'none'}; masks in {paths.pseudo_label}"
    )


if __name__ == "__main__":
    app()
