"""The three trainings end to end on a made data tree, resuming, and the checkpoint's promises."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mgcda_core.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    DissimilarityTraining,
    LoopConfig,
    SegmentationTraining,
    SegmenterConfig,
    SynthesisTraining,
)
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.training import dissimilarity, segmentation, synthesis
from mgcda_core.training.checkpoint import load_checkpoint, save_checkpoint
from mgcda_core.training.loop import Objective, fit, start_run
from mgcda_core.training.scenes import scene_sets
from mgcda_core.training.schedule import warmup_poly
from mgcda_core.weights.resolve import load_weights

LOOP = LoopConfig(
    steps=2, batch=2, warmup=1, workers=0, log_every=1, checkpoint_every=1, precision="32-true", device="cpu"
)
AUGMENT = AugmentConfig(size=(64, 128), least_rows=40)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Two CamVid-like scenes a split and eleven bright balls to paste."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(2):
            label = np.zeros((72, 144), np.uint8)
            label[36:], label[20:36, 40:80], label[:, :4] = 3, 5, 11
            image = np.array([[90, 180, 220], *[[0, 0, 0]] * 2, [80, 80, 80], *[[0, 0, 0]] * 8], np.uint8)[label]
            _write(
                root / "camvid" / split,
                "images",
                "labels",
                f"{split}{i}",
                image + rng.integers(0, 9, image.shape),
                label,
            )
    yy, xx = np.mgrid[-24:25, -24:25]
    mask = ((yy**2 + xx**2) <= 500).astype(np.uint8) * 255
    for i in range(11):
        _write(root / "objects", "images", "masks", str(i), np.full((49, 49, 3), 20 * i + 20), mask)
    return DataConfig(camvid=str(root / "camvid"), objects=(str(root / "objects"),))


def _write(root: Path, images: str, labels: str, stem: str, image: np.ndarray, label: np.ndarray) -> None:
    for folder, suffix, pixels in ((images, ".png", image.astype(np.uint8)), (labels, ".png", label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / f"{stem}{suffix}"), pixels)


def test_the_three_trainings_make_a_chain(data: DataConfig, tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    segmentation.train(SegmentationTraining(data, tiny_config, AUGMENT, LOOP), tmp_path / "segmentation")
    synthesis.train(
        SynthesisTraining(data, str(tmp_path / "segmentation"), tiny_config, AUGMENT, LOOP), tmp_path / "synthesis"
    )
    config = DissimilarityTraining(
        data, str(tmp_path / "synthesis"), tiny_config, AUGMENT, loop=LOOP, validation_scenes=2
    )
    dissimilarity.train(config, tmp_path / "dissimilarity")
    weights = load_weights(tmp_path / "dissimilarity" / "weights.safetensors")
    chain = AnomalySegmenter(weights.config)
    load_strict(chain, weights.state, weights.name)
    assert 0 < weights.config.threshold < 1
    frozen = load_weights(tmp_path / "segmentation" / "weights.safetensors").state
    assert all(torch.equal(weights.state[k], v.half().float()) for k, v in frozen.items() if v.is_floating_point())
    assert not any("auxiliary_head" in k for k in weights.state)
    with pytest.raises(ValueError, match="holds a run already"):
        dissimilarity.train(config, tmp_path / "dissimilarity")


class Line(Objective):
    """y = a x + b with dropout, so that resuming must restore the generator too."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trained = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.trained(x) - y).square().mean()}


class Points(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.random.default_rng(number).normal(size=3)).float()
        return x, x.sum(0, keepdim=True)


@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_is_bit_for_bit_an_unbroken_run(stop: int, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, steps=6, checkpoint_every=1)
    for run in ("whole", "broken"):
        (tmp_path / run).mkdir()
    whole = fit(Line(), Points(), loop, tmp_path / "whole")

    class Killed(Points):
        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            if number >= stop * loop.batch:
                raise KeyboardInterrupt
            return super().__getitem__(number)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Killed(), loop, tmp_path / "broken")
    torch.manual_seed(123)
    broken = fit(Line(), Points(), loop, tmp_path / "broken", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))
    steps = [line.split(",")[0] for line in (tmp_path / "broken/metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(1, 7))]


def test_a_resumed_run_keeps_its_configuration(data: DataConfig, tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    config = SegmentationTraining(data, tiny_config, AUGMENT, LOOP)
    start_run(tmp_path, config, resume=False)
    start_run(tmp_path, dataclasses.replace(config, loop=dataclasses.replace(LOOP, workers=1)), resume=True)
    with pytest.raises(ConfigError, match="another loop"):
        start_run(tmp_path, dataclasses.replace(config, loop=dataclasses.replace(LOOP, lr=0.5)), resume=True)


def test_mean_iou_is_over_the_sets_own_classes(data: DataConfig) -> None:
    class Perfect(torch.nn.Module):
        """Says road below and sky above, and terrain for vegetation: CamVid's class tree covers both."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
            ids = torch.full(size, 10)
            ids[36:], ids[20:36, 40:80] = 0, 9
            return torch.nn.functional.one_hot(ids, 19).permute(2, 0, 1)[None].float()

    (scenes,) = scene_sets(data, "val")
    assert segmentation.mean_iou(Perfect(), scenes, (32, 64)) == pytest.approx(1.0)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(Points):
        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            x, y = super().__getitem__(number)
            return x * float("nan"), y

    with pytest.raises(RuntimeError, match="loss is nan at step 1"):
        fit(Line(), Broken(), LOOP, tmp_path)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    objective = Line(dropout=0.0)
    before = objective(*map(torch.stack, zip(*(Points()[i] for i in range(64)), strict=True)))["loss"]
    fit(
        objective,
        Points(),
        dataclasses.replace(LOOP, steps=150, batch=16, lr=0.02, log_every=50, checkpoint_every=150),
        tmp_path,
    )
    after = objective(*map(torch.stack, zip(*(Points()[i] for i in range(64)), strict=True)))["loss"]
    assert after < 0.1 * before


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {})
    (tmp_path / ".checkpoint-writing").mkdir()
    (tmp_path / ".checkpoint-writing/weights.safetensors").write_bytes(b"half")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 1
    save_checkpoint(tmp_path, 2, {"w": torch.ones(2)}, {})
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-0000002"]


def test_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [warmup_poly(i, 100, 10, 0.9) for i in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == pytest.approx(0.9**0.9)
    assert factors[-1] < 0.02
    assert all(b <= a for a, b in itertools.pairwise(factors[10:]))


def test_data_without_scenes_is_refused() -> None:
    with pytest.raises(ConfigError, match="data names no scenes"):
        DataConfig()


def test_best_f1_threshold() -> None:
    score = np.array([0.9, 0.8, 0.3, 0.2, 0.99], np.float32)
    label = np.array([1, 1, 0, 0, 255], np.uint8)
    assert dissimilarity.best_f1_threshold(score, label) == pytest.approx(0.8)
