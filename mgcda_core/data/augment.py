"""Joint geometry of image and label, and photometry of the image, on NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.config import AugmentConfig
from mgcda_core.data.blend import draw_colour, recolour


@dataclass(frozen=True)
class Window:
    """A part of an image, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """This part of [H, W, ...], as a view or, mirrored, a copy."""
        part = pixels[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part[:, ::-1]) if self.flip else part


def draw_window(pixels: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> Window:
    """A random part of [H, W, ...], of the drawn aspect and zoom, by chance mirrored."""
    height, width = pixels.shape[:2]
    aspect = rng.uniform(*config.aspect)
    rows = min(height, width / aspect)
    most = float(np.clip(rows / config.least_rows, 1.0, config.zoom[1]))
    window_h = int(rows / np.exp(rng.uniform(np.log(config.zoom[0]), np.log(max(most, config.zoom[0])))))
    window_w = min(width, int(window_h * aspect))
    top, left = int(rng.integers(0, height - window_h + 1)), int(rng.integers(0, width - window_w + 1))
    return Window(top, left, window_h, window_w, bool(rng.random() < config.flip))


def crop(
    image: np.ndarray, label: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same `draw_window` of both, still at the source's resolution.

    Args: image uint8 [H, W, 3], label uint8 [H, W]. Returns views or copies.
    """
    window = draw_window(label, config, rng)
    return window.cut(image), window.cut(label)


def resize(image: np.ndarray, label: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image bilinear (area when shrinking), label nearest, both to `size` (height, width)."""
    height, width = size
    shrinks = image.shape[0] > height
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def photometric(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Colour changes, then by chance blur, noise and JPEG; uint8 [H, W, 3] in and out."""
    image = recolour(image, draw_colour(config.colour, rng))
    if rng.random() < config.degrade:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.8)))
    if rng.random() < config.degrade:
        noise = rng.normal(0, rng.uniform(1, 8), (*image.shape[:2], 1)).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < config.degrade:
        quality = int(rng.integers(35, 95))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return image
