"""Messages -> RGB: what the core reads, what cv_bridge reads, and what to do when neither can."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from mgcda_core.inference.encodings import ENCODINGS, from_rgb
from mgcda_ros import conversion
from mgcda_ros.conversion import to_rgb

Install = Callable[[Callable[[Image, str], Any]], list[tuple[str, str]]]
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def image_message(encoding: str, data: bytes | np.ndarray, step: int, height: int = 6, width: int = 8) -> Image:
    return Image(height=height, width=width, encoding=encoding, step=step, data=array.array("B", bytes(data)))


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    conversion._cv_bridge.cache_clear()
    yield
    conversion._cv_bridge.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a cv_bridge in place whose imgmsg_to_cv2 is the given function; returns the encodings it was asked for."""

    def make(convert: Callable[[Image, str], Any]) -> list[tuple[str, str]]:
        asked: list[tuple[str, str]] = []

        class CvBridge:
            def imgmsg_to_cv2(self, message: Image, desired: str) -> Any:
                asked.append((message.encoding, desired))
                return convert(message, desired)

        package = ModuleType("cv_bridge")
        package.__dict__["CvBridge"] = CvBridge
        for name in ("cv_bridge", "cv_bridge.boost", "cv_bridge.boost.cv_bridge_boost"):
            monkeypatch.setitem(sys.modules, name, package)
        return asked

    return make


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_what_the_core_reads_does_not_go_through_cv_bridge(encoding: str, install: Install):
    asked = install(lambda *_: pytest.fail("asked"))
    data, step = from_rgb(IMAGE, encoding, 40)
    assert to_rgb(image_message(encoding, data, step)).shape == IMAGE.shape
    assert not asked


def test_byte_order_and_padding_are_passed_on():
    big = image_message("mono16", (bytes([200, 9]) * 8 + b"pad!") * 6, 20)
    big.is_bigendian = 1
    assert (to_rgb(big) == 200).all()
    big.is_bigendian = 0
    assert (to_rgb(big) == 9).all()


def test_packed_rgb8_is_a_view_of_the_message():
    message = image_message("rgb8", from_rgb(IMAGE, "rgb8")[0], 24)
    image = to_rgb(message)
    np.testing.assert_array_equal(image, IMAGE)
    assert np.shares_memory(image, np.frombuffer(message.data, np.uint8))


def test_compressed_messages_are_decoded():
    done, file = cv2.imencode(".png", IMAGE[..., ::-1])
    assert done
    message = CompressedImage(format="rgb8; png compressed bgr8", data=array.array("B", file.tobytes()))
    np.testing.assert_array_equal(to_rgb(message), IMAGE)
    with pytest.raises(ValueError, match="image of format 'jpeg' with 0 bytes cannot be decoded"):
        to_rgb(CompressedImage(format="jpeg"))


def test_other_encodings_go_through_cv_bridge(install: Install):
    asked = install(lambda *_: IMAGE)
    for _ in range(2):
        np.testing.assert_array_equal(to_rgb(image_message("bgr16", bytes(288), 48)), IMAGE)
    assert asked == [("bgr16", "rgb8")] * 2


def raises(error: Exception) -> Callable[..., Any]:
    def convert(*_: object) -> None:
        raise error

    return convert


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (raises(TypeError("[32FC1] is not a color format")), r"cannot make rgb8 of it: TypeError: \[32FC1\] is not"),
        (raises(RuntimeError("Boost\nsays much")), "cannot make rgb8 of it: RuntimeError: Boost$"),
        (lambda *_: IMAGE[..., 0], r"cv_bridge made uint8 \[6, 8\] of it, not uint8 \[6, 8, 3\]"),
        (lambda *_: IMAGE[:, :5], r"cv_bridge made uint8 \[6, 5, 3\] of it"),
        (lambda *_: IMAGE.astype(np.float32), r"cv_bridge made float32 \[6, 8, 3\] of it"),
    ],
)
def test_what_cv_bridge_cannot_convert_is_a_value_error(convert: Callable[..., Any], message: str, install: Install):
    install(convert)
    with pytest.raises(ValueError, match=f"encoding '32FC1': .*{message}"):
        to_rgb(image_message("32FC1", bytes(192), 32))


REMEDY = r"^encoding 'bgr16' needs cv_bridge, which cannot be used \({}.*\): install it, or .* publish one of bayer_"


def test_without_cv_bridge_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ValueError, match=REMEDY.format("ModuleNotFoundError: .*cv_bridge")):
        to_rgb(image_message("bgr16", bytes(288), 48))


@pytest.mark.parametrize("broken", ["cv_bridge", "cv_bridge.boost.cv_bridge_boost"])
@pytest.mark.parametrize("error", [ImportError("numpy.core"), AttributeError("_ARRAY_API"), SystemError("no result")])
def test_a_broken_cv_bridge_counts_as_none_and_is_tried_once(
    broken: str, error: Exception, install: Install, monkeypatch: pytest.MonkeyPatch
):
    install(lambda *_: pytest.fail("asked"))
    tried = []

    def find(name: str) -> ModuleType:
        tried.append(name)
        if name == broken:
            raise error
        return sys.modules[name]

    monkeypatch.setattr(conversion.importlib, "import_module", find)
    for _ in range(3):
        with pytest.raises(ValueError, match=REMEDY.format(f"{type(error).__name__}: {error}")):
            to_rgb(image_message("bgr16", bytes(288), 48))
    assert tried.count(broken) == 1


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"nv12", "uyvy", "yuyv", "nv21"}))
def test_the_real_cv_bridge_makes_the_same(encoding: str):
    bridge, missing = conversion._cv_bridge()
    if bridge is None:
        pytest.skip(f"no cv_bridge to compare with: {missing}")
    data, step = from_rgb(IMAGE, encoding)
    message = image_message(encoding, data, step)
    theirs = bridge.imgmsg_to_cv2(message, "rgb8").astype(int)
    assert np.abs(to_rgb(message) - theirs).max() <= (1 if encoding == "mono16" else 0)


@given(
    st.integers(0, 2**32 - 1) | st.integers(0, 9),
    st.integers(0, 2**32 - 1) | st.integers(0, 9),
    st.integers(0, 2**32 - 1) | st.integers(0, 40),
    st.sampled_from([*ENCODINGS, "32FC1", "bgr16"]) | st.text(st.characters(codec="ascii"), max_size=50),
    st.integers(0, 255),
    st.integers(0, 300),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_message_gives_an_image_or_a_value_error(
    height: int, width: int, step: int, encoding: str, bigendian: int, size: int
):
    data = array.array("B", bytes(size))
    message = Image(height=height, width=width, step=step, encoding=encoding, is_bigendian=bigendian, data=data)
    try:
        image = to_rgb(message)
    except ValueError as error:
        assert 20 < len(str(error)) < 600
        return
    assert image.shape == (height, width, 3)
