"""Models of Hugging Face transformers in the segmentation's place: alone, in the chain, in training. No network."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
import yaml
from command_line import Run
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    MaskFormerImageProcessorPil,
)

from mgcda_core.config import ConfigError, SegmentationConfig, SegmenterConfig
from mgcda_core.inference.predictor import load
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.models.segmentation.huggingface import query_log_scores, training_configuration
from mgcda_core.weights.resolve import load_weights, save_weights

STAGES = ["stage1", "stage2", "stage3", "stage4"]
FOUR = {"depths": [1, 1, 1, 1]}
SWIN = {"model_type": "swin", **FOUR, "embed_dim": 8, "num_heads": [1] * 4, "window_size": 2, "out_features": STAGES}
VIT = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "segformer": FOUR | {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1] * 4, "decoder_hidden_size": 16},
    "upernet": {"backbone_config": SWIN, "hidden_size": 16, "auxiliary_in_channels": 32},
    "beit": VIT | {"num_hidden_layers": 4, "intermediate_size": 16, "out_indices": [1, 2, 3, 4]},
    "mask2former": {
        "backbone_config": SWIN, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32,
        "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2,
        "num_attention_heads": 2, "num_queries": 5,
    },
    "eomt": VIT | {"num_hidden_layers": 3, "num_blocks": 1, "num_queries": 5, "num_upscale_blocks": 1},
}  # fmt: skip


def save(folder: Path, kind: str, labels: int = 19) -> str:
    """A tiny random model as `save_pretrained` leaves it."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **json.loads(json.dumps(MODELS[kind])), num_labels=labels)
    queries = kind in ("mask2former", "eomt")
    auto = AutoModelForUniversalSegmentation if queries else AutoModelForSemanticSegmentation
    auto.from_config(config).save_pretrained(folder)
    return str(folder)


def chain_config(tiny: SegmenterConfig, source: str) -> SegmenterConfig:
    segmentation = SegmentationConfig(architecture="huggingface", source=source, size=(64, 128))
    return dataclasses.replace(tiny, segmentation=segmentation)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    source = save(tmp_path, kind)
    network = build_segmentation(SegmentationConfig(architecture="huggingface", source=source))
    network.load_pretrained(source)  # pyright: ignore[reportCallIssue]
    network.eval()
    x = torch.randn(2, 3, 64, 128)
    assert network(x).shape == (2, 19, 64, 128)
    assert network(x, size=(50, 70)).shape == (2, 19, 50, 70)
    assert network(x).dtype == torch.float32
    maps = network.features(x)  # pyright: ignore[reportCallIssue]
    assert all(m.ndim == 4 and m.shape[0] == 2 for m in maps)
    assert all(a.shape[-1] >= b.shape[-1] for a, b in itertools.pairwise(maps))
    (logits,) = network.training_logits(x)  # pyright: ignore[reportCallIssue]
    logits.square().mean().backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in network.parameters()) > 5


def test_patch_tokens_become_the_map_of_the_image(tmp_path: Path) -> None:
    source = save(tmp_path, "beit")
    network = build_segmentation(SegmentationConfig(architecture="huggingface", source=source)).eval()
    x = torch.zeros(1, 3, 64, 128)
    changed = x.clone()
    changed[..., 16:32, 80:96] = 3.0  # the patch in row 1, column 5
    with torch.no_grad():
        before, after = (network.model.base_model.embeddings(y)[:, 1:] for y in (x, changed))  # pyright: ignore
        cls = torch.zeros(1, 1, 16)
        maps = [network._to_map(torch.cat([cls, t], 1), x) for t in (before, after)]  # pyright: ignore[reportCallIssue]
    assert maps[0].shape == (1, 16, 4, 8)
    assert (maps[0] - maps[1]).abs().sum((0, 1)).nonzero().tolist() == [[1, 5]]


