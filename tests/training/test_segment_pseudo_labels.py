"""What the stage pseudo_label stores of a teacher, and what a second opinion says of it."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline.datasets.images import read_image_rgb
from pipeline.errors import PipelineError
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.network_input import normalize_image
from pipeline.models.solov2 import build_solov2
from pipeline.pseudo_labels.clip_opinion import ClipOpinion
from pipeline.pseudo_labels.second_opinion import SecondOpinions
from pipeline.training import segment_pseudo_labels
from pipeline.training.checkpoint import ModelRecord, save_model
from pipeline.training.segment_inference import KIND, Segmenter
from pipeline.training.segment_pseudo_labels import (
    PooledFeatures,
    SegmentPseudoLabelOptions,
    has_row_for_each_point,
    prototype_opinion,
    whitening_of,
    write_detections,
    write_opinions,
)
from pipeline.training.segmenter_options import all_detections
from tests.training.shapes_home import CPU, NETWORK, OPTIONS, split_shapes, write_shapes

PROTOTYPES = SegmentPseudoLabelOptions(opinion="prototypes", opinion_stride=4)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = build_solov2(replace(NETWORK, prior_prob=0.4), 2)
    with torch.no_grad():
        net.kernel_head.weight.mul_(30.0)  # so that masks differ
    path = tmp_path_factory.mktemp("teacher") / "model.safetensors"
    record = ModelRecord(KIND, {"network": asdict(NETWORK), "n_classes": 2}, {**asdict(OPTIONS), "seed": 0}, 3, {})
    save_model(path, net.state_dict(), record)
    return path


def detect(shapes, weights, folder):
    ids = split_shapes(shapes).unlabeled
    n_rows = write_detections(
        shapes, ids, weights, options=all_detections(), n_classes=2, out=folder / "store", log=folder / "log.jsonl",
        device=CPU,
    )  # fmt: skip
    store = MaskStore.open(folder / "store")
    assert store.image_ids == sorted(ids)
    assert n_rows == sum(store.n_instances(image_id) for image_id in ids)
    return store


def test_every_row_above_the_floor_is_stored_with_all_that_judging_needs(shapes, weights, tmp_path):
    store = detect(shapes, weights, tmp_path)
    rows = store.instances(store.image_ids[0])
    seen = Segmenter.load(weights, n_classes=2, device=CPU).detect(
        read_image_rgb(shapes.image(store.image_ids[0]).path), all_detections(), keep_prob=True
    )
    assert len(rows) == len(seen) > 1
    assert rows.class_probs.shape == (len(rows), 2)
    for column in (rows.class_score, rows.mask_quality, rows.nms_decay):
        assert not np.isnan(column).any()
    assert all(blob is not None for blob in rows.prob_q8)
    assert rows.score.min() < 0.05  # the product is no floor
    assert rows.class_score.min() >= 0.05


def test_test_images_get_no_pseudo_labels(shapes, weights, tmp_path):
    with pytest.raises(PipelineError, match="pseudo-labels are for training images only"):
        write_detections(
            shapes, split_shapes(shapes).test, weights, options=all_detections(), n_classes=2, out=tmp_path / "store",
            log=tmp_path / "log.jsonl", device=CPU, splits=("train", "val"),
        )  # fmt: skip
    assert not (tmp_path / "store").exists()


def test_a_store_knows_whether_its_rows_are_of_points():
    detections = Provenance("solov2_detections", 1)
    assert not has_row_for_each_point(detections)
    assert not has_row_for_each_point(Provenance("judged", 1, {"of": asdict(detections)}))
    assert has_row_for_each_point(Provenance("judged", 1, {"of": asdict(Provenance("point_guided", 1))}))
    assert has_row_for_each_point(Provenance("refined", 1))


def test_features_are_means_over_masks(shapes, weights):
    segmenter = Segmenter.load(weights, n_classes=2, device=CPU)
    image_id = split_shapes(shapes).labeled_train[0]
    pixels, rows = read_image_rgb(shapes.image(image_id).path), shapes.truth.instances(image_id)
    found = PooledFeatures(segmenter, 4)(pixels, rows)  # 64 × 48 px: shown at its own size, padded to 64 × 64
    rgb = torch.from_numpy(pixels).permute(2, 0, 1).float()[None] / 255
    padded = segmenter.to_input(pixels)[0]
    assert torch.equal(padded[..., :48], rgb)
    with torch.no_grad():
        features = segmenter.net.encoder(normalize_image(padded))[0][0].numpy()
    for row in range(len(rows)):
        full = np.zeros((64, 64))
        window = rows.window(row)
        height, width = window.mask.shape
        full[window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
        share = full.reshape(16, 4, 16, 4).mean(axis=(1, 3))
        np.testing.assert_allclose(found[row], (features * share).sum(axis=(1, 2)) / share.sum(), rtol=1e-4, atol=1e-5)


def test_prototypes_are_means_of_standardised_features_of_the_strong_images(shapes, weights):
    segmenter, splits = Segmenter.load(weights, n_classes=2, device=CPU), split_shapes(shapes)
    opinion = prototype_opinion(shapes, shapes.truth, splits.labeled_train, segmenter, name="a", options=PROTOTYPES)
    plain, parts, classes = PooledFeatures(segmenter, 4), [], []
    for image_id in splits.labeled_train:
        rows = shapes.truth.instances(image_id)
        parts.append(plain(read_image_rgb(shapes.image(image_id).path), rows))
        classes.append(rows.class_id)
    features, class_id = np.concatenate(parts), np.concatenate(classes)
    whitening = whitening_of(features, class_id, n_classes=2)
    expected = np.stack([features[class_id == k].mean(axis=0) - features.mean(axis=0) for k in range(2)]) @ whitening
    np.testing.assert_allclose(opinion.prototypes.features, expected, rtol=1e-6, atol=1e-9)
    image_id = splits.unlabeled[0]
    pixels, rows = read_image_rgb(shapes.image(image_id).path), shapes.truth.instances(image_id)
    seen = (plain(pixels, rows) - features.mean(axis=0)) @ whitening
    cosines = (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ (
        expected / np.linalg.norm(expected, axis=1, keepdims=True)
    ).T
    powers = np.exp(cosines / PROTOTYPES.opinion_temperature)
    np.testing.assert_allclose(
        opinion.probabilities(pixels, rows), powers / powers.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_whitened_features_vary_alike_within_their_classes():
    rng = np.random.default_rng(0)
    class_id = np.arange(3000) % 3
    mix = rng.normal(size=(4, 4))
    features = rng.normal(size=(3000, 4)) @ mix + 10 * rng.normal(size=(3, 4))[class_id]
    white = features @ whitening_of(features, class_id, n_classes=3)
    rest = white - np.stack([white[class_id == k].mean(axis=0) for k in range(3)])[class_id]
    within = rest.T @ rest / 2997
    covariance = (mix.T @ mix) * 0.9 + 0.1 * np.trace(mix.T @ mix) / 4 * np.eye(4)  # shrunk by a tenth
    values, axes = np.linalg.eigh(covariance)
    root = axes / np.sqrt(values) @ axes.T
    np.testing.assert_allclose(within, root @ (mix.T @ mix) @ root, atol=0.1)


def test_one_instance_of_each_class_is_enough_to_whiten():
    features = np.array([[1.0, 2.0], [3.0, 5.0]])
    found = whitening_of(features, np.array([0, 1]), n_classes=2)
    assert np.isfinite(found).all()


def test_opinions_of_all_rows_are_written(shapes, weights, tmp_path):
    store, splits = detect(shapes, weights, tmp_path), split_shapes(shapes)
    n_rows = write_opinions(
        shapes, shapes.truth, splits.labeled_train, store, weights, options=PROTOTYPES, out=tmp_path / "second.parquet",
        device=CPU,
    )  # fmt: skip
    opinions = SecondOpinions.open(tmp_path / "second.parquet")
    assert opinions.name == "prototypes"
    total = 0
    for image_id in store.image_ids:
        rows = store.instances(image_id)
        np.testing.assert_allclose(opinions.of(image_id, rows).sum(axis=1), 1.0, rtol=1e-5)
        total += len(rows)
    assert n_rows == total


def test_where_nobody_is_asked_the_file_says_so(shapes, weights, tmp_path):
    store = detect(shapes, weights, tmp_path)
    options = SegmentPseudoLabelOptions(opinion="none")
    write_opinions(
        shapes, shapes.truth, (), store, weights, options=options, out=tmp_path / "second.parquet", device=CPU
    )
    with pytest.raises(PipelineError, match=r"second.parquet: nobody was asked.*pseudo_label.opinion"):
        SecondOpinions.open(tmp_path / "second.parquet")


def test_clip_is_asked_with_the_names_of_the_classes(shapes, weights, tmp_path, monkeypatch):
    class Sure:
        name = "clip of a folder"

        def __init__(self, folder, names):
            assert (folder, tuple(names)) == (tmp_path / "clip", shapes.class_names)

        def probabilities(self, pixels, rows):
            assert pixels.shape[:2] == tuple(rows.size_hw)
            return np.tile([0.25, 0.75], (len(rows), 1))

    monkeypatch.setattr(ClipOpinion, "load", lambda folder, names, *, device: Sure(folder, names))
    store, out = detect(shapes, weights, tmp_path), tmp_path / "second.parquet"
    options = SegmentPseudoLabelOptions(opinion="clip", clip_folder=tmp_path / "clip")
    n_rows = write_opinions(shapes, shapes.truth, (), store, weights, options=options, out=out, device=CPU)
    opinions = SecondOpinions.open(out)
    assert opinions.name == "clip of a folder"
    said = np.concatenate([opinions.of(each, store.instances(each)) for each in store.image_ids])
    assert n_rows == len(said) > 0
    assert (said == [0.25, 0.75]).all()


def test_an_opinion_of_nan_stops_the_stage(shapes, weights, tmp_path, monkeypatch):
    store = detect(shapes, weights, tmp_path)

    class Broken:
        name = "broken"

        def probabilities(self, pixels, rows):
            return np.full((len(rows), 2), np.nan)

    monkeypatch.setattr(segment_pseudo_labels, "prototype_opinion", lambda *args, **options: Broken())
    with pytest.raises(PipelineError, match=r"broken: gave NaN for rows of .*pseudo_label.opinion: none"):
        write_opinions(
            shapes, shapes.truth, (), store, weights, options=PROTOTYPES, out=tmp_path / "second.parquet", device=CPU
        )
    assert not (tmp_path / "second.parquet").exists()


def test_a_class_without_a_label_has_no_prototype(shapes, weights, tmp_path):
    with MaskStore.create(tmp_path / "masks", Provenance("by hand", 1)) as writer:
        for image_id in split_shapes(shapes).labeled_train:
            rows = shapes.truth.instances(image_id)
            writer.add(image_id, rows[rows.class_id == 0])
    segmenter = Segmenter.load(weights, n_classes=2, device=CPU)
    with pytest.raises(PipelineError, match=r"1 of 2 classes have no labelled instance .*disc"):
        prototype_opinion(
            shapes, MaskStore.open(tmp_path / "masks"), split_shapes(shapes).labeled_train, segmenter, name="a",
            options=PROTOTYPES,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opinion_stride": 5}, "opinion_stride: expected 4, 8, 16 or 32"),
        ({"opinion_temperature": 0.0}, "opinion_temperature: expected a number above 0"),
        ({"opinion": "clip"}, "clip_folder: expected the folder"),
    ],
)
def test_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SegmentPseudoLabelOptions(**changes)
