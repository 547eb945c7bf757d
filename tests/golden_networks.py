"""Our networks on the golden rule's weights and inputs: one function a kind of recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from golden_compare import Expected, Outcome, StageTap, equal, parse, relative, steps
from golden_rule import (
    STYLE_LENGTH,
    Inputs,
    Recording,
    build_deeplab,
    build_dissimilarity,
    build_encoder,
    build_generator,
    build_perceptual,
    rule,
)
from torch import Tensor, nn

from mgcda_core.models import uncertainty
from mgcda_core.models.dissimilarity import semantic_maps
from mgcda_core.models.resize import truncate_8bit
from mgcda_core.models.synthesis import edges, id_maps

CLASS_WEIGHTS = (1.46494611, 16.5204619)
PRIORS = ("entropy", "perceptual", "distance")
_TRAINING_SIZE = (64, 128)
_ZERO_GRADIENT = 1e-6  # norms below feed an instance norm: zero in exact arithmetic
_PROBES: dict[str, tuple[str, tuple[int, ...]]] = {
    "original": ("image_norm", (3,)), "synthesis": ("image_norm", (3,)), "image": ("image_norm", (3,)),
    "semantic": ("labels_train", ()), **dict.fromkeys(PRIORS, ("prior", (1,))),
}  # fmt: skip
_DISSIMILARITY_AXES = {
    "logits": ("nchw", 1), "score": ("nhw", 1), "decoder_feature": ("nchw", 1),
    "fused4": ("nchw", 8), "correlation4": ("nchw", 8), "product4": ("nchw", 8),
}  # fmt: skip
_DEEPLAB_AXES = {
    "logits": ("nchw", 1), "argmax": ("nhw", 1), "mod2": ("nchw", 2), "final": ("nchw", 2),
    "mod7": ("nchw", 8), "aspp": ("nchw", 8),
}  # fmt: skip


def dissimilarity(recording: Recording) -> Outcome:
    outcome = Outcome()
    n, h, w = _batch_and_size(recording, _DISSIMILARITY_AXES)
    net = build_dissimilarity(recording.name, recording.salt, outcome.crcs)
    levels = {f"vgg_encoder[{k}]": f"vgg_encoder.layer{k + 1}" for k in range(4)}
    levels |= {f"{e}[{k}]": f"{e}.hidden_layers.{k}" for e in ("semantic_encoder", "prior_encoder") for k in range(4)}
    tap = StageTap(net, {name: name for name, _ in net.named_children()} | levels, doubled=("vgg_encoder",))
    seen: dict[str, Tensor] = {}
    net.conv7.register_forward_hook(_keep(seen, "fused4"))
    net.conv1.register_forward_pre_hook(lambda _m, inputs: seen.update({"deepest": inputs[0]}))
    arguments = _dissimilarity_inputs(Inputs(recording.salt, outcome.crcs), n, h, w)
    with torch.inference_mode():
        logits, product4, decoder = net.features(*arguments)
    if not torch.equal(seen["deepest"][:, 1:], product4):
        outcome.problems.append("features() does not return what the decoder reads")
    judge, score_judge = relative(1e-5), relative(1e-5 if recording.name == "dissim_prior" else 3e-5)
    arrays = {"logits": logits, "decoder_feature": decoder, "fused4": seen["fused4"], "product4": product4}
    arrays["correlation4"] = seen["deepest"][:, :1]
    outcome.expected = {name: Expected(value.numpy(), "nchw", judge) for name, value in arrays.items()}
    outcome.expected["score"] = Expected(logits.softmax(1)[:, 1].numpy(), "nhw", score_judge)
    outcome.stages = tap.rows
    return outcome


def training(recording: Recording) -> Outcome:
    """Loss and gradients of one weighted cross entropy at 64x128 (spec 2.3)."""
    outcome = Outcome(described=frozenset({"grad_names"}))
    h, w = _TRAINING_SIZE
    n = int(recording.arrays["label_counts"].sum()) // (h * w) if "label_counts" in recording.arrays else 1
    net = build_dissimilarity("dissim_prior", recording.salt, outcome.crcs)
    inputs = Inputs(recording.salt, outcome.crcs)
    arguments = _dissimilarity_inputs(inputs, n, h, w)
    target = inputs.draw("target", (n, h, w), "labels_binary")
    loss = F.cross_entropy(net(*arguments), target, torch.tensor(CLASS_WEIGHTS), ignore_index=255)
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    names = recording.arrays.get("grad_names", np.array(list(gradients))).tolist()
    norms = np.array([float(gradients[name].double().norm()) for name in names])
    counts = np.array([int((target == value).sum()) for value in (0, 1, 255)])
    outcome.expected = {
        "loss": Expected(np.array(float(loss.detach())), "", relative(1e-5)),
        "label_counts": Expected(counts, "", equal()),
        "grad_l2": Expected(norms, "", _gradient_norms),
    }
    for name, gradient in gradients.items():
        tolerance = 1e-5 if name.startswith("conv11.") else 1e-2
        outcome.expected[f"grad_{name}"] = Expected(gradient.numpy(), "", relative(tolerance))
    return outcome


def perceptual(recording: Recording) -> Outcome:
    outcome = Outcome()
    layout = {"raw": ("nchw", 1), "scaled": ("nhw", 1), "scaled_u8_trunc": ("nhw", 1)}
    n, h, w = _batch_and_size(recording, layout)
    difference = build_perceptual(recording.salt, outcome.crcs)
    slices = tuple(f"slice{k}" for k in range(1, 6))
    tap = StageTap(difference, {name: f"vgg19.{name}" for name in slices}, doubled=slices)
    inputs = Inputs(recording.salt, outcome.crcs)
    with torch.inference_mode():
        raw = difference(*(inputs.draw(name, (n, 3, h, w), "image_norm") for name in ("original", "synthesis")))
        scaled, quantised = uncertainty.minmax(raw), uncertainty.minmax_8bit(raw)
    outcome.expected = {
        "raw": Expected(raw.numpy(), "nchw", relative(1e-5)),
        "scaled": Expected(scaled[:, 0].numpy(), "nhw", relative(1e-5)),
        "scaled_u8_trunc": Expected(to_u8(quantised[:, 0]), "nhw", steps(1e-3)),
    }
    outcome.stages = tap.rows
    return outcome


def generator(recording: Recording) -> Outcome:
    outcome = Outcome(described=frozenset({"ngf", "latent_hw"}))
    (ngf,), (lh, lw) = recording.numbers("ngf"), recording.numbers("latent_hw")
    h, w = 64 * lh, 64 * lw
    crc = recording.arrays.get("crc_weights")
    net = build_generator(ngf, (h, w), recording.salt, outcome.crcs, None if crc is None else int(crc))
    tap = StageTap(net, {name: name for name, _ in net.named_children()})
    seen: dict[str, Tensor] = {}
    for name in ("up_0", "labeldec6"):
        net.get_submodule(name).register_forward_hook(_keep(seen, name))
    n = _batch(recording, "labels", lambda n: (n, h, w), "labels_id")
    inputs = Inputs(recording.salt, outcome.crcs)
    ids = inputs.draw("labels", (n, h, w), "labels_id")
    z = inputs.draw("z", (n, STYLE_LENGTH), "normal")
    outcome.crcs["crc_edges_u8"] = rule.array_crc(edges(ids)[:, 0].numpy().astype(np.uint8))
    with torch.inference_mode():
        image = net(id_maps(ids), z)
    judge = relative(5e-5 if ngf < 64 else 2e-4 if (h, w) == (128, 256) else 1e-4)
    saturated = np.array(float((image.abs() > 0.99).double().mean()))
    outcome.expected = {
        "image": Expected(image.numpy(), "nchw", judge),
        "image_u8_trunc": Expected(synthesis_u8(image), "nhwc", steps(1e-3)),
        "up_0": Expected(seen["up_0"].numpy(), "nchw", judge),
        "labeldec6": Expected(seen["labeldec6"].numpy(), "nchw", judge),
        "saturated_share": Expected(saturated, "", lambda a, b: (float(abs(a - b)), 2e-4)),
    }
    outcome.stages = tap.rows
    return outcome


def encoder(recording: Recording) -> Outcome:
    outcome = Outcome(described=frozenset({"ngf", "input_hw"}))
    (ngf,), (h, w) = recording.numbers("ngf"), recording.numbers("input_hw")
    net = build_encoder(ngf, recording.salt, outcome.crcs)
    tap = StageTap(net, {name: name for name, _ in net.named_children()})
    n = _batch(recording, "image", lambda n: (n, 3, h, w), "image_pm1")
    image = Inputs(recording.salt, outcome.crcs).draw("image", (n, 3, h, w), "image_pm1")
    with torch.inference_mode():
        mu, logvar = net(image)
    outcome.expected = {
        name: Expected(value.numpy(), "nc", relative(2e-5)) for name, value in (("mu", mu), ("logvar", logvar))
    }
    outcome.stages = tap.rows
    return outcome


def deeplab(recording: Recording) -> Outcome:
    outcome = Outcome()
    n, h, w = _batch_and_size(recording, _DEEPLAB_AXES)
    net = build_deeplab(recording.salt, outcome.crcs)
    tap = StageTap(net, {name: name for name, _ in net.named_children()})
    seen: dict[str, Tensor] = {}
    for name in ("mod2", "mod7", "aspp", "final"):
        net.get_submodule(name).register_forward_hook(_keep(seen, name))
    image = Inputs(recording.salt, outcome.crcs).draw("image", (n, 3, h, w), "image_norm")
    with torch.inference_mode():
        seen["logits"] = net(image)
    outcome.expected = {name: Expected(value.numpy(), "nchw", relative(5e-5)) for name, value in seen.items()}
    outcome.expected["argmax"] = Expected(seen["logits"].argmax(1).numpy(), "nhw", equal(0.999))
    outcome.stages = tap.rows
    return outcome


def to_u8(unit: Tensor) -> np.ndarray:
    """Values k / 255 -> k."""
    return (unit * 255).round().to(torch.uint8).numpy()


def synthesis_u8(image: Tensor) -> np.ndarray:
    """Generator output [N, 3, h, w] in [-1, 1] -> uint8 [N, h, w, 3], truncated."""
    return to_u8(truncate_8bit((image + 1) / 2).permute(0, 2, 3, 1))


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen[name] = output.clone()  # the next block may activate in place

    return hook


def _dissimilarity_inputs(inputs: Inputs, n: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image = inputs.draw("original", (n, 3, h, w), "image_norm")
    synthesis = inputs.draw("synthesis", (n, 3, h, w), "image_norm")
    semantic = semantic_maps(inputs.draw("semantic", (n, h, w), "labels_train"))
    prior = torch.cat([inputs.draw(name, (n, 1, h, w), "prior") for name in PRIORS], 1)
    return image, synthesis, semantic, prior


def _gradient_norms(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
    zero = recorded <= _ZERO_GRADIENT
    if (ours[zero] >= _ZERO_GRADIENT).any():
        return np.inf, 3e-3
    error = np.abs(ours - recorded)[~zero] / recorded[~zero]
    return float(error.max(initial=0.0)), 3e-3


def _batch(recording: Recording, name: str, shape: Callable[[int], tuple[int, ...]], kind: str) -> int:
    """Samples of a recording whose size it states: leading axes and item numbers, settled by the input's checksum."""
    known = {"image": "", "up_0": "", "labeldec6": "", "mu": "", "logvar": "", "image_u8_trunc": ""}
    items = [p[1] for p in (parse(n, known) for n in recording.arrays) if p is not None and p[1] is not None]
    least = max([1, *(item + 1 for item in items)])
    crc = recording.arrays.get(f"crc_input_{name}")
    for n in range(least, least + 8):
        if crc is None or rule.array_crc(rule.synthetic_input(name, shape(n), kind, recording.salt)) == int(crc):
            return n
    return least


