import pytest
import torch

from pipeline.compute.executors import LocalExecutor
from pipeline.compute.executors_ray import RayExecutor
from pipeline.errors import PipelineError
from stages.executor_options import choose_executor, uses_bf16


def test_local_takes_every_core_unless_told(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert choose_executor("local", device="cpu", workers=0, address=None) == (torch.device("cpu"), LocalExecutor(5))
    assert choose_executor("local", device="cpu", workers=2, address=None)[1] == LocalExecutor(2)


def test_a_clusters_gpus_need_not_be_here() -> None:
    device, executor = choose_executor("ray", device="cuda", workers=3, address="auto")
    assert device == torch.device("cuda")
    assert executor == RayExecutor(3, "auto", gpus_per_worker=1.0)
    assert choose_executor("ray", device="cpu", workers=2, address=None)[1] == RayExecutor(2)
    if not torch.cuda.is_available():
        with pytest.raises(PipelineError, match="cuda"):
            choose_executor("local", device="cuda", workers=1, address=None)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("float32", "cuda", False), ("bfloat16", "cpu", True)],
)
def test_precision(precision, device, expected) -> None:
    assert uses_bf16(precision, torch.device(device)) is expected
