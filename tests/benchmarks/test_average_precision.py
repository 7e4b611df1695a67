import numpy as np
import pytest

from benchmarks.average_precision import json_ap, one_core_rows, streamed_ap, write_stores


def test_both_forms_find_the_same(tmp_path) -> None:
    found, truth = write_stores(tmp_path, 3)
    assert [truth.n_instances(image_id) for image_id in truth.image_ids] == [100] * 3
    assert len(np.unique(truth.instances(truth.image_ids[0]).class_id)) > 40
    ours = streamed_ap(found, truth, 3)
    assert ours == pytest.approx(json_ap(found, truth, 3), abs=1e-12)
    assert 0.3 < ours < 0.9


def test_a_small_run_gives_its_rows(tmp_path) -> None:
    write_stores(tmp_path, 2)
    seconds, memory = one_core_rows(tmp_path, 0.0004)
    assert seconds.work == memory.work == "2 images of 100 masks, 80 classes, one core"
    assert seconds.reference == "COCO JSON in memory (1 images, extrapolated)"
    assert seconds.met is None
    assert memory.notes["extrapolated_mib"] == pytest.approx(memory.ours * 2500)
    assert memory.met == (memory.notes["extrapolated_mib"] <= 4096)