def _batch_and_size(recording: Recording, layout: Mapping[str, tuple[str, int]]) -> tuple[int, int, int]:
    """(N, H, W) of a recording that does not state them: the first fit whose input has the recorded checksum."""
    candidates = sorted(set(_candidates(recording, layout)), key=lambda c: (c[1] * c[2], c[0]))
    if not candidates:
        raise ValueError("no array tells the size of the images")
    probe = next((name for name in _PROBES if f"crc_input_{name}" in recording.arrays), None)
    if probe is None:
        return candidates[0]
    kind, channels = _PROBES[probe]
    for n, h, w in candidates:
        drawn = rule.synthetic_input(probe, (n, *channels, h, w), kind, recording.salt)
        if rule.array_crc(drawn) == int(recording.arrays[f"crc_input_{probe}"]):
            return n, h, w
    raise ValueError(f"no batch and size that fits the arrays gives crc_input_{probe}")


def _candidates(recording: Recording, layout: Mapping[str, tuple[str, int]]) -> Iterator[tuple[int, int, int]]:
    parsed = [(p, array.shape) for name, array in recording.arrays.items() if (p := parse(name, layout)) is not None]
    least = max([1, *(p[1] + 1 for p, _ in parsed if p[1] is not None)])
    for (base, _item, step, statistic), shape in parsed:
        axes, scale = layout[base]
        if statistic:
            least = max(least, shape[0] if len(shape) > 1 else 1)
            continue
        samples = max(least, shape[0] if len(shape) == len(axes) else 1)
        strides = (1,) if step is None else (step,) if step else (1, 2, 3, 4, 6, 8, 16)
        for stride in strides:
            heights, widths = (_multiples_of_8(part, stride, scale) for part in shape[-2:])
            yield from product(range(samples, samples + 4), heights, widths)


def _multiples_of_8(part: int, stride: int, scale: int) -> list[int]:
    """Full sizes whose part at `stride` of the map at 1 / `scale` has `part` pixels."""
    low, high = ((part - 1) * stride + 1) * scale, part * stride * scale
    return [size for size in range(low, high + 1) if size % 8 == 0]
