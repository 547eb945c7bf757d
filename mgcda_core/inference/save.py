"""What `mgcda predict` leaves on disk: one file a frame and kind, and predictions.json."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mgcda_core.inference.draw import overlay, write_png
from mgcda_core.inference.sources import Frame
from mgcda_core.prediction import Prediction

KINDS = ("score", "mask", "overlay")


class PredictionWriter:
    """Writes DIR/score/STEM.npy (float32 [H, W] in [0, 1]), DIR/mask/STEM.png (0, 255), DIR/overlay/STEM.png.

    A context manager: DIR/predictions.json, a `head` of plain values, then one entry a frame, grows frame by frame and
    appears under its name at the end, after an error with `"complete": false`. Raises OSError naming the file that
    cannot be written.
    """

    def __init__(self, out: Path, kinds: Collection[str], head: dict[str, Any], min_area: int = 1) -> None:
        self.out, self.kinds, self.head, self.min_area = out, tuple(kinds), head, min_area
        self.count = 0
        self._part = out / ".predictions.json.part"

    def __enter__(self) -> PredictionWriter:
        for folder in (self.out, *(self.out / kind for kind in self.kinds)):
            folder.mkdir(parents=True, exist_ok=True)
        (self.out / "predictions.json").unlink(missing_ok=True)
        self._file = self._part.open("w")
        self._file.write(json.dumps(self.head, indent=1)[:-2] + ',\n "frames": [')
        return self

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Write the files of one frame."""
        if "score" in self.kinds:
            np.save(self.out / "score" / f"{frame.stem}.npy", prediction.score.astype(np.float32, copy=False))
        if "mask" in self.kinds:
            write_png(self.out / "mask" / f"{frame.stem}.png", prediction.mask.astype(np.uint8) * np.uint8(255))
        if "overlay" in self.kinds:
            write_png(self.out / "overlay" / f"{frame.stem}.png", overlay(frame.image, prediction))
        entry = {"stem": frame.stem, "stamp_ns": frame.stamp_ns, **prediction.to_json(self.min_area)}
        self._file.write(("," if self.count else "") + "\n  " + json.dumps(entry))
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.write(f'\n ],\n "complete": {json.dumps(kind is None)}\n}}\n')
        self._file.close()
        self._part.replace(self.out / "predictions.json")
