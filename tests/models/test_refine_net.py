from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.network_input import IMAGE_MEAN, IMAGE_STD
from pipeline.models.refine_net import (
    RefineNetOptions,
    TimmEncoder,
    build_refine_net,
    n_input_channels,
    stack_inputs,
    stem,
)

SMALL = RefineNetOptions(small_widths=(8, 16), context_width=8, context_rates=(1, 3), decoder_widths=(8,))


def inputs(batch=2, size_hw=(32, 48), class_id=(0, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, 3, *size_hw, generator=generator),
        torch.rand(batch, *size_hw, generator=generator),
        torch.tensor(class_id),
        torch.rand(batch, *size_hw, generator=generator) < 0.5,
    )


def test_the_input_holds_every_part_in_its_channel():
    images, heat, class_id, masks = inputs()
    stacked = stack_inputs(images, heat, class_id, masks, n_classes=3)
    assert stacked.shape == (2, n_input_channels(3), 32, 48) == (2, 8, 32, 48)
    for channel, (mean, std) in enumerate(zip(IMAGE_MEAN, IMAGE_STD, strict=True)):
        torch.testing.assert_close(stacked[:, channel], (images[:, channel] - mean) / std)
    wanted = torch.zeros(2, 4, 32, 48)
    wanted[0, 0] = wanted[0, 3] = heat[0]  # class 0 has a channel like any other
    wanted[1, 2] = wanted[1, 3] = heat[1]
    assert torch.equal(stacked[:, 3:7], wanted)
    assert torch.equal(stacked[:, 7], masks.float())


@pytest.mark.parametrize("size_hw", [(32, 48), (33, 17)])
def test_logits_have_the_size_of_the_crop(size_hw):
    logits = build_refine_net(SMALL, 3)(*inputs(size_hw=size_hw))
    assert logits.shape == (2, 2, *size_hw)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        (RefineNetOptions(backbone="resnet10t", decoder_widths=(16, 16, 16, 8)), (2, 4, 8, 16, 32)),
        (RefineNetOptions(), (2, 4, 8, 16)),
    ],
)
def test_the_encoder_is_tapped_once_at_each_stride(options, strides):
    net = build_refine_net(options, 2)
    features = net.encoder(torch.zeros(1, n_input_channels(2), 64, 64))
    assert [64 // each.shape[-1] for each in features] == list(strides)
    assert [each.shape[1] for each in features] == net.encoder.channels
    assert net(*inputs(class_id=(0, 1))).shape == (2, 2, 32, 48)


def test_every_part_is_learnt_and_every_input_is_seen():
    net = build_refine_net(SMALL, 3)
    with torch.no_grad():
        stem(net.encoder, 8).weight[:, 3:6] = 0.1  # as after some steps
    images, heat, class_id, masks = inputs()
    parts = images.requires_grad_(), heat.requires_grad_()
    net(*parts, class_id, masks).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    assert all(part.grad is not None and part.grad.any() for part in parts)
    with torch.no_grad():
        assert not torch.equal(net(*parts, class_id, masks), net(*parts, class_id, ~masks))
        assert not torch.equal(net(*parts, class_id, masks), net(*parts, class_id - 1, masks))


def test_a_class_that_training_never_shows_says_nothing_of_its_own():
    net = build_refine_net(SMALL, 3)
    images, heat, _, masks = inputs()
    with torch.no_grad():
        outputs = [net(images, heat, torch.full((2,), class_id), masks) for class_id in range(3)]
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])
        assert not torch.equal(outputs[0], net(images, 0 * heat, torch.zeros(2, dtype=torch.long), masks))
    net(images, heat, torch.zeros(2, dtype=torch.long), masks).square().sum().backward()
    gradient = stem(net.encoder, 8).weight.grad
    assert gradient is not None
    assert gradient[:, 3].any()  # but class 0, which it shows, learns
    assert not gradient[:, 4:6].any()


def test_pretrained_weights_keep_their_colours(monkeypatch):
    import timm

    create = timm.create_model
    made = []

    def without_download(name, *, pretrained=False, **options):
        made.append((pretrained, create(name, **options)))
        return made[-1][1]

    monkeypatch.setattr(timm, "create_model", without_download)
    encoder = TimmEncoder("resnet10t", 8, pretrained=True)
    ((_, known),) = [one for one in made if one[0]]
    own, theirs = encoder.body.state_dict(), known.state_dict()
    (wide,) = [key for key in theirs if own[key].shape != theirs[key].shape]
    assert torch.equal(own[wide][:, :3], theirs[wide])
    assert own[wide][:, 3:].any()
    assert all(torch.equal(own[key], theirs[key]) for key in theirs if key != wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnot"}, "has no network 'resnot'"),
        ({"decoder_widths": (8, 8)}, r"features at 2 strides, so that 1 widths are expected, got \[8, 8\]"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(change, message):
    with pytest.raises(PipelineError, match=message):
        build_refine_net(replace(SMALL, **change), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_width": 12}, "expected multiples of 8, got 12"),
        ({"small_widths": ()}, "small_widths: expected at least one width"),
        ({"context_rates": (0, 2)}, r"context_rates: expected dilations of at least 1, got \[0, 2\]"),
        ({"pretrained": True}, "the backbone 'small' has no ImageNet weights"),
    ],
)
def test_sizes_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_a_network_without_a_convolution_over_the_image_is_refused():
    with pytest.raises(PipelineError, match="first layer is no convolution"):
        stem(nn.Sequential(nn.Linear(3, 3)), 8)
