"""Synthetic-unknown: the region, the masked gradient update, the loss at the boundary, and the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import (
    ConfigError,
    DataConfig,
    SegmentationConfig,
    SegmentationTraining,
    SegmenterConfig,
    SyntheticUnknownConfig,
    SyntheticUnknownTraining,
)
from mgcda_core.data.unknown_region import draw_region
from mgcda_core.export.command import export
from mgcda_core.inference.predictor import load
from mgcda_core.methods.synthetic_unknown import boundary, evaluating, masked_gradient_update, softmax_confidence
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training import segmentation, synthetic_unknown
from mgcda_core.training.outliers import OUTLIER
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.training.segmentation import SegmentationObjective
from mgcda_core.training.synthetic_unknown import SyntheticUnknownObjective, UnknownRegion
from mgcda_core.training.widened import load_network
from mgcda_core.weights.resolve import load_weights, save_weights

SOME = SyntheticUnknownConfig(min_area=20_000, max_share=0.3)
"""Of the 72 x 144 pixels of a made scene at least 99: its background and box, not its road."""


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path) -> SyntheticUnknownTraining:
    loop = dataclasses.replace(LOOP, batch=2, steps=4, checkpoint_every=2)
    return SyntheticUnknownTraining(
        make_data(tmp_path / "data"), str(tiny_weights), dataclasses.replace(SOME, max_share=0.6), augment=AUGMENT,
        loop=loop,
    )  # fmt: skip


def test_a_region_is_of_one_class_whole_or_in_part_and_of_a_size_that_fits() -> None:
    label = np.zeros((64, 128), np.uint8)  # 8192 pixels; 256 of a 1024x2048 image are one
    label[:8], label[20:30, 10:30], label[40:50, 60:80], label[60:62, 100:104] = 255, 4, 4, 9
    config = SyntheticUnknownConfig(min_area=40 * 256, max_share=0.2)  # the background is too large, 9 too small
    areas = set()
    for seed in range(30):
        region = draw_region(label, config, np.random.default_rng(seed))
        assert (label[region] == 4).all()
        areas.add(int(region.sum()))
        assert (region == draw_region(label, config, np.random.default_rng(seed))).all()
    assert areas == {200, 400}
    whole = dataclasses.replace(config, whole=1.0)
    assert draw_region(label, whole, np.random.default_rng(0)).sum() == 400
    too_large = dataclasses.replace(config, max_share=300 / 8192, whole=1.0)
    assert draw_region(label, too_large, np.random.default_rng(0)).sum() == 200
    assert not draw_region(label, dataclasses.replace(config, min_area=500 * 256), np.random.default_rng(0)).any()
    assert not draw_region(np.full((8, 8), 255, np.uint8), config, np.random.default_rng(0)).any()


def test_the_update_lowers_the_confidence_inside_and_touches_nothing_else() -> None:
    torch.manual_seed(0)
    network = build_segmentation(SegmentationConfig(width=8, size=(64, 128))).train()
    network.get_submodule("head").eval()  # parts may stand in either mode
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8, generator=generator)
    image[:, :, :20, :40] = 255  # cannot become brighter
    mask = torch.zeros(2, 64, 128, dtype=torch.bool)
    mask[0, 10:40, 20:60] = mask[1, 30:, 90:] = True
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]

    def confidence(x: Tensor) -> Tensor:
        return softmax_confidence(network((x / 255 - 0.45) / 0.25))

    config = SyntheticUnknownConfig(steps=6, step=2, budget=9)
    given = image.clone()
    with torch.inference_mode(), evaluating(network):  # as a frozen chain is run
        made = masked_gradient_update(confidence, image, mask, config)
        sure, less_sure = confidence(image.float()), confidence(made.float())
    assert torch.equal(image, given)
    assert made.dtype == torch.uint8
    outside = ~mask[:, None].expand_as(image)
    assert torch.equal(made[outside], image[outside])
    moved = (made.int() - image.int()).abs()
    assert moved.max() == 9  # six steps of two would be twelve
    assert (moved[~outside] > 0).float().mean() > 0.5
    for b in range(2):
        assert less_sure[b][mask[b]].mean() < sure[b][mask[b]].mean() - 0.01
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert masked_gradient_update(confidence, image, torch.zeros_like(mask), config) is image


def test_the_boundary_is_what_is_close_or_undecided() -> None:
    mask = torch.zeros(1, 9, 12, dtype=torch.bool)
    mask[0, 4, 4] = True
    classes = torch.zeros(1, 5, 9, 12)
    classes[:, 0] = 9.0
    classes[0, 1, 8, 11] = 8.8  # probabilities 0.55 and 0.45
    found = boundary(classes, mask, margin=0.2, border=2)
    expected = torch.zeros_like(mask)
    expected[0, 2:7, 2:7] = expected[0, 8, 11] = True
    assert torch.equal(found, expected)
    assert boundary(classes, mask, margin=0.0, border=0).sum() == 1


class OneLayer(nn.Conv2d):
    """A network that sees a pixel's colour alone."""

    def training_logits(self, x: Tensor) -> list[Tensor]:
        return [self(x)]


