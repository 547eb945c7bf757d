"""A scene of noise and an object to paste into it."""

from __future__ import annotations

import numpy as np

from mgcda_core.data.cutouts import Cutout

SCENE = np.random.default_rng(0).integers(60, 140, (80, 160, 3)).astype(np.uint8)


def ball(name: str = "ball", radius: int = 12, top: int = 0, left: int = 0, picture: str = "p") -> Cutout:
    """A textured disc on a plain background of its own."""
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    solid = yy**2 + xx**2 <= radius**2
    rng = np.random.default_rng(radius)
    colour = np.where(solid[..., None], rng.integers(150, 250, (*solid.shape, 3)), 200).astype(np.uint8)
    return Cutout(np.dstack([colour, solid.astype(np.uint8) * 255]), name, picture, top, left)
