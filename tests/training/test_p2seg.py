import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.annotators.p2seg import P2SegAnnotator, P2SegMaskOptions
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import Radii
from pipeline.errors import PipelineError
from pipeline.training import p2seg
from pipeline.training.p2seg import fit_p2seg
from pipeline.training.p2seg_options import P2SegSeedOptions
from pipeline.training.training_run import TrainingRun
from tests.training.p2seg_home import OPTIONS, fit_place, point_images, write_home
from tests.training.test_p2seg_seeds import write_truth


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Radii]:
    return write_home(tmp_path_factory.mktemp("p2seg") / "shapes")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings that were run."""
    seen: list[str] = []
    train = TrainingRun.train

    def noted(self, *args, **more):
        seen.append(self.kind)
        return train(self, *args, **more)

    monkeypatch.setattr(TrainingRun, "train", noted)
    return seen


def test_it_trains_once_and_the_annotator_takes_its_weights(home, tmp_path: Path, trained: list[str]) -> None:
    place = fit_place(tmp_path)
    fit = fit_p2seg(*home, OPTIONS, place)
    assert trained == ["p2seg_seeds", "p2seg"]
    assert set(fit.figures) == {"seed_mean_iou", "seed_object_iou", "seed_known_frac"}
    assert fit.figures["seed_known_frac"] == 1.0
    marked = point_images(*home).marked("train/0001")
    rows = P2SegAnnotator(fit.plan, fit.checkpoint, place.device).annotate(marked)
    assert rows.point_id.tolist() == marked.point_id.tolist()
    assert rows.class_id.tolist() == marked.class_id.tolist()
    bytes_ = fit.checkpoint.read_bytes()
    again = fit_p2seg(*home, OPTIONS, place)
    assert (again, len(trained)) == (fit, 2)
    shutil.rmtree(tmp_path / "model")  # the cache has them
    assert fit_p2seg(*home, OPTIONS, place).figures == fit.figures
    assert (fit.checkpoint.read_bytes(), len(trained)) == (bytes_, 2)
    elsewhere = fit_p2seg(*home, OPTIONS, fit_place(tmp_path / "other"))
    assert elsewhere.checkpoint.read_bytes() == bytes_  # the same inputs give the same bytes


def test_reading_masks_otherwise_trains_nothing_and_other_options_do(home, tmp_path: Path, trained: list[str]) -> None:
    place = fit_place(tmp_path)
    fit_p2seg(*home, OPTIONS, place)
    del trained[:]
    fit = fit_p2seg(*home, dataclasses.replace(OPTIONS, masks=P2SegMaskOptions(max_radii=2.0)), place)
    assert trained == []
    assert fit.plan.masks.max_radii == 2.0
    fit_p2seg(*home, dataclasses.replace(OPTIONS, seed=1), place)
    assert trained == ["p2seg_seeds", "p2seg"]
    fit_p2seg(*home, OPTIONS, place)  # back again: from the cache
    assert trained == ["p2seg_seeds", "p2seg"]


def test_a_killed_run_keeps_its_class_maps_and_ends_with_the_same_weights(
    home, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_p2seg(*home, OPTIONS, fit_place(tmp_path / "whole")).checkpoint.read_bytes()
    place = fit_place(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(p2seg, "DistillLoss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit_p2seg(*home, OPTIONS, place)
    del trained[:]
    assert fit_p2seg(*home, OPTIONS, place).checkpoint.read_bytes() == whole
    assert trained == ["p2seg"]


def test_other_losses_take_the_class_maps_that_are_there(home, tmp_path: Path, trained: list[str]) -> None:
    place = fit_place(tmp_path)
    fit_p2seg(*home, OPTIONS, place)
    del trained[:]
    other = dataclasses.replace(OPTIONS, distill=dataclasses.replace(OPTIONS.distill, hard_frac=0.2))
    weights = fit_p2seg(*home, other, place).checkpoint.read_bytes()
    assert trained == ["p2seg"]
    assert fit_p2seg(*home, other, fit_place(tmp_path / "anew")).checkpoint.read_bytes() == weights


def test_a_run_killed_while_it_fills_maps_in_keeps_its_training(
    home, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the maps that another run had finished in that folder are not taken for whole afterwards."""
    whole = fit_p2seg(*home, OPTIONS, fit_place(tmp_path / "whole")).checkpoint.read_bytes()
    place, other = fit_place(tmp_path / "killed"), dataclasses.replace(OPTIONS, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(p2seg, "DistillLoss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # maps are whole
            fit_p2seg(*home, OPTIONS, place)
    with monkeypatch.context() as patch:
        write = p2seg.write_filled

        def write_some(images, *args, **more):
            write(dataclasses.replace(images, image_ids=images.image_ids[:2]), *args, **more)
            raise KeyboardInterrupt

        patch.setattr(p2seg, "write_filled", write_some)
        with pytest.raises(KeyboardInterrupt):  # the other's maps are not
            fit_p2seg(*home, other, place)
        del trained[:]
        with pytest.raises(KeyboardInterrupt):
            fit_p2seg(*home, other, place)
        assert trained == []
    assert fit_p2seg(*home, OPTIONS, place).checkpoint.read_bytes() == whole


def test_maps_of_ones_own(home, tmp_path: Path, trained: list[str]) -> None:
    maps = tmp_path / "maps"
    write_truth(point_images(*home), maps)
    options = dataclasses.replace(OPTIONS, seeds=P2SegSeedOptions(source="folder", folder=str(maps)))
    place = fit_place(tmp_path / "fit")
    assert fit_p2seg(*home, options, place).figures["seed_mean_iou"] == 1.0
    assert trained == ["p2seg"]
    image_id = point_images(*home).image_ids[0]
    (maps / f"{image_id}.png").unlink()
    with pytest.raises(PipelineError, match=r"seeds.folder: 1 of 6 class maps are not there \(.*0000.png"):
        fit_p2seg(*home, options, place)


def test_marks_alone(home, tmp_path: Path, trained: list[str]) -> None:
    seeds = dataclasses.replace(OPTIONS.seeds, source="marks")
    fit = fit_p2seg(*home, dataclasses.replace(OPTIONS, seeds=seeds), fit_place(tmp_path))
    assert trained == ["p2seg"]
    assert 0 < fit.figures["seed_known_frac"] < 1


def test_points_without_classes_are_one_class_and_that_is_said(
    home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, radii = home
    said: list[str] = []
    monkeypatch.setattr(p2seg, "warn_user", said.append)
    nameless = Prepared(prepared.folder, prepared.images, {**prepared.source, "class_names": []})
    points = nameless.points

    def of_one_class(image_id: str, **more):
        found = points(image_id, **more)
        return dataclasses.replace(found, class_id=np.zeros_like(found.class_id))

    monkeypatch.setattr(nameless, "points", of_one_class)
    monkeypatch.setattr(p2seg, "seed_quality", lambda *_: None)
    fit = fit_p2seg(nameless, radii, OPTIONS, fit_place(tmp_path))
    assert fit.plan.n_classes == 1
    assert said == ["annotate: the points have no classes; P2Seg takes all of them for one class"]
    assert fit.figures == {}


def test_test_points_are_learnt_from_only_when_asked_for(home) -> None:
    chosen = p2seg._images(*home, OPTIONS)
    assert chosen.image_ids == point_images(*home).image_ids
    everything = p2seg._images(*home, dataclasses.replace(OPTIONS, images="all"))
    assert len(everything.image_ids) == len(home[0].images) > len(chosen.image_ids)


def test_nothing_to_learn_from_is_refused(home) -> None:
    prepared, radii = home
    empty = Prepared(prepared.folder, prepared.of_split("test"), prepared.source)
    with pytest.raises(PipelineError, match="has no image with points to learn from"):
        p2seg._images(empty, radii, OPTIONS)
