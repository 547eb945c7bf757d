"""Protocols: reading scores and labels at a fixed size, means over images, what each asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgcda_core.config import ConfigError, EvaluationSet
from mgcda_core.evaluation.protocols import PROTOCOLS, Judging, label_at, mean_over_images, score_at
from mgcda_core.evaluation.results import ImageRow


def row(ap: float | None) -> ImageRow:
    return ImageRow("x", 10, 3, ap, ap, ap, 0, 0, 0, 0)


@pytest.mark.parametrize("size", [(1024, 2048), (720, 1280), (37, 53)])
def test_labels_shrink_as_pillow_shrinks_them(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), size)
    ours = label_at(label, (256, 512))
    assert (ours == np.asarray(Image.fromarray(label).resize((512, 256), Image.Resampling.NEAREST))).all()
    if size == (1024, 2048):
        assert (ours == label[2::4, 2::4]).all()  # spec 1.4
    assert label_at(label, None) is label


def test_scores_are_read_at_pixel_centres() -> None:
    ramp = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    assert score_at(ramp, (2, 4)).tolist() == [[0.5, 2.5, 4.5, 6.5]] * 2
    assert score_at(ramp, None) is ramp


def test_images_without_a_figure_are_left_out_of_the_mean_and_counted() -> None:
    figures, left_out = mean_over_images([row(0.2), row(None), row(0.6)])
    assert figures == {name: pytest.approx(0.4) for name in ("ap", "fpr95", "auroc")}
    assert left_out == 1
    assert mean_over_images([row(None)]) == ({"ap": None, "fpr95": None, "auroc": None}, 1)


def test_each_protocol_has_its_convention_unless_told_otherwise() -> None:
    conventions = {name: Judging(protocol=name).convention for name in PROTOCOLS}
    assert conventions == {"fishyscapes": "first_ge", "smiyc": "smiyc", "synboost": "first_ge", "dicnet": "nearest"}
    assert Judging(protocol="dicnet", fpr95="first_ge").convention == "first_ge"


def test_smiyc_takes_the_track_of_the_set() -> None:
    anomaly, obstacle = (EvaluationSet("x", dataset=f"smiyc_{track}", root="r") for track in ("anomaly", "obstacle"))
    assert Judging(protocol="smiyc").track(anomaly) == "anomaly"
    assert Judging(protocol="smiyc").track(obstacle) == "obstacle"
    assert Judging(protocol="smiyc", components="anomaly").track(obstacle) == "anomaly"
    assert Judging().track(obstacle) is None


def test_score_files_belong_to_smiyc(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smiyc, not to dicnet"):
        Judging(protocol="dicnet", scores=tmp_path)
    with pytest.raises(ConfigError, match="below 0"):
        Judging(bootstrap=-1)
