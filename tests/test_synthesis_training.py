"""The terms of the synthesis training, and one training with and without a discriminator."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mgcda_core.config import AugmentConfig, DataConfig, LoopConfig, SegmenterConfig, SynthesisTraining
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.discriminator import Discriminator
from mgcda_core.models.loading import StateDictError
from mgcda_core.models.segmentation.enet import ENet
from mgcda_core.training import synthesis
from mgcda_core.training.checkpoint import load_checkpoint
from mgcda_core.training.synthesis import (
    SynthesisObjective,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    kl_divergence,
)
from mgcda_core.weights.resolve import load_weights

LOOP = LoopConfig(
    steps=2, batch=2, warmup=1, workers=0, log_every=1, checkpoint_every=1, precision="32-true", device="cpu"
)
Make = Callable[..., SynthesisTraining]


@pytest.fixture
def make(tmp_path: Path, tiny_config: SegmenterConfig, tiny_weights: Path) -> Make:
    """Makes a GAN training on two CamVid-like scenes a split, from the tiny chain's random weights."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "camvid" / split / kind).mkdir(parents=True)
        for i in range(2):
            label = np.zeros((72, 144), np.uint8)
            label[36:] = 3
            image = np.where(label[..., None] == 3, 80, 200) + rng.integers(0, 40, (*label.shape, 3))
            cv2.imwrite(str(tmp_path / "camvid" / split / "images" / f"{i}.png"), image.astype(np.uint8))
            cv2.imwrite(str(tmp_path / "camvid" / split / "labels" / f"{i}.png"), label)

    def training(**fields: object) -> SynthesisTraining:
        config = SynthesisTraining(
            DataConfig(camvid=str(tmp_path / "camvid")),
            str(tiny_weights),
            tiny_config,
            AugmentConfig(size=(64, 128), least_rows=40),
            LOOP,
            resynthesise=True,
            adversarial=1.0,
            discriminator_width=4,
        )
        return dataclasses.replace(config, **fields)  # pyright: ignore[reportArgumentType]

    return training


def test_hinge_losses_by_hand() -> None:
    real = [torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.tensor([-1.0]).view(1, 1, 1, 1)]
    fake = [torch.tensor([-3.0, 1.0]).view(1, 1, 1, 2), torch.tensor([0.5]).view(1, 1, 1, 1)]
    # level one: real (0 + 1) / 2, fake (0 + 2) / 2; level two: real 2, fake 1.5
    assert float(hinge_discriminator(real, fake)) == pytest.approx((0.5 + 1.0 + 2.0 + 1.5) / 2)
    assert float(hinge_generator(fake)) == pytest.approx(-(-1.0 + 0.5) / 2)


def test_a_sure_discriminator_has_no_hinge_loss_but_the_generator_has_a_gradient() -> None:
    fake = torch.full((1, 1, 2, 2), -5.0, requires_grad=True)
    loss = hinge_discriminator([torch.full((1, 1, 2, 2), 5.0)], [fake])
    loss.backward()
    assert float(loss) == 0.0
    assert fake.grad is not None
    assert not fake.grad.any()
    assert torch.autograd.grad(hinge_generator([fake]), fake)[0].tolist() == [[[[-0.25] * 2] * 2]]


def test_feature_matching() -> None:
    torch.manual_seed(0)
    network, image, maps = Discriminator(36, 4).eval(), torch.rand(2, 3, 64, 64), torch.rand(2, 36, 64, 64)
    features = network(image, maps)[1]
    assert float(feature_matching(features, network(image, maps)[1])) == 0.0
    assert float(feature_matching(features, network(1 - image, maps)[1])) > 0.1
    assert float(feature_matching([torch.zeros(2, 2), torch.ones(3)], [torch.ones(2, 2), 4 * torch.ones(3)])) == 2.0


