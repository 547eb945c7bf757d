"""What a person looks at after a drive: overlay video, contact sheet, suspicious moments, pictures for the report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from mgcda_core.evaluation.bag.answers import Answer
from mgcda_core.evaluation.bag.figures import FrameRow, seconds_text
from mgcda_core.evaluation.bag.moments import Peak, Peaks
from mgcda_core.evaluation.results import Picture
from mgcda_core.inference.draw import Mp4Writer, contact_sheet, overlay, write_png

MOMENTS, MISSED = 20, 20
"""Most suspicious moments, and moments with the largest missed objects, that are kept."""
SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 12, 3, 480
PICTURE_WIDTH, MOMENT_WIDTH = 512, 1920
_OLD_MOMENT = re.compile(r"\d\d_\d+\.\d{9}\.png")
_CAPTION, _INK, _PAPER = 40, (235, 235, 235), (24, 26, 30)


class DrivePictures:
    """Draws the answered frames as they come, a context manager; files go to `out`, old ones there are replaced.

    `expected` answered frames spread the contact sheet, `gap_ns` keeps moments apart (see Peaks).
    """

    def __init__(self, out: Path, frames_per_second: float, expected: int, gap_ns: int) -> None:
        self._out = out
        self._video = Mp4Writer(out / "overlay.mp4", frames_per_second)
        self._sheet = set(np.linspace(0, max(expected - 1, 0), SHEET_FRAMES).round().astype(int).tolist())
        self._cells: list[np.ndarray] = []
        self._count, self._start = 0, 0
        self._suspicious: Peaks[tuple[np.ndarray, Picture]] = Peaks(gap_ns, MOMENTS)
        self._missed: Peaks[Picture] = Peaks(gap_ns, MISSED)

    def __enter__(self) -> DrivePictures:
        for old in (self._out / "moments").glob("*.png"):
            if _OLD_MOMENT.fullmatch(old.name):
                old.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._video.close()

    def add(self, image: np.ndarray, label: np.ndarray | None, answer: Answer, row: FrameRow) -> None:
        """The next answered frame, uint8 [H, W, 3] RGB."""
        drawn = overlay(image, answer.prediction)
        self._video.add(drawn)
        if self._count in self._sheet:
            self._cells.append(drawn)
        self._start = self._start or row.stamp_ns
        self._count += 1
        self._suspicious.add(
            row.stamp_ns, row.suspicion, lambda: (_beside(image, drawn), _picture(image, label, answer, row))
        )
        self._missed.add(
            row.stamp_ns, row.image.largest_missed_pixels, lambda: _picture(image, label, answer, row)
        )  # fmt: skip

    def finish(self) -> tuple[list[dict[str, Any]], list[Picture]]:
        """Write contact_sheet.png and moments/*.png: the moments for report.json, and the report's pictures."""
        write_png(self._out / "contact_sheet.png", contact_sheet(self._cells, SHEET_COLUMNS, SHEET_WIDTH))
        moments = self._suspicious.best()
        (self._out / "moments").mkdir(exist_ok=True)
        listed, pictures = [], dict[int, Picture]()
        for rank, moment in enumerate(moments, 1):
            drawn, picture = moment.content
            name = f"moments/{rank:02d}_{seconds_text(moment.stamp_ns)}.png"
            text = f"{self._seconds(moment):.2f} s after the start, stamp {seconds_text(moment.stamp_ns)}"
            share = f"anomalous road {100 * moment.value:.1f} %, weighted by the score"
            write_png(self._out / name, _captioned(drawn, f"#{rank}   {text}   {share}"))
            listed.append({"rank": rank, "stamp_ns": moment.stamp_ns, "seconds": self._seconds(moment),
                           "suspicion": moment.value, "picture": name})  # fmt: skip
            note = f"suspicious moment {rank}, {self._seconds(moment):.2f} s after the start"
            pictures[moment.stamp_ns] = replace(picture, note=note)
        for rank, moment in enumerate(self._missed.best(), 1):
            note = f"missed object {rank}, {self._seconds(moment):.2f} s after the start"
            pictures.setdefault(moment.stamp_ns, replace(moment.content, note=note))
        return listed, list(pictures.values())

    def _seconds(self, moment: Peak[Any]) -> float:
        return (moment.stamp_ns - self._start) / 1e9


def _picture(image: np.ndarray, label: np.ndarray | None, answer: Answer, row: FrameRow) -> Picture:
    scale = min(1.0, PICTURE_WIDTH / image.shape[1])
    size_wh = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    return Picture(
        name=row.image.name,
        image=cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA),
        score=cv2.resize(answer.prediction.logits, size_wh, interpolation=cv2.INTER_AREA),
        label=None if label is None else cv2.resize(label, size_wh, interpolation=cv2.INTER_NEAREST),
        row=row.image,
    )


def _beside(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Both uint8 [H, W, 3] next to each other, at most MOMENT_WIDTH wide."""
    both = np.hstack([image, drawn])
    if both.shape[1] <= MOMENT_WIDTH:
        return both
    height = max(1, round(both.shape[0] * MOMENT_WIDTH / both.shape[1]))
    return cv2.resize(both, (MOMENT_WIDTH, height), interpolation=cv2.INTER_AREA)


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture uint8 [H, W, 3] with a line of text below that fits its width."""
    scale = 1.0
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    scale = min(0.8, (picture.shape[1] - 24) / width)
    bar = np.full((_CAPTION, picture.shape[1], 3), _PAPER, np.uint8)
    cv2.putText(bar, text, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
    return np.vstack([picture, bar])
