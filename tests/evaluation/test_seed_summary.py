import json
import math
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.seed_summary import RunFigures, markdown_table, read_run, summarize_seeds

FIGURES = {"mae": 10.0, "rmse": 20.0, "nae": 0.5, "matched_iou_truth": 0.25, "n_images": 40, "n_heads": 744}


def run(seed: int, dataset: str = "sha", pct: int = 10, settings: dict | None = None, **figures: float | None):
    path = Path(f"data/{dataset}/labeled_{pct}/seed_{seed}/evaluate/metrics.json")
    return RunFigures(dataset, pct, seed, path, {**FIGURES, **figures}, settings)


def cells(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]


def test_mean_and_sample_standard_deviation_by_hand() -> None:
    # mean 12, deviations -2, 0, 2: (4 + 0 + 4) / (3 - 1) = 4
    table = markdown_table(summarize_seeds([run(2, mae=14.0), run(0, mae=10.0), run(1, mae=12.0)]), ["mae"])
    header, rule, found = cells(table)
    assert header == ["data set", "labelled %", "seeds", "MAE"]
    assert rule == ["---", "--:", ":--", "--:"]
    assert found == ["sha", "10", "3 (0, 1, 2)", "12.0 ± 2.0"]
    assert "sample standard deviation" in table


def test_a_single_seed_has_no_spread() -> None:
    assert cells(markdown_table(summarize_seeds([run(7)]), ["mae"]))[2] == ["sha", "10", "1 (7)", "10.0"]


def test_rows_go_by_data_set_and_share_and_do_not_mix() -> None:
    runs = [run(0, pct=40, mae=1.0), run(0, "jhu", 5), run(1, pct=5, mae=3.0), run(0, pct=5, mae=4.0)]
    found = cells(markdown_table(summarize_seeds(runs), ["mae"]))[2:]
    assert found == [
        ["jhu", "5", "1 (0)", "10.0"],
        ["sha", "5", "2 (0, 1)", f"3.50 ± {math.sqrt(0.5):.2f}"],
        ["sha", "40", "1 (0)", "1.00"],
    ]


def test_shares_are_in_percent_and_decimals_follow_the_size() -> None:
    both = {"mae": 123.456, "nae": 0.12345}
    rows = [run(0, matched_iou_truth=0.31449, **both), run(1, matched_iou_truth=0.33449, **both)]
    header, _, found = cells(markdown_table(summarize_seeds(rows), ["mae", "nae", "matched_iou_truth"]))
    assert header[3:] == ["MAE", "NAE", "matched IoU with true masks, %"]
    assert found[3:] == ["123.5 ± 0.0", "0.123 ± 0.000", "32.4 ± 1.4"]


def test_a_segmenters_ap_is_in_percent_and_sizes_that_no_run_has_are_left_out() -> None:
    figures = {"ap": 0.3351, "ap_50": 0.6, "ap_large": None, "ar": 0.5, "teacher_ap": 0.2, "n_images": 5}
    one = RunFigures("shapes", 5, 0, Path("x"), figures, None)
    header, _, found = cells(markdown_table(summarize_seeds([one])))
    assert header[3:] == ["AP, %", "AP50, %", "AP of the teacher, %"]
    assert found[3:] == ["33.5", "60.0", "20.0"]


def test_usual_columns_are_those_that_some_run_has() -> None:
    annotator = {name: value for name, value in FIGURES.items() if name != "matched_iou_truth"}
    other = RunFigures("jhu", 5, 0, Path("x"), {**annotator, "matched_iou_annotator": 0.5}, None)
    header, _, jhu, sha = cells(markdown_table(summarize_seeds([run(0), other])))
    assert header[3:6] == ["MAE", "RMSE", "NAE"]
    assert header[6:] == ["matched IoU with true masks, %", "matched IoU with the annotator's masks, %"]
    assert (jhu[6:], sha[6:]) == (["–", "50.0"], ["25.0", "–"])


def test_an_undefined_figure_of_one_seed_leaves_the_cell_empty() -> None:
    found = cells(markdown_table(summarize_seeds([run(0, nae=None), run(1)]), ["nae", "mae"]))[2]
    assert found[3:] == ["–", "10.0 ± 0.0"]


def test_a_figure_that_no_run_has_is_named_with_those_there_are() -> None:
    with pytest.raises(PipelineError, match=r"no run has the figure 'mea'; there are: mae, rmse, nae"):
        markdown_table(summarize_seeds([run(0)]), ["mae", "mea"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run(1, settings={"retrain.parameters.w_bg": 0.1}),
         r"seed_0.*seed_1.*: made with different parameters: retrain\.parameters\.w_bg 0\.05 and 0\.1"),
        (run(1, n_heads=745), r"seed_0.*seed_1.*: made on different test images: n_heads is 744 and 745"),
        (run(1, mae_last=4.0), r"seed_0.*seed_1.*: made with different options.*: only one of them has mae_last"),
    ],
)  # fmt: skip
def test_runs_that_do_not_belong_together_are_refused(other: RunFigures, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        summarize_seeds([run(0, settings={"retrain.parameters.w_bg": 0.05}), other])
    apart = RunFigures(other.dataset, 40, 1, other.path, other.figures, other.settings)
    assert len(summarize_seeds([run(0, settings={"retrain.parameters.w_bg": 0.05}), apart])) == 2, "shares may differ"


def test_whether_parameters_could_be_compared_is_told() -> None:
    same = {"a": 1}
    assert [one.compared for one in summarize_seeds([run(0, settings=same), run(1, settings=same)])] == [True]
    assert [one.compared for one in summarize_seeds([run(0, settings=same), run(1)])] == [False]
    assert [one.compared for one in summarize_seeds([run(0)])] == [True], "one run is equal to itself"


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_run_is_read_with_its_settings_less_the_seed(tmp_path: Path) -> None:
    record = {"architecture": {"width": 8}, "parameters": {"seed": 3, "count": {"steps": 2}}, "step": 5, "metrics": {}}
    metrics = write(tmp_path / "metrics.json", {"mae": 1.5, "nae": None, "n_images": 2})
    records = [write(tmp_path / stage / "model.json", record) for stage in ("warmup", "retrain")]
    found = read_run(metrics, records, dataset="sha", labeled_pct=10, seed=3)
    assert found.figures == {"mae": 1.5, "nae": None, "n_images": 2}
    assert found.settings == {
        f"{stage}.{key}": value
        for stage in ("warmup", "retrain")
        for key, value in (("architecture.width", 8), ("parameters.count.steps", 2))
    }
    records[1].unlink()
    assert read_run(metrics, records, dataset="sha", labeled_pct=10, seed=3).settings is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"metrics\.json: cannot be read as JSON"),
        ("[1]", r"metrics\.json: expected a JSON object, got list"),
        ({"mae": "1"}, r"metrics\.json: expected a number or null for mae"),
        ({"mae": True}, r"metrics\.json: expected a number or null for mae"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        read_run(write(tmp_path / "metrics.json", content), [], dataset="sha", labeled_pct=10, seed=0)
