"""Steadier scores over the frames of one camera: the past is averaged in, where it stood or moved along with the road.

What was measured, and what it costs in delay: docs/temporal.md.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Literal, get_args

import cv2
import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.inference.predictor import check_image
from mgcda_core.labels import TRAIN_NAMES
from mgcda_core.prediction import UNSEEN_LOGIT, Prediction

Kind = Literal["none", "ema", "vote"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SECONDS = 0.1
"""Default time constant."""
MOST_GAP_S = 1.0
"""A longer pause between two frames begins anew."""
_REDUCED = 4  # the past is kept at a quarter of the size: AP and flicker stay, and its memory is a sixteenth
_CERTAIN = 20.0  # float32 scores are 1 from 17 on; a frame that is surer would only be remembered for longer
_ROAD = TRAIN_NAMES.index("road")
_PICTURE_WIDTH, _LEAST_HEIGHT, _MOST_HEIGHT = 320, 32, 640
_ROAD_MARGIN = np.ones((15, 15), np.uint8)  # takes in kerbs and feet, which have the corners that a bare road lacks
_CORNERS, _LEAST_INLIERS, _INLIER_SHARE = 100, 12, 0.5
_INLIER_PX = 3.0
_MOST_CONDITION = 1e4  # of a drive's motions it is below 100


class TemporalFilter:
    """Callable (prediction, image, stamp in seconds) -> prediction with filtered logits, for one camera, in order.

    `kind` "none" gives back what it gets. "ema" is the exponential moving average of the logits, "vote" the same after
    the past was moved onto the present frame (see RoadMotion): each past frame votes with a weight that falls by e in
    `seconds`, whatever the frame rate. Only differences of 4 pixels and more are averaged, details are the present
    frame's. Where the past did not look, the present frame stands alone: all of it if the stamp is NaN, did not
    increase or leaves a gap of more than MOST_GAP_S, if a size or crop_top changed, and for vote without a motion.
    Raises ConfigError for another kind, or `seconds` that are not positive and finite.
    """

    def __init__(self, kind: Kind = "none", seconds: float = SECONDS) -> None:
        if kind not in KINDS:
            raise ConfigError(f"the temporal filter is {kind!r}; choose from {', '.join(KINDS)}")
        if not 0.0 < seconds < math.inf:
            raise ConfigError(f"the temporal filter's time constant is {seconds} s; it must be positive and finite")
        self.kind, self.seconds = kind, seconds
        self.lost = 0
        """Frames of vote that stood alone because no motion from the frame before was found."""
        self._motion = RoadMotion()
        self._past: np.ndarray | None = None
        self._sizes: tuple[object, ...] = ()
        self._stamp = math.nan

    def __call__(self, prediction: Prediction, image: np.ndarray, stamp_s: float) -> Prediction:
        """Filter the prediction of `image`, uint8 [H, W, 3] RGB; its logits may have another size.

        `timings_ms` gets the filter's own time as "temporal". Raises ValueError for an image of another kind.
        """
        if self.kind == "none":
            return prediction
        check_image(image)
        started = time.perf_counter()
        top = _unseen_rows(prediction.logits)
        sizes = image.shape, prediction.logits.shape, top
        if sizes != self._sizes:  # reduced, they may look alike
            self._past, self._sizes = None, sizes
        seen = prediction.logits[top:]
        now = _reduced(seen)
        past = self._moved(image, prediction, top, now) if self.kind == "vote" else self._past
        elapsed = stamp_s - self._stamp
        self._past, self._stamp = now, stamp_s
        logits = prediction.logits
        if past is not None and 0.0 < elapsed <= MOST_GAP_S:
            change = (past - now) * np.float32(math.exp(-elapsed / self.seconds))
            self._past = now + change
            enlarged = cv2.resize(change, seen.shape[::-1], interpolation=cv2.INTER_LINEAR)
            logits = np.concatenate((logits[:top], seen + enlarged))
        spent = {"temporal": 1000.0 * (time.perf_counter() - started)}
        return replace(prediction, logits=logits, timings_ms=prediction.timings_ms | spent)

    def _moved(self, image: np.ndarray, prediction: Prediction, top: int, now: np.ndarray) -> np.ndarray | None:
        """The past where it would be seen now; values of `now` where it was out of view, None without a motion."""
        motion = self._motion(image, prediction.segmentation)
        if self._past is None:
            return None
        if motion is None:
            self.lost += 1
            return None
        grid = _unit_grid(now.shape, top / prediction.logits.shape[0])
        moved = cv2.warpPerspective(
            self._past,
            np.linalg.inv(grid) @ motion @ grid,
            now.shape[::-1],
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=math.nan,
        )
        return np.where(np.isnan(moved), now, moved)


class RoadMotion:
    """How the road moved in the picture since the frame before: a homography, from corners that were followed.

    Corners on the predicted road and a margin around it (on the lower half without a segmentation) are followed with
    pyramidal Lucas-Kanade on a picture 320 wide, the homography is MAGSAC++'s (Barath et al., CVPR 2020). It is exact
    for the plane of the road; what stands on it is moved right at its foot and, up to the height of the camera, by too
    little above. Over all corners of the picture no plane fits, and facades pull the road's past away.
    """

    def __init__(self) -> None:
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, image: np.ndarray, segmentation: np.ndarray | None) -> np.ndarray | None:
        """float64 [3, 3], places of the frame before -> places now, both (x, y) in [0, 1] of width and height.

        None for the first frame, and if too few corners agree.
        """
        height, width = image.shape[:2]
        size_wh = _PICTURE_WIDTH, min(max(round(_PICTURE_WIDTH * height / width), _LEAST_HEIGHT), _MOST_HEIGHT)
        grey = cv2.cvtColor(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, (grey, _near_road(segmentation, size_wh))
        if before is None or before[0].shape != grey.shape:
            return None
        corners = cv2.goodFeaturesToTrack(before[0], _CORNERS, 0.03, 5, mask=before[1])
        if corners is None:
            return None
        followed, found, _ = cv2.calcOpticalFlowPyrLK(
            before[0], grey, corners, np.empty(0), winSize=(15, 15), maxLevel=3
        )
        kept = found.ravel() == 1
        if kept.sum() < _LEAST_INLIERS:
            return None
        motion, inliers = cv2.findHomography(corners[kept], followed[kept], cv2.USAC_MAGSAC, _INLIER_PX)
        if motion is None or inliers.sum() < max(_LEAST_INLIERS, _INLIER_SHARE * kept.sum()):
            return None
        grid = _unit_grid(grey.shape)
        motion = grid @ motion @ np.linalg.inv(grid)
        return motion if _keeps_in_front(motion) else None


def _near_road(segmentation: np.ndarray | None, size_wh: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w], 1 where corners are taken."""
    if segmentation is None:
        near = np.zeros(size_wh[::-1], np.uint8)
        near[size_wh[1] // 2 :] = 1
        return near
    reduced = cv2.resize(segmentation, size_wh, interpolation=cv2.INTER_NEAREST)
    return cv2.dilate((reduced == _ROAD).view(np.uint8), _ROAD_MARGIN)


def _keeps_in_front(motion: np.ndarray) -> bool:
    """Whether the homography can be turned round and takes no place in view from behind the camera."""
    if not np.isfinite(motion).all() or np.linalg.cond(motion) > _MOST_CONDITION:
        return False
    depths = np.linalg.inv(motion)[2] @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    return bool(depths.min() * depths.max() > 0.0)


def _reduced(logits: np.ndarray) -> np.ndarray:
    """Means over blocks, each logit taken as at most certain."""
    height, width = (max(1, round(side / _REDUCED)) for side in logits.shape)
    certain = np.clip(logits, -_CERTAIN, _CERTAIN).astype(np.float32, copy=False)
    return cv2.resize(certain, (width, height), interpolation=cv2.INTER_AREA)


def _unit_grid(shape: tuple[int, ...], top: float = 0.0) -> np.ndarray:
    """float64 [3, 3]: pixel (x, y) of a map of `shape` -> its place in the picture, whose share `top` lies above it."""
    x, y = 1.0 / shape[1], (1.0 - top) / shape[0]
    return np.array([[x, 0.0, x / 2], [0.0, y, top + y / 2], [0.0, 0.0, 1.0]])


def _unseen_rows(logits: np.ndarray) -> int:
    """How many rows from the top were not looked at (see Predictor); 0 if that holds for all."""
    # Taken for a past, they would come down with the road and cover what enters the view.
    return int(np.argmin(logits[:, 0] <= UNSEEN_LOGIT))
