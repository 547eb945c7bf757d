"""AnomalyMix, training domain A: objects of other pictures pasted into road scenes (PEBAL, ECCV 2022; spec 3.4).

Label rule: 1 on the pasted object, also over void; 255 on the scene's other void; 0 elsewhere.
"""

from __future__ import annotations

import cv2
import numpy as np

from mgcda_core.config import AnomalyMixConfig
from mgcda_core.data.augment import jitter_colour
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

ROAD = 0
KNOWN_OBJECTS = (11, 12, 13, 14, 15, 16, 17, 18)
"""Train ids of people and vehicles."""


def mix(
    image: np.ndarray,
    train_ids: np.ndarray,
    anomalies: list[np.ndarray],
    known: list[np.ndarray],
    config: AnomalyMixConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Paste objects into one scene.

    Args:
        image: uint8 [H, W, 3] RGB; train_ids: uint8 [H, W], 255 void (only road, where feet may stand, is read).
        anomalies, known: uint8 [h, w, 4] RGBA cut-outs to paste with label 1 and with label 0.
    Returns: composite uint8 [H, W, 3], label uint8 [H, W] in {0, 1, 255}.
    """
    image = image.copy()
    label = np.where(train_ids == IGNORE, IGNORE, NORMAL).astype(np.uint8)
    feet = np.flatnonzero(train_ids == ROAD)
    for value, cutouts in ((NORMAL, known), (ANOMALY, anomalies)):
        for rgba in cutouts:
            paste(image, label, rgba, value, feet, config, rng)
    return image, label


def paste(
    image: np.ndarray,
    label: np.ndarray,
    rgba: np.ndarray,
    value: int,
    feet: np.ndarray,
    config: AnomalyMixConfig,
    rng: np.random.Generator,
) -> None:
    """Paste one RGBA cut-out into `image` and `label` in place, fully inside the frame; `feet`: flat road indices."""
    height, width = label.shape
    side = height * np.exp(rng.uniform(*np.log(config.height)))
    scale = min(side / max(rgba.shape[:2]), 0.98 * height / rgba.shape[0], 0.98 * width / rgba.shape[1])
    h, w = max(2, round(rgba.shape[0] * scale)), max(2, round(rgba.shape[1] * scale))
    rgba = cv2.resize(rgba, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        rgba = np.ascontiguousarray(rgba[:, ::-1])
    top, left = _place(h, w, height, width, feet if rng.random() < config.on_road else feet[:0], rng)
    window = np.s_[top : top + h, left : left + w]
    colour = _match(
        jitter_colour(np.ascontiguousarray(rgba[..., :3]), 0.25, rng), rgba[..., 3], image[window], config, rng
    )
    alpha = rgba[..., 3].astype(np.float32) / 255
    sigma = float(rng.uniform(*config.feather))
    if sigma > 0.2:
        alpha = np.minimum(cv2.GaussianBlur(alpha, (0, 0), sigma), (alpha > 0.02).astype(np.float32))
    image[window] = (colour * alpha[..., None] + image[window] * (1 - alpha[..., None]) + 0.5).astype(np.uint8)
    label[window][rgba[..., 3] > 127] = value


def known_objects(image: np.ndarray, train_ids: np.ndarray, *, min_pixels: int = 300) -> list[np.ndarray]:
    """Cut-outs uint8 [h, w, 4] of a scene's people and vehicles: 8-connected components that touch no border."""
    mask = np.isin(train_ids, KNOWN_OBJECTS).astype(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    height, width = mask.shape
    cutouts = []
    for i in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[i])
        if area >= min_pixels and x > 0 and y > 0 and x + w < width and y + h < height:
            window = np.s_[y : y + h, x : x + w]
            cutouts.append(np.dstack([image[window], (components[window] == i).astype(np.uint8) * 255]))
    return cutouts


def _place(h: int, w: int, height: int, width: int, feet: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    if feet.size:
        foot_y, foot_x = divmod(int(feet[rng.integers(feet.size)]), width)
        return int(np.clip(foot_y - h, 0, height - h)), int(np.clip(foot_x - w // 2, 0, width - w))
    return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))


def _match(
    colour: np.ndarray, alpha: np.ndarray, background: np.ndarray, config: AnomalyMixConfig, rng: np.random.Generator
) -> np.ndarray:
    """Move the object's per-channel mean and deviation part of the way to those of the covered background."""
    share = rng.uniform(*config.colour_match)
    inside = colour[alpha > 127].astype(np.float32)
    if share == 0 or len(inside) < 2:
        return colour
    mean, deviation = inside.mean(0), inside.std(0) + 1
    around = background.reshape(-1, 3).astype(np.float32)
    target_mean = mean + share * 0.6 * (around.mean(0) - mean)
    target_deviation = deviation * (1 + share * 0.5 * np.clip((around.std(0) + 1) / deviation - 1, -0.6, 0.6))
    return np.clip((colour - mean) / deviation * target_deviation + target_mean, 0, 255)
