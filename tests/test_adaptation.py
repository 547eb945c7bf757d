"""`mgcda train adaptation`: what is read, what is trained, and the table it ends with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import Run
from torch import Tensor, nn
from training_data import AUGMENT, LOOP, make_data, write_pair

from mgcda_core.config import AdaptationTraining, ConfigError, DataConfig, PerturbationConfig, SegmenterConfig
from mgcda_core.data.sample import Scene, Scenes
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training import adaptation
from mgcda_core.training.adaptation import AdaptationObjective, AdaptationSamples, Unlabelled, result_rows, table_of
from mgcda_core.training.checkpoint import load_checkpoint
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import scene_sets
from mgcda_core.training.segmentation import ClassIou, class_iou, mean_iou
from mgcda_core.weights.resolve import load_weights


@pytest.fixture
def config(tmp_path: Path, tiny_config: SegmenterConfig) -> AdaptationTraining:
    """Two steps from CamVid-like scenes to darker, IDD-like ones: three of each split, drivable below, sky above."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for i in range(3):
            label = np.full((56, 100), 6, np.uint8)
            label[30:], label[:, :3], label[40:44, 50:55] = 0, 255, 2
            image = np.array([40, 90, 0, 0, 0, 0, 120])[label.clip(max=6), None] + rng.integers(0, 20, (56, 100, 3))
            write_pair(tmp_path / "idd", "images", "masks", f"{split}_{i}", image, label)
    target = DataConfig(idd_lite=str(tmp_path / "idd"))
    perturbation = PerturbationConfig(hidden=8, lr=1e-3)
    return AdaptationTraining(
        make_data(tmp_path), target, tiny_config, None, perturbation, augment=AUGMENT, loop=LOOP
    )  # fmt: skip


def spoil(config: AdaptationTraining) -> None:
    """Train labels of the target that nobody can read."""
    for path in Path(str(config.target.idd_lite)).glob("masks/train_*.png"):
        path.write_bytes(b"not a picture")


def test_a_training_never_reads_the_targets_labels(config: AdaptationTraining, tmp_path: Path) -> None:
    adaptation.train(config, tmp_path / "a")
    spoil(config)
    adaptation.train(config, tmp_path / "b")
    a, b = (load_checkpoint(tmp_path / run) for run in "ab")
    assert a is not None and b is not None
    assert all(torch.equal(v, b.weights[k]) for k, v in a.weights.items())


def test_the_result_names_every_class_and_the_weights_are_a_plain_network(
    config: AdaptationTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, tail=0.1)
    adaptation.train(config, tmp_path / "run")
    assert (tmp_path / "run/result.md").read_text() in capsys.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    rows = {row["class"]: row for row in result["results"]}
    assert result["tail_below"] == 0.1
    assert list(rows) == ["sky", "drivable", "living thing", "mean of all", "mean of tail", "mean of head"]
    assert (rows["living thing"]["group"], rows["sky"]["group"]) == ("tail", "head")
    assert rows["living thing"]["share"] == pytest.approx(20 / (56 * 97))
    weights = load_weights(tmp_path / "run/weights.safetensors")
    network = build_segmentation(weights.config.segmentation, auxiliary=False)
    state = {k.removeprefix("segmentation."): v for k, v in weights.state.items()}
    load_strict(network, state, weights.name)  # strict: a domain classifier's key would be refused
    own, (val,) = weights.config.segmentation, scene_sets(config.target, "val")
    again = class_iou(network.eval(), val, own.size, own.normalise)
    assert [rows[c]["iou"] for c in ("drivable", "living thing", "sky")] == pytest.approx(again.iou[[0, 2, 6]].tolist())
    again_from = dataclasses.replace(config, initial=str(tmp_path / "run"), perturbation=None)
    adaptation.train(again_from, tmp_path / "next")


