import json

from pipeline.training.curves import write_curves
from tests.training.conftest import folder_bytes

CURVES = [(5, {"count/loss": 0.5}), (10, {"count/loss": 0.25}), (10, {"held_out/mae": 3.0}), (15, {"mask/loss": 0.125})]


def test_each_figure_has_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_curves(tmp_path / "dvclive", CURVES)
    tables = tmp_path / "dvclive" / "plots" / "metrics"
    assert (tables / "count" / "loss.tsv").read_text() == "step\tloss\n5\t0.5\n10\t0.25\n"
    assert (tables / "held_out" / "mae.tsv").read_text() == "step\tmae\n10\t3.0\n"
    last = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert last["count"] == {"loss": 0.25}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvclive"]  # no dvc.yaml, no experiment


def test_the_same_curves_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_curves(tmp_path / name, CURVES)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
