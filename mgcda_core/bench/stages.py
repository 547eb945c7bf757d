"""Where a frame's time and operations go: stages of the chain in PyTorch, operators in ONNX Runtime.

PyTorch's calls are wrapped from outside; a stage is entered where its network or function is called, and what happens
between them counts as `rest`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mgcda_core.bench.published import PublishedChain
from mgcda_core.config import SegmenterConfig
from mgcda_core.models import uncertainty
from mgcda_core.models.chain import Chain, build_chain

STAGES = ("resize", "segmentation", "student", "uncertainty", "synthesis", "perceptual", "dissimilarity", "upsample",
          "rest")  # fmt: skip
_OURS = (
    ("resized", "resize"), ("segmentation.forward", "segmentation"), ("segmentation.features", "perceptual"),
    ("segmentation.logits_and_features", "segmentation"), ("segmentation.outputs", "segmentation"),
    ("student.forward", "student"), ("style_encoder.forward", "synthesis"), ("generator.forward", "synthesis"),
    ("perceptual.forward", "perceptual"), ("dissimilarity.forward", "dissimilarity"), ("to_input_size", "upsample"),
)  # fmt: skip
_FUNCTIONS = (("uncertainty_maps", "uncertainty"), ("cosine_difference", "perceptual"))
_PUBLISHED = (("resize", "resize"), ("segment", "segmentation"), ("uncertainty", "uncertainty"),
              ("synthesise", "synthesis"), ("difference", "perceptual"), ("compare", "dissimilarity"),
              ("enlarge", "upsample"))  # fmt: skip
_PRODUCTS = (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
_WARM_UP, _PROFILED = 2, 5


@dataclass(frozen=True)
class Work:
    """What one frame (or batch) takes whatever runs it: convolutions and matrix products, elementwise work left out."""

    parameters: int
    flops: float
    """1 multiply-accumulate = 2."""
    activations: int
    """Values read and written by convolutions and matrix products, each product's input and output once."""
    stages: dict[str, float]
    """FLOPs of each of `STAGES`."""

    def bytes(self, width: int) -> int:
        """Least traffic at `width` bytes a value: weights once, every product's input and output once, no cache."""
        return width * (self.parameters + self.activations)


