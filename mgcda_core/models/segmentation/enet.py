"""ENet: a small encoder-decoder that remembers its max-pooling positions; the public Cityscapes weights load strictly.

Source: Paszke, Chaurasia, Kim, Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time Semantic
Segmentation" (arXiv 1606.02147), table 1 and figure 2; names and the 2x2 down- and up-sampling kernels follow the
public PyTorch weights (622 keys). Their input is RGB in [0, 1] without mean and std.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _unit(conv: nn.Conv2d, activation: type[nn.Module]) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), activation()]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


class InitialBlock(nn.Module):
    """Stride 2: a 3x3 convolution beside a max-pooled copy of the image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.main_branch = _conv(3, outputs - 3, 3, stride=2, padding=1)
        self.batch_norm = nn.BatchNorm2d(outputs)
        self.out_activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,outputs,ceil(H/2),ceil(W/2)]."""
        pooled = F.max_pool2d(x, 3, 2, 1)
        return self.out_activation(self.batch_norm(torch.cat([self.main_branch(x), pooled], 1)))


class Bottleneck(nn.Module):
    """1x1, one 3x3 (dilated) or a 5x1 and 1x5 pair, 1x1, around an identity."""

    def __init__(
        self,
        channels: int,
        dilation: int = 1,
        *,
        asymmetric: bool = False,
        dropout: float = 0.1,
        activation: type[nn.Module] = nn.PReLU,
    ) -> None:
        super().__init__()
        inner = channels // 4
        if asymmetric:
            tall = nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False)
            flat = nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False)
            middle = _unit(tall, activation) + _unit(flat, activation)
        else:
            middle = _unit(_conv(inner, inner, 3, padding=dilation, dilation=dilation), activation)
        self.ext_conv1 = nn.Sequential(*_unit(_conv(channels, inner, 1), activation))
        self.ext_conv2 = nn.Sequential(*middle)
        self.ext_conv3 = nn.Sequential(*_unit(_conv(inner, channels, 1), activation))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[B,channels,H,W] -> the same shape."""
        return self.out_activation(x + self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))))


class Downsampling(nn.Module):
    """Stride 2: 2x2 max pooling (zero channels appended) plus a 2x2 convolution branch; also returns the positions."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = inputs // 4
        self.ext_conv1 = nn.Sequential(*_unit(_conv(inputs, inner, 2, stride=2), nn.PReLU))
        self.ext_conv2 = nn.Sequential(*_unit(_conv(inner, inner, 3, padding=1), nn.PReLU))
        self.ext_conv3 = nn.Sequential(*_unit(_conv(inner, outputs, 1), nn.PReLU))
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_activation = nn.PReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B,inputs,H,W] -> ([B,outputs,H//2,W//2], int64 positions [B,inputs,H//2,W//2] of the maxima)."""
        main, positions = F.max_pool2d(x, 2, 2, return_indices=True)
        branch = self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))
        missing = branch.shape[1] - main.shape[1]
        return self.out_activation(F.pad(main, (0, 0, 0, 0, 0, missing)) + branch), positions


