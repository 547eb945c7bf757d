"""How a cut-out meets the picture it is pasted into: its size, colours and seam. No randomness: numbers come in drawn.

Colours are uint8 or float32 RGB in [0, 255]; `alpha` is uint8, and the object is where it is above 127.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

OPAQUE = 127
"""A pixel belongs to the object if its alpha is above this."""
CROSS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
SWEEPS, RELAXATION = 30, 1.8
"""Of the Poisson solver: on average 0.2 to 3.5 grey levels off a direct solution that spans 160 to 200."""


def resize_rgba(rgba: np.ndarray, height: int, width: int, *, clean: bool = True) -> np.ndarray:
    """uint8 [h, w, 4] -> [height, width, 4], averaged when shrinking; `clean` keeps the object's own old background out
    of its rim."""
    if rgba.shape[:2] == (height, width):
        return rgba
    how = cv2.INTER_AREA if height < rgba.shape[0] else cv2.INTER_LINEAR
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colour = rgba[..., :3] * (alpha if clean else np.float32(1))
    scaled = cv2.resize(np.dstack([colour, alpha]), (width, height), interpolation=how)
    colour, alpha = scaled[..., :3], scaled[..., 3:]
    colour = colour / np.maximum(alpha, 1e-3) if clean else colour
    alpha = np.clip((alpha - 0.5) * max(1, height / rgba.shape[0]) + 0.5, 0, 1)  # a rim of a pixel, however enlarged
    return np.clip(np.dstack([colour, alpha * 255]) + 0.5, 0, 255).astype(np.uint8)


def draw_colour(strength: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Seven numbers of a colour change: gain, gamma, offset, red, green, blue, saturation; none if `strength` is 0."""
    if strength == 0:
        return ()
    gain, gamma = np.exp(rng.uniform(-strength, strength, 2))
    offset = rng.uniform(-60, 60) * strength
    balance = np.exp(rng.uniform(-strength, strength, 3) * 0.4)
    saturation = np.exp(rng.uniform(-1.5, 0.8) * strength)
    grey = rng.random() < 0.05
    return (float(gain), float(gamma), float(offset), *balance.tolist(), 0.0 if grey else float(saturation))


def recolour(colour: np.ndarray, numbers: tuple[float, ...]) -> np.ndarray:
    """Apply what `draw_colour` drew to uint8 [h, w, 3]: contrast, brightness, gamma, white balance, saturation."""
    if not numbers:
        return colour
    gain, gamma, offset, *balance, saturation = numbers
    curve = np.clip((np.linspace(0, 1, 256) ** gamma * 255 - 128) * gain + 128 + offset, 0, 255)
    table = np.clip(curve[:, None] * np.array(balance), 0, 255).astype(np.uint8)
    colour = cv2.LUT(np.ascontiguousarray(colour), table[:, None, :])
    grey = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(colour, saturation, grey, 1 - saturation, 0)


def match(colour: np.ndarray, alpha: np.ndarray, around: np.ndarray, share: float) -> np.ndarray:
    """Move the object's mean and deviation, per channel, by `share` of the way to those of `around`.

    The deviation changes by 0.4 to 1.6 times at most: a plain object would turn to noise, a rich one to grey.

    Args: colour: [h, w, 3]; alpha: [h, w]; around: the picture under and about it, [h, w, 3]; share in [0, 1].
    """
    inside = colour[alpha > OPAQUE].astype(np.float32)
    if share == 0 or len(inside) < 2:
        return colour
    mean, deviation = inside.mean(0), inside.std(0) + 1
    around = around.reshape(-1, 3).astype(np.float32)
    contrast = 1 + share * (np.clip((around.std(0) + 1) / deviation, 0.4, 1.6) - 1)
    return np.clip((colour - mean) * contrast + mean + share * (around.mean(0) - mean), 0, 255)


