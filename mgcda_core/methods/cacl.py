"""CACL: anomaly-aware sampling, projector and cross-domain contrastive loss of MGCDA (eq. 3, spec 4.5, appendix B).

Per image the pixels fall into four pools by label and prediction: anomalous and missed (AH, hard) or found (AE, easy),
normal and called anomalous (NH) or not (NE). Anchors come from AH and AE, positives from AE, negatives from NH and NE.
A domain's anchors are pushed from the negatives of their own domain and pulled to the positives of both, which is what
draws the domains together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import CaclConfig

ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
"""Roles of the sampled pixels."""
_PADDING = 3  # a role that nothing asks for


@dataclass(frozen=True)
class ImageSets:
    """Sampled pixels of one image: flat indices, int64 [K], any of them may be empty; and the sizes of its pools."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    pools: dict[str, int]
    """AH, AE, NH, NE."""


def generator_for(seed: int, step: int, sample_id: int) -> torch.Generator:
    """CPU generator of one image of one step; its process is not asked, so that N processes draw what one would."""
    generator = torch.Generator()
    # A hash: neighbouring seeds of the Mersenne twister, of which PyTorch keeps 32 bits, give related first draws.
    return generator.manual_seed(int(np.random.SeedSequence((seed, step, sample_id)).generate_state(1)[0]))


def sample(
    label: Tensor, prediction: Tensor, config: CaclConfig, generator: torch.Generator, any_positive: bool = False
) -> ImageSets:
    """Anchors, positives and negatives of one image, uniform without replacement within each pool (appendix B).

    label [h, w] 0, 1 or 255; prediction [h, w] bool, True = anomalous; both on the CPU. A pool smaller than its quota
    is taken whole; AE too small for anchors and positives is shared in their wanted ratio; AH fills up missing anchors.
    The random samplers draw the same counts whatever was predicted: one pool of anomalous pixels, one of normal ones.
    So does `any_positive` with the anomalous ones: early in a training nothing is found yet, and AE is empty.
    """
    anomalous, normal, called = (label == 1).numpy(), (label == 0).numpy(), prediction.numpy()
    masks = (anomalous & ~called, anomalous & called, normal & called, normal & ~called)
    ah, ae, nh, ne = (torch.from_numpy(np.flatnonzero(mask)) for mask in masks)  # ten times faster than Tensor.nonzero
    pools = {"AH": len(ah), "AE": len(ae), "NH": len(nh), "NE": len(ne)}
    anchor_quota, positive_quota, hard_quota, easy_quota = config.quotas()
    if any_positive or config.sampler != "anomaly_aware":
        ae, ah = torch.cat([ah, ae]), ah[:0]
    if config.sampler != "anomaly_aware":
        ne, nh = torch.cat([nh, ne]), nh[:0]
        hard_quota, easy_quota = 0, hard_quota + easy_quota
    wanted = anchor_quota - min(anchor_quota // 2, len(ah))
    both = wanted + positive_quota
    easy = wanted if len(ae) >= both else min(wanted, len(ae) * wanted // both)
    chosen = _draw(ae, min(positive_quota, len(ae) - easy) + easy, generator)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)]  # a subset has no order: shuffle, then split
    hard = _draw(ah, anchor_quota - easy, generator)
    hard_negatives = _draw(nh, hard_quota, generator)
    easy_quota += hard_quota - len(hard_negatives) if config.top_up else 0
    negatives = torch.cat([hard_negatives, _draw(ne, easy_quota, generator)])
    return ImageSets(torch.cat([hard, chosen[:easy]]), chosen[easy:], negatives, pools)


