import pytest
import torch
from torch import nn

from pipeline.training.mean_teacher import MeanTeacher


def one_weight(value):
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def test_the_average_moves_by_one_minus_decay():
    teacher = MeanTeacher(one_weight(1.0), decay=0.9)
    teacher.update(one_weight(3.0), step=10**6)
    assert float(teacher.net.weight) == pytest.approx(0.9 * 1.0 + 0.1 * 3.0)


@pytest.mark.parametrize(("step", "keep"), [(0, 0.1), (1, 2 / 11), (89, 90 / 99), (10**5, 0.998)])
def test_early_steps_count_more(step, keep):
    teacher = MeanTeacher(one_weight(0.0), decay=0.998)
    teacher.update(one_weight(1.0), step=step)
    assert float(teacher.net.weight) == pytest.approx(1 - keep, rel=1e-5)


def test_buffers_are_copied_and_nothing_learns():
    student = nn.BatchNorm2d(2)
    teacher = MeanTeacher(student, decay=0.5)
    student(torch.randn(4, 2, 3, 3))
    teacher.update(student, step=5)
    assert torch.equal(teacher.net.running_mean, student.running_mean)
    assert not teacher.net.training
    assert not any(weight.requires_grad for weight in teacher.net.parameters())


def test_buffers_are_averaged_where_asked_for():
    student = nn.BatchNorm2d(2)
    teacher = MeanTeacher(student, decay=0.9, average_buffers=True)
    student(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 5)
    teacher.update(student, step=10**6)
    torch.testing.assert_close(teacher.net.running_mean, 0.1 * student.running_mean)
    torch.testing.assert_close(teacher.net.running_var, 0.9 + 0.1 * student.running_var)
    assert int(teacher.net.num_batches_tracked) == 1
