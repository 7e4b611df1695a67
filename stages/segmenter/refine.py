"""Stage ``refine`` of the segmenter: the pseudo-labels, mended."""

from pipeline.compute.device import resolve_device
from pipeline.datasets.prepared import Prepared
from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.refinement import refine_store
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

app = stage_app("Refine the masks of the weak images' points.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the refiner and the pseudo-labels, write the mask store …/seed_SEED/refined."""
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    n_refined = refine_store(
        Prepared.open(paths.prepared),
        MaskStore.open(paths.pseudo_label),
        paths.refiner / MODEL_FILE,
        options=settings.refiner,
        out=paths.refined,
        log=paths.logs / "refine.jsonl",
        device=resolve_device(device),
    )
    console.print(f"{n_refined:,} masks refined; in {paths.refined}")


if __name__ == "__main__":
    app()
