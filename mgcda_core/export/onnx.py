"""The whole chain as one ONNX graph: camera frames uint8 NHWC in, anomaly logits and train ids out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import ConfigError
from mgcda_core.export.resizing import plain_resizing
from mgcda_core.inference.artefact import LOGITS, SEGMENTATION, bounds
from mgcda_core.inference.sidecar import Dimension
from mgcda_core.models.chain import Chain, build_chain
from mgcda_core.models.loading import load_strict
from mgcda_core.weights.resolve import Weights

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OPSET = 18
"""The exporter's own operator set; a later one is converted from it and no runtime needs it."""
IMAGE = "image"
NETWORKS = ("segmentation", "synthesis", "perceptual", "dissimilarity", "student")
_PARTS = {"segmentation": "segmentation", "generator": "synthesis", "style_encoder": "synthesis",
          "perceptual": "perceptual", "dissimilarity": "dissimilarity", "student": "student"}  # fmt: skip
_LARGEST_CONSTANT = 1 << 24  # numbers that are computed ahead: weights that are reordered or scaled


@dataclass(frozen=True)
class Frames:
    """What a graph is made for; a dimension that is a pair is dynamic within it."""

    batch: Dimension = 1
    height: Dimension = 720
    width: Dimension = 1280

    @property
    def shape(self) -> tuple[Dimension, ...]:
        """Batch, height, width, 3."""
        return self.batch, self.height, self.width, 3

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The smallest and the largest frame, (height, width)."""
        height, width = bounds(self.height), bounds(self.width)
        return (height[0], width[0]), (height[1], width[1])

    @property
    def dynamic_size(self) -> bool:
        """Whether height or width is a pair."""
        return isinstance(self.height, tuple) or isinstance(self.width, tuple)


class FrameGraph(nn.Module):
    """The chain as a runtime sees it: NHWC frames as they lie in memory.

    The frame is float32 before it is turned: TensorRT takes uint8 only straight from its input into a cast.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, H, W, 3] RGB -> logits float32 [B, H, W], train ids uint8 [B, h, w]."""
        return self.chain.predict(image.float().permute(0, 3, 1, 2))


def build_graph(weights: Weights, frames: Frames, fold_batch_norm: bool = True) -> ir.Model:
    """The chain of `weights` for `frames`: input `image`, outputs `logits` and `segmentation`.

    `fold_batch_norm` multiplies it into the convolutions before it, as runtimes do when they open the file. Raises
    ConfigError for several sizes with reference scaling, and for a style that is drawn at random.
    """
    if weights.config.score == "dissimilarity" and weights.config.synthesis.style == "sample":
        raise ConfigError(
            "synthesis.style is sample, which differs from frame to frame: export weights with style mean"
        )
    if frames.dynamic_size and weights.config.scaling == "reference":
        raise ConfigError("reference scaling computes its weights for one size: give --size alone")
    chain = build_chain(weights.config)
    load_strict(chain, weights.state, weights.name)
    graph = FrameGraph(chain).eval().requires_grad_(False)
    example = torch.zeros([_inside(dimension) for dimension in frames.shape], dtype=torch.uint8)
    if frames.dynamic_size:
        _antialias_whatever_the_size(chain)
    with _quiet(), torch.no_grad():
        with plain_resizing():
            program = torch.export.export(graph, (example,), dynamic_shapes=(_dynamic_axes(frames),), strict=False)
        made = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=[IMAGE], output_names=[LOGITS, SEGMENTATION],
            optimize=False, verbose=False,
        )  # fmt: skip
    assert made is not None
    return _tidied(made.model, fold_batch_norm)


def node_networks(graph: onnx.GraphProto) -> list[str | None]:
    """Of every node of an exported graph the one of `NETWORKS` whose weights it reads; None if it reads none."""
    read = [
        next((_PARTS[p[1]] for name in node.input if (p := name.split("."))[0] == "chain" and p[1] in _PARTS), None)
        for node in graph.node
    ]
    if "synthesis" in read:  # the segmentation network's second pass compares image and re-synthesis
        first = read.index("synthesis")
        read[first:] = ["perceptual" if network == "segmentation" else network for network in read[first:]]
    return read


def _inside(dimension: Dimension) -> int:
    """A size to trace with; not 1, which the exporter would take for a constant."""
    least, largest = bounds(dimension)
    return largest if least < largest else least


def _dynamic_axes(frames: Frames) -> dict[int, torch.export.Dim]:
    named = {0: ("batch", frames.batch), 1: ("height", frames.height), 2: ("width", frames.width)}
    return {
        axis: torch.export.Dim(name, min=dimension[0], max=dimension[1])
        for axis, (name, dimension) in named.items()
        if isinstance(dimension, tuple)
    }


def _antialias_whatever_the_size(chain: Chain) -> None:
    """A graph for several sizes cannot ask whether the frame shrinks; where it grows, antialiasing changes nothing."""
    size = chain.config.segmentation.size
    chain.resized = lambda image: F.interpolate(image.float(), size, mode="bilinear", antialias=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself and on packages that are not needed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _tidied(model: ir.Model, fold_batch_norm: bool) -> ir.Model:
    """Constants folded, batch norm as wanted, and nothing of what the exporter notes at every node.

    The exporter's own optimisation tries some hundred rewriting rules on every node: two thirds of all the time, for a
    graph that runtimes rewrite anyway.
    """
    from onnx_ir import passes
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule

    common.InlinePass()(model)
    optimizer.fold_constants(model, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT)
    if fold_batch_norm:
        rewriter.rewrite(model, [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule])
    passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        common.ShapeInferencePass(),
        common.ClearMetadataAndDocStringPass(),
    )(model)
    return model
