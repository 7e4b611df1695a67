import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import annotators
from benchmarks.annotators import ABLATION, Judged, ablation_table, app, judge_all, pick_examples
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator
from pipeline.datasets.crowd_scene.held_out import HeldOutScene
from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.masks.instances import Instances
from tests.annotators.fake_model import DiscModel, mark


def scene(seed=0, n_heads=6):
    return render_scene(np.random.default_rng(seed), size_hw=(48, 64), n_heads=n_heads)


def judged(density, figures, seconds=1.0):
    count = len(figures)
    marked = mark(np.stack([np.arange(count) * 8.0 + 2, np.full(count, 8.0)], 1), (16, 8 * count))
    label_map = np.repeat(np.arange(1, count + 1, dtype=np.int32), 8)[None].repeat(16, 0)
    rows = Instances.from_label_map(
        label_map, point_id=np.arange(count), points_xy=marked.points_xy, radius_px=marked.radius_px, source="head",
        status="ok",
    )  # fmt: skip
    return Judged(density, marked, label_map, rows, np.array(figures, float), seconds)


def test_means_are_over_heads_and_seconds_over_images() -> None:
    found = {"one": [judged("sparse", [(1, 0, 0)], 3.0), judged("dense", [(0.5, 1, 0), (0.3, 0, 1), (0.4, 0, 0)])]}
    lines = ablation_table(found).splitlines()
    assert lines[0] == "| annotator | IoU, sparse | IoU, dense | IoU, all | leaking | fallback | s per image |"
    assert lines[2] == "| one | 1.000 | 0.400 | **0.550** | 25.0% | 25.0% | 2.00 |"
    assert lines[-1] == "| one | 0.0% / 0.0% / 3.00 | 33.3% / 33.3% / 1.00 |"
    assert "2 held-out scenes, 4 heads" in lines[4]


def test_every_annotator_sees_every_scene() -> None:
    plans = [(HeldOutScene("sparse", 6, (0, seed)), scene(seed)) for seed in (0, 1)]
    found = judge_all(plans, {"disc": DiscAnnotator(), **{
        name: EdpSamAnnotator(DiscModel(), options) for name, options in ABLATION.items()
    }})  # fmt: skip
    assert list(found) == ["disc", *ABLATION]
    for name, results in found.items():
        assert [len(one.figures) for one in results] == [len(one.points_xy) for _, one in plans], name
        assert all(one.seconds > 0 for one in results)


def test_the_ablation_takes_one_part_away_at_a_time() -> None:
    assert len({repr(options) for options in ABLATION.values()}) == len(ABLATION)
    assert [options.prompts for options in ABLATION.values()][1:4] == [("head",), ("superpixel",), ("box",)]
    assert [name for name, options in ABLATION.items() if not options.exclusive] == ["both prompts, no exclusion"]


def test_examples_show_each_way_to_fail() -> None:
    good = [(0.5 + 0.02 * k, 0, 0) for k in range(20)]
    one = judged("dense", [*good, (0.1, 1, 0), (0.05, 0, 0), (0.2, 0, 1), (0.9, 1, 0)])
    kinds = pick_examples([one], per_kind=3)
    shown = {kind: [float(example.caption.split()[1]) for example in examples] for kind, examples in kinds.items()}
    assert shown["on another person"] == [0.1]
    assert shown["wrong outline"] == [0.05]
    assert shown["no mask left: fallback"] == [0.2]
    assert all(0.7 <= iou <= 0.9 for iou in shown["usual successes"])
    assert kinds["wrong outline"][0].mask.sum() == kinds["wrong outline"][0].truth.sum() == 8 * 16


@pytest.mark.parametrize("per_kind", [1, 4])
def test_no_more_pictures_than_asked_for(per_kind) -> None:
    kinds = pick_examples([judged("sparse", [(0.1, 1, 0)] * 30)], per_kind=per_kind)
    assert {kind: len(examples) for kind, examples in kinds.items()} == {
        "usual successes": 0, "on another person": per_kind, "wrong outline": 0, "no mask left: fallback": 0,
    }  # fmt: skip


def test_the_command_writes_table_and_pictures(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(annotators, "benchmark_model", lambda weights, device: DiscModel())
    result = CliRunner().invoke(app, ["--scenes", "1", "--out", str(tmp_path / "new"), "--weights", "compact"])
    assert result.exit_code == 0, result.output
    table = (tmp_path / "new" / "ablation.md").read_text()
    assert table.count("`edp_sam` (compact)") == 12
    assert "1 held-out scenes" in table
    picture = (tmp_path / "new" / "examples.jpg").read_bytes()
    assert picture[:2] == b"\xff\xd8"
    assert len(picture) < 300_000
