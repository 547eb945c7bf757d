"""The gate's figures, on answers that are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.config import SegmenterConfig
from mgcda_core.data.sample import DataError
from mgcda_core.export.parity import CheckFrame, Parity, ParityError, measure, read_check_frames
from mgcda_core.inference.sidecar import Precision

LABELS = (1,), (255,), (0,)
LEAST, LARGEST = (2, 2), (100, 100)


class Answers:
    """A backend that gives the logits and classes it was made with."""

    device, sha256, config = "cpu", "", SegmenterConfig()
    min_size, max_size = (2, 2), (100, 100)
    max_batch = 8

    def __init__(self, score: list[float], classes: list[int], given: list[float] | None = None) -> None:
        self.name = "answers"
        self.answer = _logits(score), np.array([classes], np.uint8)
        self.given = None if given is None else _logits(given)

        self.batches: list[int] = []

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.answer

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.batches.append(len(images))
        logits, classes = (np.stack([answer] * len(images)) for answer in self.answer)
        return logits, classes

    def logits_given(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        assert self.given is not None, "all classes are the same: there is no need to ask"
        return self.given


def _logits(score: list[float]) -> np.ndarray:
    values = np.array([score], np.float32)
    return np.log(values / (1 - values))


def _frames(label: list[int] | None, count: int = 1) -> Iterator[CheckFrame]:
    image = np.zeros((1, 4, 3), np.uint8)
    yield from [CheckFrame(image, None if label is None else np.array([label], np.uint8))] * count


def test_every_figure() -> None:
    true = Answers([0.9, 0.6, 0.2, 0.1], [1, 1, 2, 3], given=[0.9, 0.31, 0.4, 0.1])
    made = Answers([0.9, 0.3, 0.4, 0.1], [1, 1, 1, 3])
    parity = measure(made, true, _frames([1, 1, 0, 255], count=2), threshold=0.5)
    assert parity.frames == 2
    assert parity.max_score_difference == pytest.approx(0.3, abs=1e-6)
    assert parity.mean_score_difference == pytest.approx(0.5 / 4, abs=1e-6)
    assert parity.mask_iou == pytest.approx(1 / 2)
    assert parity.classes_changed == pytest.approx(1 / 4)
    assert parity.max_difference_same_classes == pytest.approx(0.01, abs=1e-6)
    assert parity.ap == pytest.approx(100)
    assert parity.ap_change == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3) - 100)


def test_without_labels_and_masks_there_are_no_figures_for_them() -> None:
    calm = Answers([0.1, 0.1, 0.2, 0.1], [0, 0, 0, 0])
    parity = measure(calm, calm, _frames(None), threshold=0.5)
    assert (parity.max_score_difference, parity.mask_iou, parity.ap, parity.ap_change) == (0, None, None, None)
    assert measure(calm, calm, _frames([0, 0, 255, 0]), 0.5).ap is None, "no anomaly in the labels"
    assert "ap=none" in str(parity) and not parity.faults("fp32")


def test_no_frame_and_no_number_are_errors() -> None:
    calm = Answers([0.1, 0.1, 0.2, 0.1], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="no frame"):
        measure(calm, calm, _frames(None, count=0), 0.5)
    broken = Answers([0.1, float("nan"), 0.2, 0.1], [0, 0, 0, 0])
    with pytest.raises(ParityError, match="not finite"):
        measure(broken, calm, _frames(None), 0.5)


@pytest.mark.parametrize(
    ("precision", "difference", "changed", "ap_change", "faults"),
    [
        ("fp32", 9e-5, 9e-5, 0.0, 0),
        ("fp32", 2e-4, 0.0, None, 1),
        ("fp32", 0.0, 2e-4, None, 1),
        ("fp16", 1e-2, 4e-3, -0.4, 0),
        ("fp16", 3e-2, 6e-3, 0.6, 3),
        ("int8", 0.5, 0.1, 0.9, 0),
        ("int8", 0.5, 0.1, -1.1, 1),
        ("int8", float("nan"), 0.1, 0.0, 1),
        ("fp16", float("nan"), 0.0, None, 1),
    ],
)
def test_the_tolerances(
    precision: Precision, difference: float, changed: float, ap_change: float | None, faults: int
) -> None:
    parity = Parity(1, 1.0, 0.0, difference, changed, None, None if ap_change is None else 50.0, ap_change)
    assert len(parity.faults(precision)) == faults


def test_without_labels_the_mean_holds_int8() -> None:
    assert not Parity(1, 0.4, 0.019, 0.4, 0.1, 0.9, None, None).faults("int8")
    assert Parity(1, 0.4, 0.021, 0.4, 0.1, 0.9, None, None).faults("int8") == [
        "scores differ by 0.021 in the mean, allowed 0.02"
    ]


def test_the_exported_chain_runs_on_as_many_frames_at_a_time_as_it_takes() -> None:
    calm = Answers([0.1, 0.1, 0.2, 0.1], [0, 0, 0, 0])
    wider = CheckFrame(np.zeros((1, 5, 3), np.uint8), None)
    assert measure(calm, calm, iter([*_frames(None, 7), wider]), 0.5, batch=4).frames == 8
    assert calm.batches == [4, 3, 1]


def test_the_published_arithmetic_is_allowed_one_of_its_steps() -> None:
    parity = Parity(1, 1.0, 0.0, 3e-3, 0.0, None, None, None)
    assert parity.faults("fp32") and not parity.faults("fp32", "reference")


def test_labelled_frames_are_read_and_brought_to_a_size_the_graph_takes(drive: Path) -> None:
    labels = (2,), (255,), (0,)
    whole = list(read_check_frames(drive, labels, LEAST, LARGEST))
    assert len(whole) == 4 and whole[0].image.shape == (64, 96, 3)
    assert whole[0].label is not None and set(np.unique(whole[0].label)) == {0, 1, 255}
    fixed = next(read_check_frames(drive, labels, (32, 48), (32, 48)))
    assert fixed.image.shape == (32, 48, 3) and fixed.label is not None
    assert fixed.label.shape == (32, 48) and set(np.unique(fixed.label)) == {0, 1, 255}
    with pytest.raises(DataError, match="--anomaly_values"):
        next(read_check_frames(drive, LABELS, LEAST, LARGEST))


def test_a_folder_of_images_needs_no_labels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 20, 3), np.uint8))
    frames = list(read_check_frames(tmp_path, LABELS, LEAST, LARGEST))
    assert [(f.image.shape, f.label) for f in frames] == [((10, 20, 3), None)]