def test_queries_become_class_scores() -> None:
    # Two queries, two classes and "no object"; one pixel claimed by query 0 only, one by both, one by none.
    classes = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]]).log()
    masks = torch.tensor([[[[0.9, 0.8, 1e-9]], [[1e-9, 0.5, 1e-9]]]]).logit(eps=1e-12)
    scores = query_log_scores(classes + 3, masks)
    expected = torch.tensor([[0.63, 0.7 * 0.8 + 0.1 * 0.5, 0], [0.18, 0.2 * 0.8 + 0.3 * 0.5, 0]]).add(1e-6).log()
    torch.testing.assert_close(scores[0, :, 0], expected, atol=1e-4, rtol=1e-4)
    probability = scores.softmax(1)[0, :, 0]
    assert probability[0, 0].item() == pytest.approx(0.63 / 0.81, abs=1e-4)
    assert probability[:, 2].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(query_log_scores(classes + 3, masks), scores)


def test_the_classes_are_those_of_the_librarys_own_post_processing() -> None:
    torch.manual_seed(0)
    classes, masks = 3 * torch.randn(2, 7, 20), 3 * torch.randn(2, 7, 16, 24)
    output = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    processor: Any = MaskFormerImageProcessorPil()
    theirs = torch.stack(processor.post_process_semantic_segmentation(output))
    ours = query_log_scores(classes, masks).argmax(1)
    assert len(ours.unique()) > 3
    assert torch.equal(ours, theirs)


