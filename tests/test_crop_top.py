"""`crop_top`: the rows above it are not looked at, and nothing of them gets into the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_predictor import Brightness
from tiny_artefact import write_artefact

import mgcda_core
from mgcda_core.config import ConfigError
from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.temporal import TemporalFilter
from mgcda_core.prediction import UNSEEN_LOGIT


def test_rows_above_crop_top_are_not_looked_at(tiny_weights: Path, frames: list[np.ndarray]) -> None:
    whole, cut = mgcda_core.load(tiny_weights, "cpu"), mgcda_core.load(tiny_weights, "cpu", crop_top=0.4)
    top = round(0.4 * frames[0].shape[0])
    other_sky = frames[0].copy()
    other_sky[:top] = 255 - other_sky[:top]
    prediction, below = cut(frames[0]), whole(frames[0][top:])
    assert prediction.segmentation is not None and below.segmentation is not None
    assert prediction.logits.shape == prediction.segmentation.shape == frames[0].shape[:2]
    np.testing.assert_array_equal(prediction.logits, cut(other_sky).logits)
    np.testing.assert_array_equal(prediction.logits[top:], below.logits)
    np.testing.assert_array_equal(prediction.segmentation[top:], below.segmentation)
    assert prediction.score[:top].max() < 1e-30 and (prediction.segmentation[:top] == 255).all()
    whole.crop_top = 0.4  # from the next image on
    np.testing.assert_array_equal(whole(frames[0]).logits, prediction.logits)


def test_crop_top_leaves_a_frame_and_stays_in_its_range() -> None:
    predictor = Predictor(Brightness(), crop_top=0.8)
    for height in (2, 3, 9):
        prediction = predictor(np.full((height, 4, 3), 255, np.uint8))
        assert prediction.logits.shape == (height, 4)
        assert prediction.mask.sum() == 2 * 4
        assert prediction.mask[-2:].all() and prediction.segmentation is None
    for value in (-0.1, 0.81, float("nan")):
        with pytest.raises(ConfigError, match=r"crop_top is .*; it must lie in \[0, 0.8\]"):
            predictor.crop_top = value


def test_nothing_of_the_rows_above_crop_top_comes_down_when_the_answer_is_enlarged() -> None:
    class Sure(Brightness):
        def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            return np.full(image.shape[:2], 4, np.float32), np.full(image.shape[:2], 11, np.uint8)

    predictor = Predictor(Sure(), crop_top=0.4)
    predictor.size = (64, 128)
    rng = np.random.default_rng(0)
    for kind in ("ema", "vote"):
        steady = TemporalFilter(kind)
        for number in range(5):
            image = rng.integers(0, 256, (180, 320, 3), np.uint8)
            prediction = steady(predictor(image), image, number / 15)
            assert (prediction.logits[:73] == UNSEEN_LOGIT).all() and (prediction.logits[73:] == 4).all()
            assert prediction.segmentation is not None
            assert (prediction.segmentation[:73] == 255).all() and (prediction.segmentation[73:] == 11).all()
    predictor.crop_top = 0.8
    assert predictor(np.zeros((2, 9, 3), np.uint8)).logits[:, 0].tolist() == [UNSEEN_LOGIT, 4]


def test_an_artefact_of_one_size_says_which_it_must_be_for_this_crop(tmp_path: Path) -> None:
    chain = write_artefact(tmp_path / "one.onnx", (1, 40, 60, 3))
    predictor = mgcda_core.load(chain, "cpu", backend="onnxruntime", crop_top=0.25)
    with pytest.raises(ValueError, match=r"below crop_top 0.25 of 40 rows: .*export one with --size 30 60"):
        predictor(np.zeros((40, 60, 3), np.uint8))
    fitting = mgcda_core.load(
        write_artefact(tmp_path / "cut.onnx", (1, 30, 60, 3)), "cpu", backend="onnxruntime", crop_top=0.25
    )
    fitting.warm_up()
    assert fitting(np.zeros((40, 60, 3), np.uint8)).logits.shape == (40, 60)
