"""Import of SynBoost's published checkpoints into one weights file (spec 1.2, 1.5 to 1.7).

Every checkpoint is read with `torch.load(weights_only=True)` straight from the archive: nothing is unpacked to disk
and no code in it can run. Published licences apply to the result: the segmentation weights are non-commercial.
"""

from __future__ import annotations

import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from mgcda_core.config import PROFILES, DissimilarityConfig, SegmentationConfig, SegmenterConfig, SynthesisConfig
from mgcda_core.weights.resolve import WeightsError, save_weights

if TYPE_CHECKING:
    from torch import Tensor

FILES = {
    "segmentation": "cityscapes_best.pth",
    "generator": "latest_net_G.pth",
    "style_encoder": "latest_net_E.pth",
    "dissimilarity": "best_net_baseline_void_prior_spadedecoder_mult_3.pth",
}
"""Part of the chain -> name of its file in the archive, in any folder."""

_VGG19_CUTS = (2, 7, 12, 21, 30)  # ends of the five slices in torchvision's `features` (spec 1.6)
_LICENCE = "SynBoost's checkpoints: MIT; its DeepLabV3+ weights: NVIDIA, CC BY-NC-SA 4.0 (non-commercial)"

Check = Callable[[SegmenterConfig, Mapping[str, "Tensor"]], None]


def import_synboost(
    archive: str | Path, out: str | Path, vgg19: str | Path | None, *, check: Check | None = None
) -> str:
    """Read the published tar and write one reference weights file; returns its sha256.

    Args:
        archive: tar (plain or compressed) that holds the four files of `FILES` anywhere.
        out: .safetensors path, written at once or not at all.
        vgg19: torchvision's ImageNet weights of VGG19 (vgg19-dcbb9e9d.pth), which SynBoost does not publish.
        check: gets the configuration and the state dict before anything is written and raises ValueError if they do
            not fit; callers pass a strict load into the network, which this package may not import.

    The widths follow from the shapes, so an archive of narrow networks imports too. Raises WeightsError (one
    sentence: which file or key is missing or wrong, and the remedy), FileNotFoundError.
    """
    if vgg19 is None:
        raise WeightsError(
            "the reference chain compares VGG19 features, which SynBoost takes from torchvision: download "
            "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth and give its path as vgg19"
        )
    parts = _read_archive(Path(archive))
    perceptual = _vgg19_slices(Path(vgg19))
    config = _config(parts)
    state = {f"{part}.{key}": value for part, entries in parts.items() for key, value in entries.items()}
    state |= {f"perceptual.vgg19.{key}": value for key, value in perceptual.items()}
    if check is not None:
        check(config, state)
    metadata = {"source": f"SynBoost archive {Path(archive).name}", "licence": _LICENCE}
    return save_weights(out, state, config, "reference", metadata)


def _read_archive(path: Path) -> dict[str, dict[str, Tensor]]:
    """Part -> state dict, prefixes stripped, spectral norm folded, unread generator keys dropped."""
    from mgcda_core.weights.spectral_norm import drop_dead_generator_keys, fold_spectral_norm

    if not path.is_file():
        raise FileNotFoundError(f"no archive at {path}")
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with tarfile.open(path) as tar:
            for part, member in _members(path, tar).items():
                file = tar.extractfile(member)
                assert file is not None  # _members keeps regular files only
                parts[part] = _state_dict(file, f"{member.name} in {path}")
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile goes on with one line for every compression
        raise WeightsError(f"{path} is no complete tar archive ({reason}); download it again") from error
    try:
        parts["generator"] = fold_spectral_norm(drop_dead_generator_keys(parts["generator"]))
        parts["style_encoder"] = fold_spectral_norm(parts["style_encoder"])
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    return parts


