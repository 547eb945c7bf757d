"""Encodings: each one as OpenCV converts it and as its name says, whatever the padding; every bad frame says why."""

from __future__ import annotations

import array
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mgcda_core.inference.encodings import ENCODINGS, from_mask, from_rgb, from_score, to_rgb

SIDE = st.integers(2, 9)
PAD = st.integers(0, 7)
OPENCV = {  # OpenCV's own name of each, bytes of a pixel, even (height, width), least side
    "rgb8": (None, 3, (1, 1), 2),
    "bgr8": (cv2.COLOR_BGR2RGB, 3, (1, 1), 2),
    "rgba8": (cv2.COLOR_RGBA2RGB, 4, (1, 1), 2),
    "bgra8": (cv2.COLOR_BGRA2RGB, 4, (1, 1), 2),
    "mono8": (cv2.COLOR_GRAY2RGB, 1, (1, 1), 2),
    "bayer_rggb8": (cv2.COLOR_BayerRGGB2RGB, 1, (1, 1), 3),
    "bayer_bggr8": (cv2.COLOR_BayerBGGR2RGB, 1, (1, 1), 3),
    "bayer_gbrg8": (cv2.COLOR_BayerGBRG2RGB, 1, (1, 1), 3),
    "bayer_grbg8": (cv2.COLOR_BayerGRBG2RGB, 1, (1, 1), 3),
    "uyvy": (cv2.COLOR_YUV2RGB_UYVY, 2, (1, 2), 2),
    "yuv422": (cv2.COLOR_YUV2RGB_UYVY, 2, (1, 2), 2),
    "yuyv": (cv2.COLOR_YUV2RGB_YUYV, 2, (1, 2), 2),
    "yuv422_yuy2": (cv2.COLOR_YUV2RGB_YUYV, 2, (1, 2), 2),
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 1, (2, 2), 2),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 1, (2, 2), 2),
}
BAYER = [name for name in ENCODINGS if name.startswith("bayer")]
YUV = ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"]


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    return draw(npst.arrays(np.uint8, (draw(SIDE), draw(SIDE), 3)))


def noisy_padding(data: np.ndarray, step: int, row: int) -> np.ndarray:
    """The same image; padding and what follows the last row are not zero."""
    rows = data.reshape(-1, step).copy()
    rows[:, row:] = 77
    return np.concatenate([rows.reshape(-1), np.full(5, 9, np.uint8)])


def test_all_are_tested():
    assert {*OPENCV, "mono16"} == set(ENCODINGS)


