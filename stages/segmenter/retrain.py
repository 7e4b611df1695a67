"""Stage ``retrain`` of the segmenter: SOLOv2 on strong and weak images."""

from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.ranks import Ranks
from pipeline.training.segmenter import train_segmenter_student
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
from stages.segmenter.learnt_masks import open_learnt_masks, open_online_teacher
from stages.training_options import DevicesOption, NumNodesOption, training_place

app = stage_app("Train SOLOv2 on the strong images' masks and the weak images' pseudo-labels.")


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
    """Read the masks of annotate and the pseudo-labels, write the student below …/seed_SEED/retrain.

    A run that was killed goes on where it stopped.
    """
    settings = load_segmenter_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed)
    inputs = RunInputs.open(paths, settings)
    figures = train_segmenter_student(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        open_learnt_masks(paths, settings.retrain),
        paths.warmup / MODEL_FILE,
        options=settings.retrain,
        seed=seed,
        online=open_online_teacher(paths, settings.retrain),
        place=training_place(paths, paths.retrain, device=device, ranks=Ranks(devices, num_nodes)),
    )
    print_figures(f"{dataset}: student", figures)


if __name__ == "__main__":
    app()
