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

TRAIN_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""Cityscapes' RGB colours of the train ids."""

TRAIN_TO_LABEL_ID = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes label id of each train id."""
NUM_LABEL_IDS = 35

CAMVID_NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", "void",
)  # fmt: skip
IDD_LITE_NAMES = (
    "drivable", "non-drivable", "living thing", "vehicle", "roadside object", "far object", "sky",
)  # fmt: skip

SYNTHIA_NAMES = (
    "void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "pedestrian",
    "bicycle", "motorcycle", "parking slot", "road work", "traffic light", "terrain", "rider", "truck", "bus", "train",
    "wall", "lane marking",
)  # fmt: skip
OWN_NAMES = {"camvid": CAMVID_NAMES, "idd-lite": IDD_LITE_NAMES, "synthia": SYNTHIA_NAMES}
"""Names of the label values of sets with classes of their own, by the set's name; those of the others are train ids."""

# A coarse class covers several train ids: a pixel labelled with it is one of these.
CAMVID_TRAIN_IDS: tuple[tuple[int, ...], ...] = (
    (10,), (2,), (5,), (0,), (1,), (8, 9), (6, 7), (3, 4), (13, 14, 15, 16), (11,), (12, 17, 18), (),
)  # fmt: skip
IDD_LITE_TRAIN_IDS: tuple[tuple[int, ...], ...] = (
    (0,), (1, 9), (11, 12), (13, 14, 15, 16, 17, 18), (3, 4, 5, 6, 7), (2, 8), (10,),
)  # fmt: skip
