"""Class sets of the driving data sets and the label values every reader maps to.

Train ids are the 19 evaluated Cityscapes classes, 0..18. Anomaly labels are 0 normal, 1 anomaly, 255 ignore.
Source: Cityscapes' published label table (Cordts et al., CVPR 2016); spec 1.3.
"""

from __future__ import annotations

IGNORE = 255
NORMAL, ANOMALY = 0, 1

TRAIN_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

TRAIN_TO_LABEL_ID = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes label id of each train id."""
NUM_LABEL_IDS = 35

CAMVID_NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", "void",
)  # fmt: skip
IDD_LITE_NAMES = (
    "drivable", "non-drivable", "living thing", "vehicle", "roadside object", "far object", "sky",
)  # fmt: skip

# A coarse class covers several train ids: a pixel labelled with it is one of these.
CAMVID_TRAIN_IDS: tuple[tuple[int, ...], ...] = (
    (10,), (2,), (5,), (0,), (1,), (8, 9), (6, 7), (3, 4), (13, 14, 15, 16), (11,), (12, 17, 18), (),
)  # fmt: skip
IDD_LITE_TRAIN_IDS: tuple[tuple[int, ...], ...] = (
    (0,), (1, 9), (11, 12), (13, 14, 15, 16, 17, 18), (3, 4, 5, 6, 7), (2, 8), (10,),
)  # fmt: skip