def blend(
    image: np.ndarray,
    colour: np.ndarray,
    alpha: np.ndarray,
    corner: tuple[int, int],
    seam: Literal["none", "feather", "poisson"],
    sigma: float,
) -> None:
    """Put an object into `image` uint8 [H, W, 3], in place; no pixel whose alpha is 0 changes.

    Args: colour: [h, w, 3]; alpha: uint8 [h, w]; corner: (top, left), h and w fit the image; sigma: pixels, feather.
    """
    top, left = corner
    window = image[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    mask = alpha > OPAQUE
    if seam == "feather":
        share = _soften(alpha, sigma)[..., None]
        window[:] = (colour * share + window * (1 - share) + 0.5).astype(np.uint8)
    elif seam == "poisson":
        window[mask] = _poisson(image, colour, mask, top, left)[mask]
    else:
        window[mask] = (colour[mask] + 0.5).astype(np.uint8)


def _soften(alpha: np.ndarray, sigma: float) -> np.ndarray:
    """Opacity float32 [h, w] in [0, 1] of the object and a rim of one pixel, blurred inwards only: outside its outline
    an object has no colour to show."""
    rim = cv2.dilate((alpha > OPAQUE).astype(np.float32), np.ones((3, 3)))
    share = np.minimum(alpha.astype(np.float32) / 255, rim)
    if sigma < 0.2:
        return share
    blurred = cv2.GaussianBlur(share, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(blurred, share > 0.02)


def _poisson(image: np.ndarray, colour: np.ndarray, mask: np.ndarray, top: int, left: int) -> np.ndarray:
    """uint8 [h, w, 3]: the object with its own gradients, also across its outline (Perez et al., 2003, eq. 7).

    All of it changes as the picture around it differs from what was around it: it keeps its contrast, not its colour.
    """
    height, width = mask.shape
    above, before = min(top, 1), min(left, 1)  # the picture's pixels next to the window, where the frame has any
    context = image[top - above : top + height + 1, left - before : left + width + 1].astype(np.float32)
    below, after = context.shape[0] - height - above, context.shape[1] - width - before
    margins = ((above, below), (before, after))
    source = np.pad(colour.astype(np.float32), (*margins, (0, 0)), mode="edge")
    change = _membrane(context - source, np.pad(mask.astype(np.float32), margins))
    return np.clip(colour + change[above : above + height, before : before + width] + 0.5, 0, 255).astype(np.uint8)


def _membrane(change: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Replace what is inside by the harmonic continuation of what is outside: float32 [h, w, 3].

    Solved from coarse to fine, with over-relaxed steps on one colour of a chessboard, then the other.

    Args: change: float32 [h, w, 3], read outside only; inside: float32 [h, w], 0 or 1.
    """
    height, width = inside.shape
    outside = 1 - inside[..., None]
    start = np.zeros_like(change)
    if max(height, width) >= 8:
        start = cv2.resize(_membrane(*_halved(change, inside)), (width, height), interpolation=cv2.INTER_LINEAR)
    change = change * outside + start * inside[..., None]
    neighbours = _sum_of_neighbours(np.ones_like(inside))[..., None]
    board = np.add.outer(np.arange(height), np.arange(width)) % 2
    chequers = [(RELAXATION * inside * (board == colour))[..., None] for colour in (0, 1)]
    for _ in range(SWEEPS):
        for chequer in chequers:
            change += chequer * (_sum_of_neighbours(change) / neighbours - change)
    return change


def _halved(change: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half as many rows and columns; what is partly outside counts as outside, with the mean of that part."""
    size = (max(1, inside.shape[1] // 2), max(1, inside.shape[0] // 2))
    share = cv2.resize(1 - inside, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(change * (1 - inside)[..., None], size, interpolation=cv2.INTER_AREA)
    return mean / np.maximum(share, 1e-6)[..., None], (share < 1e-3).astype(np.float32)


def _sum_of_neighbours(values: np.ndarray) -> np.ndarray:
    """Sum of the pixels above, below, left and right; the frame's outside counts 0."""
    return cv2.filter2D(values, -1, CROSS, borderType=cv2.BORDER_CONSTANT)
