import torch

from benchmarks.p2seg import affinity_work, in_one, in_rows, loop_owners, one_core_rows, owner_work
from pipeline.geometry.point_owners import assign_pixels


def test_the_forms_agree() -> None:
    work = affinity_work(8)
    torch.testing.assert_close(in_rows(*work), in_one(*work))
    given = owner_work(48, 9)
    assert torch.equal(loop_owners(*given), assign_pixels(*given))


def test_a_small_run_gives_its_rows() -> None:
    rows = one_core_rows(0.01)
    assert [row.what for row in rows] == ["affinity: memory", "affinity: time", "pixels to points"]
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
