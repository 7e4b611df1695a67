"""Stage ``retrain``: the student, trained on labelled images and pseudo-labels."""

from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.crowd import train_student
from pipeline.training.ranks import Ranks
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    DeviceOption,
    LabeledPctOption,
    ParamsOption,
    RoundOption,
    SeedOption,
    TeacherOption,
    fails_clearly,
    stage_app,
)
from stages.params import load_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs, print_figures
from stages.training_options import DevicesOption, NumNodesOption, PrecisionOption, training_place, with_precision

app = stage_app("Train the student on the labelled images and on the teacher's pseudo-labels.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    round: RoundOption = None,  # noqa: A002 - the option's name
    teacher: TeacherOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    num_nodes: NumNodesOption = 1,
    precision: PrecisionOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the masks of annotate and judge and the teacher, write the student below …/retrain.

    It does not start when the teacher or its pseudo-labels miss the bounds of retrain.gate.

    A run that was killed goes on where it stopped.
    """
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher)
    inputs = RunInputs.open(paths, settings)
    figures = train_student(
        inputs.prepared,
        inputs.splits,
        MaskStore.open(paths.annotate),
        MaskStore.open(paths.judged / "masks"),
        paths.teacher_folder / MODEL_FILE,
        model=settings.model,
        options=with_precision(settings.retrain, precision),
        energy=settings.pseudo_label.energy,
        seed=seed,
        place=training_place(paths, paths.retrain, device=device, ranks=Ranks(devices, num_nodes)),
    )
    print_figures(f"{dataset}: student", figures)


if __name__ == "__main__":
    app()
