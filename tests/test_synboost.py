"""Import of the published archive, on a narrow one of its layout: names, widths, folding, and every bad archive."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickle_attack import Attack
from synboost_archive import write_archive
from torch import Tensor

from mgcda_core.config import DissimilarityConfig, SegmenterConfig, SynthesisConfig
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation.deeplabv3plus import DeepLabV3Plus
from mgcda_core.models.synthesis import Generator, StyleEncoder
from mgcda_core.weights.resolve import WeightsError, load_weights
from mgcda_core.weights.spectral_norm import DEAD_GENERATOR_KEYS
from mgcda_core.weights.synboost import import_synboost

SYNTHESIS = SynthesisConfig(ngf=4, hidden=6, z_dim=8, encoder_width=4, size=(64, 128))
DISSIMILARITY = DissimilarityConfig(width=0.0625, size=(64, 128))


def with_spectral_norm(network: torch.nn.Module, *inputs: Tensor) -> torch.nn.Module:
    """The published form: torch's old spectral-norm hook on every bias-free convolution, its u and v settled."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is None:
            torch.nn.utils.spectral_norm(module, n_power_iterations=5)
    with torch.no_grad():
        for _ in range(3):
            network(*inputs)
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    built = {
        "cityscapes_best.pth": DeepLabV3Plus(4),
        "latest_net_G.pth": with_spectral_norm(Generator(SYNTHESIS), torch.rand(2, 36, 64, 128), torch.randn(2, 8)),
        "latest_net_E.pth": with_spectral_norm(StyleEncoder(SYNTHESIS), torch.randn(2, 3, 64, 128)),
        "best_net_baseline_void_prior_spadedecoder_mult_3.pth": DissimilarityNet(DISSIMILARITY),
    }
    return {name: network.eval() for name, network in built.items()}


@pytest.fixture()
def checkpoints(networks: dict[str, torch.nn.Module]) -> dict[str, Any]:
    """File name -> what the published file of that name holds, on narrow networks."""
    states = {name: dict(network.state_dict()) for name, network in networks.items()}
    segmentation = {f"module.{key}": value for key, value in states["cityscapes_best.pth"].items()}
    dead = {key: torch.ones(3) for key in DEAD_GENERATOR_KEYS}
    return {
        "cityscapes_best.pth": {"state_dict": segmentation, "epoch": 174, "mean_iu": np.float64(0.81)},
        "latest_net_G.pth": states["latest_net_G.pth"] | dead,
        "latest_net_E.pth": states["latest_net_E.pth"],
        "best_net_baseline_void_prior_spadedecoder_mult_3.pth": states[
            "best_net_baseline_void_prior_spadedecoder_mult_3.pth"
        ],
    }


