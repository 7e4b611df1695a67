"""The stages of every study's rows: the ones that DVC runs, each with what it reads made before it."""

import re

import pytest
import yaml

from benchmarks.experiments.__main__ import STUDIES
from benchmarks.experiments.study import REPOSITORY, Step

PIPELINES = {
    path.parent.name: yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    for path in [REPOSITORY / "dvc.yaml", *(REPOSITORY / "recipes").glob("*/dvc.yaml")]
}
FOLDER = re.compile(r"^data/[^/]+/(?:labeled_[^/]+/seed_[^/]+/)?([^/]+)")
ROWS = [(study, row) for study in STUDIES.values() for row in study.rows if not row.leaves_out]


def dvc_stage(step: Step) -> str:
    return step.stage.rpartition(".")[2]


def pipeline_of(steps: tuple[Step, ...]) -> dict[str, dict]:
    """The pipeline with just these stages, ``splits`` and the like left out."""
    names = {dvc_stage(step) for step in steps}
    segmenter = any(step.stage.startswith("segmenter.") for step in steps)
    found = [
        stages
        for stages in PIPELINES.values()
        if names <= stages.keys() and ("stages.segmenter" in str(stages)) == segmenter
    ]
    assert found, sorted(names)
    return min(found, key=len)


@pytest.mark.parametrize(("study", "row"), ROWS, ids=[f"{study.name}-{row.key}" for study, row in ROWS])
def test_what_a_stage_reads_is_made_before_it(study, row):
    steps = study.steps_of(row)
    stages = pipeline_of(steps)
    made = {"raw"}
    for step in steps:
        deps = stages[dvc_stage(step)]["deps"]
        read = {match[1] for dep in deps if (match := FOLDER.match(dep))}
        assert read <= made, f"{step.stage}: nobody makes {sorted(read - made)}"
        made |= {step.folder, *step.also}
