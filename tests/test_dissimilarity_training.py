"""`mgcda train dissimilarity` on made data and tiny networks, by its command."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import Run
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import (
    ConfigError,
    DissimilarityTraining,
    LoopConfig,
    PerturbationConfig,
    PrepareConfig,
    SegmenterConfig,
    SynthesisTraining,
    SyntheticUnknownConfig,
)
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.training import dissimilarity, synthesis
from mgcda_core.training.cache import MAPS, CachedDomain, StaleCacheError
from mgcda_core.training.checkpoint import load_checkpoint
from mgcda_core.training.domain_samples import DomainSamples
from mgcda_core.training.held_out import best_f1_threshold
from mgcda_core.training.prepare import load_frozen, prepare
from mgcda_core.weights.resolve import load_weights


@pytest.fixture
def config(whole_method: DissimilarityTraining) -> DissimilarityTraining:
    return whole_method


def test_the_whole_method_makes_a_plain_chain(config: DissimilarityTraining, tmp_path: Path) -> None:
    run = tmp_path / "run"
    dissimilarity.train(config, run)
    weights = load_weights(run / "weights.safetensors")
    chain = AnomalySegmenter(weights.config)
    load_strict(chain, weights.state, weights.name)  # strict: a classifier's or projector's key would be refused
    assert not any(
        word in key for key in weights.state for word in ("adversary", "assistant", "projector", "features.")
    )
    assert 0 < weights.config.threshold < 1
    assert {"held_out_ap", "held_out_fpr95"} <= weights.metadata.keys()
    frozen = load_weights(config.weights).state
    assert all(torch.equal(weights.state[k], v.half().float()) for k, v in frozen.items()
               if v.is_floating_point() and not k.startswith("dissimilarity."))  # fmt: skip
    assert any(not torch.equal(weights.state[k], v.half().float()) for k, v in frozen.items() if "dissimilarity" in k)
    with (run / "metrics.csv").open(newline="") as file:
        columns = set(next(csv.DictReader(file)))
    assert {"tau", "L_conf_f", "L_conf_o", "L_D_f", "L_D_o", "D_accuracy_f", "D_accuracy_o", "L_CAC", "cacl_active",
            "AH", "AE", "NH", "NE", "P_V", "P_A", "cross_entropy", "gradient_norm",
            "data_share"} <= columns  # fmt: skip
    assert [p.name for p in (run / "pictures").iterdir()] == ["0000003.png"]
    checkpoint = load_checkpoint(run)
    assert checkpoint is not None
    assert {k.split(".")[0] for k in checkpoint.weights} == {"trained", "assistant", "adversary", "average", "best"}
    with pytest.raises(ValueError, match="holds a run already"):
        dissimilarity.train(config, run)


@pytest.mark.parametrize("both", [False, True])
def test_perturbations_align_instead_of_mdat_or_beside_it(
    both: bool, config: DissimilarityTraining, tmp_path: Path, tiny_weights: Path
) -> None:
    chosen = dataclasses.replace(
        config, mdat=config.mdat if both else None, perturbation=PerturbationConfig(hidden=8, lr=1e-3)
    )
    dissimilarity.train(chosen, tmp_path / "run")
    weights = load_weights(tmp_path / "run/weights.safetensors")
    assert weights.state.keys() == load_weights(tiny_weights).state.keys()  # nothing of it is exported
    load_strict(AnomalySegmenter(weights.config), weights.state, weights.name)
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        columns = set(next(csv.DictReader(file)))
    assert {"L_P", "L_inv", "L_D_p", "D_accuracy_p", "D_attacked"} <= columns
    assert ({"L_D_f", "L_D_o"} <= columns) == both
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    against = {k.split(".")[1] for k in checkpoint.weights if k.startswith("adversary.")}
    assert against == ({"0", "1"} if both else {"domain"})
    if both:
        with pytest.raises(ConfigError, match="share one optimiser"):
            dataclasses.replace(chosen, perturbation=PerturbationConfig(lr=1e-5))
        (tmp_path / "run/weights.safetensors").unlink()
        dissimilarity.train(chosen, tmp_path / "run", resume=True)
        assert load_weights(tmp_path / "run/weights.safetensors").state.keys() == weights.state.keys()


@pytest.mark.parametrize("encoder", [False, True])
def test_the_defence_of_the_decoder_reaches_the_encoder_only_if_asked_to(
    encoder: bool, config: DissimilarityTraining, tiny_weights: Path, tiny_config: SegmenterConfig
) -> None:
    digest = load_frozen(str(tiny_weights))[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples(domains, None, 0.5, 0)
    network = dissimilarity.DissimilarityNet(tiny_config.dissimilarity)
    chosen = dataclasses.replace(config, mdat=None, cacl=None, perturbation=PerturbationConfig(encoder=encoder))
    objective = dissimilarity.DissimilarityObjective(network, torch.ones(2), chosen).train()
    losses = objective(*map(torch.stack, zip(*(samples[n] for n in range(4)), strict=True)))
    (losses["loss"] - losses["cross_entropy"]).backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv11", "conv1", "conv5"} <= reached
    assert ("vgg_encoder" in reached) == ("conv7" in reached) == ("conv10" in reached) == encoder
    assert objective.adversary is not None and all(p.grad is None for p in objective.adversary.parameters())


def test_the_entropys_share_is_the_best_of_the_held_out_samples(
    config: DissimilarityTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = dataclasses.replace(config, entropy_weights=(0.0, 0.5, 1.0))
    dissimilarity.train(chosen, tmp_path / "run")
    said = re.findall(r"entropy weight (\S+)  ap (\S+) ", capsys.readouterr().out)
    assert [weight for weight, _ in said] == ["0", "0.5", "1"]
    best = max(said, key=lambda pair: float(pair[1]))
    weights = load_weights(tmp_path / "run/weights.safetensors")
    assert (weights.config.entropy_weight, weights.metadata["held_out_ap"]) == (float(best[0]), best[1])
    assert len({ap for _, ap in said}) > 1
    with pytest.raises(ConfigError, match="set validation"):
        dataclasses.replace(chosen, validation=(), loop=dataclasses.replace(config.loop, validate_every=0))
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        dataclasses.replace(chosen, entropy_weights=(0.5, 2.0))


def test_ten_steps_are_five_and_five(config: DissimilarityTraining, tmp_path: Path) -> None:
    loop = dataclasses.replace(config.loop, steps=10, checkpoint_every=5, validate_every=0, pictures_every=0)
    config = dataclasses.replace(config, loop=loop, validation=())
    dissimilarity.train(config, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        # Dies at the sixth step, after the checkpoint of the fifth: the classifiers and moments are under way by then.
        forward = dissimilarity.DissimilarityObjective.forward
        patch.setattr(dissimilarity.DissimilarityObjective, "forward",
                      lambda self, *batch: kill() if self.step == 5 else forward(self, *batch))  # fmt: skip
        with pytest.raises(KilledError):
            dissimilarity.train(config, tmp_path / "broken")
    torch.manual_seed(99)
    dissimilarity.train(config, tmp_path / "broken", resume=True)
    whole, broken = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "broken")
    assert whole is not None and broken is not None
    assert all(torch.equal(whole.weights[k], broken.weights[k]) for k in whole.weights)
    assert (tmp_path / "whole/weights.safetensors").read_bytes()[-1000:] == (
        tmp_path / "broken/weights.safetensors"
    ).read_bytes()[-1000:]


def test_adversary_and_network_never_share_a_gradient(
    config: DissimilarityTraining, tiny_weights: Path, tiny_config: SegmenterConfig
) -> None:
    digest = load_frozen(str(tiny_weights))[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples(domains, None, 0.5, 0)
    network = dissimilarity.DissimilarityNet(tiny_config.dissimilarity)
    objective = dissimilarity.DissimilarityObjective(network, torch.ones(2), config).train()
    losses = objective(*map(torch.stack, zip(*(samples[n] for n in range(4)), strict=True)))
    assert objective.adversary is not None and objective.assistant is not None
    losses["loss"].backward()
    assert all(p.grad is None for p in objective.adversary.parameters())
    network_gradients = {k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None}
    assert len(network_gradients) == len(list(network.parameters()))
    losses["adversary"].backward()
    assert all(p.grad is not None for p in objective.adversary.parameters())
    assert all(torch.equal(dict(network.named_parameters())[k].grad, g) for k, g in network_gradients.items())  # type: ignore[arg-type]


def test_one_batch_is_learnt_by_heart(
    config: DissimilarityTraining, tiny_weights: Path, tiny_config: SegmenterConfig
) -> None:
    digest = load_frozen(str(tiny_weights))[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples(domains, None, 0.0, 0)
    torch.manual_seed(0)
    network = dissimilarity.DissimilarityNet(tiny_config.dissimilarity)
    objective = dissimilarity.DissimilarityObjective(network, torch.tensor([1.5, 8.0]), config).train()
    batch = list(map(torch.stack, zip(*(samples[n] for n in range(4)), strict=True)))
    parameters = [*network.parameters(), *objective.assistant.parameters()]  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    first = last = None
    for step in range(80):
        objective.step = step % config.loop.steps
        last = objective(*batch)
        first = first or last
        optimizer.zero_grad()
        last["loss"].backward()
        optimizer.step()
    assert first is not None and last is not None
    assert last["cross_entropy"] < 0.25 * first["cross_entropy"]
    assert last["recall"] > 0.9


def test_batches_are_balanced_reshuffled_and_use_every_copy(config: DissimilarityTraining, tiny_weights: Path) -> None:
    digest = load_frozen(str(tiny_weights))[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples(domains, (32, 64), 0.5, 3)
    where = [samples.where(n) for n in range(24)]
    assert [d for d, _ in where] == [0, 1] * 12
    for domain in (0, 1):
        drawn = [index for d, index in where if d == domain]
        epochs = [drawn[i : i + 3] for i in range(0, 12, 3)]
        assert [sorted(epoch) for epoch in epochs] == [[0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5]]
    a, b = samples[7], samples[7]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [tuple(x.shape) for x in a] == [(3, 32, 64), (3, 32, 64), (32, 64), (3, 32, 64), (32, 64), (), ()]
    whole = {name: domains[0][0][name] for name in MAPS}
    plain = DomainSamples(domains, None, 1.0, 3)
    number = next(n for n in range(24) if plain.where(n) == (0, 0))
    assert torch.equal(plain[number][3], whole["prior"].flip(-1))  # all maps are mirrored together
    assert torch.equal(plain[number][4], whole["label"].flip(-1))
    with pytest.raises(ConfigError, match="larger than the maps"):
        DomainSamples(domains, (128, 128), 0.5, 3)


def test_a_third_domain_stands_beside_a_against_v(
    config: DissimilarityTraining, tiny_weights: Path, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    unknown = SyntheticUnknownConfig(min_area=20_000, max_share=0.6, steps=1)
    data = make_data(tmp_path / "data", scenes=3)
    wanted = PrepareConfig(data, str(tiny_weights), "synthetic_unknown", augment=AUGMENT, unknown=unknown, device="cpu")
    cache = prepare(wanted, tmp_path / "u")
    loop = dataclasses.replace(config.loop, batch=6, validate_every=0, pictures_every=0)
    three = dataclasses.replace(config, synthetic_unknown=str(cache), validation=(), loop=loop)
    assert config.domains == [config.void_class, config.anomaly_mix]
    assert three.domains == [*config.domains, str(cache)]
    digest = load_frozen(str(tiny_weights))[1]
    samples = DomainSamples([CachedDomain(Path(path), digest) for path in three.domains], None, 0.5, 0)
    batch = list(map(torch.stack, zip(*(samples[n] for n in range(6)), strict=True)))
    assert batch[5].tolist() == [0, 1, 2, 0, 1, 2]
    network = dissimilarity.DissimilarityNet(tiny_config.dissimilarity)
    objective = dissimilarity.DissimilarityObjective(network, torch.ones(2), three).train()
    losses = objective(*batch)
    as_two = objective(*batch[:5], batch[5].clamp(max=1), batch[6])
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in as_two.items()}
    assert losses["P_A"] != objective(*(part[[0, 1, 3, 4]] for part in batch))["P_A"]  # U's images are among them
    dissimilarity.train(three, tmp_path / "run")
    load_strict(AnomalySegmenter(tiny_config), load_weights(tmp_path / "run").state, "run")
    with pytest.raises(ConfigError, match="must be a multiple of 3"):
        dataclasses.replace(three, loop=dataclasses.replace(loop, batch=4))
    with pytest.raises(ConfigError, match="align two domains"):
        dataclasses.replace(three, void_class=None)


def test_class_weights_count_every_label_once(config: DissimilarityTraining, tiny_weights: Path) -> None:
    digest = load_frozen(str(tiny_weights))[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    shares = []
    for domain in domains:
        label = torch.stack([domain[i]["label"] for i in range(len(domain))])
        shares.append((label == 1).sum() / (label != 255).sum())
    f1 = float(torch.stack(shares).mean())
    assert dissimilarity.class_weights(domains).tolist() == pytest.approx(
        [1 / np.log(1.02 + 1 - f1), 1 / np.log(1.02 + f1)], rel=1e-5
    )


def test_weighted_cross_entropy_is_torchs() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 2, 5, 7), torch.tensor([0, 1, 255]).repeat(24)[:70].view(2, 5, 7)
    weights = torch.tensor([1.5330, 8.8239])  # f = (0.9, 0.1), spec appendix D
    assert torch.tensor([1 / np.log(1.92), 1 / np.log(1.12)]).float().allclose(weights, atol=1e-4)
    expected = F.cross_entropy(logits, label, weights, ignore_index=255)
    assert torch.allclose(dissimilarity.weighted_cross_entropy(logits, label, weights), expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"void_class": None}, "mdat, perturbation and cacl align two domains"),
        ({"loop": LoopConfig(batch=3)}, "must be a multiple of 2"),
        ({"crop": (30, 64)}, "multiples of 8"),
        ({"validation": (), "loop": LoopConfig(validate_every=5)}, "needs caches to judge by"),
        ({"void_class": None, "anomaly_mix": None}, "no training domain"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    change: dict[str, object], text: str, config: DissimilarityTraining
) -> None:
    with pytest.raises(ConfigError, match=text):
        dataclasses.replace(config, **change)  # type: ignore[arg-type]


def test_caches_of_another_size_are_refused(config: DissimilarityTraining, tmp_path: Path) -> None:
    assert config.dissimilarity
    larger = dataclasses.replace(config.dissimilarity, size=(128, 256))
    with pytest.raises(StaleCacheError, match="prepare with that size"):
        dissimilarity.train(dataclasses.replace(config, dissimilarity=larger), tmp_path / "run")


def test_the_encoder_starts_from_torchvisions_vgg16(config: DissimilarityTraining, tmp_path: Path) -> None:
    (tmp_path / "vgg.pth").write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="not a state dict of tensors"):
        dissimilarity.train(dataclasses.replace(config, vgg16=str(tmp_path / "vgg.pth")), tmp_path / "a")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"vgg\.pth"):  # the tiny network is no VGG16 of the published width
        dissimilarity.train(dataclasses.replace(config, vgg16=str(tmp_path / "vgg.pth")), tmp_path / "b")


def test_best_f1_threshold() -> None:
    score = np.array([0.9, 0.8, 0.3, 0.2, 0.99], np.float32)
    label = np.array([1, 1, 0, 0, 255], np.uint8)
    assert best_f1_threshold(score, label) == pytest.approx(0.8)


def test_the_commands_run_from_yaml(mgcda: Run, config: DissimilarityTraining, tmp_path: Path) -> None:
    import yaml

    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(plain))
    code, out, err = mgcda("train", "dissimilarity", "--config", tmp_path / "train.yaml", "--run", tmp_path / "run",
                           "--loop.steps", 1)  # fmt: skip
    assert (code, err) == (0, ""), err
    assert "held-out composites: entropy weight 0" in out
    code, _, err = mgcda("train", "dissimilarity", "--config", tmp_path / "train.yaml", "--run", tmp_path / "r2",
                         "--mdat.mode", "sideways")  # fmt: skip
    assert code == 2 and "sideways" in err


def test_the_other_trainings_feed_this_one(
    domain_caches: dict[str, str], tiny_weights: Path, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data")
    synthesis.train(SynthesisTraining(data, str(tiny_weights), tiny_config, AUGMENT, LOOP), tmp_path / "synthesis")
    cache = prepare(PrepareConfig(data, str(tmp_path / "synthesis"), augment=AUGMENT, device="cpu"), tmp_path / "cache")
    config = DissimilarityTraining(str(tmp_path / "synthesis"), None, str(cache), loop=LOOP)
    dissimilarity.train(config, tmp_path / "run")
    load_strict(AnomalySegmenter(tiny_config), load_weights(tmp_path / "run/weights.safetensors").state, "run")
    with pytest.raises(StaleCacheError, match="the training uses"):
        dissimilarity.train(dataclasses.replace(config, weights=str(tiny_weights)), tmp_path / "run2")
