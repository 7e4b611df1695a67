"""The end of a run: the figures of every evaluation that params.yaml lists, and where their reports are."""

import itertools
import json

from pipeline.errors import raise_all
from pipeline.report.output import METRICS_FILE, REPORT_FILE
from stages.command import DEFAULT_PARAMS, ParamsOption, console, fails_clearly, stage_app
from stages.metrics_table import metrics_table, teacher_and_student, verdict
from stages.params import load_params
from stages.paths import RunPaths

app = stage_app("Print the figures of every run that params.yaml lists, and the paths of their reports.")


@app.command()
@fails_clearly
def main(params: ParamsOption = DEFAULT_PARAMS) -> None:
    """Read data/DATASET/labeled_PCT/seed_SEED/evaluate/metrics.json of every run; ``dvc repro`` makes them."""
    settings = load_params(params)
    runs = [
        RunPaths(dataset, labeled_pct=labeled_pct, seed=seed, round=one)
        for dataset, labeled_pct, seed, one in itertools.product(
            settings.datasets, settings.labeled_pct, settings.seeds, [None, *(each.name for each in settings.rounds)]
        )
    ]
    missing = [str(run.evaluate / METRICS_FILE) for run in runs if not (run.evaluate / METRICS_FILE).is_file()]
    raise_all(missing, "these figures have not been made; run: dvc repro")
    for run in runs:
        metrics = json.loads((run.evaluate / METRICS_FILE).read_text(encoding="utf-8"))
        which = f", {run.round}" if run.round else ""
        title = f"{run.dataset}, {run.labeled_pct} % labelled, seed {run.seed}{which}"
        console.print(metrics_table(metrics, title=f"{title}: the student on the test images"))
        said = verdict(metrics)
        if said:
            console.print(teacher_and_student(metrics, title=f"{title}: what retrain changed"))
            console.print(said, highlight=False, soft_wrap=True)
        console.print(f"Report with pictures: {run.evaluate / REPORT_FILE}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