def test_kl_divergence() -> None:
    assert float(kl_divergence(torch.zeros(3, 5), torch.zeros(3, 5))) == 0.0
    mu, logvar = torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[0.3, -1.0], [0.0, 2.0]])
    code, normal = torch.distributions.Normal(mu, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(code, normal).sum(1).mean()
    assert float(kl_divergence(mu, logvar)) == pytest.approx(float(expected))


def test_each_loss_reaches_its_own_parameters_only(make: Make, tiny_config: SegmenterConfig) -> None:
    torch.manual_seed(0)
    chain = AnomalySegmenter(tiny_config)
    objective = SynthesisObjective(chain, make()).train()
    losses = objective(torch.randint(0, 255, (2, 3, 64, 128), dtype=torch.uint8), torch.zeros(2, 64, 128))
    discriminator = objective.learners()["adversary"]
    losses["loss"].backward()
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in chain.style_encoder.fc_mu.parameters())
    assert all(p.grad is None for p in chain.segmentation.parameters())
    objective.trained.zero_grad()
    losses["adversary"].backward()
    assert all(p.grad is None for p in objective.trained.parameters())
    assert all(p.grad is not None for p in discriminator.parameters())
    weighted = sum(getattr(make(), k) * float(v.detach()) for k, v in losses.items() if k not in ("loss", "adversary"))
    assert float(losses["loss"].detach()) == pytest.approx(weighted, rel=1e-5)


def test_a_weight_of_zero_turns_its_term_off(make: Make, tiny_config: SegmenterConfig) -> None:
    silent = {"l1": 0.0, "perceptual": 0.0, "kl": 0.0, "feature_matching": 0.0, "adversarial": 1e-9}
    torch.manual_seed(0)
    objective = SynthesisObjective(AnomalySegmenter(tiny_config), make(**silent)).train()
    losses = objective(torch.zeros(2, 3, 64, 128, dtype=torch.uint8), torch.zeros(2, 64, 128))
    assert float(losses["loss"].detach()) == pytest.approx(0.0, abs=1e-6)


def test_gan_training_end_to_end(
    make: Make, tiny_config: SegmenterConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(ENet(16).state_dict(), tmp_path / "enet.pth")
    config = make(distance_network=str(tmp_path / "enet.pth"))
    synthesis.train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "start: camvid val, 2 images" in printed
    assert "end: camvid val, 2 images" in printed
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert {"adversarial", "feature_matching", "perceptual", "l1", "kl"} <= set(next(csv.reader(file)))
    state = load_weights(tmp_path / "run" / "weights.safetensors").state
    expected = {k for k in AnomalySegmenter(tiny_config).state_dict() if not k.startswith("dissimilarity.")}
    assert set(state) == expected
    start = load_weights(config.weights).state
    assert all(torch.equal(state[k], start[k]) for k in state if k.startswith("segmentation."))
    assert not torch.equal(state["generator.conv_img.weight"], start["generator.conv_img.weight"])
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert any(k.startswith("adversary.") for k in checkpoint.weights)
    moments = checkpoint.optimizers[1]["state"].values()
    assert len(moments) == len(list(Discriminator(36, 4).parameters()))
    assert all(int(m["step"]) == LOOP.steps and m["exp_avg_sq"].any() for m in moments)


def test_without_a_discriminator(make: Make, tiny_config: SegmenterConfig) -> None:
    objective = SynthesisObjective(AnomalySegmenter(tiny_config), make(adversarial=0.0)).train()
    losses = objective(torch.zeros(2, 3, 64, 128, dtype=torch.uint8), torch.zeros(2, 64, 128))
    assert set(objective.learners()) == {"trained"}
    assert set(losses) == {"loss", "l1", "perceptual", "kl"}


def test_resynthesise_needs_weights_of_the_same_widths(
    make: Make, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    wider = dataclasses.replace(tiny_config, synthesis=dataclasses.replace(tiny_config.synthesis, ngf=8))
    with pytest.raises(StateDictError, match=r"tiny.safetensors does not fit Generator"):
        synthesis.train(make(segmenter=wider), tmp_path / "run")
