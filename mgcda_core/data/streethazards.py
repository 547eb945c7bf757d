"""StreetHazards' test set (Hendrycks et al., ICML 2022): driving scenes rendered with foreign objects.

Layout of streethazards_test.tar: test/images/test/{t5,t6}/N.png beside test/annotations/test/{t5,t6}/N.png. Stored
values are the class plus one: 1 unlabelled, 2..13 known classes, 14 the anomaly. Not in the spec: written from the
benchmark's own loader, which counts unlabelled pixels as normal.
"""

from __future__ import annotations

from pathlib import Path

from mgcda_core.data.folder import LabelledPairs, existing_pairs

ANOMALY_VALUE = 14


def load_streethazards(root: Path) -> LabelledPairs:
    """All test frames under `root`; raises DataError where the layout is another or a label is missing."""
    test = root / "test"
    images = test / "images" / "test"
    pairs = [
        (path, test / "annotations" / "test" / path.parent.name / path.name) for path in images.glob("*/[!.]*.png")
    ]
    return LabelledPairs(
        "streethazards", existing_pairs(pairs, images), (ANOMALY_VALUE,), (0,), range(1, ANOMALY_VALUE)
    )
