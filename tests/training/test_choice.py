import torch

from pipeline.training.choice import Choice, Chosen


def look(step, mae):
    return Chosen(step, {"mae": mae}, {"w": torch.full((2,), mae)})


def choice_after(*errors, patience=0):
    choice = Choice("mae", patience=patience)
    for step, mae in enumerate(errors):
        choice.take(look(step, mae))
    return choice


def test_the_least_error_wins_and_of_equals_the_latest():
    choice = choice_after(3.0, 1.0, 2.0, 1.0, 4.0)
    assert (choice.best.step, choice.last.step) == (3, 4)


def test_patience_counts_looks_since_a_better_one():
    assert not choice_after(1.0, 2.0, 3.0, patience=0).is_exhausted
    assert not choice_after(1.0, 2.0, patience=2).is_exhausted
    assert choice_after(1.0, 2.0, 1.0, patience=2).is_exhausted
    assert not choice_after(1.0, 2.0, 0.5, patience=2).is_exhausted
    again = choice_after(1.0, 2.0, 2.0, patience=2)
    again.begin_phase(keeps_start=False)
    assert not again.is_exhausted
    assert again.best is None
    assert again.last.step == 2


def test_a_phase_may_compete_with_the_weights_that_it_starts_from():
    for keeps_start, errors, step in ((True, (2.0,), 1), (True, (1.0,), 9), (True, (0.5,), 9), (False, (2.0,), 9)):
        choice = choice_after(3.0, 1.0)
        choice.begin_phase(keeps_start=keeps_start)
        for mae in errors:
            choice.take(look(9, mae))
        assert choice.best.step == step, (keeps_start, errors)


def test_looks_at_the_test_images_are_noted_apart():
    choice = choice_after(3.0)
    for step, mae in enumerate([2.0, 1.0, 5.0, 1.0]):
        choice.see_test({"mae": mae, "rmse": 9.0}, step)
    assert choice.oracle == {"mae": 1.0, "rmse": 9.0, "step": 1}
    assert choice.best.step == 0


def test_all_of_it_is_saved():
    choice = choice_after(1.0, 2.0, patience=2)
    choice.see_test({"mae": 4.0}, 1)
    restored = Choice("mae", patience=2)
    restored.load_state_dict(choice.state_dict())
    assert (restored.best.step, restored.last.step, restored.oracle) == (0, 1, {"mae": 4.0, "step": 1})
    assert torch.equal(restored.best.weights["w"], choice.best.weights["w"])
    restored.take(look(2, 3.0))
    assert restored.is_exhausted
    empty = Choice("mae", patience=0)
    empty.load_state_dict(Choice("mae", patience=0).state_dict())
    assert empty.best is None
