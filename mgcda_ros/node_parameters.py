"""Every parameter of the node: its default, range and the text that ROS tools show.

`NodeParameters` there are once; `CameraParameters` once a camera, under its name (`front.camera_height`) if it has one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from mgcda_core.hazards.ground_plane import EXPECTED
from mgcda_core.inference.backend import CHOICES, PRECISIONS
from mgcda_core.inference.predictor import MOST_CROPPED, Scale
from mgcda_core.inference.temporal import KINDS, SECONDS, Kind

Change = Literal["live", "inactive", "unconfigured", "never"]
"""When a parameter may change: at any time, before activation, before configuration, only at start."""


def _parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    change: Change = "live",
) -> Any:
    """Dataclass field of one parameter."""
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "change": change}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class CameraParameters:
    """What belongs to one camera: how it is mounted, and what of its image counts."""

    camera_height: float = _parameter(1.5, "Height of the camera above the road in metres.", low=0.05, high=20.0)
    camera_roll: float = _parameter(
        0.0, "Roll of the camera in radians about base_link's x; positive leans right (REP-103).", low=-1.5, high=1.5
    )
    camera_pitch: float = _parameter(
        0.0, "Pitch of the camera in radians; positive looks down (REP-103).", low=-1.5, high=1.5
    )
    camera_yaw: float = _parameter(
        0.0, "Yaw of the camera in radians; positive looks to the left (REP-103).", low=-3.1416, high=3.1416
    )
    camera_forward: float = _parameter(
        0.0, "Metres from base_link's origin forward to the camera.", low=-50.0, high=50.0
    )
    camera_left: float = _parameter(0.0, "Metres from base_link's origin left to the camera.", low=-50.0, high=50.0)
    horizontal_fov: float = _parameter(
        1.2, "Horizontal field of view in radians, used while no CameraInfo has come.", low=0.05, high=3.1
    )
    rectified: bool = _parameter(
        False, "The images are rectified (image_rect): CameraInfo's P counts, not K and the distortion D."
    )
    crop_top: float = _parameter(
        0.0, "Share of the image's height, from the top, that is not looked at: the sky.", low=0.0, high=MOST_CROPPED
    )
    roi: tuple[float, ...] = _parameter(
        (0.0,),
        "Polygon x1, y1, x2, y2, ... in shares of the image's width and height; what lies outside is never masked. "
        "0.0 alone is the whole image.",
    )
    lane: tuple[float, ...] = _parameter(
        (0.0,),
        "Polygon as `roi`: with road_only a region counts also where its foot lies in it. 0.0 alone is none.",
    )
    ego_mask: str = _parameter(
        "",
        "PNG whose white pixels are the own vehicle, never masked; resized to the frame. After start only empty, the "
        "first one or a file below weights_folder.",
        change="inactive",
    )


@dataclasses.dataclass(frozen=True)
class NodeParameters:
    """What holds for all cameras of the node."""

    autostart: bool = _parameter(
        True, "Configure and activate at start; false leaves both to a lifecycle manager.", change="never"
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "Names of the cameras: `front` subscribes front/image and publishes ~/front/mask. One empty name: a single "
        "camera on image and ~/mask.",
        change="never",
    )
    weights: str = _parameter(
        "lite",
        "Weights: a shipped name, a .safetensors path, an https url or an exported .onnx or .engine. After start only "
        "a shipped name, the first ones or a file below weights_folder.",
        change="unconfigured",
    )
    weights_folder: str = _parameter(
        "",
        "Folder below which weights and ego_mask may be set to other files after start; empty is the folder of the "
        "weights given at start, if they are a file.",
        change="never",
    )
    device: str = _parameter("auto", "Device of the network: auto, cpu, cuda or cuda:N.", change="unconfigured")
    backend: str = _parameter(
        "auto",
        "Runtime of the network; auto takes the fastest that works. An engine is built while another backend serves. "
        "torch-compile, onnxruntime-tensorrt and tensorrt-rtx compile at the first frame of each size and batch, for "
        "minutes without masks, which hang_timeout does not count; with the parameter size when the node is "
        "configured.",
        choices=CHOICES,
        change="unconfigured",
    )
    precision: str = _parameter(
        "auto",
        "Precision of the exported chain that runs; auto takes fp16 on a GPU, fp32 on a CPU.",
        choices=PRECISIONS,
        change="unconfigured",
    )
    size: tuple[int, ...] = _parameter(
        (0, 0),
        "Height and width that frames are resized to before the network; 0, 0 leaves that to the network itself.",
        change="unconfigured",
    )
    mask_scale: str = _parameter(
        "input",
        "Size of ~/mask, ~/score, ~/segmentation and ~/overlay: that of the image, or the network's working size "
        "(or `size`), which spares enlarging.",
        choices=("input", "network"),
    )
    transport: str = _parameter(
        "raw",
        "raw subscribes sensor_msgs/Image on image, compressed sensor_msgs/CompressedImage on image/compressed.",
        choices=("raw", "compressed"),
        change="inactive",
    )
    reliability: str = _parameter(
        "auto",
        "Reliability of the image subscription; auto follows what the publisher offers.",
        choices=("auto", "reliable", "best_effort"),
    )
    max_batch: int = _parameter(
        0,
        "Most frames of several cameras in one run of the network; 0 is one a camera on a GPU, 1 on a CPU.",
        low=0,
        high=16,
        change="inactive",
    )
    batch_wait: float = _parameter(
        0.01, "Longest wait, in seconds, of a frame for those of the other cameras.", low=0.0, high=0.5
    )
    threshold: float = _parameter(
        -1.0, "Score from which a pixel is masked; negative takes the weights' own.", low=-1.0, high=1.0
    )
    temporal_filter: Kind = _parameter(  # noqa: RUF009 - the alias hides that a text cannot change
        "none",
        "Filter of the scores over the frames of a camera: ema averages, vote compensates the motion first.",
        choices=KINDS,
    )
    temporal_seconds: float = _parameter(
        SECONDS, "Time constant of temporal_filter in seconds; longer is calmer and later.", low=0.01, high=5.0
    )
    min_region_area: int = _parameter(
        100, "Smallest region, in pixels of the mask, that becomes a hazard.", low=1, high=100_000_000
    )
    min_size: float = _parameter(
        0.0, "Smallest hazard, in metres: the larger of its width and height.", low=0.0, high=100.0
    )
    max_distance: float = _parameter(
        120.0, "Hazards farther than this, in metres, are left out: one camera cannot place them.", low=1.0, high=1000.0
    )
    road_only: bool = _parameter(False, "Only regions that touch the predicted road become hazards.")
    mounting: str = _parameter(
        "auto",
        "Where the camera's place comes from: tf looks base_frame <- the image's frame up, parameters takes "
        "camera_height and its like, auto tf where it answers.",
        choices=("auto", "tf", "parameters"),
    )
    base_frame: str = _parameter("base_link", "Frame of the hazards: x forward, y left, z up, on the road.")
    pitch_std: float = _parameter(
        EXPECTED.pitch_std_rad, "Standard deviation of the camera's pitch on the move, in radians.", low=0.0, high=0.5
    )
    pixel_std: float = _parameter(
        EXPECTED.pixel_std_px,
        "Standard deviation of a region's lower edge, in pixels of the image.",
        low=0.0,
        high=100.0,
    )
    confirm_hits: int = _parameter(
        2,
        "Frames of the last confirm_window, at most all of them, in which a hazard must be seen to be published; "
        "1 publishes at once.",
        low=1,
        high=100,
    )
    confirm_window: int = _parameter(3, "Frames that confirm_hits looks back.", low=1, high=100)
    track_timeout: float = _parameter(
        0.5, "Seconds for which a hazard that is not seen any more is predicted on.", low=0.0, high=10.0
    )
    overlay_alpha: float = _parameter(
        1.0, "Strength of the drawing on ~/overlay; 0 is the plain image.", low=0.0, high=1.0
    )
    input_timeout: float = _parameter(
        2.0, "Seconds without an image after which diagnostics warn.", low=0.1, high=3600.0
    )
    latency_warn: float = _parameter(
        0.5, "Diagnostics warn if the 95th percentile from stamp to mask is above it, in seconds.", low=0.0, high=3600.0
    )
    latency_error: float = _parameter(
        2.0, "Diagnostics report an error if it is above this, in seconds.", low=0.0, high=3600.0
    )
    temperature_warn: float = _parameter(
        95.0, "Diagnostics warn from this temperature of the device on, in degrees Celsius.", low=0.0, high=200.0
    )
    hang_timeout: float = _parameter(
        20.0,
        "Seconds in one run of the network after which its thread is abandoned and a fresh backend loaded, or a "
        "stand-in on the CPU if that hangs as well; after a second time in a row the node reports an error and "
        "waits to be deactivated and activated.",
        low=0.5,
        high=3600.0,
    )
    save_folder: str = _parameter(
        "~/.ros/mgcda", "Folder that ~/save_frame writes into, and never outside of it.", change="never"
    )
    save_limit: int = _parameter(
        1000, "Megabytes that save_folder may hold; ~/save_frame refuses more.", low=1, high=10_000_000, change="never"
    )

    @property
    def scale(self) -> Scale:
        """`mask_scale` for the predictor."""
        return "network" if self.mask_scale == "network" else "input"

    @property
    def own_threshold(self) -> float | None:
        """The threshold in [0, 1], or None for the weights' own."""
        return self.threshold if self.threshold >= 0.0 else None
