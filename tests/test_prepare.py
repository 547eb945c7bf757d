"""`mgcda prepare`: what a cache holds, and when it is made again, gone on with, or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_data import AUGMENT, make_data

from mgcda_core.config import AnomalyMixConfig, DataConfig, PrepareConfig, SyntheticUnknownConfig, VoidClassConfig
from mgcda_core.data import anomaly_mix, augment
from mgcda_core.data.sample import DataError
from mgcda_core.training.cache import CachedDomain, Manifest, StaleCacheError, network_inputs, shard_path
from mgcda_core.training.domains import Domain
from mgcda_core.training.prepare import load_frozen, prepare
from mgcda_core.training.scenes import load_objects, scene_sets
from mgcda_core.weights.resolve import load_weights, save_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return make_data(tmp_path_factory.mktemp("data"), scenes=3)


@pytest.fixture
def config(data: DataConfig, tiny_weights: Path) -> PrepareConfig:
    return PrepareConfig(data, str(tiny_weights), copies=2, augment=AUGMENT, shard=4, device="cpu",
                         mix=AnomalyMixConfig(objects=(1, 2)))  # fmt: skip


def _bytes(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("shard-*"))}


def test_a_sample_is_what_the_frozen_networks_say(config: PrepareConfig, tmp_path: Path) -> None:
    cache = prepare(config, tmp_path / "a")
    chain, digest = load_frozen(config.weights)
    domain, cached = Domain(config), CachedDomain(cache, digest)
    assert len(cached) == len(domain) == 6
    for number in (0, 5):
        made, maps = domain[number], cached[number]
        with torch.inference_mode():
            stages = chain.eval().stages(torch.from_numpy(made.image).permute(2, 0, 1)[None])
        assert torch.allclose(maps["image"].float() / 255, stages.image[0], atol=0.51 / 255)
        assert torch.allclose(maps["synthesis"].float() / 255, stages.synthesis[0], atol=0.6 / 255)
        assert torch.allclose(maps["prior"].float(), stages.prior[0], atol=1e-3)
        assert (maps["semantic"] == stages.semantic[0].argmax(0)).float().mean() > 0.999
        assert set(np.unique(maps["label"].numpy())) <= {0, 1, 255}
        assert np.array_equal(maps["label"].numpy(), made.label)
    inputs = network_inputs(
        chain.dissimilarity, **{k: maps[k][None] for k in ("image", "synthesis", "semantic", "prior")}
    )
    assert [tuple(x.shape) for x in inputs] == [(1, c, 64, 128) for c in (3, 3, 19, 3)]


def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(config: PrepareConfig, tmp_path: Path) -> None:
    whole = _bytes(prepare(config, tmp_path / "whole"))
    broken = prepare(config, tmp_path / "broken")
    shard_path(broken, 1).unlink()
    (broken / ".shard-00001.safetensors.77.part").write_bytes(b"half")
    _, digest = load_frozen(config.weights)
    with pytest.raises(StaleCacheError, match="lacks 1 of 2 shards"):
        CachedDomain(broken, digest)
    untouched = shard_path(broken, 0).stat().st_mtime_ns
    prepare(config, broken)
    assert shard_path(broken, 0).stat().st_mtime_ns == untouched
    assert _bytes(broken) == whole


def test_processes_share_the_shards(config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(config, shard=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, made in (("1", {1}), ("0", {0, 1, 2})):
        monkeypatch.setenv("RANK", rank)
        cache = prepare(config, tmp_path / "shared")
        assert {int(p.stem.split("-")[1]) for p in cache.glob("shard-*")} == made
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert _bytes(tmp_path / "shared") == _bytes(prepare(config, tmp_path / "alone"))


def test_other_weights_or_settings_are_refused(config: PrepareConfig, tiny_weights: Path, tmp_path: Path) -> None:
    cache = prepare(config, tmp_path / "a")
    with pytest.raises(StaleCacheError, match="made with another mix"):
        prepare(dataclasses.replace(config, mix=AnomalyMixConfig(objects=(2, 2))), cache)
    unused = VoidClassConfig(min_area=7)
    prepare(dataclasses.replace(config, device="auto", void=unused), cache)
    loaded = load_weights(tiny_weights)
    state = dict(loaded.state)
    state["dissimilarity.conv11.bias"] = state["dissimilarity.conv11.bias"] + 1
    save_weights(tmp_path / "trained.safetensors", state, loaded.config, "trained")
    prepare(dataclasses.replace(config, weights=str(tmp_path / "trained.safetensors")), cache)
    chain = dataclasses.replace(loaded.config, scaling="reference")
    save_weights(tmp_path / "rescaled.safetensors", state, chain, "rescaled")
    assert load_frozen(str(tmp_path / "rescaled.safetensors"))[1] != load_frozen(str(tiny_weights))[1]
    assert load_frozen(str(tmp_path / "trained.safetensors"))[1] == load_frozen(str(tiny_weights))[1]
    state["generator.fc.bias"] = state["generator.fc.bias"] + 1
    save_weights(tmp_path / "other.safetensors", state, loaded.config, "other")
    with pytest.raises(StaleCacheError, match="made by the weights"):
        prepare(dataclasses.replace(config, weights=str(tmp_path / "other.safetensors")), cache)
    with pytest.raises(StaleCacheError, match="the training uses"):
        CachedDomain(cache, load_frozen(str(tmp_path / "other.safetensors"))[1])


def test_a_damaged_cache_is_named(config: PrepareConfig, tmp_path: Path) -> None:
    cache = prepare(config, tmp_path / "a")
    _, digest = load_frozen(config.weights)
    shard_path(cache, 1).write_bytes(b"\x10\0\0\0\0\0\0\0{not json}")
    with pytest.raises(DataError, match=r"shard-00001\.safetensors is damaged"):
        CachedDomain(cache, digest)
    (cache / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="is not a manifest of this version"):
        prepare(config, cache)
    with pytest.raises(StaleCacheError, match="holds no cache"):
        CachedDomain(tmp_path / "none", digest)


def test_a_composite_is_made_again_from_its_provenance(config: PrepareConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, mix=dataclasses.replace(config.mix, known=0.0))
    _, digest = load_frozen(config.weights)
    cached = CachedDomain(prepare(config, tmp_path / "a"), digest)
    facts = json.loads(json.dumps(cached.provenance[3]))
    (scenes,) = scene_sets(config.data, "train")
    scene = next(scenes[i] for i in range(len(scenes)) if scenes[i].name == facts["scene"])
    window = augment.Window(**facts["window"])
    objects = {o.name: o for o in load_objects(config.data, "train")}
    train_ids = np.array([10, 2, 5, 0, 1, 8, 6, 3, 13, 11, 12, 255], np.uint8)[scene.label.clip(max=11)]
    again = anomaly_mix.replay(window.cut(scene.image), window.cut(train_ids), facts, objects, {})
    image, label = augment.resize(np.ascontiguousarray(again.image), again.label, AUGMENT.size)
    image = augment.photometric(image, AUGMENT, np.random.default_rng(facts["photometry_seed"]))
    made = Domain(config)[3]
    assert np.array_equal(image, made.image)
    assert np.array_equal(label, made.label)


def test_void_class_takes_the_void_box(data: DataConfig, config: PrepareConfig) -> None:
    def domain(**void: object) -> Domain:
        return Domain(dataclasses.replace(config, domain="void_class", copies=4, void=VoidClassConfig(**void)))  # type: ignore[arg-type]

    domain_v = domain(min_area=30_000)  # of 1024 x 2048: the box has 240 of the 72 x 144 pixels, 48,545 of these
    assert len(domain_v) == 12
    for number in range(len(domain_v)):
        made = domain_v[number]
        assert (made.label == 1).any()
        assert all(region["area"] == 240 for region in made.provenance["regions"] if region["box"][1] > 4)
    assert len(domain(min_area=30_000, require_positive=False)) == 12
    with pytest.raises(ValueError, match="no train scene is left"):
        domain(min_area=200_000)
    assert domain(semantics="gt+pred_in_void")[0].semantics is not None
    assert domain_v[0].semantics is None


def test_validation_takes_other_scenes_and_objects(config: PrepareConfig) -> None:
    train, val = Domain(config), Domain(dataclasses.replace(config, split="val"))
    assert {p["scene"] for p in (train[n].provenance for n in range(6))}.isdisjoint(
        p["scene"] for p in (val[n].provenance for n in range(6))
    )
    assert {o.name for o in train.objects}.isdisjoint(o.name for o in val.objects)


def test_drawn_scenes_take_part_in_anomaly_mix(data: DataConfig, config: PrepareConfig) -> None:
    drawn = dataclasses.replace(data, camvid=None, rendered=2)
    domain = Domain(dataclasses.replace(config, data=drawn))
    assert len(domain) == 4
    assert [domain[n].provenance["scene"] for n in range(4)] == ["rendered/0"] * 2 + ["rendered/1"] * 2
    held_out = Domain(dataclasses.replace(config, data=drawn, split="val", limit=1))
    assert held_out[0].provenance["scene"] == "rendered/900000"


def test_void_of_train_ids_is_never_an_anomaly(data: DataConfig, config: PrepareConfig, tmp_path: Path) -> None:
    """255 there is the ego vehicle, the border and the rest alike (spec 3.2: 1, 2, 3 and 6 never become 1)."""
    assert data.camvid
    for folder, name in (("images", "images"), ("masks", "labels")):
        (tmp_path / folder).mkdir()
        for path in (Path(data.camvid) / "train" / name).iterdir():
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    only = DataConfig(cityscapes_train_ids=str(tmp_path))
    with pytest.raises(ValueError, match="of 3 labelled ones none has a void region"):
        Domain(dataclasses.replace(config, data=only, domain="void_class", void=VoidClassConfig(min_area=0)))
    with pytest.raises(ValueError, match="swap_known needs instance ids"):
        Domain(dataclasses.replace(config, domain="void_class", void=VoidClassConfig(swap_known=True)))
    with pytest.raises(ValueError, match="shard is 0"):
        dataclasses.replace(config, shard=0)


def test_the_regions_of_synthetic_unknown_are_less_sure_and_the_rest_is_the_scene(
    config: PrepareConfig, tmp_path: Path
) -> None:
    unknown = SyntheticUnknownConfig(min_area=20_000, max_share=0.6, steps=4, step=2, budget=6)
    config = dataclasses.replace(config, domain="synthetic_unknown", unknown=unknown)
    cache = prepare(config, tmp_path / "u")
    chain, digest = load_frozen(config.weights)
    domain, cached = Domain(config), CachedDomain(cache, digest)
    assert len(cached) == len(domain) == 6 and not domain.objects
    for number in range(3):
        made, maps = domain[number], cached[number]
        moved = maps["image"].int() - torch.from_numpy(made.image).permute(2, 0, 1).int()
        region = torch.from_numpy(made.label == 1)
        assert torch.equal(maps["label"], torch.from_numpy(made.label))
        assert region.any() and made.provenance["region"] > 0
        assert not moved[:, ~region].any()
        assert moved.abs().max() == 6
        with torch.inference_mode():
            images = torch.stack([torch.from_numpy(made.image).permute(2, 0, 1), maps["image"]])
            stages = chain.eval().stages(images)
        confidence = stages.segmentation_logits.softmax(1).amax(1)[:, region].mean(1)
        assert confidence[1] < confidence[0] - 0.01
        assert torch.allclose(maps["prior"].float(), stages.prior[1], atol=1e-3)  # of the changed picture
        assert torch.allclose(maps["synthesis"].float() / 255, stages.synthesis[1], atol=0.6 / 255)
    again = dataclasses.replace(config, mix=AnomalyMixConfig(objects=(2, 2)))
    shard_path(cache, 0).rename(tmp_path / "first")
    prepare(again, cache)  # what other domains read is nothing to it
    assert shard_path(cache, 0).read_bytes() == (tmp_path / "first").read_bytes()
    with pytest.raises(StaleCacheError, match="made with another unknown"):
        prepare(dataclasses.replace(config, unknown=dataclasses.replace(unknown, budget=7)), cache)


def test_caches_from_before_later_fields_and_domains_stay_valid(config: PrepareConfig) -> None:
    sums = {"anomaly_mix": "72050a6ae7e77533", "void_class": "d415a54c61a7fbd2"}  # of version 1e4d052
    for domain, known in sums.items():
        made = PrepareConfig(DataConfig(camvid="x"), "lite", domain)  # type: ignore[arg-type]
        assert Manifest.of(made, "0", 6).config_sha256.startswith(known)
    other = dataclasses.replace(config, unknown=SyntheticUnknownConfig(budget=3))
    assert Manifest.of(other, "0", 6) == Manifest.of(config, "0", 6)
    added = dataclasses.replace(config, data=dataclasses.replace(config.data, gta5="y"))
    assert Manifest.of(added, "0", 6) != Manifest.of(config, "0", 6)