def _draw(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Uniform subset of `count` entries, or the whole pool if it has no more.

    Floyd's algorithm (Bentley and Floyd, CACM 1987): `count` draws, where a permutation of a pool of 100,000 pixels
    would cost milliseconds.
    """
    if count >= len(pool):
        return pool
    tops = torch.arange(len(pool) - count, len(pool))
    picks = (torch.rand(count, dtype=torch.float64, generator=generator) * (tops + 1)).long()
    chosen: dict[int, None] = {}  # a set with a defined order
    for top, pick in zip(tops.tolist(), picks.tolist(), strict=True):
        chosen[top if pick in chosen else pick] = None
    return pool[torch.tensor(list(chosen), dtype=torch.long)]


class Projector(nn.Module):
    """Decoder features of single pixels [K, C] -> embeddings [K, 128], of unit length with `normalise`.

    Two 1x1 convolutions with a ReLU between, applied to gathered pixels: the same result as projecting the whole map,
    without its 128 channels at full size. 64 channels: 12,480 parameters (spec 4.5).
    """

    def __init__(self, channels: int, config: CaclConfig) -> None:
        super().__init__()
        hidden, out = config.projection
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))
        self.normalise = config.normalise

    def forward(self, pixels: Tensor) -> Tensor:
        z = self.layers(pixels)
        return F.normalize(z, dim=1) if self.normalise else z


def contrastive_loss(z: Tensor, role: Tensor, in_v: Tensor, config: CaclConfig) -> tuple[Tensor, int]:
    """Eq. 3 summed over the domains, and how many domain terms there are (0 to 2).

    z float32 [K, D] embeddings; role int [K] (ANCHOR, POSITIVE, NEGATIVE); in_v bool [K], pixels of domain V. With
    s = a.z / temperature, q(a, p) = e^s_ap / (e^s_ap + sum_n e^s_an): the loss is the mean over a domain's anchors and
    the positives of -log q (`form: log`, InfoNCE) or of -q (`printed`). A domain without anchors, positives or
    negatives has no term; without any term the loss is a zero that still hangs on the graph.
    """
    loss, terms = z.sum() * 0.0, 0
    for domain in (in_v, ~in_v):
        anchors, negatives = z[domain & (role == ANCHOR)], z[domain & (role == NEGATIVE)]
        positives = z[(role == POSITIVE) & (domain | (config.sampler != "random_same_domain"))]
        if not (len(anchors) and len(positives) and len(negatives)):
            continue
        repulsion = torch.logsumexp(anchors @ negatives.T / config.temperature, 1, keepdim=True)
        log_q = F.logsigmoid(anchors @ positives.T / config.temperature - repulsion)
        loss = loss - (log_q if config.form == "log" else log_q.exp()).mean()
        terms += 1
    return loss, terms


class Cacl(nn.Module):
    """Samples, projects and contrasts the pixels of a batch; the projector is training only."""

    def __init__(self, channels: int, config: CaclConfig) -> None:
        """channels: of the decoder feature."""
        super().__init__()
        self.config = config
        self.projector = Projector(channels, config)

    def forward(
        self,
        decoder_feature: Tensor,
        logits: Tensor,
        label: Tensor,
        in_v: Tensor,
        generators: Sequence[torch.Generator],
        step: int = 0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted loss, float32, and for the log L_CAC, cacl_active (1 if any domain has a term), the numbers of
        anchors, positives and negatives drawn, and the pool sizes AH, AE, NH, NE, both of this process's images.

        decoder_feature [B, C, h, w], logits [B, 2, h, w], label int64 [B, h, w] of 0, 1, 255, in_v bool [B], one
        generator an image (`generator_for`). With `gather` and several processes each of them computes the loss of the
        joined batch; gradients averaged over the processes are then those of one process with that batch.
        """
        if decoder_feature.shape[-2:] != logits.shape[-2:] or label.shape != logits[:, 0].shape:
            shapes = f"{tuple(decoder_feature.shape)}, {tuple(logits.shape)}, {tuple(label.shape)}"
            raise ValueError(f"cacl needs decoder feature, logits and label of one size, got {shapes}")
        labels, predictions = label.to("cpu", torch.uint8), (logits[:, 1] > logits[:, 0]).cpu()
        images = zip(labels, predictions, generators, strict=True)
        early = step < self.config.any_positive_until
        sets = [sample(label, prediction, self.config, generator, early) for label, prediction, generator in images]
        parts = [part for s in sets for part in (s.anchors, s.positives, s.negatives)]
        counts = torch.tensor([len(part) for part in parts])
        image = torch.arange(len(sets)).repeat_interleave(3).repeat_interleave(counts).to(logits.device)
        role = torch.arange(3).repeat(len(sets)).repeat_interleave(counts).to(logits.device)
        pixel = torch.cat(parts).to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            z = self.projector(decoder_feature.flatten(2)[image, :, pixel].float())
            domain = in_v[image]
            if self.config.gather and dist.is_available() and dist.is_initialized():
                z, role, domain = _gathered(z, role, domain)
            loss, terms = contrastive_loss(z, role, domain, self.config)
        drawn = counts.view(-1, 3).sum(0)
        log = {"L_CAC": loss.detach(), "cacl_active": torch.tensor(float(terms > 0))}
        log |= {name: drawn[k] for k, name in enumerate(("anchors", "positives", "negatives"))}
        return loss, log | {name: torch.tensor(sum(s.pools[name] for s in sets)) for name in ("AH", "AE", "NH", "NE")}


def _gathered(z: Tensor, role: Tensor, in_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, roles and domains of all processes' pixels, in the order of the ranks, padded to equal numbers.

    Every rank computes the same loss of them, so the gradient a rank's own embeddings would be sent by all N ranks is
    N times its own: it is scaled instead of communicated, and no collective runs in the backward pass.
    """
    world = dist.get_world_size()
    length = torch.tensor([len(z)], device=z.device)
    dist.all_reduce(length, dist.ReduceOp.MAX)
    missing = int(length) - len(z)
    tags = F.pad(role * 2 + in_v, (0, missing), value=2 * _PADDING)
    padded = F.pad(z, (0, 0, 0, missing))
    all_tags = [torch.empty_like(tags) for _ in range(world)]
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(all_tags, tags)
    dist.all_gather(parts, padded.detach())
    parts[dist.get_rank()] = padded + (world - 1) * (padded - padded.detach())
    tag = torch.cat(all_tags)
    return torch.cat(parts), tag // 2, tag % 2 == 1
