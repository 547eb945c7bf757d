"""The reference chain composed as it was published: what `mgcda bench --against published` measures ours beside.

Spec section 1 step by step, in float32: every map goes through the host as an 8-bit picture between the networks
(Pillow and numpy), the five encoder passes run one by one (VGG16 and VGG19 over image and synthesis, semantics), the
dynamic convolutions unfold their input, memory is NCHW, and batch norms stay apart from their convolutions. The
weights are the same, with spectral norms folded (the published code divides by them anew for every frame, which
would only make it slower). Own code after the description; for measurements and tests alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mgcda_core.config import ConfigError, DissimilarityConfig, SegmenterConfig
from mgcda_core.inference.encodings import MAX_SIDE, MIN_SIDE
from mgcda_core.inference.torch_backend import pick_device
from mgcda_core.labels import NUM_LABEL_IDS, TRAIN_TO_LABEL_ID
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.weights.resolve import Weights

NEAREST, BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_SLOPE = 0.2


class PublishedChain:
    """The published composition of a chain's stages; implements `inference.backend.Backend`.

    Raises ConfigError for a chain whose scaling is not `reference`: the published steps are not its arithmetic.
    """

    def __init__(self, weights: Weights, device: str = "auto") -> None:
        config, plain = weights.config, DissimilarityConfig()
        published = replace(config.dissimilarity, width=plain.width, size=plain.size) == plain
        if (config.scaling, config.perceptual, config.synthesis.detail) != ("reference", "vgg19", 1) or not published:
            raise ConfigError(
                f"{weights.name} is no chain of the published kind (scaling reference, perceptual vgg19, its comparing "
                "network): take random:reference or imported weights to measure against published"
            )
        self.min_size, self.max_size = (MIN_SIDE, MIN_SIDE), (MAX_SIDE, MAX_SIDE)
        self.max_batch = 64
        self.name = f"published {weights.name}"
        self.config: SegmenterConfig = config
        self.sha256 = weights.sha256
        self._device = pick_device(device)
        self.model = AnomalySegmenter(config)
        load_strict(self.model, weights.state, weights.name)
        self.model.eval().requires_grad_(False).to(self._device)

    @property
    def device(self) -> str:
        """`cpu`, or the GPU's number and name."""
        gpu = self._device.type == "cuda"
        return f"{self._device} {torch.cuda.get_device_name(self._device)}" if gpu else str(self._device)

    @torch.no_grad()
    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] RGB -> (anomaly logits float32 [H, W], train ids uint8 [H, W]), the chain's own answers."""
        photo = self.resize(image)
        logits = self.segment(photo)
        labels, entropy, distance = self.uncertainty(logits)
        synthesis = self.synthesise(photo, labels)
        perceptual = self.difference(photo, synthesis)
        score = self.compare(photo, synthesis, labels, (entropy, perceptual, distance))
        return self.enlarge(score, labels, (image.shape[0], image.shape[1]))

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, H, W, 3] RGB -> (logits float32 [B, H, W], train ids uint8 [B, H, W]): one after the other."""
        logits, train_ids = zip(*map(self.run, images), strict=True)
        return np.stack(logits), np.stack(train_ids)

    def resize(self, image: np.ndarray) -> Image.Image:
        """The photo at the segmentation's working size."""
        return _resized(Image.fromarray(image), self.config.segmentation.size, BICUBIC)

    def segment(self, photo: Image.Image) -> Tensor:
        """Logits [1, 19, h, w] at the working size."""
        x = _tensor(photo)
        return self.model.segmentation(self._on_device(x if self._unit() else _normalised(x)))

    def uncertainty(self, logits: Tensor) -> tuple[Image.Image, Image.Image, Image.Image]:
        """Train ids, entropy and distance as 8-bit pictures at the working size."""
        probability = F.softmax(logits, 1)
        labels = np.argmax(logits.cpu().numpy()[0], 0).astype(np.uint8)
        # xlogy: the published p * log p loses the map where a probability underflows to 0.
        entropy = -torch.special.xlogy(probability, probability).sum(1)
        best = torch.topk(probability, 2, 1).values
        margin = best[:, 0] - best[:, 1]
        entropy = (entropy - entropy.min()) / entropy.max()
        distance = 1 - (margin - margin.min()) / margin.max()
        return Image.fromarray(labels), _picture(entropy), _picture(distance)

    def synthesise(self, photo: Image.Image, labels: Image.Image) -> Image.Image:
        """The re-synthesis as an 8-bit picture at its own size."""
        train_ids = np.asarray(labels)
        ids = np.zeros_like(train_ids)
        for train_id, label_id in enumerate(TRAIN_TO_LABEL_ID):
            ids[train_ids == train_id] = label_id
        small = np.array(_resized(Image.fromarray(ids), self.config.synthesis.size, NEAREST))
        small = torch.from_numpy(small)[None, None].long()
        one_hot = torch.zeros(1, NUM_LABEL_IDS, *small.shape[2:]).scatter_(1, small, 1.0)
        maps = self._on_device(torch.cat([one_hot, _edges(small)], 1))
        rgb = _tensor(_resized(photo, self.config.synthesis.size, BICUBIC)) * 2 - 1
        mean, log_variance = self.model.style_encoder(self._on_device(rgb))
        sampled = self.config.synthesis.style == "sample"
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if sampled else mean
        generated = (_generate(self.model.generator, maps, z) + 1) / 2
        return Image.fromarray((generated[0].cpu().numpy().transpose(1, 2, 0) * 255).astype(np.uint8))

    def difference(self, photo: Image.Image, synthesis: Image.Image) -> Image.Image:
        """The perceptual difference as an 8-bit picture at the comparison's size: VGG19 twice."""
        size = self.config.dissimilarity.size
        vgg19, total = self.model.perceptual.vgg19, torch.zeros(1, 1, *size, device=self._device)
        ours, theirs = (
            vgg19(self._on_device(_normalised(_tensor(_resized(p, size, NEAREST))))) for p in (photo, synthesis)
        )
        for a, b, weight in zip(ours, theirs, _LEVEL_WEIGHTS, strict=True):
            level = (a - b).abs().mean(1, keepdim=True)
            total += weight * F.interpolate(level, size, mode="bicubic", align_corners=False)
        spread = total.max() - total.min()
        return _picture((total[0] - total.min()) / spread if spread > 0 else torch.zeros_like(total[0]))

    def compare(
        self, photo: Image.Image, synthesis: Image.Image, labels: Image.Image, maps: tuple[Image.Image, ...]
    ) -> np.ndarray:
        """The comparing network and the ensemble with the entropy: score float32 [h, w] at the comparison's size."""
        size, weight = self.config.dissimilarity.size, self.config.entropy_weight
        pictures = (_normalised(_tensor(_resized(p, size, NEAREST))) for p in (photo, synthesis))
        train_ids = torch.from_numpy(np.array(_resized(labels, size, NEAREST)))[None, None].long()
        semantic = torch.zeros(1, self.config.segmentation.num_classes, *size).scatter_(1, train_ids, 1.0)
        prior = torch.cat([_tensor(_resized(p, size, NEAREST)) for p in maps], 1)
        logits = _compare(self.model.dissimilarity, *map(self._on_device, (*pictures, semantic, prior)))
        anomaly = F.softmax(logits, 1)[0, 1].cpu().numpy()
        return (1 - weight) * anomaly + weight * prior[0, 0].numpy()

    def enlarge(self, score: np.ndarray, labels: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The score as logits, and the classes, at the photo's size; logits are what our chain answers with."""
        whole = np.asarray(_resized(Image.fromarray(score.astype(np.float32)), size, BICUBIC)).clip(1e-6, 1 - 1e-6)
        return np.log(whole / (1 - whole)), np.array(_resized(labels, size, NEAREST))

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self._device)

    def _unit(self) -> bool:
        return self.config.segmentation.normalise == "unit"


