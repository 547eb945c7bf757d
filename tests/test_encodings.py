"""Encodings: every known one comes back as it went in, whatever the row padding; every bad frame says why."""

from __future__ import annotations

import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mgcda_core.inference.encodings import ENCODINGS, from_mask, from_rgb, from_score, to_rgb

SIDE = st.integers(2, 9)


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    return draw(npst.arrays(np.uint8, (draw(SIDE), draw(SIDE), 3)))


@given(images(), st.sampled_from(["rgb8", "bgr8"]), st.integers(0, 7), st.integers(0, 5))
def test_colour_comes_back_bit_for_bit_whatever_the_padding(image: np.ndarray, encoding: str, pad: int, tail: int):
    height, width = image.shape[:2]
    data, step = from_rgb(image, encoding, width * 3 + pad)
    noisy = np.concatenate([data, np.full(tail, 9, np.uint8)])
    noisy[: step * height].reshape(height, step)[:, width * 3 :] = 77  # padding and tail must not matter
    out = to_rgb(noisy, height, width, encoding, step)
    assert out.dtype == np.uint8
    assert out.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(out, image)


@given(npst.arrays(np.uint8, st.tuples(SIDE, SIDE)), st.integers(0, 7))
def test_grey_comes_back_bit_for_bit(grey: np.ndarray, pad: int):
    image = np.repeat(grey[..., None], 3, axis=2)
    data, step = from_rgb(image, "mono8", grey.shape[1] + pad)
    np.testing.assert_array_equal(to_rgb(data, grey.shape[0], grey.shape[1], "mono8", step), image)


def test_channel_order():
    red = [255, 0, 0] * 4
    assert to_rgb(bytes(red), 2, 2, "rgb8", 6)[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(bytes(red), 2, 2, "bgr8", 6)[0, 0].tolist() == [0, 0, 255]
    assert to_rgb(bytes([7, 7, 7, 7]), 2, 2, "mono8", 2)[1, 1].tolist() == [7, 7, 7]


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: array.array("B", b), np.frombuffer])
def test_every_buffer_is_read(wrap):  # type: ignore[no-untyped-def]
    raw = bytes(range(12))
    data = np.frombuffer(raw, np.uint8) if wrap is np.frombuffer else wrap(raw)
    assert to_rgb(data, 2, 2, "rgb8", 6).reshape(-1).tolist() == list(range(12))


@given(
    st.integers(-2, 12),
    st.integers(-2, 12),
    st.sampled_from([*ENCODINGS, "nv12"]),
    st.integers(0, 60),
    st.binary(max_size=300),
)
@settings(max_examples=300)
def test_any_header_gives_an_image_or_one_clear_error(height: int, width: int, encoding: str, step: int, data: bytes):
    try:
        image = to_rgb(data, height, width, encoding, step)
    except ValueError as error:
        assert len(str(error)) > 20
        return
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize(
    ("height", "width", "encoding", "step", "size", "message"),
    [
        (4, 4, "yuv420", 12, 48, r"unknown encoding 'yuv420'; known are bgr8, mono8, rgb8"),
        (4, 4, "rgb8", 12, 47, r"data holds 47 bytes, but step x height = 12 x 4 = 48"),
        (4, 4, "rgb8", 11, 48, r"step is 11 bytes, but a rgb8 row of 4 pixels has 12"),
        (0, 0, "rgb8", 0, 0, r"image is 0x0 pixels"),
        (1, 1, "mono8", 1, 1, r"image is 1x1 pixels"),
    ],
)
def test_errors_name_what_is_wrong(height: int, width: int, encoding: str, step: int, size: int, message: str):
    with pytest.raises(ValueError, match=message):
        to_rgb(bytes(size), height, width, encoding, step)


def test_from_rgb_refuses_other_arrays_and_short_steps():
    with pytest.raises(ValueError, match="expected uint8"):
        from_rgb(np.zeros((2, 2, 3), np.float32), "rgb8")
    with pytest.raises(ValueError, match="step is 5 bytes"):
        from_rgb(np.zeros((2, 2, 3), np.uint8), "rgb8", 5)


def test_outputs():
    data, step = from_mask(np.array([[True, False, True]]))
    assert (data.tolist(), step) == ([255, 0, 255], 3)
    score = np.array([[0.25, 1.0]], np.float64)
    data, step = from_score(score)
    assert step == 8
    np.testing.assert_array_equal(np.frombuffer(data.tobytes(), "<f4"), [0.25, 1.0])
