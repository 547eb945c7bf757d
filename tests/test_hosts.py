"""MDAT and CACL on three networks, and on two processes as on one."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from mgcda_core.config import CaclConfig, DissimilarityConfig, MdatConfig, SegmentationConfig
from mgcda_core.methods.cacl import Cacl, generator_for
from mgcda_core.methods.mdat import Mdat, encoder_features
from mgcda_core.models.dissimilarity import DissimilarityNet, semantic_maps
from mgcda_core.models.outlier_head import OutlierHead
from mgcda_core.models.segmentation import build_segmentation

H, W = 16, 32
PROFILES = {"reference": MdatConfig(), "lite": MdatConfig(width=0.25, stride=2)}


def _label(n: int) -> Tensor:
    label = torch.zeros(n, H, W, dtype=torch.long)
    label[:, :2] = 255
    label[:, 6:14, 8:24] = 1
    return label


def _dissimilarity(mdat: MdatConfig, **flags: Any) -> tuple[nn.Module, Any, tuple[Tensor, ...]]:
    net = DissimilarityNet(DissimilarityConfig(width=0.0625, **flags))
    image, synthesis = torch.randn(2, 4, 3, H, W)
    inputs = (image, synthesis, semantic_maps(torch.randint(0, 19, (4, H, W))), torch.rand(4, 3, H, W))

    def outputs() -> tuple[Tensor, list[Tensor], Tensor]:
        logits, levels, decoder_feature = net.pyramid(*inputs)
        return logits, encoder_features(levels, mdat), decoder_feature

    return net, outputs, inputs


def _outlier_head(_: MdatConfig) -> tuple[nn.Module, Any, tuple[Tensor, ...]]:
    head = OutlierHead(build_segmentation(SegmentationConfig(width=8)), channels=16, decoder_channels=8)
    image = torch.randn(4, 3, H, W)

    def outputs() -> tuple[Tensor, list[Tensor], Tensor]:
        logits, encoder_feature, decoder_feature = head.features(image)
        return logits, [encoder_feature], decoder_feature

    return head, outputs, (image,)


@pytest.mark.parametrize("profile", ["reference", "lite"])
@pytest.mark.parametrize(
    "host",
    [_dissimilarity, partial(_dissimilarity, prior=(), spade="none"), _outlier_head],
    ids=["dissimilarity", "without_prior", "outlier_head"],
)
def test_a_few_steps_on_any_host(host: Any, profile: str) -> None:
    torch.manual_seed(0)
    mdat_config = PROFILES[profile]
    net, outputs, inputs = host(mdat_config)
    logits, features, decoder_feature = outputs()
    torch.testing.assert_close(net(*inputs), logits)
    mdat = Mdat([f.shape[1] for f in features], mdat_config)
    cacl = Cacl(decoder_feature.shape[1], CaclConfig())
    in_v, label = torch.tensor([True, True, False, False]), _label(4)
    predicted = torch.randn_like(logits)  # not the network's: CACL draws the same pixels at every step
    trained = [p for module in (net, cacl) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        now, features, decoder_feature = outputs()
        generators = [generator_for(0, 0, k) for k in range(4)]
        contrast, log = cacl(decoder_feature, predicted, label, in_v, generators)
        play = mdat(now, features, in_v, 1.0)
        total = play.network + CaclConfig().weight * contrast
        assert log["cacl_active"].item() == 1
        (total + play.classifiers).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (*trained, *mdat.parameters()))
        assert sum(float(p.grad.abs().sum()) for p in trained if p.grad is not None) > 0
        optimizer.step()  # the classifiers stand still: the network must get better against them
        losses.append(total.item())
    assert losses[-1] < losses[0]


def test_the_segmentation_under_an_outlier_head_stays_as_it_is() -> None:
    head, outputs, _ = _outlier_head(MdatConfig())
    before = {k: v.clone() for k, v in head.get_submodule("segmentation").state_dict().items()}
    head.train()
    logits, (encoder_feature,), decoder_feature = outputs()
    assert logits.shape == (4, 2, H, W)
    assert encoder_feature.shape == (4, 16, H // 4, W // 4)
    assert decoder_feature.shape == (4, 8, H, W)
    logits.sum().backward()
    after = head.get_submodule("segmentation")
    assert all(torch.equal(before[k], v) for k, v in after.state_dict().items())
    assert all(p.grad is None for p in after.parameters())
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) < 10_000


class _Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Conv2d(3, 16, 3, 8, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.classify = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoder_feature = self.decode(image)
        return self.classify(decoder_feature), self.encode(image), decoder_feature


def _gradients(images: slice, form: Any = "log") -> dict[str, Tensor]:
    """Of one step on these of 16 images: 4 V and 4 A, then 4 V and 4 A; the first five have no anomaly."""
    torch.manual_seed(0)
    host, mdat, cacl = _Host(), Mdat([16], MdatConfig(width=0.25)), Cacl(8, CaclConfig(form=form))
    image, label = torch.randn(16, 3, H, W), _label(16)
    label[:5][label[:5] == 1] = 0
    in_v = torch.tensor(([True] * 4 + [False] * 4) * 2)[images]
    logits, encoder_feature, decoder_feature = host(image[images])
    generators = [generator_for(7, 3, number) for number in range(16)[images]]
    contrast, _ = cacl(decoder_feature, logits, label[images], in_v, generators)
    play = mdat(logits, [encoder_feature], in_v, 0.9)
    (play.network + play.classifiers + contrast).backward()
    everything = nn.ModuleDict({"host": host, "mdat": mdat, "cacl": cacl})
    return {k: p.grad for k, p in everything.named_parameters() if p.grad is not None}


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    gradients = _gradients(slice(8 * rank, 8 * rank + 8))
    for gradient in gradients.values():  # what DDP does
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_give_the_gradient_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    spawn(_process, (str(tmp_path),), nprocs=2)
    found, expected = torch.load(tmp_path / "gradients.pt"), _gradients(slice(0, 16))
    assert found.keys() == expected.keys()
    assert len(found) == 6 + 8 + 10 + 4
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=2e-6 * scale, msg=name)