def _resized(picture: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    return picture.resize((size[1], size[0]), how)  # Pillow wants (width, height)


def _tensor(picture: Image.Image) -> Tensor:
    """float32 [1, 1 or 3, h, w] in [0, 1]."""
    pixels = torch.from_numpy(np.array(picture, ndmin=3 if picture.mode == "RGB" else 2))
    pixels = pixels.permute(2, 0, 1) if picture.mode == "RGB" else pixels[None]
    return pixels[None].contiguous().float() / 255


def _normalised(image01: Tensor) -> Tensor:
    return (image01 - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)


def _picture(map01: Tensor) -> Image.Image:
    """[1, h, w] in [0, 1] -> 8 bits, truncated."""
    return Image.fromarray((map01[0] * 255).cpu().numpy().astype(np.uint8))


def _edges(ids: Tensor) -> Tensor:
    """[1, 1, h, w] ids -> float 1 on both sides of every boundary."""
    edge = torch.zeros_like(ids, dtype=torch.bool)
    across, along = ids[..., 1:] != ids[..., :-1], ids[..., 1:, :] != ids[..., :-1, :]
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    edge[..., 1:, :] |= along
    edge[..., :-1, :] |= along
    return edge.float()


def _generate(net: nn.Module, maps: Tensor, z: Tensor) -> Tensor:
    """CC-FPSE (spec 1.5): label maps [1, 36, h, w] and style [1, z] -> [1, 3, h, w] in [-1, 1]."""
    part, height, width = net.get_submodule, maps.shape[2], maps.shape[3]
    encoded = [part("labelenc1")(maps)]
    for k in range(2, 8):
        encoded.append(part(f"labelenc{k}")(encoded[-1]))
    labels = encoded[-1]
    x = part("fc")(z).view(1, -1, height // 64, width // 64)
    for level, name in enumerate(("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")):
        if level:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            fine = F.interpolate(labels, scale_factor=2.0, mode="nearest")
            labels = part(f"labeldec{level}")(fine + part(f"labellat{level}")(encoded[6 - level]))
        coarse = F.interpolate(maps, x.shape[2:], mode="nearest")
        x = _block(part(name), x, torch.cat([coarse, labels], 1))
    return part("conv_img")(F.leaky_relu(x, _SLOPE)).tanh()


def _block(block: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    part = block.get_submodule
    h = x
    for k, conv in ((1, "conv_1"), (2, "conv_3")):
        h = _dynamic(part(f"norm_{k}")(h), part(f"gen_weights{k}")(condition))
        h = F.leaky_relu(part(conv)(h) * part(f"gen_se_weights{k}")(condition).sigmoid(), _SLOPE)
    learned = any(name == "conv_s" for name, _ in block.named_children())
    return (part("conv_s")(part("norm_s")(x, condition)) if learned else x) + h


def _dynamic(x: Tensor, weights: Tensor) -> Tensor:
    """A 3x3 correlation with weights of each pixel's own, by unfolding: x [1, C, h, w], weights [1, 9C, h, w]."""
    n, channels, height, width = x.shape
    patches = F.unfold(x, 3, padding=1).view(n * channels, 9, height, width)
    return (weights.view(n * channels, 9, height, width) * patches).sum(1).view(n, channels, height, width)


def _compare(net: nn.Module, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor) -> Tensor:
    """DissimilarityNet (spec 1.7), every encoder pass on its own -> logits [1, 2, h, w]."""
    part = net.get_submodule
    encoder = part("vgg_encoder")
    ours, theirs = encoder(image), encoder(synthesis)
    semantics, priors = part("semantic_encoder")(semantic), part("prior_encoder")(prior)
    levels = []
    for k, fuse in enumerate(("conv10", "conv9", "conv8", "conv7")):
        fused = part(fuse)(torch.cat([ours[k], theirs[k], semantics[k]], 1)) * priors[k]
        levels.append(torch.cat([(ours[k] * theirs[k]).sum(1, keepdim=True), fused], 1))
    x = _spade_block(part("conv2"), part("conv1")(levels[3]), semantic)
    for up, conv, refine, level in (
        ("tconv1", "conv12", "conv13", 2), ("tconv3", "conv3", "conv4", 1), ("tconv2", "conv5", "conv6", 0)
    ):  # fmt: skip
        x = _spade_block(part(refine), part(conv)(torch.cat([part(up)(x), levels[level]], 1)), semantic)
    return part("conv11")(x)


def _spade_block(block: nn.Module, x: Tensor, semantic: Tensor) -> Tensor:
    part, semantic = block.get_submodule, F.interpolate(semantic, x.shape[2:], mode="nearest")
    for k in (1, 2):
        shared = part(f"norm{k}.shared")(semantic)
        x = F.selu(F.instance_norm(x) * (1 + part(f"norm{k}.gamma")(shared)) + part(f"norm{k}.beta")(shared))
        x = part("conv")(x) if k == 1 else x
    return x
