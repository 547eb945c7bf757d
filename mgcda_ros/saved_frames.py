"""~/save_frame: the last frame of a camera as image, score and JSON, in one folder of limited size."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from std_msgs.msg import Header

from mgcda_core.inference.draw import write_png
from mgcda_ros.camera_stream import Described

_MEGABYTE = 1_000_000


class SaveError(OSError):
    """A frame is not saved; the message says why and what to do."""


class SavedFrames:
    """Writes STAMP_CAMERA.png (image), .score.npy (float32 [H, W]) and .json into `folder` and nowhere else.

    A frame with the stamp of one that is there, as without stamps, gets -2, -3 ... at the end of its name.
    `limit_mb` is how much the folder may hold, whatever else lies in it.
    """

    def __init__(self, folder: str, limit_mb: int) -> None:
        self.folder = Path(folder).expanduser()
        self._limit = limit_mb * _MEGABYTE

    def save(self, camera: str, frame: Described, facts: dict[str, Any]) -> Path:
        """Write one frame and give the path of its JSON. Raises SaveError; then nothing of the frame is left."""
        header, prediction = frame.header, frame.prediction
        found = prediction.to_json(frame.now.min_region_area)
        files: list[Path] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = self._files(header, camera)
            picture, score, text = files
            said = json.dumps({"frame_id": header.frame_id, **facts, **found}, indent=1)
            self._check_room(frame.image.nbytes + prediction.score.nbytes + len(said))
            write_png(picture, frame.image)
            np.save(score, prediction.score)
            text.write_text(said)
        except SaveError:
            raise
        except OSError as error:
            for file in files:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise SaveError(f"frame not saved in {self.folder}: {error.strerror or error}") from error
        return text

    def _files(self, header: Header, camera: str) -> list[Path]:
        """Image, score and JSON of a frame, whose names are free."""
        # Made of numbers and a parameter that is an identifier: nothing that a message says can lead out of the folder.
        stem = f"{header.stamp.sec}_{header.stamp.nanosec:09d}_{camera or 'camera'}"
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        free = next(name for name in names if not (self.folder / f"{name}.json").exists())
        return [self.folder / f"{free}{end}" for end in (".png", ".score.npy", ".json")]

    def _check_room(self, needed: int) -> None:
        held = sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.is_file())
        if held + needed > self._limit:
            raise SaveError(
                f"{self.folder} holds {held // _MEGABYTE} MB of the {self._limit // _MEGABYTE} MB of save_limit: "
                "take the frames away, or start the node with a larger save_limit"
            )
