"""The control: a plain U-net on image and teacher softmax, from its labels to the table it ends with."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import Run, only_error
from safetensors.torch import load_file
from torch import nn
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import AnomalyMixConfig, ConfigError, EvaluationSet, PlainTraining
from mgcda_core.data.sample import Scene, read_rgb
from mgcda_core.evaluation.evaluate import judge
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.evaluation.scored import Method
from mgcda_core.models.plain_unet import PlainUnet
from mgcda_core.models.segmentation.enet import ENet
from mgcda_core.training import plain
from mgcda_core.training.outliers import Outliers
from mgcda_core.training.plain import PlainObjective, anomaly_label, class_weights, network_input, plain_scorer
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_objects

ALWAYS = AnomalyMixConfig(objects=(1, 2), height=(0.3, 0.5), known=1.0, blend="none", jitter=0, colour_match=(0, 0))
NEVER = dataclasses.replace(ALWAYS, p_mix=0.0, known=0.0)


@pytest.fixture
def config(drive: Path, monkeypatch: pytest.MonkeyPatch) -> PlainTraining:
    """Two steps with a random teacher, measured on four drawn frames."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(drive / "cache"))
    torch.manual_seed(0)
    torch.save(ENet().state_dict(), drive / "teacher.pth")
    drawn = EvaluationSet("drawn", str(drive / "images"), str(drive / "masks"), anomaly_values=(2,))
    return PlainTraining(make_data(drive), str(drive / "teacher.pth"), (drawn,), ALWAYS, AUGMENT, LOOP)


def test_the_network_is_small_and_keeps_the_size() -> None:
    network = PlainUnet(22)
    assert 1.2e6 < sum(p.numel() for p in network.parameters()) < 1.4e6
    for size in ((32, 64), (37, 51)):
        assert network(torch.zeros(2, 22, *size)).shape == (2, 2, *size)


def test_pasted_objects_are_anomalies_and_pasted_cars_are_not(tmp_path: Path) -> None:
    image, label = np.full((60, 90, 3), 100, np.uint8), np.zeros((60, 90), np.uint8)
    image[20:44, 30:56], label[20:44, 30:56] = (10, 200, 30), 13
    paste = Outliers([[Scene(image, label, "car")]], load_objects(make_data(tmp_path), "train"), ALWAYS, known_row=0)
    empty = np.full((60, 90, 3), (7, 7, 90), np.uint8), np.full((60, 90), 19, np.uint8)
    empty[1][:3] = 255
    image, label = paste(*empty, np.random.default_rng(1))
    found = anomaly_label(torch.from_numpy(label).long()).numpy()
    car, street = (image == (10, 200, 30)).all(-1), (image == (7, 7, 90)).all(-1)
    above = np.arange(60)[:, None] < 3
    assert car.sum() > 50 and (~car & ~street).sum() > 50
    assert (found[car] == 0).all() and (found[~car & ~street] == 1).all()
    assert (found[street & ~above] == 0).all() and (found[street & above] == 255).all()


def test_the_input_is_the_normalised_image_beside_the_softmax() -> None:
    teacher = ENet().eval()
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    found = network_input(image, teacher)
    scale, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    torch.testing.assert_close(found[0, :3].permute(1, 2, 0) * scale + mean, image[0].permute(1, 2, 0) / 255)
    torch.testing.assert_close(found[:, 3:], teacher(image / 255).softmax(1))
    assert not found.requires_grad


def test_the_rare_class_weighs_more(config: PlainTraining) -> None:
    scene = Scene(np.zeros((72, 144, 3), np.uint8), np.zeros((72, 144), np.uint8), "empty")
    objects = load_objects(config.data, "train")

    def weights(mix: AnomalyMixConfig) -> list[float]:
        return class_weights(SceneSamples([[scene]], AUGMENT, 0, Outliers([[scene]], objects, mix, 0))).tolist()

    assert weights(NEVER) == pytest.approx([1 / math.log(2.02), 1 / math.log(1.02)])
    normal, anomalous = weights(ALWAYS)
    assert 2 < anomalous / normal < 1 / math.log(1.02) * math.log(2.02)


