import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.pseudo_labels.category import SecondOpinion, correct_classes
from pipeline.pseudo_labels.clip_opinion import CONFIG, ClipOpinion
from tests.pseudo_labels.rows_by_hand import SIZE_HW, boxes

NAMES = ["disc", "traffic_light", "star"]
CPU = torch.device("cpu")
CONTENT: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.25, 0.75], "std": [0.25, 0.25, 0.5]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of one layer with random weights."""
    open_clip = pytest.importorskip("open_clip")
    place: Path = tmp_path_factory.mktemp("clip")
    (place / CONFIG).write_text(json.dumps(CONTENT))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{place}", load_weights=False)
    torch.save(model.state_dict(), place / "open_clip_pytorch_model.bin")
    return place


PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
ROWS = boxes([(0, 0, 8, 8), (10, 2, 30, 12), (0, 0, 0, 0)], class_id=[0, 1, 2], class_probs=np.eye(3) * 0.8)


def test_instances_are_compared_with_names(folder: Path) -> None:
    import open_clip

    opinion = ClipOpinion.load(folder, NAMES, device=CPU, template="a {} on a table")
    second: SecondOpinion = opinion
    found = second.probabilities(PIXELS, ROWS)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[2], 1 / 3)
    assert correct_classes(ROWS, found, 0.0, name=second.name).rows.class_id.shape == (3,)

    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()
    texts = [f"a {name} on a table" for name in ("disc", "traffic light", "star")]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        words = model.encode_text(tokens).double().numpy()
        for row in (0, 1):
            picture = model.encode_image(opinion.picture(PIXELS, ROWS, row)).double().numpy()[0]
            cosines = np.array([picture @ w / np.linalg.norm(picture) / np.linalg.norm(w) for w in words])
            powers = np.exp(float(model.logit_scale.exp()) * cosines)
            np.testing.assert_allclose(found[row], powers / powers.sum(), rtol=1e-3)


def test_pictures_show_the_mask_alone(folder: Path) -> None:
    opinion = ClipOpinion.load(folder, NAMES, device=CPU)
    picture = opinion.picture(PIXELS, ROWS, 0)
    assert picture.shape == (1, 3, 16, 16)
    elsewhere = PIXELS.copy()
    elsewhere[8:], elsewhere[:, 8:] = 0, 0
    torch.testing.assert_close(opinion.picture(elsewhere, ROWS, 0), picture)
    corner = np.ones((8, 8), bool)
    corner[:4, :4] = False
    holed = Instances.from_windows(
        SIZE_HW, [Window(corner, 0, 0)], point_id=[0], points_xy=np.zeros((1, 2)), radius_px=[1.0], source="solov2",
        status="ok",
    )  # fmt: skip
    elsewhere[:4, :4] ^= 128
    torch.testing.assert_close(opinion.picture(elsewhere, holed, 0), opinion.picture(PIXELS, holed, 0))
    assert not torch.equal(opinion.picture(elsewhere, ROWS, 0), picture)
    inside = PIXELS.copy()
    inside[3, 3] ^= 128
    assert not torch.equal(opinion.picture(inside, ROWS, 0), picture)
    assert (picture[..., 0, :].abs() < 0.5).all()  # the border is grey
    white = opinion.picture(np.full_like(PIXELS, 255), ROWS, 0)
    np.testing.assert_allclose(white[0, :, 8, 8], [2, 3, 0.5], atol=1e-4)  # (1 − mean) / std


def test_a_wide_instance_lies_in_the_middle_of_a_square(folder: Path) -> None:
    opinion = ClipOpinion.load(folder, NAMES, device=CPU)
    picture = opinion.picture(np.full_like(PIXELS, 255), ROWS, 1)[0, 0]
    torch.testing.assert_close(picture, picture.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(picture, picture.flip(1), atol=1e-4, rtol=0)
    assert picture[8, 4] > 1.5
    assert picture[1, 8].abs() < 0.2


def test_images_without_rows_and_of_another_size(folder: Path) -> None:
    opinion = ClipOpinion.load(folder, NAMES, device=CPU)
    assert opinion.probabilities(PIXELS, boxes([])).shape == (0, 3)
    with pytest.raises(ValueError, match=r"pixels: expected an image of \(24, 32\), got \(8, 8\)"):
        opinion.probabilities(np.zeros((8, 8, 3), np.uint8), ROWS)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(PipelineError, match=r"open_clip is not installed; pip install 'dotmask\[clip\]'"):
        ClipOpinion.load(tmp_path, NAMES, device=CPU)


def test_folders_that_hold_no_such_model_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")

    def load(content: Any) -> None:
        (tmp_path / CONFIG).write_text(content if isinstance(content, str) else json.dumps(content))
        ClipOpinion.load(tmp_path, NAMES, device=CPU)

    with pytest.raises(PipelineError, match="elsewhere/open_clip_config.json: expected the description of a CLIP"):
        ClipOpinion.load(tmp_path / "elsewhere", NAMES, device=CPU)
    for damaged in ("{", "[]", {"model_cfg": {}}):
        with pytest.raises(PipelineError, match="expected the description of a CLIP"):
            load(damaged)
    with pytest.raises(PipelineError, match="this CLIP cannot be loaded .*could not be loaded.*the weights"):
        load(CONTENT)
    hub = {"model_cfg": {**CONTENT["model_cfg"], "text_cfg": {"hf_model_name": "roberta-base"}}}
    with pytest.raises(PipelineError, match="names parts of the Hugging Face hub .hf_model_name., and nothing is"):
        load(hub)
    with pytest.raises(PipelineError, match="template: expected '{}' where the name of the class goes, got 'a photo'"):
        ClipOpinion.load(tmp_path, NAMES, device=CPU, template="a photo")
