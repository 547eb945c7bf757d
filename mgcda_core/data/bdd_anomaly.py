"""BDD-Anomaly (Hendrycks et al., ICML 2022): the BDD100K frames that hold classes called anomalous.

Layout of BDD100K's segmentation release: seg/images/{train,val}/ID.jpg beside seg/labels/{train,val}/ID_train_id.png,
Cityscapes train ids and 255. Not in the spec: written from the benchmark's own script, which takes frames of both
folders; it stores its own copies of the labels with other numbers, this reader takes BDD100K's unchanged.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mgcda_core.data.folder import LabelledPairs, existing_pairs, read_mask
from mgcda_core.data.sample import DataError

TRAIN_MOTORCYCLE_BICYCLE = (16, 17, 18)


def load_bdd_anomaly(root: Path, anomaly_ids: tuple[int, ...] = TRAIN_MOTORCYCLE_BICYCLE) -> LabelledPairs:
    """The frames under `root` with a pixel of `anomaly_ids`: 810 as published, 361 for the first paper's (16, 17).

    Every label is read once to find them. Raises DataError where the layout is another, a label is missing or
    unreadable, or no frame holds one of the ids.
    """
    images = root / "seg" / "images"
    pairs = existing_pairs(
        [(p, root / "seg" / "labels" / p.parent.name / f"{p.stem}_train_id.png") for p in images.glob("*/*.jpg")],
        images,
    )
    with ThreadPoolExecutor() as pool:
        kept = list(pool.map(lambda pair: bool(np.isin(read_mask(pair[1]), anomaly_ids).any()), pairs))
    chosen = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    if not chosen:
        raise DataError(f"{root / 'seg' / 'labels'} holds no pixel of the train ids {anomaly_ids}")
    normal = [i for i in range(19) if i not in anomaly_ids]
    return LabelledPairs("bdd-anomaly", chosen, anomaly_ids, (255,), normal)