class Upsampling(nn.Module):
    """Doubles the size: un-pooling to remembered positions plus a 2x2 transposed convolution branch."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        inner = inputs // 4
        self.main_conv1 = nn.Sequential(_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.ext_conv1 = nn.Sequential(*_unit(_conv(inputs, inner, 1), nn.ReLU))
        self.ext_tconv1 = nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False)
        self.ext_tconv1_bnorm = nn.BatchNorm2d(inner)
        self.ext_conv2 = nn.Sequential(_conv(inner, outputs, 1), nn.BatchNorm2d(outputs))
        self.ext_regul = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, positions: Tensor, size: torch.Size) -> Tensor:
        """[B,inputs,h,w], positions [B,outputs,h,w] -> [B,outputs,*size]."""
        main = F.max_unpool2d(self.main_conv1(x), positions, [2, 2], output_size=list(size))
        branch = self.ext_tconv1(self.ext_conv1(x), output_size=list(size))
        branch = self.ext_regul(self.ext_conv2(F.relu(self.ext_tconv1_bnorm(branch))))
        return F.relu(main + branch)


class ENet(nn.Module):
    """ENet of any base width (16: 0.35 M parameters); the last of its num_classes + 1 outputs is void.

    Set `keep_void` to get that output too.
    """

    classifier = "transposed_conv"
    distilled_norm = None

    def __init__(self, width: int = 16, num_classes: int = 19) -> None:
        super().__init__()
        w = width
        self.num_classes = num_classes
        self.keep_void = False
        self.initial_block = InitialBlock(w)
        self.downsample1_0 = Downsampling(w, 4 * w, dropout=0.01)
        for i in range(1, 5):
            self.add_module(f"regular1_{i}", Bottleneck(4 * w, dropout=0.01))
        self.downsample2_0 = Downsampling(4 * w, 8 * w, dropout=0.1)
        self._add_stage(2, 1, 8 * w)
        self._add_stage(3, 0, 8 * w)
        self.upsample4_0 = Upsampling(8 * w, 4 * w)
        self.regular4_1 = Bottleneck(4 * w, activation=nn.ReLU)
        self.regular4_2 = Bottleneck(4 * w, activation=nn.ReLU)
        self.upsample5_0 = Upsampling(4 * w, w)
        self.regular5_1 = Bottleneck(w, activation=nn.ReLU)
        self.transposed_conv = nn.ConvTranspose2d(w, num_classes + 1, 3, stride=2, padding=1, bias=False)

    def _add_stage(self, number: int, first: int, channels: int) -> None:
        """Eight bottlenecks: plain, dilated 2, asymmetric, dilated 4, plain, dilated 8, asymmetric, dilated 16."""
        blocks = [
            ("regular", Bottleneck(channels)),
            ("dilated", Bottleneck(channels, 2)),
            ("asymmetric", Bottleneck(channels, asymmetric=True)),
            ("dilated", Bottleneck(channels, 4)),
            ("regular", Bottleneck(channels)),
            ("dilated", Bottleneck(channels, 8)),
            ("asymmetric", Bottleneck(channels, asymmetric=True)),
            ("dilated", Bottleneck(channels, 16)),
        ]
        for i, (kind, block) in enumerate(blocks):
            self.add_module(f"{kind}{number}_{first + i}", block)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits f32 [B,classes,*size] of RGB f32 [B,3,H,W] in [0,1]; `size` None means (H, W), at least (8, 8).

        The void output is cut off unless `keep_void`.
        """
        return self.logits_and_features(x, size)[0]

    def logits_and_features(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `features` of the same x in one pass."""
        logits, features, _ = self.outputs(x, size)
        return logits, features

    def outputs(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """`forward`, `features` and `embed` of the same x in one pass."""
        features, embedding = self._features_and_embedding(x)
        return self._resized(self._logits(embedding, x.shape[-2:]), size or x.shape[-2:]), features, embedding

    def embed(self, x: Tensor) -> Tensor:
        """What the classifier reads, f32 [B,width,h,w] of stride 2."""
        return self._features_and_embedding(x)[1]

    def classify(self, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits f32 [B,classes,*size] of an embedding; of an image with even sides those of `forward`."""
        rows, columns = embedding.shape[-2:]
        return self._resized(self._logits(embedding, (2 * rows, 2 * columns)), size)

    def _features_and_embedding(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        fine, middle, coarse, positions1, positions2 = self._encode(x)
        y = self.upsample4_0(coarse, positions2, middle.shape[-2:])
        y = self.regular4_2(self.regular4_1(y))
        return [fine, middle, coarse], self.regular5_1(self.upsample5_0(y, positions1, fine.shape[-2:]))

    def _logits(self, embedding: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        logits = self.transposed_conv(embedding, output_size=list(size)).float()
        return logits if self.keep_void else logits[:, : self.num_classes]

    def _resized(self, logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        if tuple(size) == tuple(logits.shape[-2:]):
            return logits
        return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Encoder maps of strides 2, 4 and 8 with 1, 4 and 8 base widths; x: RGB f32 [B,3,H,W] in [0,1]."""
        return list(self._encode(x)[:3])

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        fine = self.initial_block(x)
        middle, positions1 = self.downsample1_0(fine)
        for i in range(1, 5):
            middle = self.get_submodule(f"regular1_{i}")(middle)
        coarse, positions2 = self.downsample2_0(middle)
        for name, block in self.named_children():
            if name.startswith(("regular2", "dilated2", "asymmetric2", "regular3", "dilated3", "asymmetric3")):
                coarse = block(coarse)
        return fine, middle, coarse, positions1, positions2