def test_a_weights_file_is_all_the_chain_needs(tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    source = save(tmp_path / "model", "segformer")
    config = chain_config(tiny_config, source)
    own = training_configuration(source, 19)
    config = dataclasses.replace(config, segmentation=dataclasses.replace(config.segmentation, huggingface=own))
    torch.manual_seed(1)
    chain = AnomalySegmenter(config).eval()
    image = torch.randint(0, 256, (1, 3, 90, 150), dtype=torch.uint8)
    with torch.no_grad():
        expected = chain(image)
    assert expected.shape == (1, 90, 150)
    save_weights(tmp_path / "w.safetensors", chain.state_dict(), config, "hf")
    (tmp_path / "model/config.json").unlink()
    (tmp_path / "model/model.safetensors").unlink()
    weights = load_weights(tmp_path / "w.safetensors")
    again = AnomalySegmenter(weights.config).eval()
    load_strict(again, weights.state, weights.name)
    with torch.no_grad():
        assert torch.equal(again(image), expected)
    prediction = load(tmp_path / "w.safetensors", device="cpu")(image[0].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(prediction.logits, expected[0], atol=1e-4)


@pytest.mark.parametrize("labels", [19, 5])
def test_the_command_trains_it(labels: int, tiny_config: SegmenterConfig, tmp_path: Path, mgcda: Run) -> None:
    source = save(tmp_path / "model", "segformer", labels)
    rng = np.random.default_rng(0)
    for split, folder, kind in ((s, f, k) for s in ("train", "val") for f, k in (("images", 255), ("labels", 11))):
        (tmp_path / "camvid" / split / folder).mkdir(parents=True)
        shape = (48, 96, 3) if folder == "images" else (48, 96)
        cv2.imwrite(str(tmp_path / f"camvid/{split}/{folder}/a.png"), rng.integers(0, kind, shape, np.uint8))
    config = {
        "data": {"camvid": str(tmp_path / "camvid")},
        "segmenter": json.loads(chain_config(tiny_config, source).to_json()),
        "augment": {"size": [64, 128], "least_rows": 20},
        "loop": {"steps": 2, "batch": 2, "workers": 0, "device": "cpu", "warmup": 1, "ema": 0.5},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    command = ("train", "segmentation", "--config", tmp_path / "train.yaml", "--run")
    code, out, err = mgcda(*command, tmp_path / "run")
    assert code == 0, err
    assert ("decode_head.classifier" in out) == (labels == 5)
    assert mgcda(*command, tmp_path / "untrained", "--loop.steps", 0)[0] == 0
    stored = AutoModelForSemanticSegmentation.from_pretrained(source).state_dict()
    for run, least, most in (("run", 1e-6, 0.01), ("untrained", 0.0, 0.0)):
        weights = load_weights(tmp_path / run / "weights.safetensors")
        network = build_segmentation(weights.config.segmentation)
        load_strict(network, {k.removeprefix("segmentation."): v for k, v in weights.state.items()}, run)
        key = next(k for k, v in stored.items() if v.ndim == 2)
        assert least <= (network.state_dict()[f"model.{key}"] - stored[key]).abs().max() <= most


def test_the_models_own_input_range_is_kept(tmp_path: Path) -> None:
    source = save(tmp_path, "beit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    network = build_segmentation(SegmentationConfig(architecture="huggingface", source=source)).eval()
    network.load_pretrained(source)  # pyright: ignore[reportCallIssue]
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = network._input((image - mean) / std)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(seen, (image - 0.5) / 0.25)
    assert {"scale", "shift"} <= network.state_dict().keys()
    (tmp_path / "preprocessor_config.json").write_text('{"do_flip_channel_order": true}')
    with pytest.raises(ConfigError, match="blue-green-red"):
        network.load_pretrained(source)  # pyright: ignore[reportCallIssue]


def test_what_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def build(source: str = "", text: str = "") -> None:
        build_segmentation(SegmentationConfig(architecture="huggingface", source=source, huggingface=text))

    with pytest.raises(ConfigError, match="has 5 classes, the chain needs 19"):
        build(save(tmp_path / "five", "segformer", 5))
    with pytest.raises(ConfigError, match=r"huggingface needs segmentation.source"):
        build()
    with pytest.raises(ConfigError, match=r"huggingface needs segmentation.normalise"):
        build_segmentation(SegmentationConfig(architecture="huggingface", source="x", normalise="unit"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="gives no usable config"):
        build(str(tmp_path / "empty"))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="'bert' is no semantic segmentation model"):
        training = training_configuration(str(tmp_path / "bert"), 19)
        build(text=training)
    for text in ("{", "[]", '{"model_type": "no-such-model"}', '{"model_type": "segformer", "depths": "many"}'):
        with pytest.raises(ConfigError):
            build(text=text)


def test_no_code_of_a_model_folder_or_weights_file_runs(tmp_path: Path) -> None:
    source = save(tmp_path, "segformer")
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    own = json.loads((tmp_path / "config.json").read_text())
    own["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForSemanticSegmentation": "evil.M"}
    own["attn_implementation"] = "someone/kernel"
    text = json.dumps({**own, "num_labels": 19})
    build_segmentation(SegmentationConfig(architecture="huggingface", huggingface=text))
    (tmp_path / "config.json").write_text(json.dumps({**own, "model_type": "evil", "attn_implementation": None}))
    with pytest.raises(ConfigError, match="gives no usable config"):
        build_segmentation(SegmentationConfig(architecture="huggingface", source=source))


def test_weights_written_before_these_fields_still_open() -> None:
    text = json.loads(SegmenterConfig().to_json())
    del text["segmentation"]["source"], text["segmentation"]["huggingface"]
    assert SegmenterConfig.from_json(json.dumps(text)) == SegmenterConfig()


def test_inference_alone_loads_no_transformers() -> None:
    code = (
        "import sys, mgcda_core.inference.predictor as p; p.load('lite', 'cpu', backend='torch'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "torch" in done.stdout.split()
    assert "transformers" not in done.stdout.split()


def test_uniform_where_nothing_is_claimed() -> None:
    scores = query_log_scores(torch.randn(1, 5, 20), torch.full((1, 5, 2, 2), -40.0))
    assert scores.max().item() == pytest.approx(math.log(1e-6), abs=1e-3)
