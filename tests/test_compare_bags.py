"""compare-bags: what changed between two recordings of outputs, and when that is too much."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import answers, image, stamps, write_bag

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, START_NS
from mgcda_core.evaluation.bag.compare import compare_bags, difference

SIZE = (20, 30)
HAZARDS = [[(10.0, 0.0), (30.0, -2.0)]] * 4


def scores(count: int = 4) -> list[np.ndarray]:
    """A square of 0.9 on 0.1."""
    found = np.full((count, *SIZE), 0.1, np.float32)
    found[:, 5:15, 5:15] = 0.9
    return list(found)


def truth(count: int = 4) -> list:
    label = np.zeros(SIZE, np.uint8)
    label[5:15, 5:15] = 1
    return [(ANOMALY_TOPIC, "sensor_msgs/msg/Image", stamp, image(label, stamp, "mono8")) for stamp in stamps(count)]


def test_nothing_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_bag(tmp_path / "a", answers(scores(), stamps(4), HAZARDS) + truth())
    b = write_bag(tmp_path / "b", answers(scores(), stamps(4), HAZARDS) + truth())
    compare_bags(a, b, json=tmp_path / "out" / "change.json")
    change = json.loads((tmp_path / "out" / "change.json").read_text())
    assert change == {
        "frames": 4, "only_in_a": 0, "only_in_b": 0, "mask_iou": 1.0, "worst_mask_iou": 1.0,
        "worst_mask_stamp": "1700000000.000000000", "score_difference": 0.0, "hazards_a": 8, "hazards_b": 8,
        "appeared": 0, "vanished": 0, "ap_a": 1.0, "ap_b": 1.0,
    }  # fmt: skip
    assert "PAST" not in capsys.readouterr().out


def test_every_figure_by_hand(tmp_path: Path) -> None:
    after = scores()
    after[1][5:15, 5] = 0.1  # a tenth of one mask is gone
    after[2] += 0.05
    hazards = [HAZARDS[0], [(10.3, 0.3), (30.9, -2.9)], [(10.0, 0.0)], [(10.0, 0.0), (33.0, -2.0)]]
    a = write_bag(tmp_path / "a", answers(scores(), stamps(4), HAZARDS) + truth())
    b = write_bag(tmp_path / "b", answers(after[1:], stamps(4)[1:], hazards[1:]))
    change = difference(a, b)
    assert (change.frames, change.only_in_a, change.only_in_b, change.missing) == (3, 1, 0, 1)
    assert change.mask_iou == pytest.approx(290 / 300)
    assert (change.worst_mask_iou, change.worst_mask_stamp) == (0.9, "1700000000.100000000")
    assert change.score_difference == pytest.approx((10 * 0.8 + 600 * 0.05) / 1800, rel=1e-4)
    # Within 5 % of the distance it is the same hazard; 3 m off at 30 m it is another one.
    assert (change.hazards_a, change.hazards_b, change.appeared, change.vanished) == (6, 5, 1, 2)
    assert change.hazard_change == pytest.approx(3 / 11)
    assert change.ap_a == pytest.approx(1.0)
    assert change.ap_b is not None and change.ap_b < 1.0
    swapped = difference(b, a)
    assert (swapped.only_in_b, swapped.appeared, swapped.vanished) == (1, 2, 1)
    assert swapped.ap_drop == pytest.approx(-(change.ap_drop or 0.0))


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [
        ({}, r"b differs from .*a: frames missing is 1, past the tolerance of 0"),
        ({"max_missing": 1}, r"mask IoU is 0\.9667, past the tolerance of 0\.98"),
        ({"max_missing": 1, "min_mask_iou": 0.9}, r"score difference is 0\.0044"),
        ({"max_missing": 1, "min_mask_iou": 0.9, "max_score_difference": 0.1}, r"AP drop is 0\.02778"),
        ({"max_missing": 1, "min_mask_iou": 0.9, "max_score_difference": 0.1, "max_ap_drop": 0.1}, None),
    ],
)
def test_the_first_figure_past_its_tolerance_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerances: dict, message: str | None
) -> None:
    after = scores()
    after[1][5:15, 5] = 0.1  # AP is left: 290 / 300, and 10 / 300 of precision 300 / 1800
    a, b = (write_bag(tmp_path / name, answers(found, stamps(4)[i:])) for name, found, i in
            (("a", scores(), 0), ("b", after[1:], 1)))  # fmt: skip
    for i in range(4):
        label = np.zeros(SIZE, np.uint8)
        label[5:15, 5:15] = 2
        cv2.imwrite(str(tmp_path / f"{i}.png"), label)
    given = {"labels": tmp_path, "anomaly_values": "2,3", "max_score_difference": 0.004} | tolerances
    if message is None:
        compare_bags(a, b, **given)
        return
    with pytest.raises(ValueError, match=message):
        compare_bags(a, b, **given)
    assert "PAST" in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    a = write_bag(tmp_path / "a", answers(scores(), stamps(4)))
    other = write_bag(tmp_path / "other", answers(scores(1), [START_NS + 5]))
    with pytest.raises(ValueError, match="not of the same drive"):
        compare_bags(a, other)
    small = write_bag(tmp_path / "small", answers([scores()[0][:10]], [START_NS]))
    with pytest.raises(ValueError, match=rf"stamp {START_NS} ns is \(20, 30\) in .*a, \(10, 30\) in .*small"):
        compare_bags(a, small)
    broken = scores(2)
    broken[1][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"/n/score, stamp .* 1 scores are NaN"):
        compare_bags(a, write_bag(tmp_path / "nan", answers(broken, stamps(2))), max_missing=9)
    with pytest.raises(ConfigError, match="--anomaly_values is two"):
        compare_bags(a, a, anomaly_values="two")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        compare_bags(a, tmp_path / "nowhere")
    two = answers(scores(1), [START_NS]) + [(t.replace("/n/", "/m/"), k, r, m) for t, k, r, m in
                                            answers(scores(1), [START_NS])]  # fmt: skip
    with pytest.raises(ValueError, match=r"several topics \.\.\./mask \(/m/mask, /n/mask\)"):
        compare_bags(a, write_bag(tmp_path / "two", two))


def test_empty_masks_are_equal(tmp_path: Path) -> None:
    a, b = (write_bag(tmp_path / name, answers([np.zeros(SIZE)] * 2, stamps(2))) for name in "ab")
    compare_bags(a, b)
    assert difference(a, b).mask_iou is None
