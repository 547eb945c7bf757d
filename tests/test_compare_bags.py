"""compare-bags: what changed between two recordings of outputs, and when that is too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_files import PERIOD, answers, cut, image, stamps, write_bag

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, START_NS
from mgcda_core.data.sample import DataError
from mgcda_core.evaluation.bag.compare import compare_bags, difference
from mgcda_core.inference.sources import SourceError

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
        "appeared": 0, "vanished": 0, "ap_a": 1.0, "ap_b": 1.0, "labels_left_out": 0, "fault": None,
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
    for stamp in stamps(4):
        label = np.zeros(SIZE, np.uint8)
        label[5:15, 5:15] = 2
        cv2.imwrite(str(tmp_path / f"{stamp}.png"), label)
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
    compare_bags(a, b, min_worst_mask_iou=1)
    assert difference(a, b).mask_iou is None


def test_masks_belong_to_frames_by_stamp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frame 2 of the drive was dropped: an index into the drive says nothing about the answers."""
    answered = [0, 1, 3]
    found = np.full((4, *SIZE), 0.1, np.float32)
    for i in range(4):
        found[i, :, 5 * i : 5 * i + 5] = 0.9
        cv2.imwrite(str(tmp_path / f"{START_NS + i * PERIOD}.png"), (found[i] > 0.5).astype(np.uint8))
    a = write_bag(tmp_path / "a", answers([found[i] for i in answered], [stamps(4)[i] for i in answered]))
    change = difference(a, a, tmp_path)
    assert (change.ap_a, change.ap_b, change.labels_left_out) == (1.0, 1.0, 1)
    compare_bags(a, a, labels=tmp_path)
    assert "1.0000 -> 1.0000, 1 labels of frames without an answer" in capsys.readouterr().out
    (tmp_path / "by_index").mkdir()
    for i, stamp in enumerate(stamps(4)):
        (tmp_path / f"{stamp}.png").rename(tmp_path / "by_index" / f"{i:04d}.png")
    with pytest.raises(DataError, match="named by index"):
        difference(a, a, tmp_path / "by_index")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_recording_cut_off_is_compared_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swapped: bool
) -> None:
    noise = list(np.random.default_rng(0).random((20, 48, 64), np.float32))
    whole = write_bag(tmp_path / "whole", answers(noise, stamps(20)))
    part = cut(write_bag(tmp_path / "part", answers(noise, stamps(20))), 0.5)
    pair = (part, whole) if swapped else (whole, part)
    with pytest.raises(SourceError, match=r"part.* damaged or cut off .*; \d+ frames compared"):
        compare_bags(*pair, json=tmp_path / "change.json")
    change = json.loads((tmp_path / "change.json").read_text())
    assert 5 < change["frames"] < 15
    assert change["only_in_b" if swapped else "only_in_a"] == 20 - change["frames"]
    assert "cut off" in change["fault"] and change["mask_iou"] == 1.0
    assert f"frames: {change['frames']} in both" in capsys.readouterr().out


def test_without_any_hazard_there_is_no_change_of_hazards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_bag(tmp_path / "a", answers(scores(), stamps(4)))
    assert difference(a, a).hazard_change is None
    compare_bags(a, a)
    assert "hazards: n/a" in capsys.readouterr().out


def test_a_single_frame_that_changed_is_past_its_own_tolerance(tmp_path: Path) -> None:
    after = scores()
    after[1][5:15, 5] = 0.1  # a tenth of one mask is gone
    a, b = (write_bag(tmp_path / name, answers(found, stamps(4))) for name, found in (("a", scores()), ("b", after)))
    compare_bags(a, b, min_mask_iou=0.9, max_score_difference=1)
    with pytest.raises(ValueError, match=r"worst mask IoU is 0\.9, past the tolerance of 0\.95"):
        compare_bags(a, b, min_mask_iou=0.9, max_score_difference=1, min_worst_mask_iou=0.95)


@pytest.mark.parametrize("name", ["max_missing", "min_mask_iou", "min_worst_mask_iou", "max_score_difference",
                                  "max_hazard_change", "max_ap_drop"])  # fmt: skip
def test_negative_tolerances_are_refused(tmp_path: Path, name: str) -> None:
    below: dict[str, Any] = {name: -1}
    with pytest.raises(ConfigError, match=f"{name} is -1; a tolerance is a number from 0 on"):
        compare_bags(tmp_path, tmp_path, **below)
