import json

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.checkpoint import ModelRecord, ResumeFile, read_record, read_weights, save_model

CPU = torch.device("cpu")
WEIGHTS = {"b.weight": torch.arange(6.0).reshape(2, 3).t(), "a": torch.tensor(3, dtype=torch.int64)}
RECORD = ModelRecord("crowd_net", {"width": 8}, {"seed": 0}, step=12, metrics={"mae": 1.5})


def test_what_is_saved_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, WEIGHTS, RECORD)
    assert read_record(path, kind="crowd_net") == RECORD
    read = read_weights(path)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def test_bytes_depend_on_the_contents_alone(tmp_path):
    for name, order in (("one", ["a", "b.weight"]), ("two", ["b.weight", "a"])):
        save_model(tmp_path / f"{name}.safetensors", {key: WEIGHTS[key].clone() for key in order}, RECORD)
    for suffix in (".safetensors", ".json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def damage_record(path, **fields):
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | fields))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "model.safetensors: no such file; run the stage that trains"),
        (lambda path: path.with_suffix(".json").unlink(), r"model.json: no such file"),
        (lambda path: path.with_suffix(".json").write_text("[]"), r"model.json: not the record of a checkpoint"),
        (lambda path: path.with_suffix(".json").write_text("{"), r"model.json: not the record of a checkpoint"),
        (lambda path: damage_record(path, format=99), "format 99, expected 1"),
        (lambda path: damage_record(path, kind="solov2"), "a checkpoint of the model 'solov2', expected 'crowd_net'"),
        (lambda path: path.write_bytes(b"else"), "the weights are not those that model.json describes"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, spoil, message):
    path = tmp_path / "model.safetensors"
    save_model(path, WEIGHTS, RECORD)
    spoil(path)
    with pytest.raises(PipelineError, match=message):
        read_record(path, kind="crowd_net")


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(PipelineError, match="not a readable safetensors file"):
        read_weights(tmp_path / "model.safetensors")


def test_the_state_comes_back(tmp_path):
    resume = ResumeFile(tmp_path / "resume", digest="one")
    assert resume.load(CPU) is None
    resume.save({"step": 3, "net": {"w": torch.ones(2)}, "curves": [(1, {"loss": 0.5})], "optimizer": None})
    resume.save({"step": 4, "net": {"w": torch.zeros(2)}, "curves": [], "optimizer": None})
    state = ResumeFile(tmp_path / "resume", digest="one").load(CPU)
    assert state["step"] == 4
    assert torch.equal(state["net"]["w"], torch.zeros(2))
    resume.clear()
    assert not (tmp_path / "resume").exists()


@pytest.mark.parametrize("spoil", ["digest", "bytes", "empty", "other"])
def test_a_state_that_does_not_fit_is_removed(tmp_path, spoil):
    resume = ResumeFile(tmp_path / "resume", digest="one")
    resume.save({"step": 3})
    if spoil == "digest":
        resume = ResumeFile(tmp_path / "resume", digest="two")
    elif spoil == "other":
        torch.save([1, 2], resume.path)
    else:
        resume.path.write_bytes(resume.path.read_bytes()[:40] if spoil == "bytes" else b"")
    assert resume.load(CPU) is None
    assert not resume.path.exists()


def test_a_state_that_is_being_written_is_not_taken_for_one(tmp_path, monkeypatch):
    resume = ResumeFile(tmp_path / "resume", digest="one")
    resume.save({"step": 1})

    def die(obj, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        resume.save({"step": 2})
    assert resume.load(CPU) == {"step": 1}
