"""Order-preserving buckets of float32 scores: 2^20 of them hold any score, as fine as floats are (spec 5.2).

Uniform bins fail on saturated scores (spec 5.2 has the figures); the bits of a float32, with the sign folded in, order
like the numbers themselves, and their upper 20 are the bucket.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Mode = Literal["logits", "unit"]
"""logits: unbounded scores. unit: scores that exist only in [0, 1], as fine near 1 as near 0."""

BUCKETS = 1 << 20
LOW_BITS: dict[Mode, int] = {"logits": 12, "unit": 11}
"""Bits of a key below its bucket: the scores within a bucket."""
_SIGN = np.uint32(0x80000000)
_HALF = np.uint32(0x3F000000)  # bits of 0.5
_LOWEST, _HIGHEST = 0x007FFFFF, 0xFF800000  # keys of -inf and inf; what lies beyond are NaNs


def score_key(score: np.ndarray, mode: Mode) -> np.ndarray:
    """uint32 [N] that orders like `score`, float32 [N] without NaN; equal scores, -0.0 and 0.0 too, have equal keys.

    logits: a negative number's bits are inverted, another's get the sign bit. unit: the bits of s up to 0.5, beyond it
    the bits of 1 - s, which is exact there, mirrored at the bits of 0.5, so that the upper half follows the lower one.
    Raises ValueError in mode unit for scores outside [0, 1].
    """
    score = np.add(score, np.float32(0.0), dtype=np.float32)  # turns -0.0 into 0.0
    if mode == "logits":
        bits = score.view(np.uint32)
        return bits ^ ((score.view(np.int32) >> 31).view(np.uint32) | _SIGN)
    if score.size and (score.min() < 0.0 or score.max() > 1.0):
        raise ValueError(
            f"scores reach from {score.min():g} to {score.max():g}, outside [0, 1]; use PixelMetrics(mode='logits')"
        )
    upper = score > 0.5
    bits = np.where(upper, np.float32(1.0) - score, score).view(np.uint32)
    return np.where(upper, 2 * _HALF - bits, bits)


def score_bucket(score: np.ndarray, mode: Mode) -> np.ndarray:
    """Bucket, int64 [N] in [0, 2^20), of float32 scores [N] without NaN; the errors of `score_key`."""
    return (score_key(score, mode) >> LOW_BITS[mode]).astype(np.int64)


def bucket_threshold(bucket: np.ndarray | int, mode: Mode) -> np.ndarray:
    """Lowest float32 score of each bucket: `score >= bucket_threshold(k)` says whether a score's bucket is k or higher.

    Buckets no score can have (the patterns of NaN, and in mode unit those above 1) give the nearest score there is.
    """
    key = np.asarray(bucket, np.int64) << LOW_BITS[mode]
    if mode == "logits":
        key = np.clip(key, _LOWEST, _HIGHEST)
        return np.where(key >= _SIGN, key - int(_SIGN), 0xFFFFFFFF - key).astype(np.uint32).view(np.float32)
    key = np.minimum(key, 2 * int(_HALF))
    upper = key > _HALF
    near = np.where(upper, 2 * int(_HALF) - key, key).astype(np.uint32).view(np.float32)
    mirrored = np.float32(1.0) - near
    # 1 - near may have been rounded down, out of the bucket; the next float is in it.
    mirrored = np.where(np.float32(1.0) - mirrored > near, np.nextafter(mirrored, np.float32(2.0)), mirrored)
    return np.where(upper, mirrored, near)
