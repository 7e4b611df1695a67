"""What all tests share: tests that need an accelerator are skipped where there is none; threads stay as they were."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def threads_stay() -> Iterator[None]:
    """Undo what a test of a worker's own code does to this process: sums depend on the number of threads."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    torch = sys.modules.get("torch")
    if torch and before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # late: it takes seconds, and most runs of a single test file need it not

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