def _members(path: Path, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The member of each part; of several with one name the one nearest the root, which SynBoost's estimator reads."""
    members = [member for member in tar.getmembers() if member.isfile()]
    found: dict[str, tarfile.TarInfo] = {}
    for part, name in FILES.items():
        same = [member for member in members if PurePosixPath(member.name).name == name]
        if same:
            found[part] = min(same, key=lambda member: (len(PurePosixPath(member.name).parts), member.name))
    missing = [name for part, name in FILES.items() if part not in found]
    if missing:
        raise WeightsError(f"{path} does not hold {', '.join(missing)}: it is not SynBoost's published model archive")
    return found


def _state_dict(file: IO[bytes] | Path, source: str) -> dict[str, Tensor]:
    """The tensors of one checkpoint: plain, under `state_dict`, and with or without a `module.` prefix."""
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{source} is damaged or holds objects other than tensors and numbers, which could run code, and is refused"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{source} is no complete PyTorch checkpoint; get it again") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{source} holds no state dict (parameter name -> tensor)")
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def _numpy_scalars() -> list[Any]:
    """What NVIDIA's training script stores beside the weights (a numpy mean IoU): numbers, nothing that runs."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # numpy moved it in 2.0; files name either place
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.float64, np.float32, np.int64, np.int32)
    return [*((scalar, name) for name in names), np.dtype, *(type(np.dtype(kind)) for kind in kinds)]


def _vgg19_slices(path: Path) -> dict[str, Tensor]:
    """torchvision's `features.N.*` up to conv5_1 as `slice{1..5}.N.*`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no VGG19 weights at {path}; get https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
        )
    slices: dict[str, Tensor] = {}
    for key, value in _state_dict(path, str(path)).items():
        part, _, rest = key.partition(".")
        index, _, leaf = rest.partition(".")
        if part == "features" and index.isdigit() and int(index) < _VGG19_CUTS[-1]:
            number = next(k for k, end in enumerate(_VGG19_CUTS, start=1) if int(index) < end)
            slices[f"slice{number}.{index}.{leaf}"] = value
    if "slice5.28.weight" not in slices:
        raise WeightsError(f"{path} is not torchvision's VGG19: it has no features.28.weight")
    return slices


def _config(parts: Mapping[str, Mapping[str, Tensor]]) -> SegmenterConfig:
    """PROFILES["reference"] with the widths and sizes that the shapes of the tensors say."""
    reference = PROFILES["reference"]
    synthesis = _synthesis(parts)
    dissimilarity = parts["dissimilarity"]
    fused, merged = (
        _shape(parts, "dissimilarity", "conv7.weight")[0],
        _shape(parts, "dissimilarity", "conv1.0.weight")[1],
    )
    height, width = synthesis.size
    return SegmenterConfig(
        segmentation=SegmentationConfig(
            architecture="deeplabv3plus",
            width=_shape(parts, "segmentation", "mod1.conv1.weight")[0],
            num_classes=_shape(parts, "segmentation", "final.6.weight")[0],
            size=(4 * height, 4 * width),  # 1024 x 2048 for the published 256 x 512 (spec 1.0)
        ),
        synthesis=synthesis,
        dissimilarity=DissimilarityConfig(
            width=_shape(parts, "dissimilarity", "vgg_encoder.layer1.0.weight")[0] / 64,
            semantic=any(key.startswith("semantic_encoder.") for key in dissimilarity),
            prior=reference.dissimilarity.prior if any(k.startswith("prior_encoder.") for k in dissimilarity) else (),
            correlation=merged == fused + 1,
            spade="decoder" if "conv2.norm1.gamma.weight" in dissimilarity else "none",
            size=synthesis.size,
        ),
        scaling=reference.scaling,
        perceptual=reference.perceptual,
        entropy_weight=reference.entropy_weight,
    )


def _synthesis(parts: Mapping[str, Mapping[str, Tensor]]) -> SynthesisConfig:
    ngf = _shape(parts, "generator", "labelenc1.0.0.weight")[0]
    rows, z_dim = _shape(parts, "generator", "fc.weight")
    latent = rows // (16 * ngf)
    height = round((latent / 2) ** 0.5)
    if latent * 16 * ngf != rows or 2 * height * height != latent:
        raise WeightsError(
            f"{FILES['generator']}: fc.weight has {rows} rows, which is not 16 x {ngf} x h x 2h; only CC-FPSE "
            "generators with an output twice as wide as high import"
        )
    return SynthesisConfig(
        ngf=ngf,
        hidden=_shape(parts, "generator", "head_0.gen_weights1.0.weight")[0],
        z_dim=z_dim,
        encoder_width=_shape(parts, "style_encoder", "layer1.0.weight")[0],
        size=(64 * height, 128 * height),
    )


def _shape(parts: Mapping[str, Mapping[str, Tensor]], part: str, key: str) -> tuple[int, ...]:
    try:
        return tuple(parts[part][key].shape)
    except KeyError:
        raise WeightsError(f"{FILES[part]} has no {key}: it is not the published {part} network") from None