def torchvision_vgg19(path: Path, width: int) -> Path:
    """A file with torchvision's names of VGG19's convolutions (64 = its shapes), random values, and a classifier."""
    state: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(2, 2)}
    generator, index, inputs = torch.Generator().manual_seed(1), 0, 3
    for factor, convolutions in ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4)):
        for _ in range(convolutions):
            outputs, scale = factor * width, (2 / (9 * inputs)) ** 0.5
            state[f"features.{index}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=generator)
            state[f"features.{index}.bias"] = torch.zeros(outputs)
            index, inputs = index + 2, outputs
        index += 1
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow VGG19: enough wherever its network is not run."""
    return torchvision_vgg19(tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth", 2)


def strict(config: SegmenterConfig, state: Mapping[str, Tensor]) -> None:
    load_strict(AnomalySegmenter(config), state, "the archive")


def assert_refused(archive: Path, vgg19: Path | None, *words: str) -> None:
    out = archive.parent / "out.safetensors"
    with pytest.raises((WeightsError, ValueError, FileNotFoundError)) as error:
        import_synboost(archive, out, vgg19, check=strict)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_an_imported_archive_runs_through_the_whole_chain(
    tmp_path: Path, checkpoints: dict[str, Any], networks: dict[str, torch.nn.Module]
):
    vgg19 = torchvision_vgg19(tmp_path / "vgg19-dcbb9e9d.pth", 64)
    archive, out = write_archive(tmp_path / "models.tar", checkpoints), tmp_path / "reference.safetensors"
    sha256 = import_synboost(archive, out, vgg19, check=strict)
    weights = load_weights(out)
    assert weights.sha256 == sha256
    assert weights.name == "reference"
    assert "non-commercial" in weights.metadata["licence"]
    assert weights.config.synthesis == SYNTHESIS
    assert weights.config.dissimilarity == DISSIMILARITY
    assert (weights.config.segmentation.width, weights.config.segmentation.size) == (4, (256, 512))
    assert (weights.config.scaling, weights.config.perceptual, weights.config.entropy_weight) == (
        "reference", "vgg19", 0.25,
    )  # fmt: skip

    segmenter = AnomalySegmenter(weights.config).eval()
    load_strict(segmenter, weights.state, str(out))
    image = torch.randint(0, 256, (1, 3, 90, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        stages = segmenter.stages(image)
        logits = segmenter(image)
        photo = torch.randn(1, 3, 64, 128)
        pairs = [
            (stages.generated, networks["latest_net_G.pth"](stages.maps36, stages.mu)),
            (segmenter.style_encoder(photo)[0], networks["latest_net_E.pth"](photo)[0]),
            (segmenter.segmentation(photo), networks["cityscapes_best.pth"](photo)),
        ]
    assert logits.shape == (1, 90, 160)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    # Folded, renamed and stored, the networks still are the published ones.
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torchvision = torch.load(vgg19, weights_only=True)
    for key, value in segmenter.perceptual.vgg19.state_dict().items():
        assert torch.equal(value, torchvision[f"features.{key.partition('.')[2]}"])


@pytest.mark.parametrize(("mode", "new_format"), [("w", False), ("w:gz", True)])
def test_old_checkpoint_format_and_compressed_tar_give_the_same_tensors(
    tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, mode: str, new_format: bool
):
    plain = write_archive(tmp_path / "plain.tar", checkpoints)
    other = write_archive(tmp_path / "other.tar", checkpoints, mode, new_format=new_format)
    import_synboost(plain, tmp_path / "a.safetensors", vgg19)
    import_synboost(other, tmp_path / "b.safetensors", vgg19)
    a, b = (load_weights(tmp_path / f"{name}.safetensors").state for name in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_published_sizes_give_the_reference_profile(checkpoints: dict[str, Any]):
    """Shapes alone decide; full-size tensors on the meta device stand for the published files."""
    from mgcda_core.config import PROFILES
    from mgcda_core.weights.synboost import _config

    reference = PROFILES["reference"]
    with torch.device("meta"):
        parts = {
            "segmentation": DeepLabV3Plus().state_dict(),
            "generator": Generator(reference.synthesis).state_dict(),
            "style_encoder": StyleEncoder(reference.synthesis).state_dict(),
            "dissimilarity": DissimilarityNet(reference.dissimilarity).state_dict(),
        }
    assert _config(parts) == reference


def test_the_file_nearest_the_root_wins(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path):
    deeper = {"models/image-segmentation/old/cityscapes_best.pth": b"not this one"}
    archive = write_archive(tmp_path / "models.tar", deeper | checkpoints)
    import_synboost(archive, tmp_path / "out.safetensors", vgg19)


def test_a_member_that_points_outside_is_never_unpacked(
    tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, monkeypatch: pytest.MonkeyPatch
):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    archive = write_archive(inside / "models.tar", {"../../evil.txt": b"x"} | checkpoints)
    import_synboost(archive, inside / "out.safetensors", vgg19)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "models.tar", "out.safetensors"]


def test_missing_files_are_named_at_once(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path):
    del checkpoints["latest_net_E.pth"], checkpoints["cityscapes_best.pth"]
    archive = write_archive(tmp_path / "models.tar", checkpoints)
    assert_refused(archive, vgg19, str(archive), "cityscapes_best.pth", "latest_net_E.pth")
    assert_refused(tmp_path / "nowhere.tar", vgg19, "nowhere.tar")


def test_a_link_is_no_checkpoint(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path):
    del checkpoints["latest_net_E.pth"]
    archive = write_archive(tmp_path / "models.tar", checkpoints)
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("models/latest_net_E.pth")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert_refused(archive, vgg19, "latest_net_E.pth")


def test_every_wrong_key_is_named(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path):
    state = checkpoints["cityscapes_best.pth"]["state_dict"]
    del state["module.mod4.block2.convs.conv1.weight"]
    state["module.extra.weight"] = torch.zeros(1)
    checkpoints["latest_net_G.pth"]["conv_img.bias"] = torch.zeros(4)
    archive = write_archive(tmp_path / "models.tar", checkpoints)
    assert_refused(
        archive, vgg19, "segmentation.mod4.block2.convs.conv1.weight", "segmentation.extra.weight", "generator.conv_img"
    )


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("latest_net_G.pth", "labelenc1.0.0.weight_u", ["labelenc1.0.0.weight_u", "incomplete"]),
        ("latest_net_G.pth", "fc.weight", ["latest_net_G.pth", "fc.weight"]),
        ("latest_net_E.pth", "layer1.0.weight_orig", ["layer1.0.weight_orig"]),
        (
            "best_net_baseline_void_prior_spadedecoder_mult_3.pth",
            "conv1.0.weight",
            ["best_net_baseline_void_prior_spadedecoder_mult_3.pth", "conv1.0.weight"],
        ),
    ],
)
def test_a_key_the_widths_need_is_named(
    tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, name: str, key: str, words: list[str]
):
    del checkpoints[name][key]
    assert_refused(write_archive(tmp_path / "models.tar", checkpoints), vgg19, *words)


def test_a_generator_of_another_aspect_is_refused(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path):
    checkpoints["latest_net_G.pth"]["fc.weight"] = torch.zeros(16 * 4 * 3, 8)
    assert_refused(write_archive(tmp_path / "models.tar", checkpoints), vgg19, "192 rows", "twice as wide")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_checkpoint_with_code_is_refused(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, new_format: bool):
    marker = tmp_path / "ran"
    checkpoints["latest_net_E.pth"]["extra"] = Attack(marker)
    archive = write_archive(tmp_path / "models.tar", checkpoints, new_format=new_format)
    assert_refused(archive, vgg19, "latest_net_E.pth", "refused")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04" + b"\0" * 40])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, content: bytes):
    checkpoints["latest_net_E.pth"] = content
    assert_refused(write_archive(tmp_path / "models.tar", checkpoints), vgg19, "latest_net_E.pth", "models.tar")


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"a": 3}}, torch.zeros(2)])
def test_a_checkpoint_without_a_state_dict_is_named(
    tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, content: Any
):
    checkpoints["latest_net_E.pth"] = content
    assert_refused(write_archive(tmp_path / "models.tar", checkpoints), vgg19, "latest_net_E.pth", "no state dict")


@pytest.mark.parametrize(("mode", "kept"), [("w", 0.6), ("w:gz", 0.6), ("w", 0.0)])
def test_a_truncated_archive_is_refused(
    tmp_path: Path, checkpoints: dict[str, Any], vgg19: Path, mode: str, kept: float
):
    archive = write_archive(tmp_path / "models.tar", checkpoints, mode)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * kept)])
    assert_refused(archive, vgg19, "models.tar", "download it again")


def test_vgg19_is_needed_and_checked(tmp_path: Path, checkpoints: dict[str, Any]):
    archive = write_archive(tmp_path / "models.tar", checkpoints)
    assert_refused(archive, None, "torchvision", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth")
    assert_refused(archive, tmp_path / "none.pth", "none.pth", "vgg19-dcbb9e9d.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg11.pth")
    assert_refused(archive, tmp_path / "vgg11.pth", "vgg11.pth", "features.28.weight")
