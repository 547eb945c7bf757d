"""Image and CompressedImage messages -> uint8 RGB; what the core cannot read goes through cv_bridge, if it is there."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from mgcda_core.inference import compressed, encodings

_SHOWN = 40  # characters of a name from the network that an error repeats


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """uint8 [height, width, 3] RGB of a message; maybe a view of its data, and read-only then if that is.

    Raises ValueError, naming the field at fault and the remedy, and nothing else.
    """
    if isinstance(message, CompressedImage):
        return compressed.decode(message.data, message.format)
    if message.encoding not in encodings.ENCODINGS:
        return _by_cv_bridge(message)
    return encodings.to_rgb(
        message.data, message.height, message.width, message.encoding, message.step, bool(message.is_bigendian)
    )


def _by_cv_bridge(message: Image) -> np.ndarray:
    encodings.check_pixels(message.height, message.width)
    bridge, missing = _cv_bridge()
    shown = repr(message.encoding[:_SHOWN])
    if bridge is None:
        raise ValueError(
            f"encoding {shown} needs cv_bridge, which cannot be used ({missing}): install it, or have the camera "
            f"publish one of {', '.join(sorted(encodings.ENCODINGS))}"
        )
    try:
        image = bridge.imgmsg_to_cv2(message, "rgb8")
    except Exception as error:  # its own errors, NumPy's and Boost's; none of them may end the node
        raise ValueError(f"encoding {shown}: cv_bridge cannot make rgb8 of it: {_reason(error)}") from error
    expected = (message.height, message.width, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise ValueError(
            f"encoding {shown}: cv_bridge made {image.dtype} {list(image.shape)} of it, not uint8 {list(expected)}; "
            "its width, height or step is wrong"
        )
    return image


@functools.cache
def _cv_bridge() -> tuple[Any, str]:
    """A CvBridge, or None and the reason; looked for when the first message needs it."""
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        # Without its half in C++ it imports all the same, and then fails at every image.
        importlib.import_module("cv_bridge.boost.cv_bridge_boost")
    except Exception as error:  # ImportError; AttributeError, SystemError if it was built for NumPy 1 and 2 is there
        return None, _reason(error)
    return bridge, ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
