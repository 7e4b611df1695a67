import os
import pickle
from collections import deque
from collections.abc import Sequence

import pytest

from pipeline.compute.crew import (
    JOBS_AHEAD,
    MAX_DEATHS,
    Ledger,
    Servant,
    WorkerError,
    WorkerLostError,
    environment,
    open_answer,
    share_out,
)
from pipeline.errors import PipelineError


class ScriptedHand:
    """A worker in this process that squares numbers, and dies on the jobs it is told to."""

    def __init__(self, fatal: dict[int, int], build_dies: bool = False) -> None:
        self.fatal = fatal
        self.servant = Servant()
        self.jobs: deque[bytes | None] = deque([None])
        self.build_dies = build_dies
        self.dismissed = False
        self.most_held = 0

    def send(self, job: bytes) -> None:
        self.jobs.append(job)
        self.most_held = max(self.most_held, len(self.jobs))

    def receive(self) -> bytes:
        job = self.jobs.popleft()
        if job is None:
            if self.build_dies:
                raise WorkerLostError("fell over")
            return self.servant.build(pickle.dumps(make_square))
        number = pickle.loads(job)
        if self.fatal.get(number, 0) > 0:
            self.fatal[number] -= 1
            raise WorkerLostError("fell over")
        return self.servant.work(job)

    def dismiss(self) -> None:
        self.dismissed = True


def square(number: int) -> int:
    return number * number


def make_square():
    return square


class Agency:
    def __init__(self, fatal: dict[int, int] | None = None, build_deaths: int = 0) -> None:
        self.fatal = fatal or {}
        self.build_deaths = build_deaths
        self.hired: list[ScriptedHand] = []

    def hire(self) -> ScriptedHand:
        self.hired.append(ScriptedHand(self.fatal, build_dies=len(self.hired) < self.build_deaths))
        return self.hired[-1]

    @staticmethod
    def wait(team: Sequence[ScriptedHand]) -> list[ScriptedHand]:
        return [hand for hand in team if hand.jobs]

    def share_out(self, count: int, workers: int):
        return share_out(self.hire, self.wait, range(count), workers=workers)


@pytest.mark.parametrize(("count", "workers"), [(0, 2), (1, 3), (2, 2), (7, 1), (20, 3), (5, 8)])
def test_every_job_is_done_once(count: int, workers: int) -> None:
    agency = Agency()
    assert sorted(agency.share_out(count, workers)) == [(number, number * number) for number in range(count)]
    assert len(agency.hired) == min(count, workers)
    assert all(hand.dismissed for hand in agency.hired)


def test_a_worker_holds_few_jobs_and_the_last_ones_are_spread() -> None:
    agency = Agency()
    assert len(list(agency.share_out(30, 2))) == 30
    assert {hand.most_held for hand in agency.hired} == {JOBS_AHEAD}
    few = Agency()
    assert len(list(few.share_out(2, 2))) == 2
    assert {hand.most_held for hand in few.hired} == {1}, "with as many workers as jobs, each has one"


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_of_dead_workers_are_done_by_others(workers: int) -> None:
    agency = Agency({0: 1, 3: 2, 9: 2})
    assert sorted(agency.share_out(10, workers)) == [(number, number * number) for number in range(10)]
    assert all(hand.dismissed for hand in agency.hired)
    assert len(agency.hired) <= workers + 5


def test_a_job_that_costs_too_many_workers_is_named() -> None:
    agency = Agency({4: 99})
    with pytest.raises(PipelineError, match=r"^4: 3 workers ended while they were at it \(the last one fell over\)"):
        list(agency.share_out(10, 2))
    assert agency.fatal[4] == 99 - MAX_DEATHS
    assert all(hand.dismissed for hand in agency.hired)


def test_false_starts_are_forgiven_until_there_are_too_many() -> None:
    assert len(list(Agency(build_deaths=MAX_DEATHS - 1).share_out(5, 1))) == 5
    doomed = Agency(build_deaths=99)
    with pytest.raises(PipelineError, match=r"3 ended before they were ready .*fell over"):
        list(doomed.share_out(5, 2))
    assert len(doomed.hired) <= MAX_DEATHS + 1
    assert all(hand.dismissed for hand in doomed.hired)


def test_closing_early_dismisses_all() -> None:
    agency = Agency()
    results = agency.share_out(50, 2)
    next(results)
    assert not any(hand.dismissed for hand in agency.hired)
    results.close()
    assert all(hand.dismissed for hand in agency.hired)


def test_ledger_shortens_long_names() -> None:
    ledger = Ledger(["x\n" * 500], workers=1)
    for _ in range(MAX_DEATHS - 1):
        hand = ScriptedHand({})
        ledger.enrol(hand)
        assert ledger.next_for(hand) == 0
        ledger.lose(hand, "fell over")
        assert ledger.waiting == 1
    ledger.enrol(hand)
    ledger.next_for(hand)
    with pytest.raises(PipelineError, match=r"^(x ){49}x…: 3 workers"):
        ledger.lose(hand, "fell over")


def fail(kind: type[Exception]) -> None:
    raise kind("b.jpg: no")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [(PipelineError, PipelineError, r"^b\.jpg: no$"), (KeyError, WorkerError, r"(?s)Traceback.*in fail\b.*KeyError")],
)
def test_errors_travel_as_answers(kind: type[Exception], error: type[Exception], text: str) -> None:
    servant = Servant()
    open_answer(servant.build(pickle.dumps(make_failing)))
    with pytest.raises(error, match=text):
        open_answer(servant.work(pickle.dumps(kind)))


def make_failing():
    return fail


def test_environment_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOTMASK_A", "old")
    monkeypatch.delenv("DOTMASK_B", raising=False)
    with environment({"DOTMASK_A": "new", "DOTMASK_B": "new"}):
        assert os.environ["DOTMASK_A"] == os.environ["DOTMASK_B"] == "new"
    assert os.environ["DOTMASK_A"] == "old"
    assert "DOTMASK_B" not in os.environ
