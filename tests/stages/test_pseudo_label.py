import pytest
from typer.testing import CliRunner

from pipeline.masks.store import MaskStore
from stages.pseudo_label import app
from stages.warmup import app as warmup_app
from tests.stages.blob_stage import RUN, blob_home, put_params

runner = CliRunner()
ARGUMENTS = ["--dataset", "blobs", "--labeled-pct", "50", "--device", "cpu"]

home = pytest.fixture(blob_home)


def test_the_unlabelled_images_get_masks(home):
    assert runner.invoke(warmup_app, ARGUMENTS).exit_code == 0
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 0, result.output
    store = MaskStore.open(RUN / "pseudo_label")
    assert len(store) == 4
    n_rows = sum(store.n_instances(image_id) for image_id in store.image_ids)
    assert f"{n_rows:,} candidates on 4 unlabelled images" in " ".join(result.output.split())


def test_a_teacher_must_have_been_trained(home):
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 1
    assert "warmup/model.safetensors: no such file; run the stage that trains this model first" in result.output
    assert not (RUN / "pseudo_label").exists()


def test_a_teacher_of_another_size_is_refused(home):
    assert runner.invoke(warmup_app, ARGUMENTS).exit_code == 0
    put_params(home, model={"width": 16})
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 1
    assert "a checkpoint of another model (width: 8 in the checkpoint, 16 in model.width)" in result.output
    assert not (RUN / "pseudo_label").exists()
