"""Anomaly segmentation for driving: `mgcda_core.load("lite")(image_rgb)` gives a `Prediction`.

Nothing heavy is imported until it is used: `import mgcda_core` pulls in neither PyTorch nor OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgcda_core.inference.predictor import Predictor, load
    from mgcda_core.prediction import Prediction

__all__ = ["Prediction", "Predictor", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("load", "Predictor"):
        from mgcda_core.inference import predictor

        return getattr(predictor, name)
    if name == "Prediction":
        from mgcda_core.prediction import Prediction

        return Prediction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
