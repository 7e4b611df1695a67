"""Stage ``warmup``: the teacher, trained on the labelled images."""

from pipeline.masks.store import MaskStore
from pipeline.training.crowd import train_teacher
from pipeline.training.ranks import Ranks
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
from stages.params import load_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs, print_figures
from stages.training_options import DevicesOption, NumNodesOption, PrecisionOption, training_place, with_precision

app = stage_app("Train the teacher on the labelled images: to count heads, then to tell their masks apart.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    num_nodes: NumNodesOption = 1,
    precision: PrecisionOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read prepared tables and annotate's masks, write the teacher below data/DATASET/labeled_PCT/seed_SEED/warmup.

    A run that was killed goes on where it stopped.
    """
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    figures = train_teacher(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        model=settings.model,
        options=with_precision(settings.warmup, precision),
        seed=seed,
        place=training_place(paths, paths.warmup, device=device, ranks=Ranks(devices, num_nodes)),
    )
    print_figures(f"{dataset}: teacher", figures)


if __name__ == "__main__":
    app()
