"""Hazards over frames: which of them are the same thing, how it moves, and whether it is there at all."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from mgcda_core.config import ConfigError
from mgcda_core.hazards.kalman import Motion
from mgcda_core.hazards.regions import Hazard

MOST = 200
"""Tracks and hazards of a frame beyond the nearest this many are left out: time and memory stay bounded."""
GATE = 9.21
"""Squared Mahalanobis distance that 99 % of the measurements of one thing keep within (chi-square, 2 degrees)."""
PLACE_STD_M = 0.15
"""How much the contact point wanders over a thing with its outline, on top of the hazard's own uncertainty."""
SPEED_STD_MPS = 15.0
"""What is known of a new thing's velocity against the own vehicle."""
ACCELERATION_STD = 3.0
"""Of the own vehicle and the thing, in m/s^2: braking and bends."""
NOTHING = Motion.at(np.zeros((0, 2)), np.zeros((0, 2, 2)), SPEED_STD_MPS)
OUT_OF_GATE = 1e6
LONGEST_GAP_S = 2.0
"""After a longer time without a frame nobody can say which thing is which: all tracks end."""


@dataclass(frozen=True)
class Track:
    """One thing followed over frames."""

    id: int
    """Positive; never given twice by one Tracker, or by several that share `ids`."""
    hazard: Hazard
    """As it was last seen, but at the place, and with the uncertainty, that the filter gives it now."""
    velocity: tuple[float, float]
    """vx, vy in m/s in base_link, as seen from the moving vehicle: a thing at rest comes at the vehicle's speed."""
    velocity_std: tuple[float, float]
    """Standard deviations of vx and vy in m/s."""
    age_s: float
    """Time since it was first seen."""
    unseen_s: float
    """Time since it was last seen; 0 if in this frame."""
    hits: int
    """Frames in which it was seen."""
    confirmed: bool
    """Seen often enough to be believed, once; it stays so until the track ends."""
    confidence: float
    """In [0, 1]: mean score over the last `confirm_window` frames, 0 where it was not seen; while it is out of sight it
    falls to 0 over `timeout_s`."""


@dataclass(frozen=True)
class _Life:
    """What of a track is no motion."""

    id: int
    hazard: Hazard
    born_s: float
    seen_s: float
    hits: int = 0
    scores: tuple[float | None, ...] = ()
    """Of the last frames, the newest last; None where it was not seen."""
    confirmed: bool = False
    trust: float = 0.0
    """Confidence when it was last seen."""


