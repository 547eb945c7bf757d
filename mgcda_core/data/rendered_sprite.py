"""Drawing board for procedural sprites: soft-edged shapes, shaded as if they bulged out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import fractal


class Sprite:
    """A small RGBA picture being drawn: shapes in units of its height, (0, 0) top left, soft edges."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.rgba = np.zeros((height, width, 4), np.float32)

    def mask(self, points: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """float32 [h, w] coverage of a polygon; points (x, y) in units of the height."""
        mask = np.zeros(self.size, np.uint8)
        scaled = np.round(np.asarray(points, float) * self.size[0] * 16).astype(np.int32)
        cv2.fillPoly(mask, [scaled], 255, cv2.LINE_AA, shift=4)
        return mask.astype(np.float32) / 255

    def ellipse(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
        """float32 [h, w] coverage of an ellipse; angle in degrees."""
        t = np.linspace(0, 2 * np.pi, 36)
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        dx, dy = rx * np.cos(t), ry * np.sin(t)
        return self.mask(np.stack([x + c * dx - s * dy, y + s * dx + c * dy], 1))

    def limb(self, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> np.ndarray:
        """float32 [h, w] coverage of a tapered, rounded stroke."""
        (x0, y0), (x1, y1) = start, end
        length = max(np.hypot(x1 - x0, y1 - y0), 1e-6)
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        body = self.mask([(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1),
                          (x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)])  # fmt: skip
        return np.maximum(np.maximum(body, self.ellipse(x0, y0, r0, r0)), self.ellipse(x1, y1, r1, r1))

    def paint(self, mask: np.ndarray, colour: np.ndarray | Sequence[float]) -> None:
        """Cover the mask with a colour [3] or a picture [h, w, 3] in [0, 1]."""
        m = mask[..., None]
        self.rgba *= 1 - m
        self.rgba[..., :3] += m * np.asarray(colour, np.float32)
        self.rgba[..., 3:] += m

    def shaded(self, mask: np.ndarray, colour: Sequence[float] | np.ndarray, depth: float = 1.0, rough: float = 0.0,
               rng: np.random.Generator | None = None) -> None:  # fmt: skip
        """Cover the mask with a colour lit from the upper left as if the shape bulged out."""
        x, y, w, h = cv2.boundingRect((mask > 0).astype(np.uint8))
        if w == 0:
            return
        x0, y0 = max(x - 2, 0), max(y - 2, 0)
        part = (slice(y0, y + h + 2), slice(x0, x + w + 2))
        light = inflate(mask[part], depth, self.size[0])
        if rough and rng is not None:
            light = light * (1 + rough * fractal(rng, self.size, cells=8, octaves=4)[part])
        tone = np.asarray(colour, np.float32)
        tone = tone[part] if tone.ndim == 3 else tone
        m, rgba = mask[part][..., None], self.rgba[part]
        rgba *= 1 - m
        rgba[..., :3] += m * np.clip(tone * light[..., None], 0, 1)
        rgba[..., 3:] += m

    def texture(self) -> np.ndarray:
        """uint8 RGBA, cropped to where it is at least half opaque."""
        solid = self.rgba[..., 3] > 0.5
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        if len(rows) == 0:
            raise ValueError("a sprite without a single solid pixel cannot be drawn")
        cut = self.rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.clip(cut * 255, 0, 255).astype(np.uint8)


def inflate(mask: np.ndarray, depth: float, size: int) -> np.ndarray:
    """float32 [h, w] brightness around 1 of a shape that bulges towards the viewer, lit from the upper left.

    size: height of the whole sprite in pixels, to which the bulge is scaled.
    """
    solid = np.pad((mask > 0.5).astype(np.uint8), 1)  # the outline ends at the window's border
    distance = cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1]
    bulge = cv2.GaussianBlur(np.sqrt(distance), (0, 0), max(size / 60, 0.8))
    dx = cv2.Sobel(bulge, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(bulge, cv2.CV_32F, 0, 1, ksize=3)
    slope = np.sqrt(size / 100) * depth
    return np.clip(0.92 + slope * (0.22 * dx + 0.38 * dy), 0.25, 1.45)
