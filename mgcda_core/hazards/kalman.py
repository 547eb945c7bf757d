"""Constant-velocity Kalman filter for many points in the plane at once: states x, y, vx, vy in metres and seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Motion:
    """Places and velocities of N points with their covariances."""

    mean: np.ndarray
    """float64 [N, 4]: x, y, vx, vy."""
    covariance: np.ndarray
    """float64 [N, 4, 4]."""

    @staticmethod
    def at(places: np.ndarray, covariances: np.ndarray, speed_std_mps: float) -> Motion:
        """Points measured once, at `places` [N, 2] with `covariances` [N, 2, 2]; of their velocity nothing is known."""
        count = len(places)
        covariance = np.zeros((count, 4, 4))
        covariance[:, :2, :2] = covariances
        covariance[:, 2, 2] = covariance[:, 3, 3] = speed_std_mps**2
        return Motion(np.c_[places, np.zeros((count, 2))], covariance)

    def __getitem__(self, index: np.ndarray) -> Motion:
        return Motion(self.mean[index], self.covariance[index])

    def replaced(self, index: np.ndarray, other: Motion) -> Motion:
        """These points with those at `index` taken from `other`, in its order."""
        mean, covariance = self.mean.copy(), self.covariance.copy()
        mean[index], covariance[index] = other.mean, other.covariance
        return Motion(mean, covariance)

    def joined(self, other: Motion) -> Motion:
        """These points, then the other ones."""
        return Motion(np.r_[self.mean, other.mean], np.r_[self.covariance, other.covariance])

    def after(self, seconds: float, acceleration_std: float) -> Motion:
        """The points so much later, pushed by an acceleration of this deviation (m/s^2) constant over the time."""
        step = np.eye(4)
        step[0, 2] = step[1, 3] = seconds
        push = np.zeros((4, 2))
        push[0, 0] = push[1, 1] = seconds**2 / 2
        push[2, 0] = push[3, 1] = seconds
        noise = acceleration_std**2 * push @ push.T
        return Motion(self.mean @ step.T, step @ self.covariance @ step.T + noise)

    def corrected(self, places: np.ndarray, covariances: np.ndarray) -> Motion:
        """The points after each was measured at `places` [N, 2] with `covariances` [N, 2, 2] (Joseph form)."""
        seen = self.covariance[:, :2, :2] + covariances
        gain = np.linalg.solve(seen, self.covariance[:, :2]).transpose(0, 2, 1)
        mean = self.mean + np.einsum("nij,nj->ni", gain, places - self.mean[:, :2])
        keep = np.tile(np.eye(4), (len(mean), 1, 1))
        keep[:, :, :2] -= gain
        spread = keep @ self.covariance @ keep.transpose(0, 2, 1) + gain @ covariances @ gain.transpose(0, 2, 1)
        return Motion(mean, spread)

    def misfits(self, places: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How the points fit M places [M, 2], measured with covariances [M, 2, 2]; both float64 [N, M].

        Squared Mahalanobis distances, and the determinants of the covariances of the differences.
        """
        off = places[None] - self.mean[:, None, :2]
        spread = self.covariance[:, None, :2, :2] + covariances[None]
        squares = np.einsum("nmi,nmi->nm", off, np.linalg.solve(spread, off[..., None])[..., 0])
        return squares, np.linalg.det(spread)
