"""Peak memory of annotating one image, each time in a process of its own.

``python -m benchmarks.peak_memory N HEIGHT WIDTH WEIGHTS`` is such a process; it prints what it held before, and at
most.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.crowds import mirrored_crowd
from benchmarks.measure import peak_memory_mib
from benchmarks.timed_model import benchmark_model
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions

PROCESSES = 2
"""At work at once; each computes in one thread."""


@dataclass(frozen=True)
class PeakMemory:
    """Memory of one process.

    Args:
        n_heads: Heads in the image.
        before_mib: Peak with libraries, image and weights, before the image was annotated.
        peak_mib: Peak at the end.
    """

    n_heads: int
    before_mib: float
    peak_mib: float


def annotate_once(n_heads: int, size_hw: tuple[int, int], weights: str) -> PeakMemory:
    """Annotate one image in this process."""
    torch.set_num_threads(1)
    marked = mirrored_crowd(n_heads, size_hw=size_hw)
    annotator = EdpSamAnnotator(benchmark_model(weights, torch.device("cpu")), EdpSamOptions())
    before = peak_memory_mib()
    annotator.annotate(marked)
    return PeakMemory(n_heads, before, peak_memory_mib())


def peaks(counts: Sequence[int], size_hw: tuple[int, int], weights: str) -> list[PeakMemory]:
    """Annotate images of one size with so many heads, each in a process of its own.

    Raises:
        subprocess.CalledProcessError: If a process fails; its error output was shown.
    """

    def start(n_heads: int) -> PeakMemory:
        words = [sys.executable, "-m", "benchmarks.peak_memory", str(n_heads), *map(str, size_hw), weights]
        root = Path(__file__).parents[1]
        done = subprocess.run(words, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
        return PeakMemory(**json.loads(done.stdout))

    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(start, counts))


if __name__ == "__main__":
    heads, height, width = (int(word) for word in sys.argv[1:4])
    sys.stdout.write(json.dumps(asdict(annotate_once(heads, (height, width), sys.argv[4]))))