def test_known_pixels_have_the_ordinary_loss_and_boundary_ones_more_of_it(tiny_config: SegmenterConfig) -> None:
    torch.manual_seed(0)
    network = OneLayer(3, 19, 1)
    table, weights = torch.eye(20, 19).bool(), torch.rand(20) + 0.5
    table[19, 3:7] = True
    image = torch.randint(0, 256, (2, 3, 16, 20), dtype=torch.uint8)
    label = torch.randint(0, 20, (2, 16, 20))
    label[:, :2] = 255
    data = DataConfig(rendered=1)
    ordinary = SegmentationObjective(network, table, weights, SegmentationTraining(data, tiny_config))(image, label)

    def known(boundary: float) -> Tensor:
        own = SyntheticUnknownTraining(data, "x", target="uniform", boundary=boundary, margin=0.02)
        objective = SyntheticUnknownObjective(network, table, weights, tiny_config.segmentation, own)
        losses = objective(image, label)
        assert losses["unknown"] == 0
        return losses["cross_entropy"]

    torch.testing.assert_close(known(1.0), ordinary["cross_entropy"])
    at_boundary = known(1e6)  # nothing else counts any more
    assert not torch.isclose(at_boundary, known(1.0), rtol=0.01)
    torch.testing.assert_close(known(2e6), at_boundary, rtol=1e-4, atol=0)


def test_the_unknown_is_told_from_held_out_scenes(config: SyntheticUnknownTraining, tmp_path: Path) -> None:
    plain = dataclasses.replace(AUGMENT, colour=0, degrade=0)
    loop = dataclasses.replace(config.loop, batch=4, steps=60, lr=5e-3, ema=0.9, checkpoint_every=60, log_every=20)
    segmentation.train(
        SegmentationTraining(config.data, load_weights(config.weights).config, plain, loop), tmp_path / "closed"
    )
    strong = dataclasses.replace(config.unknown, steps=4, step=4, budget=16)
    one = dataclasses.replace(
        config, weights=str(tmp_path / "closed"), unknown=strong, augment=plain,
        loop=dataclasses.replace(loop, steps=40, lr=1e-2),
    )  # fmt: skip
    synthetic_unknown.train(one, tmp_path / "run")
    weights = load_weights(tmp_path / "run")
    assert weights.config.score == "unknown"
    closed = load_weights(tmp_path / "closed").state
    assert {k for k in weights.state if weights.state[k].shape != closed[k].shape} == {
        "segmentation.head.classify.weight", "segmentation.head.classify.bias",
    }  # fmt: skip

    _, network = load_network(str(tmp_path / "closed"), "msp")
    objective = SyntheticUnknownObjective(
        network, torch.eye(19).bool(), torch.ones(19), weights.config.segmentation,
        dataclasses.replace(one, target="uniform"),
    )  # fmt: skip
    objective.eval()
    samples = SceneSamples(load_scenes(config.data, "val"), plain, 5, UnknownRegion(one.unknown))
    predictor = load(tmp_path / "run", backend="torch")
    above, risen = [], []
    for image, label in (samples[n] for n in range(6)):
        unknown = label == OUTLIER
        made = masked_gradient_update(objective.confidence, image[None], unknown[None], one.unknown)[0]
        scene, score = (predictor(x.permute(1, 2, 0).numpy()).logits for x in (image, made))
        above.append(score[unknown].mean() - score[label < 19].mean())
        risen.append(score[unknown].mean() - scene[unknown].mean())
    assert np.mean(above) > 0.5
    assert np.mean(risen) > 0.5  # by the update, not by the class that was chosen

    frames = tmp_path / "frames"
    frames.mkdir()
    picture = samples[0][0].permute(1, 2, 0).numpy()
    cv2.imwrite(str(frames / "a.png"), picture[..., ::-1])
    artefact = export(tmp_path / "out", str(tmp_path / "run"), size=picture.shape[:2], check=frames)
    again = load(artefact, backend="onnxruntime")(picture)
    np.testing.assert_allclose(again.score, predictor(picture).score, atol=1e-4)


@pytest.mark.parametrize("target", ["class", "uniform"])
def test_a_killed_run_goes_on_to_the_same_weights(
    target: Literal["class", "uniform"], config: SyntheticUnknownTraining, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, target=target)
    synthetic_unknown.train(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        forward = SyntheticUnknownObjective.forward

        def dies(self: SyntheticUnknownObjective, *batch: Tensor) -> dict[str, Tensor]:
            if self.step == 3:
                raise InterruptedError
            return forward(self, *batch)

        patch.setattr(SyntheticUnknownObjective, "forward", dies)
        with pytest.raises(InterruptedError):
            synthetic_unknown.train(config, tmp_path / "broken")
    synthetic_unknown.train(config, tmp_path / "broken", resume=True)
    whole, broken = (load_weights(tmp_path / name) for name in ("whole", "broken"))
    assert all(torch.equal(value, broken.state[key]) for key, value in whole.state.items())
    assert whole.config.score == ("unknown" if target == "class" else "msp")


def test_what_it_cannot_work_with_is_one_sentence(
    config: SyntheticUnknownTraining, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    foreign = dataclasses.replace(tiny_config.segmentation, architecture="huggingface")
    save_weights(tmp_path / "hf.safetensors", {}, dataclasses.replace(tiny_config, segmentation=foreign), "hf")
    with pytest.raises(ConfigError, match="cannot have one output more"):
        synthetic_unknown.train(dataclasses.replace(config, weights=str(tmp_path / "hf.safetensors")), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"unknown\.budget is 0"):
        SyntheticUnknownConfig(budget=0)
    with pytest.raises(ConfigError, match=r"loop\.pictures_every"):
        dataclasses.replace(config, loop=dataclasses.replace(LOOP, pictures_every=1))
