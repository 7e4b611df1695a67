"""Where further rounds read and write."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from stages.paths import RunPaths

RUN = Path("data/a/labeled_10/seed_0")


@pytest.mark.parametrize(
    ("options", "number", "teacher", "folder", "logs"),
    [
        ({}, 0, "warmup", ".", "."),
        ({"round": "round_2"}, 1, "retrain", "round_2", "round_2"),
        ({"round": "round_3"}, 2, "round_2/retrain", "round_3", "round_3"),
        ({"round": "round_10"}, 9, "round_9/retrain", "round_10", "round_10"),
        ({"round": "round_3", "teacher": "retrain"}, 2, "retrain", "round_3", "round_3"),
    ],
)
def test_each_round_has_a_folder_and_is_taught_by_the_one_before(options, number, teacher, folder, logs):
    paths = RunPaths("a", **options)
    assert paths.round_number == number
    assert paths.teacher_folder == RUN / teacher
    for stage in ("pseudo_label", "held_out", "judged", "retrain", "evaluate"):
        assert getattr(paths, stage) == RUN / folder / stage
    assert paths.logs == Path("logs/a/labeled_10/seed_0") / logs
    assert paths.resume == Path("resume/a/labeled_10/seed_0") / logs


@pytest.mark.parametrize("name", ["round_1", "round_02", "two", "../round_2", "round_2/x", ""])
def test_other_names_are_refused(name):
    with pytest.raises(PipelineError, match="expected round_2, round_3 and so on, got"):
        RunPaths("a", round=name)