def test_four_steps_are_two_and_two(config: AdaptationTraining, tmp_path: Path) -> None:
    config = dataclasses.replace(config, loop=dataclasses.replace(LOOP, steps=4, checkpoint_every=2))
    adaptation.train(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        forward = AdaptationObjective.forward

        def killed(self: AdaptationObjective, *batch: Tensor) -> dict[str, Tensor]:
            if self.step == 3:
                raise KeyboardInterrupt
            return forward(self, *batch)

        patch.setattr(AdaptationObjective, "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            adaptation.train(config, tmp_path / "broken")
    torch.manual_seed(99)
    adaptation.train(config, tmp_path / "broken", resume=True)
    whole, broken = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "broken")
    assert whole is not None and broken is not None
    assert {k.split(".")[0] for k in whole.weights} == {"trained", "adversary", "average"}
    assert all(torch.equal(v, broken.weights[k]) for k, v in whole.weights.items())


def test_source_and_target_take_turns_or_the_source_is_alone(config: AdaptationTraining) -> None:
    (target,) = scene_sets(config.target, "train")
    (scenes,) = scene_sets(config.source, "train")
    source, seen = SceneSamples([scenes], AUGMENT, 0), SceneSamples([Unlabelled(target)], AUGMENT, 1)
    both, alone = AdaptationSamples(source, seen), AdaptationSamples(source, None)
    assert [bool(both[n][2]) for n in range(4)] == [True, False, True, False]
    assert all(both[n][1].eq(255).all() for n in (1, 3)) and not both[0][1].eq(255).all()
    assert [both.name(n).split("/")[0] for n in range(2)] == ["camvid", "idd-lite"]
    assert all(bool(alone[n][2]) for n in range(4)) and torch.equal(alone[1][0], both[2][0])


def objective_of(config: AdaptationTraining) -> tuple[AdaptationObjective, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    network = build_segmentation(config.segmenter.segmentation)
    objective = AdaptationObjective(network, torch.eye(19).bool(), torch.ones(19), config)
    objective.train()
    batch = (torch.randint(0, 255, (4, 3, 64, 128), dtype=torch.uint8), torch.randint(0, 3, (4, 64, 128)))
    return objective, (*batch, torch.tensor([True, False, True, False]))


def test_labels_of_the_target_reach_no_loss_and_its_images_do(config: AdaptationTraining) -> None:
    def losses(image: Tensor, label: Tensor, source: Tensor) -> dict[str, float]:
        return {k: v.item() for k, v in objective_of(config)[0](image, label, source).items()}

    image, label, source = objective_of(config)[1]
    plain = losses(image, label, source)
    other = torch.where(source[:, None, None], label, 5)
    assert losses(image, other, source) == plain
    assert losses(torch.where(source[:, None, None, None], image, 255 - image), label, source) != plain


def test_the_attack_leaves_statistics_and_gradients_as_they_are(config: AdaptationTraining) -> None:
    objective, batch = objective_of(config)
    without, _ = objective_of(dataclasses.replace(config, perturbation=None))
    losses, plain = objective(*batch), without(*batch)
    assert objective.adversary is not None and without.adversary is None
    assert all(p.grad is None for p in objective.parameters())
    for (name, own), other in zip(objective.trained.named_buffers(), without.trained.buffers(), strict=True):
        assert torch.equal(own, other), name  # one clean pass moved them, as without an attack
    torch.testing.assert_close(losses["cross_entropy"], plain["cross_entropy"])
    losses["loss"].backward()
    assert all(p.grad is None for p in objective.adversary.parameters())


class Grey(nn.Module):
    """Says class 0 where the picture is dark, train id 10 where it is not, and 13 in its first column."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        dark = (x.mean(1) < 0.3).float()
        logits = torch.zeros(1, 19, *x.shape[-2:])
        logits[:, 0], logits[:, 10] = dark, 1 - dark
        logits[:, 13, :, 0] = 2
        return logits


def test_the_iou_of_a_class_is_counted_by_hand() -> None:
    class Made(Scenes):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Scene:
            image, label = np.zeros((4, 8, 3), np.uint8), np.zeros((4, 8), np.uint8)
            image[:2], label[:2] = 200, 1
            label[3], label[0] = 1, 255
            return Scene(image, label, "made")

    # Labelled: 8 of class 0 in row 2, 8 + 8 of class 1 (train id 10) in rows 1 and 3; class 2 (13) nowhere.
    made = Made("made", (), ((0,), (10,), (13,)))
    found = class_iou(Grey(), made, (4, 8), "unit")
    assert found.share.tolist() == pytest.approx([8 / 24, 16 / 24, 0])
    assert found.iou.tolist() == pytest.approx([7 / 15, 7 / 16, 0])
    assert mean_iou(Grey(), made, (4, 8), "unit") == pytest.approx((7 / 15 + 7 / 16) / 2)


def test_tail_and_head_are_apart() -> None:
    found = ClassIou(np.array([0.8, 0.2, np.nan, 0.4, 0.6]), np.array([0.5, 0.04, 0.0, 0.03, 0.43]))
    rows = result_rows("idd-lite", found, 0.05)
    assert [(r["class"], r["group"]) for r in rows[:4]] == [
        ("drivable", "head"), ("roadside object", "head"), ("non-drivable", "tail"), ("vehicle", "tail")
    ]  # fmt: skip
    means = {str(r["group"]): (r["share"], r["iou"]) for r in rows[4:]}
    assert means["all"] == pytest.approx((1.0, 0.5)) and means["tail"] == pytest.approx((0.07, 0.3))
    assert means["head"] == pytest.approx((0.93, 0.7))
    assert "tail" not in {r["group"] for r in result_rows("idd-lite", found, 0.0)}
    lines = table_of(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-2].split("|")[2:6] == [f" {c} " for c in ("mean of tail   ", "tail ", "7.0   ", "30.0")]


def test_the_command_runs_from_yaml(mgcda: Run, config: AdaptationTraining, tmp_path: Path) -> None:
    (tmp_path / "adapt.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    code, text, err = mgcda("train", "adaptation", "--config", tmp_path / "adapt.yaml", "--run", tmp_path / "run",
                            "--loop.steps", 1, "--perturbation", "null")  # fmt: skip
    assert (code, err) == (0, ""), err
    assert "mean of tail" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"target": DataConfig(rendered=3)}, "drawn scenes are a source"),
        ({"loop": dataclasses.replace(LOOP, batch=3)}, "must be even"),
        ({"loop": dataclasses.replace(LOOP, validate_every=1)}, "choose no weights"),
        ({"tail": 2.0}, "tail is 2"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    change: dict[str, Any], text: str, config: AdaptationTraining
) -> None:
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(config, **change)


def test_a_target_without_a_val_split_is_refused(config: AdaptationTraining, tmp_path: Path) -> None:
    target = DataConfig(cityscapes_train_ids=str(tmp_path / "idd"))
    with pytest.raises(ConfigError, match="no val split"):
        adaptation.train(dataclasses.replace(config, target=target), tmp_path / "run")
    huggingface = dataclasses.replace(config.segmenter.segmentation, architecture="huggingface")
    with pytest.raises(ConfigError, match="huggingface"):
        dataclasses.replace(config, segmenter=dataclasses.replace(config.segmenter, segmentation=huggingface))