@given(st.sampled_from(sorted(OPENCV)), SIDE, SIDE, PAD, st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=200)
def test_each_is_what_opencv_makes_of_it(encoding: str, height: int, width: int, pad: int, seed: int, bigendian: bool):
    code, channels, (down, across), least = OPENCV[encoding]
    height, width = max(least, height // down * down), max(least, width // across * across)
    rows, row = height * 3 // 2 if down == 2 else height, width * channels
    data = np.random.default_rng(seed).integers(0, 256, (rows, row + pad), np.uint8)
    packed = np.ascontiguousarray(data[:, :row])
    packed = packed.reshape(rows, width, channels) if channels > 1 else packed
    expected = packed if code is None else cv2.cvtColor(packed, code)
    out = to_rgb(data.tobytes() + b"tail", height, width, encoding, row + pad, bigendian)
    assert out.dtype == np.uint8
    assert out.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(out, expected)


@given(images(), st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8"]), PAD)
def test_colour_comes_back_bit_for_bit(image: np.ndarray, encoding: str, pad: int):
    height, width = image.shape[:2]
    row = width * (4 if "a" in encoding else 3)
    data, step = from_rgb(image, encoding, row + pad)
    assert (data.size, step) == (height * (row + pad), row + pad)
    np.testing.assert_array_equal(to_rgb(noisy_padding(data, step, row), height, width, encoding, step), image)


@given(npst.arrays(np.uint8, st.tuples(SIDE, SIDE)), st.sampled_from(["mono8", "mono16"]), PAD, st.booleans())
def test_grey_comes_back_bit_for_bit(grey: np.ndarray, encoding: str, pad: int, bigendian: bool):
    image = np.repeat(grey[..., None], 3, axis=2)
    row = grey.shape[1] * (2 if encoding == "mono16" else 1)
    data, step = from_rgb(image, encoding, row + pad)
    back = to_rgb(noisy_padding(data, step, row), grey.shape[0], grey.shape[1], encoding, step, bigendian)
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(("order", "bigendian"), [("<u2", False), (">u2", True)])
@pytest.mark.parametrize("pad", [0, 6])
def test_all_16_bit_greys_become_their_upper_byte_within_one_level_of_cv_bridge(order: str, bigendian: bool, pad: int):
    values = np.arange(1 << 16).reshape(256, 256)
    rows = np.pad(values.astype(order).view(np.uint8), ((0, 0), (0, pad)), constant_values=77)
    out = to_rgb(rows, 256, 256, "mono16", 512 + pad, bigendian)
    np.testing.assert_array_equal(out, np.repeat((values >> 8)[..., None], 3, axis=2))
    cv_bridge = np.rint(values * (255.0 / 65535.0))
    assert np.abs(out[..., 0] - cv_bridge).max() == 1


@given(images(), st.sampled_from(BAYER), PAD)
def test_a_bayer_mosaic_holds_the_colours_its_name_says(image: np.ndarray, encoding: str, pad: int):
    image = np.pad(image, ((0, 1), (0, 1), (0, 0)), "edge")  # 3x3 at least
    height, width = image.shape[:2]
    data, step = from_rgb(image, encoding, width + pad)
    out = to_rgb(noisy_padding(data, step, width), height, width, encoding, step)
    pattern = encoding[len("bayer_") :]
    for y in range(1, height - 1):  # OpenCV copies its border from the pixels inside
        for x in range(1, width - 1):
            colour = "rgb".index(pattern[y % 2 * 2 + x % 2])
            assert out[y, x, colour] == image[y, x, colour]


@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from(BAYER), st.integers(3, 9), st.integers(3, 9))
def test_one_colour_comes_back_from_bayer(colour: tuple[int, int, int], encoding: str, height: int, width: int):
    image = np.full((height, width, 3), colour, np.uint8)
    data, step = from_rgb(image, encoding)
    np.testing.assert_array_equal(to_rgb(data, height, width, encoding, step), image)


@given(images(), st.sampled_from(YUV), PAD)
def test_colours_that_2x2_pixels_share_come_back_from_yuv_within_two_levels(image: np.ndarray, encoding: str, pad: int):
    image = image.repeat(2, axis=0).repeat(2, axis=1)  # 2 is the most over all 256^3 colours
    height, width = image.shape[:2]
    row = width if encoding.startswith("nv") else width * 2
    data, step = from_rgb(image, encoding, row + pad)
    back = to_rgb(noisy_padding(data, step, row), height, width, encoding, step)
    assert np.abs(back.astype(int) - image).max() <= 2


RED, Y, U, V = (255, 0, 0), 82, 90, 240  # BT.601 in video range


@pytest.mark.parametrize(
    ("encoding", "rows"),
    [
        ("rgb8", [[255, 0, 0, 255, 0, 0]] * 2),
        ("bgr8", [[0, 0, 255, 0, 0, 255]] * 2),
        ("rgba8", [[255, 0, 0, 255, 255, 0, 0, 255]] * 2),
        ("bgra8", [[0, 0, 255, 255, 0, 0, 255, 255]] * 2),
        ("uyvy", [[U, Y, V, Y]] * 2),
        ("yuv422", [[U, Y, V, Y]] * 2),
        ("yuyv", [[Y, U, Y, V]] * 2),
        ("yuv422_yuy2", [[Y, U, Y, V]] * 2),
        ("nv12", [[Y, Y], [Y, Y], [U, V]]),
        ("nv21", [[Y, Y], [Y, Y], [V, U]]),
    ],
)
def test_red_by_hand(encoding: str, rows: list[list[int]]):
    data, red = np.array(rows, np.uint8), np.full((2, 2, 3), RED, np.uint8)
    assert np.abs(to_rgb(data, 2, 2, encoding, len(rows[0])).astype(int) - red).max() <= 2
    np.testing.assert_allclose(from_rgb(red, encoding)[0].astype(int), data.reshape(-1), atol=1)


def test_rgb8_without_padding_is_not_copied():
    frame = np.arange(36, dtype=np.uint8)
    assert np.shares_memory(to_rgb(frame, 3, 4, "rgb8", 12), frame)
    message = array.array("B", bytes(36))
    view = to_rgb(message, 3, 4, "rgb8", 12)
    message[0] = 200
    assert view[0, 0, 0] == 200
    assert not to_rgb(bytes(36), 3, 4, "rgb8", 12).flags["WRITEABLE"]
    assert not np.shares_memory(to_rgb(frame, 2, 4, "rgb8", 14), frame)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: array.array("B", b), np.frombuffer])
