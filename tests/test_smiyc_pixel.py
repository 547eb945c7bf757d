"""The public tool's binned pixel metrics: all recorded figures are in test_golden.py, here are its rules one by one."""

from __future__ import annotations

import json
from pathlib import Path

import golden_check
import golden_metrics
import numpy as np
import pytest

from mgcda_core.evaluation.pixel_metrics import exact
from mgcda_core.evaluation.smiyc_pixel import Binning, SmiycPixel

RECORDED = Path(__file__).parent / "golden" / "metrics.json"


def binned(binning: Binning, *images: tuple[np.ndarray, np.ndarray]) -> SmiycPixel:
    metrics = SmiycPixel(binning)
    for score, label in images:
        metrics.update(score, label)
    return metrics


def drawn(seed: int, size: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 255], size, p=[0.8, 0.1, 0.1]).astype(np.uint8)
    return (rng.normal(0.4, 0.1, size) + 0.2 * (label == 1)).astype(np.float32), label


def test_all_recorded_metrics_and_that_a_wrong_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    recorded = json.loads(RECORDED.read_text())
    path.write_text(json.dumps(recorded))
    passed, text = golden_check.line("metrics", golden_metrics.check(path, "public"), 0.0)
    assert passed, text
    component = recorded["frames"]["merged"]["components"][0]
    component["frames"][0]["sIoU_gt"].reverse()
    component["aggregate"]["tp_25"] += 1
    recorded["small"]["skewed"]["smiyc_pixel"]["PixBinaryClass"]["best_F1"] += 1e-6
    recorded["small"]["skewed"]["nearest_recall"]["TNR"] = 0.5
    path.write_text(json.dumps(recorded))
    passed, text = golden_check.line("metrics", golden_metrics.check(path, "public"), 0.0)
    assert not passed
    for fault in ("0.5 sIoU_gt", "tp_25 1.0e+00", "PixBinaryClass best_F1 1.0e-06", "unknown value TNR"):
        assert fault in text


def test_bins_come_close_to_the_exact_figures() -> None:
    image = drawn(0)
    truth = exact(*image)
    for ours, tolerance in ((binned("percentile", image), 2e-3), (binned("uniform", image), 1e-2)):
        for name in ("ap", "auroc", "fpr95"):
            assert ours.compute()[name] == pytest.approx(truth[name], abs=tolerance), (ours.binning, name)


def test_a_recall_the_bins_do_not_reach_costs_all_negatives() -> None:
    score, label = drawn(1)
    outside = np.where(label == 1, -5.0, score).astype(np.float32)  # below the lowest uniform bin
    assert binned("uniform", (outside, label)).compute()["fpr95"] == 1.0


@pytest.mark.parametrize("binning", ["uniform", "percentile"])
def test_merging_is_pooling(binning: Binning) -> None:
    whole, part = binned(binning, drawn(2), drawn(3)), binned(binning, drawn(3))
    part.merge(binned(binning, drawn(2)))
    assert part.compute() == whole.compute()
    assert whole.compute() != binned(binning, drawn(2)).compute()
    with pytest.raises(ValueError, match="cannot merge"):
        part.merge(SmiycPixel("uniform" if binning == "percentile" else "percentile"))


def test_one_sided_sets_give_nan() -> None:
    score, label = drawn(4)
    for only in (0, 1, 255):
        scores = binned("percentile", (score, np.full_like(label, only))).compute()
        assert np.isnan(list(scores.values())).all()  # type: ignore[arg-type]
