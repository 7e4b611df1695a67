"""Stage ``refiner`` of the segmenter: the network that mends the teacher's masks."""

from pipeline.compute.device import resolve_device
from pipeline.masks.store import MaskStore
from pipeline.training.refiner import train_refiner
from pipeline.training.rough_masks import write_rough_masks
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    DeviceOption,
    LabeledPctOption,
    ParamsOption,
    SeedOption,
    fails_clearly,
    stage_app,
)
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs, print_figures
from stages.training_options import training_place

app = stage_app("Train the refiner on what the teacher's early weights make of the strong images.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the teacher of warmup and annotate's masks, write …/seed_SEED/rough and …/seed_SEED/refiner.

    A run that was killed goes on where it stopped.
    """
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    n_classes, target = len(inputs.prepared.class_names), resolve_device(device)
    rough = write_rough_masks(
        inputs.prepared, inputs.splits, paths.warmup, options=settings.pseudo_label, n_classes=n_classes,
        out=paths.rough, log=paths.logs / "rough.jsonl", device=target,
    )  # fmt: skip
    figures = train_refiner(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        rough,
        options=settings.refiner,
        n_classes=n_classes,
        seed=seed,
        place=training_place(paths, paths.refiner, device=device),
    )
    print_figures(f"{dataset}: refiner", figures)


if __name__ == "__main__":
    app()