def test_every_buffer_is_read(wrap):  # type: ignore[no-untyped-def]
    raw = bytes(range(12))
    data = np.frombuffer(raw, np.uint8) if wrap is np.frombuffer else wrap(raw)
    assert to_rgb(data, 2, 2, "rgb8", 6).reshape(-1).tolist() == list(range(12))


@given(
    st.one_of(st.integers(-2, 12), st.integers(-(2**31), 2**32)),
    st.one_of(st.integers(-2, 12), st.integers(-(2**31), 2**32)),
    st.one_of(st.sampled_from([*ENCODINGS, "nv24"]), st.text(max_size=12)),
    st.one_of(st.integers(-1, 60), st.integers(0, 2**32)),
    st.integers(0, 300),
)
@settings(max_examples=300)
def test_any_header_gives_an_image_or_one_clear_error(height: int, width: int, encoding: str, step: int, size: int):
    try:
        image = to_rgb(bytes(size), height, width, encoding, step)
    except ValueError as error:
        assert 20 < len(str(error)) < 300
        return
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_what_a_header_claims_is_not_allocated(encoding: str):
    tracemalloc.start()
    with pytest.raises(ValueError, match="cut off"):
        to_rgb(bytes(1000), 1 << 15, 1 << 10, encoding, 1 << 17)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("height", "width", "encoding", "step", "size", "message"),
    [
        (4, 4, "yuv420", 12, 48, r"^unknown encoding 'yuv420'; known are bayer_bggr8, .*, yuyv$"),
        (4, 4, "x" * 1000, 12, 48, r"^unknown encoding '(x){40}'; known"),
        (4, 4, "rgb8", 12, 47, r"data holds 47 bytes, but step x height = 12 x 4 = 48"),
        (4, 4, "nv12", 4, 23, r"data holds 23 bytes, but step x rows of both planes = 4 x 6 = 24"),
        (4, 4, "rgb8", 11, 48, r"step is 11 bytes, but a rgb8 row of 4 pixels has 12"),
        (4, 4, "mono16", 7, 48, r"step is 7 bytes, but a mono16 row of 4 pixels has 8"),
        (0, 0, "rgb8", 0, 0, r"image is 0x0 pixels"),
        (1, 1, "mono8", 1, 1, r"image is 1x1 pixels"),
        (2, 4, "bayer_rggb8", 4, 8, r"image is 2x4 pixels \(height x width\); at least 3x3 is needed"),
        (32768, 32768, "mono8", 32768, 0, r"claims 32768x32768 pixels .*, more than 33554432 in all"),
        (2, 32769, "mono8", 32769, 65538, r"image is 2x32769 pixels \(height x width\); at most 32768x32768 is read"),
        (3, 4, "nv12", 4, 18, r"image is 3x4 pixels .*, but nv12 needs an even height and width"),
        (4, 3, "nv21", 3, 18, r"image is 4x3 pixels .*, but nv21 needs an even height and width"),
        (4, 3, "yuv422", 6, 24, r"image is 4x3 pixels .*, but yuv422 needs an even width"),
    ],
)
def test_errors_name_what_is_wrong(height: int, width: int, encoding: str, step: int, size: int, message: str):
    with pytest.raises(ValueError, match=message):
        to_rgb(bytes(size), height, width, encoding, step)


def test_from_rgb_refuses_other_arrays_sizes_and_short_steps():
    with pytest.raises(ValueError, match="expected uint8"):
        from_rgb(np.zeros((2, 2, 3), np.float32), "rgb8")
    with pytest.raises(ValueError, match="step is 5 bytes"):
        from_rgb(np.zeros((2, 2, 3), np.uint8), "rgb8", 5)
    with pytest.raises(ValueError, match="nv12 needs an even height and width"):
        from_rgb(np.zeros((3, 2, 3), np.uint8), "nv12")


def test_outputs():
    data, step = from_mask(np.array([[True, False, True]]))
    assert (data.tolist(), step) == ([255, 0, 255], 3)
    score = np.array([[0.25, 1.0]], np.float64)
    data, step = from_score(score)
    assert step == 8
    np.testing.assert_array_equal(np.frombuffer(data.tobytes(), "<f4"), [0.25, 1.0])
