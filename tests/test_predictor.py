"""Predictor, TorchBackend and the public API: plumbing on a fake backend, the chain on tiny weights."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import mgcda_core
from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.inference.backend import Backend, open_backend
from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.torch_backend import TorchBackend, pick_device
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.weights.resolve import Weights, load_weights, save_weights


@dataclass
class Brightness:
    """A backend without a network: the logit is the red channel, -2 .. 2."""

    name: str = "brightness"
    device: str = "cpu"
    sha256: str = "0" * 64
    min_size: tuple[int, int] = (2, 2)
    max_size: tuple[int, int] = (4096, 4096)
    max_batch: int = 8
    config: SegmenterConfig = field(default_factory=lambda: SegmenterConfig(threshold=0.7))
    bias: float = 0.0

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return (image[..., 0] / np.float32(63.75) - 2 + self.bias).astype(np.float32), None

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return self.run(images)  # the colours are the last axis either way


def test_prediction_carries_threshold_and_time() -> None:
    backend: Backend = Brightness()
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:, 0] = 255
    prediction = Predictor(backend)(image)
    assert prediction.threshold == 0.7  # the weights' own
    np.testing.assert_array_equal(prediction.mask, image[..., 0] == 255)
    assert prediction.timings_ms["inference"] >= 0
    assert prediction.score is prediction.score  # computed once
    assert not Predictor(backend, threshold=0.99)(image).mask.any()


def test_threshold_may_change_between_images_within_its_range() -> None:
    predictor = Predictor(Brightness())
    predictor.threshold = 0.0
    assert predictor(np.zeros((2, 2, 3), np.uint8)).mask.all()
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="must lie in"):
            predictor.threshold = value
    assert predictor.threshold == 0.0


@pytest.mark.parametrize("scale", ["input", "network"])
@pytest.mark.parametrize("size", [None, (20, 30)])
def test_what_the_backend_gets_to_see_is_known_before(
    scale: Literal["input", "network"], size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, seen = Brightness(), []
    monkeypatch.setattr(backend, "run", lambda image: seen.append(image.shape[:2]) or Brightness().run(image))
    predictor = Predictor(backend, crop_top=0.4)
    predictor.scale, predictor.size = scale, size
    predictor(np.zeros((40, 60, 3), np.uint8))
    assert seen == [predictor.seen_size((40, 60))]


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((0, 0, 3), np.uint8), "0x0"),
        (np.zeros((1, 1, 3), np.uint8), "1x1"),
        (np.zeros((1, 50, 3), np.uint8), "1x50"),
        (np.zeros((8, 8), np.uint8), "[8, 8]"),
        (np.zeros((8, 8, 4), np.uint8), "[8, 8, 4]"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        ([[1, 2, 3]], "list"),
    ],
)
def test_images_of_another_kind_are_refused(image: np.ndarray, named: str) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\] RGB of at least 2x2") as caught:
        Predictor(Brightness())(image)
    assert named in str(caught.value)


def test_output_that_is_not_finite_is_an_error_not_a_clear_road() -> None:
    with pytest.raises(RuntimeError, match="not finite"):
        Predictor(Brightness(bias=float("nan")))(np.zeros((4, 4, 3), np.uint8))


def test_load_predicts_the_chain_at_any_size(tiny_weights: Path, tiny_config: SegmenterConfig) -> None:
    predictor = mgcda_core.load(tiny_weights, device="cpu")
    network = AnomalySegmenter(tiny_config).eval()
    network.load_state_dict(load_weights(tiny_weights).state)
    rng = np.random.default_rng(0)
    for height, width in ((2, 2), (37, 53), (64, 128), (90, 160)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        prediction = predictor(image)
        assert prediction.logits.shape == (height, width)
        assert prediction.logits.dtype == np.float32
        assert prediction.segmentation is not None
        assert prediction.segmentation.shape == (height, width)
        assert prediction.segmentation.max() < 19
        with torch.inference_mode():
            expected = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
        np.testing.assert_allclose(prediction.logits, expected, rtol=1e-3, atol=1e-4)


def test_read_only_and_flipped_images_give_the_same(tiny_weights: Path, frames: list[np.ndarray]) -> None:
    predictor = mgcda_core.load(tiny_weights, device="cpu")
    expected = predictor(frames[0]).logits
    read_only = np.frombuffer(frames[0].tobytes(), np.uint8).reshape(frames[0].shape)
    negative_strides = np.ascontiguousarray(frames[0][..., ::-1])[..., ::-1]
    for image in (read_only, negative_strides):
        np.testing.assert_array_equal(predictor(image).logits, expected)


def test_threads_may_share_a_predictor_on_the_cpu(tiny_weights: Path, frames: list[np.ndarray]) -> None:
    predictor = mgcda_core.load(tiny_weights, device="cpu")
    expected = [predictor(frame).logits for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for number, prediction in enumerate(pool.map(predictor, frames * 5)):
            np.testing.assert_allclose(prediction.logits, expected[number % len(frames)], rtol=0, atol=1e-5)


def test_segmentation_logits_are_those_of_the_chain(tiny_weights: Path, frames: list[np.ndarray]) -> None:
    backend = open_backend(tiny_weights, "cpu")
    assert isinstance(backend, TorchBackend)
    logits = backend.segmentation_logits(frames[0])
    assert logits.shape[:2] == (1, 19)
    batch = torch.from_numpy(frames[0]).permute(2, 0, 1)[None]
    torch.testing.assert_close(logits, backend.model.segmentation_logits(batch))


def test_weights_that_do_not_fit_are_listed_in_one_error(tiny_weights: Path, tmp_path: Path) -> None:
    weights = load_weights(tiny_weights)
    state = dict(weights.state)
    removed, changed = sorted(k for k in state if k.endswith("conv.weight") or k.endswith(".weight"))[:2]
    del state[removed]
    state[changed] = torch.zeros(1, 2, 3)
    state["extra.weight"] = torch.zeros(1)
    path = tmp_path / "wrong.safetensors"
    save_weights(path, state, weights.config, "wrong", {})
    with pytest.raises(ValueError, match="wrong") as caught:
        mgcda_core.load(path)
    for key in (removed, changed, "extra.weight"):
        assert key in str(caught.value)


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda or cuda:N"):
        pick_device("gpu0")
    with pytest.raises(ValueError, match="cuda:99 is not there"):
        pick_device("cuda:99")
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_weights_checksum_is_passed_on(tiny_weights: Path) -> None:
    weights: Weights = load_weights(tiny_weights)
    assert TorchBackend(weights, "cpu").sha256 == weights.sha256


def modules_after(statement: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules, sep=chr(10))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {line.split(".")[0] for line in run.stdout.splitlines()}


def test_the_runtime_half_imports_nothing_of_training_export_or_bags() -> None:
    heavy = {"lightning_fabric", "matplotlib", "onnx", "onnxruntime", "rosbags", "tensorrt", "jsonargparse", "rclpy"}
    loaded = modules_after("import mgcda_core.inference.predictor, mgcda_core.inference.torch_backend")
    assert "torch" in loaded
    assert not loaded & heavy


def test_importing_the_package_is_light() -> None:
    assert not modules_after("import mgcda_core, mgcda_core.cli") & {"torch", "cv2", "jsonargparse"}


def test_the_public_api() -> None:
    assert mgcda_core.Prediction.__name__ == "Prediction"
    assert mgcda_core.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mgcda_core.nothing  # noqa: B018
    setup = (Path(__file__).parents[1] / "setup.py").read_text()
    assert re.findall(r'version="(.*?)"', setup) == [mgcda_core.__version__]


def test_a_batch_is_the_images_one_by_one(tiny_weights: Path) -> None:
    predictor = mgcda_core.load(tiny_weights, "cpu", crop_top=0.25)
    images = list(np.random.default_rng(3).integers(0, 256, (3, 40, 60, 3), np.uint8))
    for image, together in zip(images, predictor.batch(images), strict=True):
        alone = predictor(image)
        np.testing.assert_allclose(together.logits, alone.logits, atol=1e-4)
        assert together.segmentation is not None and alone.segmentation is not None
        assert (together.segmentation == alone.segmentation).mean() > 0.99
    with pytest.raises(ValueError, match="differ in size"):
        predictor.batch([images[0], images[1][:30]])
    for count in (0, 9):
        with pytest.raises(ValueError, match=f"^{count} images at a time; brightness takes 1 to 8$"):
            Predictor(Brightness()).batch([images[0]] * count)


def test_size_is_what_the_backend_sees_and_the_answer_is_as_large_as_the_image() -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(Brightness):
        def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            seen.append(image.shape)
            return super().run(image)[0], image[..., 1]

    predictor = Predictor(Watched())
    predictor.size = (20, 30)
    image = np.zeros((40, 90, 3), np.uint8)
    image[:, 45:] = 255
    prediction = predictor(image)
    assert seen == [(20, 30, 3)]
    assert prediction.logits.shape == (40, 90)
    np.testing.assert_array_equal(prediction.mask[:, [0, 40, 50, 89]], [[False, False, True, True]] * 40)
    assert prediction.segmentation is not None
    np.testing.assert_array_equal(prediction.segmentation, image[..., 0])
    predictor.crop_top = 0.5
    assert predictor(image).score[:18].max() < 1e-30
    assert seen[1] == (10, 30, 3)


def test_at_the_networks_scale_the_answer_is_as_large_as_the_network_works() -> None:
    predictor = Predictor(Brightness())
    predictor.scale = "network"
    assert predictor(np.zeros((40, 90, 3), np.uint8)).logits.shape == predictor.config.segmentation.size
    predictor.size = (20, 30)
    assert predictor(np.zeros((40, 90, 3), np.uint8)).logits.shape == (20, 30)
