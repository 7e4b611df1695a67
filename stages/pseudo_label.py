"""Stage ``pseudo_label``: the teacher's masks of the unlabelled training images."""

from pipeline.compute.device import resolve_device
from pipeline.training.checkpoint import MODEL_FILE
from pipeline.training.pseudo_labels import write_pseudo_labels
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
    console,
    fails_clearly,
    stage_app,
)
from stages.params import load_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Let the teacher draw masks on the unlabelled training images.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    labeled_pct: LabeledPctOption = 10,
    seed: SeedOption = 0,
    round: RoundOption = None,  # noqa: A002 - the option's name
    teacher: TeacherOption = None,
    device: DeviceOption = "auto",
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the teacher of warmup, write a mask store below data/DATASET/labeled_PCT/seed_SEED/pseudo_label.

    In a further round the teacher is the student before, and the folder …/seed_SEED/ROUND/pseudo_label.
    """
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher)
    inputs = RunInputs.open(paths, settings)
    n_candidates = write_pseudo_labels(
        inputs.prepared,
        inputs.splits.unlabeled,
        paths.teacher_folder / MODEL_FILE,
        model=settings.model,
        options=settings.pseudo_label,
        out=paths.pseudo_label,
        log=paths.logs / "pseudo_label.jsonl",
        device=resolve_device(device),
        round_number=paths.round_number,
    )
    console.print(
        f"{n_candidates:,} candidates on {len(inputs.splits.unlabeled):,} unlabelled images in {paths.pseudo_label}"
    )


if __name__ == "__main__":
    app()
