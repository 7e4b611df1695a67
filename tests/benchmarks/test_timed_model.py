import time

import numpy as np
import pytest
import torch

from benchmarks import timed_model
from benchmarks.timed_model import TimedModel, benchmark_model
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.errors import PipelineError
from tests.annotators.fake_model import DiscModel, mark


def test_every_second_goes_to_its_network(monkeypatch) -> None:
    clock = iter([10.0, 13.0, 20.0, 20.5, 30.0, 31.0])
    monkeypatch.setattr(timed_model.time, "perf_counter", lambda: next(clock))
    model = TimedModel(DiscModel())
    embeddings = model.encode(torch.zeros(2, 3, 64, 64))
    model.decode(embeddings[0], torch.zeros(5, 2))
    assert (model.encode_s, model.decode_s, model.n_tiles) == (3.0, 0.5, 2)
    model.restart()
    model.encode(torch.zeros(1, 3, 64, 64))
    assert (model.encode_s, model.decode_s, model.n_tiles) == (1.0, 0.0, 1)
    assert time.perf_counter is timed_model.time.perf_counter


def test_the_clock_changes_no_mask() -> None:
    marked = mark(np.random.default_rng(0).uniform(0, 63, (9, 2)))
    plain = EdpSamAnnotator(DiscModel(), EdpSamOptions()).annotate(marked)
    timed = TimedModel(DiscModel())
    assert EdpSamAnnotator(timed.as_model, EdpSamOptions()).annotate(marked).equals(plain)
    assert timed.encode_s > 0
    assert timed.decode_s > 0
    assert timed.input_px == 64


def test_random_weights_are_always_the_same() -> None:
    first, again = (benchmark_model("random", torch.device("cpu")).sam.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(PipelineError, match="vit_x"):
        benchmark_model("vit_x", torch.device("cpu"))
