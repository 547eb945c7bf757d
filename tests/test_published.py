"""The published composition gives our reference chain's answer, and takes the published way to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mgcda_core.bench.published import PublishedChain
from mgcda_core.config import (
    PROFILES,
    ConfigError,
    DissimilarityConfig,
    SegmentationConfig,
    SegmenterConfig,
    SynthesisConfig,
)
from mgcda_core.inference.torch_backend import TorchBackend
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Stages
from mgcda_core.weights.resolve import Weights

SMALL = replace(
    PROFILES["reference"],
    segmentation=SegmentationConfig(architecture="deeplabv3plus", width=4, size=(128, 256)),
    synthesis=SynthesisConfig(ngf=4, hidden=4, z_dim=8, encoder_width=4, size=(64, 128)),
    dissimilarity=DissimilarityConfig(width=0.125, size=(64, 128)),
)


def weights_of(config: SegmenterConfig) -> Weights:
    torch.manual_seed(0)
    return Weights(AnomalySegmenter(config).state_dict(), config, "small", "0" * 64, Path("small"), {})


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_of(SMALL)


@pytest.fixture(scope="module")
def published(weights: Weights) -> PublishedChain:
    return PublishedChain(weights, "cpu")


@pytest.fixture(scope="module")
def ours(weights: Weights) -> TorchBackend:
    return TorchBackend(weights, "cpu")


def photo(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    return np.clip(blocks + rng.normal(0, 8, blocks.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(128, 256), (96, 160)])
def test_the_answer_is_ours(published: PublishedChain, ours: TorchBackend, size: tuple[int, int]) -> None:
    """Sums in another order move a value over an 8-bit step here and there; nothing else may differ."""
    image = photo(*size)
    theirs, classes = published.run(image)
    logits, our_classes = ours.run(image)
    assert theirs.dtype == np.float32 and theirs.shape == classes.shape == size
    difference = np.abs(1 / (1 + np.exp(-theirs)) - 1 / (1 + np.exp(-logits)))
    assert difference.max() < 5e-3 and difference.mean() < 2e-4
    assert (1 / (1 + np.exp(-logits))).std() > 20 * difference.mean()  # of a map that is not flat
    if size == (128, 256):  # elsewhere Pillow and torch round ties of the nearest pixel to other sides
        assert (classes != our_classes).mean() < 1e-3


def test_a_batch_is_its_frames(published: PublishedChain) -> None:
    images = np.stack([photo(64, 128), photo(64, 128)[::-1]])
    logits, classes = published.run_batch(images)
    for number, image in enumerate(images):
        np.testing.assert_allclose(logits[number], published.run(image)[0], atol=1e-5)
        np.testing.assert_array_equal(classes[number], published.run(image)[1])


def test_every_picture_between_the_networks_is_ours(published: PublishedChain, ours: TorchBackend) -> None:
    image = photo(96, 160)
    with torch.no_grad():
        stages: Stages = ours.whole_chain("the test").stages(torch.from_numpy(image).permute(2, 0, 1)[None])
        resized = published.resize(image)
        labels, entropy, distance = published.uncertainty(published.segment(resized))
        synthesis = published.synthesise(resized, labels)
        perceptual = published.difference(resized, synthesis)
    assert np.array_equal(np.asarray(resized), stages.resized[0].permute(1, 2, 0).numpy().astype(np.uint8))
    assert (np.asarray(labels) != stages.segmentation[0].numpy()).mean() < 1e-3
    for name, theirs, mine in (
        ("entropy", entropy, stages.entropy[0, 0]),
        ("distance", distance, stages.distance[0, 0]),
        ("synthesis", synthesis, stages.synthesis[0].permute(1, 2, 0)),
        ("perceptual", perceptual, stages.prior[0, 1]),
    ):
        steps = np.abs(np.asarray(theirs).astype(int) - (mine * 255).round().int().numpy())
        assert steps.max() <= 2 and (steps > 0).mean() < 0.01, name


def test_encoders_run_one_by_one(published: PublishedChain, ours: TorchBackend) -> None:
    def passes(backend: PublishedChain | TorchBackend) -> Counter[str]:
        counted: Counter[str] = Counter()
        net = backend.model
        assert isinstance(net, AnomalySegmenter)
        hooks = [
            module.register_forward_hook(lambda *_, name=name: counted.update([name]))
            for name, module in (
                ("VGG16", net.dissimilarity.vgg_encoder),
                ("VGG19", net.perceptual.vgg19),
                ("semantics", net.dissimilarity.semantic_encoder),
            )
        ]
        backend.run(photo(64, 128))
        for hook in hooks:
            hook.remove()
        return counted

    assert passes(published) == {"VGG16": 2, "VGG19": 2, "semantics": 1}
    assert passes(ours) == {"VGG16": 1, "VGG19": 1, "semantics": 1}


def test_its_pictures_have_eight_bits(published: PublishedChain) -> None:
    with torch.no_grad():
        maps = published.uncertainty(3 * torch.randn(1, 19, 128, 256))
    assert all(isinstance(entry, Image.Image) and entry.mode == "L" for entry in maps)
    assert np.asarray(maps[1]).min() == 0 and np.asarray(maps[2]).max() == 255


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, scaling="fixed"),
        replace(SMALL, perceptual="segmentation"),
        replace(SMALL, dissimilarity=replace(SMALL.dissimilarity, void_channel=True)),
    ],
)
def test_another_chain_is_refused(config: SegmenterConfig) -> None:
    with pytest.raises(ConfigError, match="no chain of the published kind"):
        PublishedChain(weights_of(config), "cpu")