class Timeline:
    """Marks of a meter (a clock, a counter) at every change of stage; the outermost stage counts."""

    def __init__(self, mark: Callable[[], Any], difference: Callable[[Any, Any], float]) -> None:
        self._mark, self._difference, self._inside = mark, difference, False
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        """A frame begins."""
        self._marks = [("rest", self._mark())]

    def spent(self) -> dict[str, float]:
        """What the meter went on by in each stage since `start`, a stage entered several times summed."""
        total: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._marks.append(("rest", self._mark()))
        for (stage, begun), (_, ended) in pairwise(self._marks):
            total[stage] += self._difference(begun, ended)
        return total

    def wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` that notes its begin and end."""

        def call(*args: Any, **named: Any) -> Any:
            if self._inside:
                return function(*args, **named)
            self._inside = True
            self._marks.append((stage, self._mark()))
            try:
                return function(*args, **named)
            finally:
                self._marks.append(("rest", self._mark()))
                self._inside = False

        return call


@contextmanager
def watched(owner: Chain | PublishedChain, timeline: Timeline) -> Iterator[None]:
    """The calls of a chain wrapped for as long as the block lasts."""
    changed: list[tuple[Any, str, Any]] = []
    ours = not isinstance(owner, PublishedChain)
    for path, stage in _OURS if ours else _PUBLISHED:
        part, _, name = path.rpartition(".")
        if not hasattr(owner, path.split(".")[0]):  # a chain without VGG19, or without comparison
            continue
        changed.append((getattr(owner, part) if part else owner, name, stage))
    changed += [(uncertainty, name, stage) for name, stage in _FUNCTIONS] if ours else []
    before = [(target, name, vars(target).get(name), getattr(target, name)) for target, name, _ in changed]
    for (target, name, stage), (_, _, _, function) in zip(changed, before, strict=True):
        setattr(target, name, timeline.wrapped(stage, function))
    try:
        yield
    finally:
        for target, name, own, _ in before:
            delattr(target, name) if own is None else setattr(target, name, own)


def watched_backend(backend: object, watching: ExitStack) -> Timeline | None:
    """A clock on the stages of a backend for as long as `watching` is open; None where one cannot look between them.

    On a GPU by events on its stream, without waiting in between.
    """
    from mgcda_core.inference.torch_backend import TorchBackend

    if isinstance(backend, TorchBackend) and backend.name.startswith("torch "):  # compiled or recorded, no call is left
        owner = backend.model
    elif isinstance(backend, PublishedChain):
        owner = backend
    else:
        return None
    if backend.device.startswith("cuda"):
        timeline = Timeline(partial(event_on, torch.device(backend.device.split()[0])), seconds_between)
    else:
        timeline = Timeline(time.perf_counter, lambda begun, ended: ended - begun)
    watching.enter_context(watched(owner, timeline))
    return timeline


def count_work(config: SegmenterConfig, size: tuple[int, int], batch: int = 1) -> Work:
    """Operations of the chain on frames of `size` (height, width), counted without computing anything."""
    counter = FlopCounterMode(display=False)
    timeline = Timeline(counter.get_total_flops, lambda begun, ended: float(ended - begun))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # shapes without memory
        chain = build_chain(config).eval().requires_grad_(False)
        image = torch.zeros(batch, 3, *size, dtype=torch.uint8)
        with watched(chain, timeline):
            timeline.start()
            flops, activations, _ = count(lambda: chain.predict(image), counter)
    parameters = sum(p.numel() for p in chain.parameters())
    return Work(parameters, flops, activations, timeline.spent())


def count(run: Callable[[], Any], counter: FlopCounterMode | None = None) -> tuple[float, int, Any]:
    """FLOPs of what `run` computes, values its products read and write (weights left out), and what it returns."""
    with counter or FlopCounterMode(display=False) as flops, _Products() as products:
        answer = run()
    return float(flops.get_total_flops()), products.values, answer


class _Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _PRODUCTS:
            # addmm(bias, input, weight), mm and convolution(input, weight, ...)
            data: Tensor = args[1] if func.overloadpacket is torch.ops.aten.addmm else args[0]
            self.values += data.numel() + result.numel()
        return result


def profiled_session(artefact: Path, images: np.ndarray, threads: int) -> dict[str, Any]:
    """Milliseconds a frame (or batch) of an ONNX artefact by operator type and by stage, by ONNX Runtime's profiler.

    A node belongs to the stage whose weights it reads; one without weights to that of the nodes around it in the
    graph, or to `rest` if those differ. Changes of memory layout that ONNX Runtime puts in count as `rest` too.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.enable_profiling, settings.log_severity_level, settings.intra_op_num_threads = True, 3, threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as OnnxBackend
    with tempfile.TemporaryDirectory() as folder:
        settings.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(artefact), settings, providers=["CPUExecutionProvider"])
        for _ in range(_WARM_UP + _PROFILED):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    stages_of, durations = _node_stages(artefact), defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time")
            durations[node, event["args"]["op_name"]].append(event["dur"] / 1000)
    operators: dict[str, float] = defaultdict(float)
    stages: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    for (node, operator), times in durations.items():
        # Several nodes may share a name: then a frame has several of its times.
        middle = median(times) * len(times) / (_WARM_UP + _PROFILED)
        operators[operator] += middle
        stages[stages_of.get(node, "rest")] += middle
    return {"operators": dict(sorted(operators.items(), key=lambda item: -item[1])),
            "stages": {stage: ms for stage, ms in stages.items() if ms}}  # fmt: skip


def _node_stages(artefact: Path) -> dict[str, str]:
    """Stage of each node by its name, and by its output's, which convolutions are called after in blocked layout."""
    import onnx

    from mgcda_core.export.onnx import node_networks

    graph = onnx.load(str(artefact), load_external_data=False).graph
    nodes, own = graph.node, node_networks(graph)
    after: list[str | None] = [None] * len(own)
    for k in reversed(range(len(own) - 1)):
        after[k] = own[k + 1] or after[k + 1]
    found: dict[str, str] = {}
    before = None
    for node, stage, following in zip(nodes, own, after, strict=True):
        before = stage or before
        inside = before if before is not None and before == following else "rest"
        found |= dict.fromkeys((node.name, f"{node.output[0]}_nchwc"), stage or inside)
    return found


def event_on(device: torch.device) -> torch.cuda.Event:
    """A mark on the GPU's current stream."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(begun: torch.cuda.Event, ended: torch.cuda.Event) -> float:
    """Of the GPU, once it has come to `ended`."""
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000
