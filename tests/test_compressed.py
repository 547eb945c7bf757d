"""Compressed images: the colours image_transport meant; no file costs more than its image, none half read is given."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mgcda_core.inference import encodings
from mgcda_core.inference.compressed import decode
from mgcda_core.inference.encodings import MAX_PIXELS

IMAGE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8), (0, 0), 3)
"""RGB; smooth, so that jpeg keeps it nearly."""
BGR = IMAGE[..., ::-1]
ALPHA = np.dstack([BGR, np.full(BGR.shape[:2], 128, np.uint8)])


def encoded(suffix: str, image: np.ndarray, *settings: int) -> bytes:
    done, data = cv2.imencode(suffix, image, settings)
    assert done
    return data.tobytes()


FILES = {
    "jpeg": encoded(".jpg", BGR),
    "jpeg, progressive": encoded(".jpg", BGR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "jpeg, restarts": encoded(".jpg", BGR, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "jpeg, grey": encoded(".jpg", BGR[..., 0]),
    "png": encoded(".png", BGR),
    "png, 16 bits": encoded(".png", BGR.astype(np.uint16) << 8),
    "webp VP8": encoded(".webp", BGR, cv2.IMWRITE_WEBP_QUALITY, 90),
    "webp VP8L": encoded(".webp", BGR, cv2.IMWRITE_WEBP_QUALITY, 101),
    "webp VP8X": encoded(".webp", ALPHA, cv2.IMWRITE_WEBP_QUALITY, 90),
}


@given(npst.arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3))), st.booleans())
def test_what_is_lossless_comes_back_bit_for_bit(image: np.ndarray, webp: bool):
    file = encoded(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 101) if webp else encoded(".png", image)
    out = decode(file, "webp" if webp else "png")
    assert out.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(out, image[..., ::-1])


@pytest.mark.parametrize("kind", [kind for kind in FILES if "grey" not in kind])
def test_every_kind_gives_the_image(kind: str):
    out = decode(FILES[kind], kind)
    assert (out.dtype, out.shape) == (np.uint8, IMAGE.shape)
    bound = 0 if kind in ("png", "png, 16 bits", "webp VP8L") else 12  # measured: at most 10
    assert np.abs(out.astype(int) - IMAGE).max() <= bound


@pytest.mark.parametrize("chunk", [b"VP8 ", b"VP8L", b"VP8X"])
def test_the_webp_files_are_of_three_sorts(chunk: bytes):
    assert FILES[f"webp {chunk.decode().strip()}"][12:16] == chunk


@pytest.mark.parametrize(
    ("format", "stored"),
    [
        ("", BGR),
        ("png", BGR),
        ("bgr8; png compressed bgr8", BGR),
        ("rgb8; png compressed bgr8", BGR),
        ("rgba8; png compressed bgr8", BGR),
        ("bgr16; png compressed bgr16", BGR),
        ("yuv422_yuy2; jpeg compressed", BGR),  # a camera's own jpeg: image_transport writes no such format
        ("rgb8; png compressed", IMAGE),
        ("rgb8; jpeg compressed rgb8", IMAGE),
        ("bgr8; png compressed ", IMAGE),
        ("bgra8; png compressed rgb8", IMAGE),
        ("rgb16; png compressed rgb16", IMAGE),
    ],
)
def test_red_and_blue_lie_as_the_format_says(format: str, stored: np.ndarray):
    np.testing.assert_array_equal(decode(encoded(".png", stored), format), IMAGE)
    with_alpha = np.dstack([stored, np.full(stored.shape[:2], 9, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(".png", with_alpha), format), IMAGE)


def test_grey_of_8_and_16_bits():
    grey = IMAGE[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(".png", grey), "mono8; png compressed "), expected)
    sixteen = grey.astype(np.uint16) * 256 + 255  # the lower byte rounds nothing up
    np.testing.assert_array_equal(decode(encoded(".png", sixteen), "mono16; png compressed "), expected)
    assert np.ptp(decode(FILES["jpeg, grey"], "mono8; jpeg compressed mono8").astype(int), axis=2).max() == 0


def test_a_bayer_mosaic_is_interpolated_unless_it_was_before():
    mosaic, step = encodings.from_rgb(IMAGE, "bayer_grbg8")
    expected = encodings.to_rgb(mosaic, 24, 36, "bayer_grbg8", step)
    mosaic = mosaic.reshape(IMAGE.shape[:2])
    np.testing.assert_array_equal(decode(encoded(".png", mosaic), "bayer_grbg8; png compressed "), expected)
    sixteen = encoded(".png", mosaic.astype(np.uint16) << 8)
    np.testing.assert_array_equal(decode(sixteen, "bayer_grbg16; png compressed "), expected)
    grey = decode(encoded(".png", mosaic), "bayer_grbg8; jpeg compressed mono8")
    np.testing.assert_array_equal(grey, np.repeat(mosaic[..., None], 3, axis=2))


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def test_the_orientation_a_file_asks_for_is_ignored():
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    file = with_segment(FILES["jpeg"], 0xE1, turned)
    asked = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert asked is not None
    assert asked.shape == (36, 24, 3)
    np.testing.assert_array_equal(decode(file, "jpeg"), decode(FILES["jpeg"], "jpeg"))


@pytest.mark.parametrize("kind", FILES)
def test_an_image_that_is_cut_off_is_refused_wherever_it_is(kind: str):
    file = FILES[kind]
    for length in range(len(file)):
        with pytest.raises(ValueError, match="cannot be decoded: it"):
            decode(file[:length], kind)
    np.testing.assert_array_equal(decode(file + bytes(50), kind), decode(file, kind))  # drivers pad their buffers


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    file = with_segment(FILES["jpeg"], 0xE1, b"Exif\0\0" + FILES["jpeg, grey"])
    assert decode(file, "jpeg").shape == IMAGE.shape
    with pytest.raises(ValueError, match="cut off"):
        decode(file[:-200], "jpeg")


def claiming(kind: str, height: int, width: int) -> bytes:
    """The file with another size in its header."""
    file = bytearray(FILES[kind])
    if kind == "jpeg":
        struct.pack_into(">HH", file, file.index(b"\xff\xc0") + 5, height, width)
    elif kind == "png":
        struct.pack_into(">II", file, 16, width, height)
    elif kind == "webp VP8":
        struct.pack_into("<HH", file, 26, width, height)
    elif kind == "webp VP8L":
        struct.pack_into("<I", file, 21, (width - 1) | (height - 1) << 14)
    else:
        file[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(file)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp VP8", "webp VP8L", "webp VP8X"])
def test_a_bomb_is_refused_before_it_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch):
    bomb = claiming(kind, 16000, 15000)
    assert claiming(kind, *IMAGE.shape[:2]) == FILES[kind]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"image claims 16000x15000 pixels .*, more than {MAX_PIXELS} in all"):
        decode(bomb, kind)


def test_a_chunk_of_a_png_cannot_claim_more_than_there_is(monkeypatch: pytest.MonkeyPatch):
    file = bytearray(FILES["png"])
    struct.pack_into(">I", file, 33, 1 << 31)  # OpenCV would allocate it
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="cut off"):
        decode(file, "png")


@pytest.mark.parametrize("chunk", [b"acTL", b"fcTL", b"fdAT"])
def test_an_animation_is_refused(chunk: bytes):
    png, webp = FILES["png"], bytearray(FILES["webp VP8X"])
    webp[20] |= 2
    for file in (png[:33] + bytes(4) + chunk + bytes(4) + png[33:], webp):
        with pytest.raises(ValueError, match="it is animated"):
            decode(file, "")


def test_a_frame_of_8k_video_is_not_too_large():
    assert MAX_PIXELS >= 7680 * 4320


def test_a_jpeg_of_countless_scans_is_refused(monkeypatch: pytest.MonkeyPatch):
    file = FILES["jpeg, progressive"]
    start = file.rindex(b"\xff\xda")
    scan = file[start : start + 2 + struct.unpack_from(">H", file, start + 2)[0]]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="more than 100 scans"):
        decode(file[:-2] + scan * 1000 + file[-2:], "jpeg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image of format 'jpeg' with 0 bytes cannot be decoded: it is no jpeg, png or webp"),
        (encoded(".bmp", BGR), "it is no jpeg, png or webp; set its publisher to one of these"),
        (b"\xff\xd8" + b"\xff" * 10_000_000, "no frame header"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000, "no frame header"),
        (b"\xff\xd8\xff\xd0\0\2" + FILES["jpeg"][2:], "no frame header"),  # a decoder skips less of it than its length
        (encoded(".png", BGR[:1, :1]), "image is 1x1 pixels"),
        (claiming("jpeg", 0, 36), "damaged|0x36"),
        (FILES["png"][:8] + b"\0\0\0\rtEXt" + FILES["png"][16:], "does not begin with its size"),
        (b"RIFF\4\0\0\0WEBPJUNK" + bytes(40), "a webp without an image"),
    ],
)
def test_errors_say_what_is_wrong(data: bytes, message: str):
    with pytest.raises(ValueError, match=message):
        decode(data, "jpeg")


def test_a_long_format_is_not_repeated():
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        decode(b"", "x" * 100_000)
    assert len(str(caught.value)) < 250


CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)


@given(st.sampled_from(sorted(FILES)), CHANGES, st.sampled_from(["", "rgb8; x", "bayer_rggb8; x", "bayer_x"]))
@settings(max_examples=300)
def test_a_damaged_file_gives_an_image_or_an_error(kind: str, changes: list[tuple[int, int]], format: str):
    file = bytearray(FILES[kind])
    for place, value in changes:
        file[place % len(file)] = value
    try:
        out = decode(file, format)
    except ValueError as error:
        assert 40 < len(str(error)) < 300
        return
    assert out.dtype == np.uint8
    assert out.shape[2] == 3
    assert out.size <= MAX_PIXELS * 3


@given(st.sampled_from([file[:length] for file in FILES.values() for length in (0, 4, 16)]), st.binary(max_size=200))
def test_random_bytes_are_a_value_error(start: bytes, data: bytes):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(start + data, "")
