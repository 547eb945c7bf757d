"""What of a frame counts: a region of interest, the own vehicle's outline, the road."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.labels import TRAIN_NAMES
from mgcda_core.prediction import UNSEEN_LOGIT, Prediction, Region

ROAD = TRAIN_NAMES.index("road")
AROUND = 0.25
"""How far around a region's foot road is looked for, as a share of the region's width and height."""
AROUND_PX = 4
"""That far at least."""
ROAD_SHARE = 0.1
"""A region stands on the road if at least this share of the surroundings of its foot is road."""
LARGEST_PICTURE = 1 << 25
"""Bytes of an ego mask's file; one of 4K has some thousand."""
LEAST_THRESHOLD = 1e-34
"""Above the score of what does not count, 2e-35: a threshold of 0 would mask that too."""


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What is dropped and what is lane, bool [H, W], in frames of this size (height, width)."""

    size: tuple[int, int]
    dropped: np.ndarray | None
    lane: np.ndarray | None


class Zones:
    """Masks of one camera's frames, drawn for the size that comes and kept until another one does.

    roi, lane: polygons x1, y1, x2, y2, ... in shares of the image's width and height from its top left corner, empty
    for none. ego_mask: as `load_ego_mask` gives it, of any size, or None. Raises ConfigError for a polygon of less than
    three points or outside of the image.
    """

    def __init__(
        self, roi: Sequence[float] = (), ego_mask: np.ndarray | None = None, lane: Sequence[float] = ()
    ) -> None:
        self._roi, self._lane = _polygon(roi, "roi"), _polygon(lane, "lane")
        self._ego = ego_mask
        self._drawn = _Drawn((0, 0), None, None)

    def cut(self, prediction: Prediction) -> Prediction:
        """The prediction with a score of 0 outside of the region of interest and on the own vehicle, never masked."""
        dropped = self._masks(prediction).dropped
        if dropped is None:
            return prediction
        logits = np.where(dropped, np.float32(UNSEEN_LOGIT), prediction.logits)
        return dataclasses.replace(prediction, logits=logits, threshold=max(prediction.threshold, LEAST_THRESHOLD))

    def on_road(self, regions: Iterable[Region], prediction: Prediction) -> list[Region]:
        """Those regions of the prediction that stand on road, or whose contact point lies in the lane polygon.

        A region stands on road if there is some below or beside its foot; what class the region itself was given says
        nothing, the segmentation does not know it. One that is cut is kept as well if around its foot there is hardly
        anything but masked pixels and such that do not count. Raises ConfigError where there is neither a segmentation
        nor a lane.
        """
        found, segmentation, lane = list(regions), prediction.segmentation, self._masks(prediction).lane
        if segmentation is None and lane is None:
            raise ConfigError(
                "road_only needs a chain that gives the segmentation, or the polygon lane: set it to false"
            )
        boxes = np.array([(r.x, r.width, r.height, r.contact_x, r.contact_y) for r in found]).reshape(-1, 5)
        kept = np.zeros(len(found), bool)
        if segmentation is not None:
            kept |= _shares(boxes, segmentation == ROAD) >= ROAD_SHARE
            cut = np.array([region.cut for region in found], bool)
            if cut.any():
                told = ~prediction.mask & (prediction.logits > UNSEEN_LOGIT)
                kept |= cut & (_shares(boxes, told) < ROAD_SHARE)
        if lane is not None:
            column, row = np.round(boxes[:, 3:].T).astype(int)
            kept |= lane[row.clip(0, lane.shape[0] - 1), column.clip(0, lane.shape[1] - 1)]
        return [region for region, wanted in zip(found, kept, strict=True) if wanted]

    def _masks(self, prediction: Prediction) -> _Drawn:
        size = (prediction.logits.shape[0], prediction.logits.shape[1])
        drawn = self._drawn
        if drawn.size != size:
            dropped = None if self._roi is None else ~_filled(self._roi, size)
            if self._ego is not None:
                ego = cv2.resize(self._ego, size[::-1], interpolation=cv2.INTER_NEAREST).view(bool)
                dropped = ego if dropped is None else dropped | ego
            lane = None if self._lane is None else _filled(self._lane, size)
            self._drawn = drawn = _Drawn(size, dropped, lane)  # in one step: two threads may ask
        return drawn


def _shares(boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Share of `wanted`, bool [H, W], around the feet of regions [N, (x, width, height, contact_x, contact_y)]."""
    height, width = wanted.shape
    sums = cv2.integral(wanted.view(np.uint8))
    aside, above = np.maximum(AROUND_PX, AROUND * boxes[:, 1:3].T)
    left, top = (boxes[:, 0] - aside).clip(0).astype(int), (boxes[:, 4] - above).clip(0).astype(int)
    right = (boxes[:, 0] + boxes[:, 1] + aside).clip(1, width).astype(int)
    bottom = (boxes[:, 4] + above).clip(1, height).astype(int)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return inside / ((bottom - top) * (right - left))


def _polygon(values: Sequence[float], name: str) -> np.ndarray | None:
    points = np.asarray(values, float)
    if points.size == 0:
        return None
    if points.size % 2 or points.size < 6 or not ((points >= 0) & (points <= 1)).all():
        raise ConfigError(
            f"{name} must hold three or more points x1, y1, x2, y2, ... in shares of the image between 0 and 1, not "
            f"{list(values)[:8]}"
        )
    return points.reshape(-1, 2)


def _filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W], True in the polygon; its edge in sixteenths of a pixel, whose centre has whole coordinates."""
    mask = np.zeros(size, np.uint8)
    corners = np.round((polygon * size[::-1] - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1, shift=4)
    return mask.view(bool)


def load_ego_mask(path: str | Path) -> np.ndarray:
    """uint8 [h, w], 1 on the own vehicle, of a PNG that is white there.

    Raises ConfigError for a file that is missing, none to read (a pipe would never end), too large or no picture.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_PICTURE or not path.is_file():
            raise OSError(None, f"no file of at most {LARGEST_PICTURE >> 20} MiB")
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise ConfigError(
            f"ego_mask {path} cannot be read ({error.strerror}): give a PNG, white = own vehicle"
        ) from error
    except cv2.error:
        picture = None
    if picture is None:
        raise ConfigError(f"ego_mask {path} is not a picture: give a PNG, white = own vehicle")
    return (picture >= 128).view(np.uint8)
