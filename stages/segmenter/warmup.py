"""Stage ``warmup`` of the segmenter: SOLOv2 on the strong images."""

from pipeline.masks.store import MaskStore
from pipeline.training.ranks import Ranks
from pipeline.training.segmenter import train_segmenter_teacher
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
from stages.training_options import DevicesOption, NumNodesOption, training_place

app = stage_app("Train SOLOv2 on the strong images: those that have masks.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    num_nodes: NumNodesOption = 1,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read prepared tables and annotate's masks, write the teacher below data/DATASET/labeled_PCT/seed_SEED/warmup.

    A run that was killed goes on where it stopped.
    """
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    figures = train_segmenter_teacher(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        options=settings.warmup,
        seed=seed,
        place=training_place(paths, paths.warmup, device=device, ranks=Ranks(devices, num_nodes)),
    )
    print_figures(f"{dataset}: teacher", figures)


if __name__ == "__main__":
    app()
