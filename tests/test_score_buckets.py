"""Order-preserving buckets: order, fineness at both ends, thresholds that are exactly a bucket's lower edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_core.evaluation.score_buckets import BUCKETS, Mode, bucket_threshold, score_bucket, score_key

logits = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=100)
unit = st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=100)
ENDS: dict[Mode, list[float]] = {
    "logits": [-np.inf, -1e-45, -0.0, 0.0, 1e-45, np.inf],
    "unit": [0.0, 1e-45, 0.5, 0.5 + 2.0**-24, 1.0 - 2.0**-24, 1.0],
}


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.tuples(st.just("logits"), logits), st.tuples(st.just("unit"), unit)))
def test_keys_order_like_scores_and_thresholds_are_lower_edges(case: tuple[Mode, list[float]]) -> None:
    mode, values = case
    score = np.unique(np.array([*values, *ENDS[mode]], np.float32))
    keys, buckets = score_key(score, mode).astype(np.int64), score_bucket(score, mode)
    assert np.all(np.diff(keys) > 0)
    assert np.all((buckets >= 0) & (buckets < BUCKETS))
    edges = bucket_threshold(buckets, mode)
    assert edges.dtype == np.float32
    assert np.array_equal(score[:, None] >= edges, buckets[:, None] >= buckets)
    below = np.nextafter(edges, np.float32(-np.inf))[edges > score[0]]
    assert np.all(score_bucket(below, mode) < buckets[edges > score[0]])


def test_zero_has_one_key_and_empty_input_is_fine() -> None:
    assert len(np.unique(score_key(np.array([-0.0, 0.0], np.float32), "logits"))) == 1
    assert score_bucket(np.empty(0, np.float32), "unit").shape == (0,)


def test_unit_buckets_are_as_fine_near_one_as_near_zero() -> None:
    near_zero = np.array([0.0, 1e-6, 2e-6, 4e-6], np.float32)
    for score in (near_zero, np.float32(1) - near_zero):
        assert len(np.unique(score_bucket(score, "unit"))) == 4


def test_scores_outside_the_unit_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from -1 to 0.5, outside \[0, 1\]"):
        score_bucket(np.array([0.5, -1.0], np.float32), "unit")
