"""`mgcda render`: what the demo plays to the node, a rendered drive with its truth or the frames of a source."""

from __future__ import annotations

from pathlib import Path

from mgcda_core.data.rendered_bag import DEMO_SEED, frames_to_bag, render_drive
from mgcda_core.inference.sources import camera_infos, open_source


def render(
    out: Path,
    source: str | None = None,
    frames: int = 60,
    seed: int = DEMO_SEED,
    size: tuple[int, int] = (480, 960),
    rate_hz: float = 15.0,
    speed_mps: float = 8.0,
    anomalies: int = 5,
    topic: str | None = None,
) -> Path:
    """Write a recording to play to the node: a drawn drive past things that do not belong on a road, or real frames.

    Args:
        out: folder of the recording (rosbag2, mcap); an earlier recording there is replaced.
        source: images, a folder, a pattern, a video or a recording to take the frames from; without it they are drawn.
        frames: how many frames are drawn.
        seed: which street is drawn; at or above 1000000, no training set holds it.
        size: height and width of the drawn frames in pixels.
        rate_hz: frames a second.
        speed_mps: speed of the drawn vehicle in metres a second.
        anomalies: how many things stand on the drawn road.
        topic: image topic of a recording given as source; needed if it has several.

    Returns the folder. Raises ValueError or OSError that name the file or figure at fault.
    """
    if source is None:
        return render_drive(out, frames, seed, size, rate_hz, speed_mps, anomalies)
    taken = Path(source).resolve()
    if out.resolve() in (taken, taken.parent):
        raise ValueError(f"{out} would overwrite the source {source}: choose another folder")
    real = ((frame.image, frame.stamp_ns) for frame in open_source(source, topic))
    return frames_to_bag(real, out, rate_hz, camera_infos(source, topic))
