"""Stage ``evaluate``: the student on the test images, as metrics, plots and a report."""

from pipeline.compute.device import resolve_device
from pipeline.masks.store import MaskStore
from pipeline.report.output import REPORT_FILE, write_evaluation
from pipeline.training.checkpoint import LAST_FILE, MODEL_FILE
from pipeline.training.curves import CURVES_FOLDER
from pipeline.training.evaluate_crowd import EvaluationInputs, evaluate_crowd
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
from stages.metrics_table import metrics_table
from stages.params import load_params
from stages.paths import RunPaths
from stages.run_inputs import RunInputs

app = stage_app("Count and segment the test images with the student; write metrics, plots and report.html.")


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
    """Read the student, write metrics.json, per_image.parquet, plots/, overlays/ and report.html below …/evaluate.

    Masks are compared with the true ones where the data set has them, with the annotator's otherwise.
    """
    settings = load_params(params)
    paths = RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=round, teacher=teacher)
    run = RunInputs.open(paths, settings)
    inputs = EvaluationInputs(
        prepared=run.prepared,
        annotator=MaskStore.open(paths.annotate),
        test_ids=run.splits.test,
        labeled_ids=run.splits.labeled_train,
        weights=paths.retrain / MODEL_FILE,
        held_out_ids=run.splits.labeled_val,
        last_weights=paths.retrain / LAST_FILE,
        teacher_weights=paths.teacher_folder / MODEL_FILE,
        model=settings.model,
    )
    evaluation = evaluate_crowd(inputs, options=settings.evaluate, device=resolve_device(device))
    labeled, held_out = len(run.splits.labeled_train), len(run.splits.labeled_val)
    write_evaluation(
        paths.evaluate,
        evaluation,
        prepared=run.prepared,
        reference=inputs.reference,
        title=f"Counting and segmenting {dataset}",
        facts={
            "Data set": dataset,
            "Labelled": f"{labeled_pct} % ({labeled} images, and {held_out} to choose the weights)",
            "Unlabelled": f"{len(run.splits.unlabeled)} images",
            "Masks from": inputs.annotator.provenance.algorithm,
            "Backbone": settings.model.backbone,
            "Seed": str(seed),
        },
        curve_folders={"Teacher": paths.teacher_folder / CURVES_FOLDER, "Student": paths.retrain / CURVES_FOLDER},
    )
    title = ", ".join([dataset, f"{labeled_pct} % labelled", f"seed {seed}", *([round] if round else [])])
    console.print(metrics_table(evaluation.metrics(), title=title))
    console.print(f"report: {paths.evaluate / REPORT_FILE}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
