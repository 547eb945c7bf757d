"""The HTML report: one self-contained file with table, curves, a gallery of masks and a threshold slider.

Score maps travel as 8-bit levels between 255 edges that are fixed for a result, one of them its operating point: a mask
the page draws at an edge is exactly `score >= edge`, and the slider stops at edges only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgcda_core import __version__
from mgcda_core.evaluation.results import Curves, Picture, Result

SCRIPTS = ("core.js", "paint.js", "charts.js", "gallery.js", "page.js")
"""Files of report_page that make up the page's script, in this order."""
LEVELS = 256
_ROBUST_ENDS = (0.001, 0.999)
_JPEG_QUALITY = 85
_MEANING = {
    "model": "anomaly score of the chain, the sigmoid of its logit",
    "ensemble": "three quarters of the comparing network's probability, one quarter of softmax entropy",
    "msp": "1 minus the largest softmax probability of the segmentation",
    "maxlogit": "minus the largest logit of the segmentation",
    "entropy": "softmax entropy of the segmentation, 1 = all classes alike",
    "energy": "free energy of the segmentation's logits",
    "sml": "minus the standardised largest logit of the segmentation",
    "distance": "softmax distance, how near the second class comes to the first",
    "perceptual": "perceptual difference between image and re-synthesis",
}


def write_report(results: Sequence[Result], pictures: Sequence[Sequence[Picture]], path: Path, title: str) -> Path:
    """Write one HTML file that shows the results and pictures without a server or network; returns its path.

    pictures[i] belong to results[i]; scores are in the units of the result: logits for score "model", which the page
    shows as their sigmoid. Results with the same set, protocol and counted pixels are compared with each other. A
    threshold that is not finite means that there is no operating point. The file appears whole or not at all, folders
    are made. Raises ValueError for no result, a list of pictures too many or too few, maps of different sizes or NaN
    scores (naming the picture), OSError if the file cannot be written.
    """
    if not results or len(results) != len(pictures):
        raise ValueError(
            f"a report needs results with one list of pictures each, not {len(results)} and {len(pictures)}"
        )
    blobs: dict[str, int] = {}
    data = {
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "versions": _versions(),
        "colours": _colours(),
        "results": [_result_data(r, p, blobs) for r, p in zip(results, pictures, strict=True)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(_page(title, data, blobs), encoding="utf-8")
    part.replace(path)
    return path


def level_edges(scores: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """float32 [255] ascending scores at which the levels of a result begin.

    They are even between the 0.1 and 99.9 % quantiles of the finite scores (a fixed sixteenth of the pixels), widened
    to hold the threshold; the edge next to a finite threshold is moved onto it.
    """
    sample = np.concatenate([score[::4, ::4].ravel() for score in scores]) if scores else np.zeros(0, np.float32)
    sample = sample[np.isfinite(sample)]
    ends = np.quantile(sample, _ROBUST_ENDS).tolist() if sample.size else []
    if math.isfinite(threshold):
        ends.append(threshold)
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if high - low < 1e-6 * max(1.0, abs(low)):  # one value everywhere: levels below and above it
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, LEVELS - 1, dtype=np.float32)
    if math.isfinite(threshold):
        edges[np.abs(edges - threshold).argmin()] = threshold
    return edges


def to_levels(score: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """uint8 levels of a score map, how many edges each score reaches: level > i is score >= edges[i]."""
    return np.searchsorted(edges, score, side="right").astype(np.uint8)


def _result_data(result: Result, pictures: Sequence[Picture], blobs: dict[str, int]) -> dict[str, Any]:
    """What the page knows of one result; images go to `blobs`, where equal ones are kept once."""
    for picture in pictures:
        _check(picture)
    edges = level_edges([picture.score for picture in pictures], result.threshold)
    data = result.to_json()
    del data["rows"]
    return data | {
        "logits": result.score == "model",
        "meaning": _MEANING.get(result.score, result.score),
        "edges": _rounded(edges),
        "operating": int(np.abs(edges - result.threshold).argmin()) if math.isfinite(result.threshold) else None,
        "curves": None if result.curves is None else _curves(result.curves),
        "pictures": [_picture_data(picture, edges, result.threshold, blobs) for picture in pictures],
    }


def _picture_data(picture: Picture, edges: np.ndarray, threshold: float, blobs: dict[str, int]) -> dict[str, Any]:
    def kept(suffix: str, pixels: np.ndarray) -> int:
        return blobs.setdefault(_data_uri(suffix, pixels), len(blobs))

    height, width = picture.score.shape
    return {
        "name": picture.name,
        "note": picture.note,
        "height": height,
        "width": width,
        "row": asdict(picture.row),
        "masked": float(np.mean(picture.score >= np.float32(threshold))) if math.isfinite(threshold) else None,
        "image": kept(".jpg", cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR)),
        "levels": kept(".png", to_levels(picture.score, edges)),
        "label": None if picture.label is None else kept(".png", picture.label),
    }


def _check(picture: Picture) -> None:
    size = picture.score.shape
    for name, array in (("image", picture.image[..., 0]), ("label", picture.label)):
        if array is not None and array.shape != size:
            raise ValueError(f"picture {picture.name}: {name} is {array.shape}, its score {size}; they must be equal")
    if np.isnan(picture.score).any():
        raise ValueError(f"picture {picture.name}: {int(np.isnan(picture.score).sum())} of its scores are NaN")


def _data_uri(suffix: str, pixels: np.ndarray) -> str:
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    done, encoded = cv2.imencode(suffix, pixels, settings)
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {list(pixels.shape)} as {suffix}")
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _curves(curves: Curves) -> dict[str, list[float]]:
    return {name: _rounded(np.array(values)) for name, values in asdict(curves).items()}


def _rounded(values: np.ndarray) -> list[float]:
    """Seven digits, what float32 holds: a third of the text."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def _colours() -> str:
    """The 256 colours of inferno, even to the eye and in grey, as hexadecimal RGB."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), cv2.COLORMAP_INFERNO)
    return ramp[:, 0, ::-1].tobytes().hex()


def _versions() -> dict[str, str]:
    found = {
        "mgcda": __version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
    }
    try:
        return found | {"PyTorch": version("torch")}
    except PackageNotFoundError:  # a Jetson's own wheel may come without metadata
        return found


def _page(title: str, data: dict[str, Any], blobs: dict[str, int]) -> str:
    """The whole page. Its policy allows this script and style by their hashes and nothing else, from nowhere."""
    folder = files("mgcda_core.evaluation") / "report_page"
    template, style = ((folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}",
        "style": style,
        "data": _embedded(data),
        "blobs": "\n".join(f'<script type="text/plain" id="blob-{i}">{uri}</script>' for uri, i in blobs.items()),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: dict[str, Any]) -> str:
    """JSON that no HTML parser takes for markup: names may hold `</script>` or `<!--`; NaN becomes null."""
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
