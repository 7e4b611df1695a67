"""Stage ``pseudo_label``: the teacher's masks of the unlabelled training images."""

from dataclasses import replace

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
    RefilterOption,
    RoundOption,
    SeedOption,
    TeacherOption,
    console,
    fails_clearly,
    hand_over,
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
    refilter: RefilterOption = False,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read the teacher of warmup, write a mask store below data/DATASET/labeled_PCT/seed_SEED/pseudo_label.

    The masks of the held-out labelled images go to …/held_out, for the stage judge. In a further round the teacher is
    the student before, and the folders are …/seed_SEED/ROUND/pseudo_label and …/seed_SEED/ROUND/held_out.
    """
    if refilter:
        hand_over(
            "stages.judge", dataset=dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher,
            params=params,
        )  # fmt: skip
        return
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher)
    inputs = RunInputs.open(paths, settings)
    unlabeled = inputs.splits.unlabeled, ("train",), settings.pseudo_label, paths.pseudo_label
    without = replace(settings.pseudo_label, keep_prob=False)
    held_out = inputs.splits.labeled_val, ("train", "val"), without, paths.held_out
    n_held_out, n_candidates = (
        write_pseudo_labels(
            inputs.prepared,
            image_ids,
            paths.teacher_folder / MODEL_FILE,
            model=settings.model,
            options=options,
            out=out,
            log=paths.logs / f"{out.name}.jsonl",
            device=resolve_device(device),
            round_number=paths.round_number,
            splits=splits,
        )
        for image_ids, splits, options, out in (held_out, unlabeled)
    )
    console.print(
        f"{n_candidates:,} candidates on {len(inputs.splits.unlabeled):,} unlabelled images in {paths.pseudo_label}, "
        f"{n_held_out:,} on {len(inputs.splits.labeled_val):,} held-out labelled images"
    )


if __name__ == "__main__":
    app()
