"""`mgcda data check`: what a data set holds, what is wrong with it, and a sheet of samples to look at."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.data.bdd_anomaly import load_bdd_anomaly
from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.cityscapes import VOID_NAMES, CityscapesScenes, load_cityscapes, load_cityscapes_train_ids
from mgcda_core.data.coco import load_coco_objects
from mgcda_core.data.cutouts import Cutout, load_cutouts
from mgcda_core.data.fishyscapes import load_fishyscapes_lost_and_found, load_fishyscapes_static
from mgcda_core.data.folder import LabelledFolder, LabelledPairs
from mgcda_core.data.gta5 import Gta5Scenes, load_gta5
from mgcda_core.data.idd import load_idd_lite
from mgcda_core.data.lost_and_found import load_lost_and_found
from mgcda_core.data.pascal_voc import load_pascal_voc_objects
from mgcda_core.data.road_anomaly import load_road_anomaly
from mgcda_core.data.sample import DataError, Scene, Scenes
from mgcda_core.data.smiyc import load_smiyc_anomaly, load_smiyc_obstacle
from mgcda_core.data.streethazards import load_streethazards
from mgcda_core.data.synthia import load_synthia
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL, OWN_NAMES, TRAIN_COLOURS, TRAIN_NAMES, TRAIN_TO_LABEL_ID

Values = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
Progress = Callable[[str], None]

WITH_SPLITS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "camvid": (load_camvid, ("train", "val", "test")),
    "idd_lite": (load_idd_lite, ("train", "val")),
    "cityscapes": (load_cityscapes, ("train", "val")),
    "coco": (load_coco_objects, ("train", "val")),
    "lost_and_found": (load_lost_and_found, ("train", "test")),
}
WITHOUT_SPLITS: dict[str, Callable[[Path], Any]] = {
    "cityscapes_train_ids": load_cityscapes_train_ids,
    "gta5": load_gta5,
    "synthia": load_synthia,
    "cutouts": load_cutouts,
    "pascal_voc": load_pascal_voc_objects,
    "fishyscapes_lost_and_found": load_fishyscapes_lost_and_found,
    "fishyscapes_static": load_fishyscapes_static,
    "road_anomaly": load_road_anomaly,
    "smiyc_anomaly": load_smiyc_anomaly,
    "smiyc_obstacle": load_smiyc_obstacle,
    "streethazards": load_streethazards,
    "bdd_anomaly": load_bdd_anomaly,
}
FOLDER = "folder"
DATASETS = (*WITH_SPLITS, *WITHOUT_SPLITS, FOLDER)

SAMPLES, OBJECTS = 12, 60
"""Samples on a sheet."""
TILE, OBJECT_TILE = 400, 150
"""Width of one picture on a sheet, in pixels."""
BACKGROUND, INK, GREY = (24, 26, 30), (235, 235, 235), 128
MOSTLY = 0.9
"""Share of a scene from which its void is worth a warning."""
VOID, VOID_OBJECT, ANOMALOUS = (0, 0, 0), (0, 255, 255), (255, 40, 40)


def check(
    dataset: str, root: Path, split: str | None, out: Path, values: Values, progress: Progress = lambda text: None
) -> None:
    """Read every file of a set, print what it holds and write one sheet a split: OUT/DATASET-SPLIT.png (the
    root's name where a set has no splits).

    `split` None takes all splits; `values` are the anomaly, ignore and normal values of `folder`. Every file at fault
    is printed; they do not end the check, but it then ends with a DataError. ConfigError for an unknown set or split.
    """
    out.mkdir(parents=True, exist_ok=True)
    problems = 0
    for part in _splits(dataset, split):
        title = f"{dataset} {part or root.resolve().name}"
        try:
            data = _open(dataset, root, part, values)
        except DataError as error:
            problems += len(error.problems)
            print(f"{title}: cannot be opened", *(f"  fault: {p}" for p in error.problems), sep="\n")
            continue
        if isinstance(data, list):
            sheet, found = _check_objects(title, data, progress)
        else:
            sheet, found = _check_labels(title, data, progress)
        progress("")
        print(*(f"  fault: {p}" for p in found), sep="\n", end="\n" if found else "")
        problems += len(found)
        if sheet is not None:
            path = out / f"{title.replace(' ', '-')}.png"
            path.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
            print(f"  sheet: {path}")
    if problems:
        raise DataError(f"{dataset}: {problems} fault{'s' if problems > 1 else ''} below {root}, listed above")


def _splits(dataset: str, split: str | None) -> tuple[str, ...]:
    if dataset not in DATASETS:
        raise ConfigError(f"unknown data set {dataset}: choose from {', '.join(DATASETS)}")
    splits = WITH_SPLITS[dataset][1] if dataset in WITH_SPLITS else ("",)
    if split is not None and split not in splits:
        raise ConfigError(f"{dataset} has no split {split}: {', '.join(splits) or 'leave --split out'}")
    return splits if split is None else (split,)


def _open(dataset: str, root: Path, split: str, values: Values) -> Scenes | LabelledPairs | list[Cutout]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    if dataset == FOLDER:
        return LabelledFolder(root / "images", root / "masks", *values)
    return WITH_SPLITS[dataset][0](root, split) if split else WITHOUT_SPLITS[dataset](root)


def _check_labels(title: str, data: Scenes | LabelledPairs, progress: Progress) -> tuple[np.ndarray | None, list[str]]:
    """Sheet and faults of a set of labelled images; prints the rest."""
    names, colours = _names(data), _colours(data)
    strength = np.full(256, 0.6) if isinstance(data, Scenes) else np.where(np.arange(256) == NORMAL, 0.0, 0.6)
    shown = set(_spread(len(data), SAMPLES))
    counts, sizes = np.zeros(256, np.int64), Counter[tuple[int, ...]]()
    problems: list[str] = []
    odd: dict[str, list[str]] = {}
    tiles = []
    for index in range(len(data)):
        try:
            sample = data[index]
        except DataError as error:
            problems.append(str(error))
            continue
        values = sample.label if not isinstance(sample, Scene) or sample.raw is None else sample.raw
        own = np.bincount(values.ravel(), minlength=256)
        counts += own
        sizes[values.shape] += 1
        for oddity in _oddities(sample.label, isinstance(sample, Scene)):
            odd.setdefault(oddity, []).append(str(data.pairs[index][1]))
        if index in shown:
            alpha = strength[values][..., None]
            overlay = (sample.image * (1 - alpha) + colours[values] * alpha).astype(np.uint8)
            caption = sample.name if isinstance(sample, Scene) else sample.stem
            tiles.append(_captioned([sample.image, overlay], caption))
        progress(f"{title}: {index + 1} of {len(data)}")
    print(f"{title}: images {sum(sizes.values())}, {_sizes(sizes)}")
    print(*_histogram(counts, names), sep="\n")
    never = [name for value, name in names.items() if not counts[value] and value != IGNORE]
    for warning in ([f"never there: {', '.join(never)}"] if never else []) + [
        f"{oddity}: {len(files)}, the first {files[0]}" for oddity, files in odd.items()
    ]:
        print(f"  warning: {warning}")
    if not tiles:
        return None, problems
    sheet = _tiled(tiles, 2)
    painted = [(names[v], colours[v]) for v in names if counts[v] and strength[v]]
    return np.vstack([sheet, _legend(painted, sheet.shape[1])]), problems


def _oddities(label: np.ndarray, is_scene: bool) -> list[str]:
    if is_scene:
        return ["labels that are nearly all void"] if (label == IGNORE).mean() > MOSTLY else []
    if (label == IGNORE).all():
        return ["masks that ignore every pixel"]
    return [] if (label == ANOMALY).any() else ["masks without an anomaly"]


def _check_objects(title: str, cutouts: list[Cutout], progress: Progress) -> tuple[np.ndarray | None, list[str]]:
    """Sheet and faults of a set of objects; prints the rest."""
    shown = set(_spread(len(cutouts), OBJECTS))
    problems: dict[str, None] = {}
    tiles, sides, areas, categories = [], [], [], Counter[str]()
    for index, cutout in enumerate(cutouts):
        try:
            rgba = cutout.rgba
        except DataError as error:
            problems[str(error)] = None  # one picture may hold several objects
            continue
        sides.append(max(rgba.shape[:2]))
        areas.append(int((rgba[..., 3] > 0).sum()))
        categories[cutout.category or "(no class)"] += 1
        if index in shown:
            on_grey = np.where(rgba[..., 3:] > 0, rgba[..., :3], GREY).astype(np.uint8)
            name = f"{cutout.category} {rgba.shape[0]}x{rgba.shape[1]}".strip()
            tiles.append(_captioned([_boxed(on_grey, OBJECT_TILE)], name, OBJECT_TILE))
        progress(f"{title}: {index + 1} of {len(cutouts)}")
    print(f"{title}: objects {len(sides)}, pictures {len({c.picture for c in cutouts})}")
    if sides:
        print(f"  longer side, pixels: {_range(sides)}", f"  area, pixels:        {_range(areas)}", sep="\n")
        kinds = textwrap.fill(", ".join(f"{name}:{n}" for name, n in categories.most_common()), 100)
        print(textwrap.indent(kinds, "  "))
    return (_tiled(tiles, 10) if tiles else None), list(problems)


def _names(data: Scenes | LabelledPairs) -> dict[int, str]:
    """Name of every label value the set may hold."""
    if isinstance(data, LabelledPairs):
        stored = {label: sorted(v for v, meant in data.meaning.items() if meant == label) for label in (0, 1, IGNORE)}
        words = {NORMAL: "normal", ANOMALY: "anomaly", IGNORE: "ignored"}
        return {label: f"{words[label]}, stored as {_ranges(values)}" for label, values in stored.items() if values}
    if isinstance(data, CityscapesScenes | Gta5Scenes):
        known = {label_id: TRAIN_NAMES[i] for i, label_id in enumerate(TRAIN_TO_LABEL_ID)}
        plate = {34: "license plate"} if isinstance(data, Gta5Scenes) else {}
        return dict(sorted({**known, **VOID_NAMES, **plate, IGNORE: "void"}.items()))
    names = OWN_NAMES.get(data.name, TRAIN_NAMES)
    return {**dict(enumerate(names)), IGNORE: "void"}


def _colours(data: Scenes | LabelledPairs) -> np.ndarray:
    """uint8 [256, 3] RGB of the label values: a class as its first train id, void black, void objects cyan."""
    colours = np.zeros((256, 3), np.uint8)
    if isinstance(data, LabelledPairs):
        colours[ANOMALY], colours[IGNORE] = ANOMALOUS, VOID_OBJECT
        return colours
    own = enumerate(data.classes)
    if isinstance(data, CityscapesScenes):
        own = ((label_id, (train_id,)) for train_id, label_id in enumerate(TRAIN_TO_LABEL_ID))
    for value, ids in own:
        colours[value] = TRAIN_COLOURS[ids[0]] if ids else VOID
    colours[list(data.void_values)] = VOID_OBJECT
    return colours


def _histogram(counts: np.ndarray, names: dict[int, str]) -> list[str]:
    total = max(1, int(counts.sum()))
    return [f"  {value:>3}  {100 * counts[value] / total:6.2f} %  {name}" for value, name in names.items()
            if counts[value] or value != IGNORE]  # fmt: skip


def _sizes(sizes: Counter[tuple[int, ...]]) -> str:
    if len(sizes) == 1:
        return "all {}x{} (height x width)".format(*next(iter(sizes)))
    if len(sizes) < 4:
        return "height x width " + ", ".join(f"{h}x{w} of {n}" for (h, w), n in sizes.most_common())
    return f"{len(sizes)} sizes, heights {_range([h for h, _ in sizes])}, widths {_range([w for _, w in sizes])}"


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}, median {int(np.median(numbers))}"


def _ranges(values: Sequence[int]) -> str:
    """`0`, `2..200` or `0,1,4`."""
    run = len(values) > 2 and values[-1] - values[0] == len(values) - 1
    return f"{values[0]}..{values[-1]}" if run else ",".join(map(str, values))


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def _captioned(pictures: Sequence[np.ndarray], caption: str, width: int = TILE) -> np.ndarray:
    """Pictures side by side, each `width` wide, over a line of text."""
    height = round(pictures[0].shape[0] * width / pictures[0].shape[1])
    row = np.hstack([cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures])
    line = np.full((18, row.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(line, caption, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)
    return np.vstack([row, line])


def _boxed(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture in the middle of a grey square, shrunk if it is larger."""
    scale = min(1.0, 0.94 * side / max(picture.shape[:2]))
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    box = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    box[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return box


def _tiled(tiles: Sequence[np.ndarray], columns: int, gap: int = 8) -> np.ndarray:
    """Tiles of one width in a grid."""
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    step = tiles[0].shape[1] + gap
    bands = []
    for row in rows:
        band = np.full((gap + max(t.shape[0] for t in row), gap + columns * step, 3), BACKGROUND, np.uint8)
        for i, tile in enumerate(row):
            band[gap : gap + tile.shape[0], gap + i * step : (i + 1) * step] = tile
        bands.append(band)
    return np.vstack(bands)


def _legend(entries: Sequence[tuple[str, np.ndarray]], width: int) -> np.ndarray:
    """Swatch and name of every entry, in lines as needed."""
    cell = 190
    columns = max(1, width // cell)
    legend = np.full((24 * -(-len(entries) // columns) + 8, width, 3), BACKGROUND, np.uint8)
    for i, (name, colour) in enumerate(entries):
        y, x = 24 * (i // columns), 4 + cell * (i % columns)
        cv2.rectangle(legend, (x + 4, y + 5), (x + 24, y + 20), [int(c) for c in colour], -1)
        cv2.rectangle(legend, (x + 4, y + 5), (x + 24, y + 20), INK, 1)
        cv2.putText(legend, name, (x + 30, y + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    return legend
