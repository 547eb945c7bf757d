"""Where a camera sits on the vehicle: optical frame (x right, y down, z forward) -> base_link (REP-103)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgcda_core.config import ConfigError

FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Optical axes in those of a body that looks along x."""


@dataclass(frozen=True, eq=False)
class Mount:
    """Place of the optical centre in base_link: x forward, y left, z up, the road at z = 0."""

    rotation: np.ndarray
    """float64 [3, 3], turns a ray of the optical frame into base_link."""
    position: np.ndarray
    """float64 [3] in metres; position[2] is the height above the road."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rotation).all() and np.isfinite(self.position).all()):
            raise ConfigError(
                "the camera's mounting holds a value that is not finite: check its transform or parameters"
            )
        if not self.position[2] > 0:
            raise ConfigError(
                f"the camera's height above the road is {self.position[2]:g} m and must be positive: set it, or give "
                "base_link's transform so that its z = 0 is the road"
            )

    @staticmethod
    def from_angles(
        height_m: float,
        *,
        roll_rad: float = 0.0,
        pitch_rad: float = 0.0,
        yaw_rad: float = 0.0,
        forward_m: float = 0.0,
        left_m: float = 0.0,
    ) -> Mount:
        """Mount of a camera that looks along x when all angles are 0.

        The angles turn about base_link's fixed axes in the order roll, pitch, yaw (REP-103): positive pitch looks down,
        positive yaw to the left. Raises ConfigError for a height that is not positive and values that are not finite.
        """
        if not np.isfinite((roll_rad, pitch_rad, yaw_rad)).all():
            raise ConfigError(f"roll, pitch and yaw must be finite, not {roll_rad}, {pitch_rad}, {yaw_rad}")
        turned = turn(2, yaw_rad) @ turn(1, pitch_rad) @ turn(0, roll_rad) @ FROM_OPTICAL
        return Mount(turned, np.array((forward_m, left_m, height_m), float))

    @staticmethod
    def from_transform(translation: Sequence[float], quaternion: Sequence[float]) -> Mount:
        """Mount from tf2's transform base_link <- optical frame: x y z in metres, quaternion x y z w.

        Raises ConfigError for a quaternion that is not of length 1 (within 1 %), or a camera below the road.
        """
        q = np.asarray(quaternion, float)
        length = float(np.linalg.norm(q)) if np.isfinite(q).all() else np.inf
        if not abs(length - 1) < 0.01:
            raise ConfigError(
                f"the rotation of the camera's transform has length {length:g}, not 1: check the publisher"
            )
        (x, y, z), w = q[:3] / length, q[3] / length
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        return Mount(np.eye(3) + 2 * w * cross + 2 * cross @ cross, np.asarray(translation, float))


def turn(axis: int, angle_rad: float) -> np.ndarray:
    """Rotation matrix float64 [3, 3] about axis 0 (x), 1 (y) or 2 (z) by the right-hand rule."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = c
    matrix[j, i], matrix[i, j] = s, -s
    return matrix
