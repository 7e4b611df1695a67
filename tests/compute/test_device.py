import pytest
import torch

from pipeline.compute.device import one_thread_per_operation, resolve_device
from pipeline.errors import PipelineError


def test_auto_takes_a_device_that_is_there() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "mps", "CPU"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_absent_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match="pass --device cpu"):
        resolve_device("cuda:0")


def test_cuda_number_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(PipelineError, match=r"'cuda:2' was asked for, but there are 2"):
        resolve_device("cuda:2")


def test_thread_count_is_given_back() -> None:
    torch.set_num_threads(2)
    with one_thread_per_operation():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
