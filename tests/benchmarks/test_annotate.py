import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import annotate, report
from benchmarks.annotate import app, measure
from benchmarks.peak_memory import PeakMemory
from tests.benchmarks.tiny_sam import tiny_model


@pytest.fixture(autouse=True)
def tiny_everything(monkeypatch, tmp_path):
    """A tiny network, and memory without processes: they have tests of their own."""
    monkeypatch.setattr(annotate, "benchmark_model", lambda weights, device: tiny_model())
    monkeypatch.setattr(annotate, "peaks", lambda counts, *_: [PeakMemory(n, 100.0, 190.0 + n) for n in counts])
    monkeypatch.setattr(report, "RESULTS", tmp_path)


def test_rows_agree_with_each_other() -> None:
    outside, whole, tiled, memory = measure(scale=0.002, sample=1, sample_whole=2, rounds=1)
    assert outside.work == whole.work == tiled.work == "2 heads, 134 × 179 px, one thread"
    assert outside.theirs == whole.ours
    assert outside.ours + outside.notes["encode_s"] + outside.notes["decode_s"] == pytest.approx(outside.theirs)
    for row, sample in ((whole, 2), (tiled, 1)):
        parts = [row.notes[name] for name in ("grow_regions_s", "set_image_s", "predict_s", "frame_s", "encode_s")]
        assert sum(parts) == pytest.approx(row.theirs)
        assert row.notes["n_sampled"] == sample
    assert tiled.met is None
    assert all(row.met == (row.ratio <= reach) for row, reach in [(outside, 0.15), (whole, 0.125), (memory, 1.1)])


def test_memory_is_compared_with_the_fewest_heads() -> None:
    memory = measure(scale=0.01, sample=1, rounds=1, memory_heads=(250, 1000, 4000))[-1]
    assert memory.work == "2 / 10 / 40 heads, 300 × 400 px"
    assert (memory.ours, memory.theirs, memory.unit) == (230.0, 192.0, "MiB")
    assert not memory.met
    assert memory.notes["peak_mib_10_heads"] == 200.0


def test_the_command_prints_and_writes(tmp_path) -> None:
    result = CliRunner().invoke(app, ["--scale", "0.002", "--sample", "1"])
    assert result.exit_code == 0, result.output
    assert "SamPredictor loop, same tiles" in " ".join(result.output.split())
    assert len(json.loads((tmp_path / "annotate.json").read_text())["rows"]) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    result = CliRunner().invoke(app, ["--device", "cuda"])
    assert result.exit_code == 1
    assert "CUDA" in result.output


def test_shapes_are_printed_with_the_share_of_the_peak(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    real = annotate.measure_shape
    monkeypatch.setattr(annotate, "measure_shape", lambda *args, **named: real(*args, **named, build=tiny_model))
    annotate._print_shapes(torch.device("cpu"), ["vit_b"], 0.001, None, batch=2, compiled=False)
    assert "NVIDIA H200" in capsys.readouterr().out
    written = json.loads((tmp_path / "annotate_cuda.json").read_text())
    (row,) = written["rows"]
    assert written["bf16_peak_tflops"] == 989.4
    assert row["bf16_peak_share"] == pytest.approx(row["encoder_tflops"] / 989.4)