def test_it_learns_a_colour_and_leaves_the_teacher_alone() -> None:
    torch.manual_seed(0)
    teacher = ENet()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = PlainObjective(PlainUnet(22), teacher, torch.tensor([1.0, 4.0])).train()
    label = (torch.rand(2, 4, 8).repeat_interleave(8, 1).repeat_interleave(8, 2) > 0.8).long() * 254
    image = torch.stack([label, 254 - label, label], 1).to(torch.uint8)
    label[:, :4] = 255
    optimizer = torch.optim.Adam(objective.trained.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = objective(image, label)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all((v == before[k]).all() for k, v in teacher.state_dict().items())


def test_the_score_is_the_logit_at_the_images_size(frames: list[np.ndarray]) -> None:
    teacher, network = ENet().eval(), nn.Conv2d(22, 2, 1)
    with torch.no_grad():
        logits = network(network_input(torch.from_numpy(frames[0]).permute(2, 0, 1)[None], teacher))[0].numpy()
    score = plain_scorer(network, teacher, (64, 96))(frames[0])
    np.testing.assert_allclose(score, logits[1] - logits[0], atol=1e-5)
    scorer = plain_scorer(network, teacher, (32, 48))
    assert scorer(frames[0]).shape == scorer.segmentation(frames[0]).shape == (64, 96)
    assert scorer.segmentation(frames[0]).max() < 19


def test_a_run_ends_with_the_table_and_is_measured_again(mgcda: Run, config: PlainTraining, drive: Path) -> None:
    (drive / "plain.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    run = drive / "run"
    code, text, _ = mgcda("train", "plain", "--config", drive / "plain.yaml", "--run", run)
    assert code == 0
    table = (run / "result.md").read_text()
    assert table.splitlines()[0] in text and "95 % bootstrap interval" in table
    (row,) = json.loads((run / "result.json").read_text())["results"]
    assert (row["set"], row["images"], len(row["ap_interval"])) == ("drawn", 4, 2)

    network, teacher = PlainUnet(22), plain.load_teacher(Path(config.teacher))
    network.load_state_dict(load_file(run / "weights.safetensors"))
    scorer = plain_scorer(network.eval(), teacher, AUGMENT.size)
    again, _ = judge(config.sets[0], Method("file", "model", scorer, ""), Judging(bootstrap=0))
    assert again.ap == pytest.approx(row["ap"], abs=1e-6)
    assert np.isfinite(scorer(read_rgb(drive / "images" / "f0.png"))).all()

    assert "holds a run already" in only_error(mgcda("train", "plain", "--config", drive / "plain.yaml", "--run", run))
    (run / "result.json").unlink()
    assert mgcda("train", "plain", "--config", drive / "plain.yaml", "--run", run, "--resume")[0] == 0
    (resumed,) = json.loads((run / "result.json").read_text())["results"]
    assert (resumed["ap"], resumed["weights_sha256"]) == (row["ap"], row["weights_sha256"])


def test_what_is_missing_is_one_sentence(mgcda: Run, config: PlainTraining, drive: Path) -> None:
    def error(changed: PlainTraining) -> str:
        (drive / "plain.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(changed)))))
        return only_error(mgcda("train", "plain", "--config", drive / "plain.yaml", "--run", drive / "run"))

    assert "nowhere.pth" in error(dataclasses.replace(config, teacher=str(drive / "nowhere.pth")))
    lost = dataclasses.replace(config.sets[0], masks=str(drive / "nowhere"))
    assert "nowhere" in error(dataclasses.replace(config, sets=(lost,)))
    with pytest.raises(ConfigError, match="no objects to paste"):
        plain.train(dataclasses.replace(config, data=dataclasses.replace(config.data, objects=())), drive / "run")
    with pytest.raises(ConfigError, match="sets is empty"):
        dataclasses.replace(config, sets=())
    with pytest.raises(ConfigError, match=r"loop\.validate_every"):
        dataclasses.replace(config, loop=dataclasses.replace(LOOP, validate_every=1))
