"""Rows, runs and changed parameters."""

import pytest

from benchmarks.experiments.study import Run, Variant, all_runs, merge


def test_runs_of_the_first_seed_come_first():
    rows = [Variant("a", "A", "t", labeled_pcts=(5, 10)), Variant("b", "B", "t")]
    names = [str(run) for run in all_runs(rows, range(2))]
    first = ["a/labeled_5/seed_0", "a/labeled_10/seed_0", "b/labeled_10/seed_0"]
    assert names == [*first, *(name.replace("seed_0", "seed_1") for name in first)]
    assert str(Run(rows[0], 40, 7)) == "a/labeled_40/seed_7"


def test_changes_reach_their_key_alone_and_later_ones_win():
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert merge(base, {"a.b": 3}, {"a.b": 4, "d": None}) == {"a": {"b": 4, "c": [1]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


@pytest.mark.parametrize("key", ["a.x", "x", "x.b"])
def test_an_unknown_key_is_refused(key):
    with pytest.raises(KeyError):
        merge({"a": {"b": 1}}, {key: 1})