class Tracker:
    """Follows the hazards of one camera in base_link with a constant-velocity Kalman filter.

    A track is confirmed once it was seen in `confirm_hits` of `confirm_window` frames; one that missed that is dropped.
    One that is not seen any more is predicted on for `timeout_s` seconds. `ids` are what the tracks are given, 1, 2 ...
    by default. Raises ConfigError for figures that make no tracker.
    """

    def __init__(
        self,
        *,
        confirm_hits: int = 2,
        confirm_window: int = 3,
        timeout_s: float = 0.5,
        ids: Iterator[int] | None = None,
    ) -> None:
        if not 1 <= confirm_hits <= confirm_window:
            raise ConfigError(f"confirm_hits must lie in 1 .. confirm_window, not {confirm_hits} of {confirm_window}")
        if not 0 <= timeout_s < math.inf:
            raise ConfigError(f"timeout_s must be 0 or a positive number of seconds, not {timeout_s}")
        self._hits, self._window, self._timeout = confirm_hits, confirm_window, timeout_s
        self._ids = itertools.count(1) if ids is None else ids
        self._stamp = -math.inf
        self._lives: list[_Life] = []
        self._motion = NOTHING

    def update(self, hazards: Sequence[Hazard], stamp_s: float) -> list[Track]:
        """Take in the hazards of the frame of this stamp (seconds); returns all tracks, the nearest first.

        Stamps may be irregular. One before the last, as when a recording starts again, ends all tracks, and so does a
        gap of more than LONGEST_GAP_S; a frame with the last stamp again changes nothing. Raises ValueError for a stamp
        that is not finite.
        """
        if not math.isfinite(stamp_s):
            raise ValueError(f"a frame's stamp must be finite, not {stamp_s}")
        if stamp_s != self._stamp:
            elapsed, self._stamp = stamp_s - self._stamp, stamp_s
            if not 0 < elapsed <= LONGEST_GAP_S:
                self._lives, self._motion, elapsed = [], NOTHING, 0.0
            self._step(sorted(hazards, key=lambda hazard: hazard.distance_m)[:MOST], elapsed)
        return self._tracks()

    def _step(self, hazards: list[Hazard], elapsed: float) -> None:
        places, spread = _measured(hazards)
        motion = self._motion.after(elapsed, ACCELERATION_STD)
        old, new = _pairs(motion, places, spread)
        lives = [self._missed(life) for life in self._lives]
        for i, j in zip(old, new, strict=True):
            lives[i] = self._seen(self._lives[i], hazards[j])
        motion = motion.replaced(old, motion[old].corrected(places[new], spread[new]))
        kept = [i for i, life in enumerate(lives) if self._lasts(life)]
        born = np.setdiff1d(np.arange(len(hazards)), new)
        motion = motion[np.array(kept, int)].joined(Motion.at(places[born], spread[born], SPEED_STD_MPS))
        lives = [lives[i] for i in kept] + [self._born(hazards[j]) for j in born]
        nearest = np.argsort(np.hypot(*motion.mean[:, :2].T))[:MOST]
        self._motion, self._lives = motion[nearest], [lives[i] for i in nearest]

    def _born(self, hazard: Hazard) -> _Life:
        return self._seen(_Life(next(self._ids), hazard, self._stamp, self._stamp), hazard)

    def _seen(self, life: _Life, hazard: Hazard) -> _Life:
        scores = (*life.scores, hazard.score)[-self._window :]
        seen = [score for score in scores if score is not None]
        return dataclasses.replace(
            life,
            hazard=hazard,
            seen_s=self._stamp,
            hits=life.hits + 1,
            scores=scores,
            confirmed=life.confirmed or len(seen) >= self._hits,
            trust=sum(seen) / self._window,
        )

    def _missed(self, life: _Life) -> _Life:
        return dataclasses.replace(life, scores=(*life.scores, None)[-self._window :])

    def _lasts(self, life: _Life) -> bool:
        """Whether it was seen now, or not too long ago; and is confirmed, or still can be in its first frames."""
        in_sight = life.seen_s == self._stamp or self._stamp - life.seen_s < self._timeout
        return in_sight and (life.confirmed or len(life.scores) < self._window)

    def _tracks(self) -> list[Track]:
        tracks = []
        for life, mean, covariance in zip(self._lives, self._motion.mean, self._motion.covariance, strict=True):
            x, y, vx, vy = mean.tolist()
            unseen = self._stamp - life.seen_s
            hazard = dataclasses.replace(
                life.hazard,
                position=(x, y, 0.0),
                distance_m=math.hypot(x, y),
                covariance=(float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])),
            )
            track = Track(
                id=life.id,
                hazard=hazard,
                velocity=(vx, vy),
                velocity_std=(float(covariance[2, 2] ** 0.5), float(covariance[3, 3] ** 0.5)),
                age_s=self._stamp - life.born_s,
                unseen_s=unseen,
                hits=life.hits,
                confirmed=life.confirmed,
                confidence=life.trust * (1 - unseen / self._timeout if unseen else 1.0),
            )
            tracks.append(track)
        return sorted(tracks, key=lambda track: track.hazard.distance_m)


def _measured(hazards: list[Hazard]) -> tuple[np.ndarray, np.ndarray]:
    """Places [N, 2] of the hazards and their covariances [N, 2, 2]."""
    places = np.array([hazard.position[:2] for hazard in hazards]).reshape(-1, 2)
    xx, xy, yy = np.array([hazard.covariance for hazard in hazards]).reshape(-1, 3).T
    return places, np.stack([xx, xy, xy, yy], axis=1).reshape(-1, 2, 2) + PLACE_STD_M**2 * np.eye(2)


def _pairs(motion: Motion, places: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of tracks and of the hazards they were seen as: the most likely assignment within the gate."""
    squares, sizes = motion.misfits(places, spread)
    # Likelihood, not distance alone: a track of which little is known would be near to everything.
    old, new = linear_sum_assignment(np.where(squares < GATE, squares + np.log(sizes), OUT_OF_GATE))
    inside = squares[old, new] < GATE
    return old[inside], new[inside]
