"""`mgcda eval`: any number of scores and weights on any number of labelled sets, as one comparison."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import yaml

from mgcda_core.config import ConfigError, EvaluationSet, Fpr95Convention, Protocol, ScoreName
from mgcda_core.config.evaluation import whole_numbers
from mgcda_core.data.evaluation_sets import open_set
from mgcda_core.evaluation.bootstrap import RESAMPLES
from mgcda_core.evaluation.comparison import line, notes, table, write_results
from mgcda_core.evaluation.component_metrics import Track
from mgcda_core.evaluation.evaluate import judge
from mgcda_core.evaluation.gallery import GALLERY
from mgcda_core.evaluation.processes import is_first
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.evaluation.results import Picture, Result
from mgcda_core.evaluation.scored import Method, open_method

FOLDER, ANOMALY, IGNORE, NORMAL = "folder", "1", "255", "0"
"""Layout and mask values of a set that says nothing else."""


def evaluate_command(
    images: Path | None = None,
    masks: Path | None = None,
    dataset: str = FOLDER,
    root: Path | None = None,
    split: str = "",
    semantics: Path | None = None,
    sets: Path | None = None,
    weights: str = "lite",
    score: str = "model",
    anomaly_values: str = ANOMALY,
    ignore_values: str = IGNORE,
    normal_values: str = NORMAL,
    protocol: Protocol = "fishyscapes",
    fpr95: Fpr95Convention | None = None,
    exact: bool = False,
    components: Track | None = None,
    threshold: float | None = None,
    second_pass: bool = False,
    sml_images: Path | None = None,
    bootstrap: int = RESAMPLES,
    gallery: int = GALLERY,
    json: Path | None = None,
    csv: Path | None = None,
    md: Path | None = None,
    report: Path | None = None,
    scores: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure AP, FPR95 and AUROC of scores on labelled sets, with 95 % intervals.

    Args:
        images: folder of images.
        masks: folder of masks; image and mask of a pair have the same stem, whatever the extension.
        dataset: layout of the set; folder is the one of --images and --masks, others are below --root as published:
            fishyscapes_lost_and_found, fishyscapes_static, road_anomaly, smiyc_anomaly, smiyc_obstacle,
            lost_and_found, streethazards, bdd_anomaly.
        root: folder of a published set.
        split: split of a published set; without it its first one.
        semantics: folder of label maps STEM.png, Cityscapes train ids, 255 on anomalies and void; adds mIoU and open
            mIoU of the segmentation.
        sets: YAML file with a list of sets, each with name and the fields above that describe one; instead of them.
            Its paths start where the command runs.
        weights: comma list of shipped names, .safetensors paths or https urls.
        score: comma list of model (the whole chain), ensemble, msp, maxlogit, entropy, energy, sml, distance,
            perceptual, dicnet.
        anomaly_values: comma list of the mask values that mean anomaly.
        ignore_values: comma list of the mask values that are not counted.
        normal_values: comma list of the mask values that mean normal; any other value is an error.
        protocol: fishyscapes pools all pixels at the images' own size; smiyc too, with component metrics at the best
            pixel F1; synboost pools at 256x512; dicnet takes the mean over images.
        fpr95: how FPR95 is read off; without it as the protocol does.
        exact: keep every score (4 bytes a pixel), however large the set; else up to 80 million are kept.
        components: component metrics by the rules of this track of SegmentMeIfYouCan.
        threshold: operating point of masks and rows, for model in [0, 1], for other scores in their units; without it
            the weights' own for model, that of the best pixel F1 for other scores.
        second_pass: make FPR95 of sets above 80 million pixels exact, from scores kept in a temporary folder.
        sml_images: folder of images without anomalies for the statistics of score sml.
        bootstrap: resamples for the intervals; 0 for none.
        gallery: most pictures a result shows in the report.
        json: file for all figures and a row for each image.
        csv: file for the comparison, in fractions.
        md: file for the comparison as a Markdown table, in percent.
        report: folder for the report, one HTML page that needs no server (report.html).
        scores: folder for score files as SegmentMeIfYouCan's public road-anomaly-benchmark reads them, of protocol
            smiyc.
        device: auto, cpu, cuda or cuda:N.
    """
    one_set = (dataset, images, masks, root, split, semantics, anomaly_values, ignore_values, normal_values)
    if sets is not None and one_set != (FOLDER, None, None, None, "", None, ANOMALY, IGNORE, NORMAL):
        raise ConfigError("--sets describes every set: leave out the flags that describe one")
    chosen = (_set_of_flags(*one_set),) if sets is None else _sets_of(sets)
    judging = Judging(
        protocol, fpr95, exact, components, threshold, second_pass, bootstrap, gallery if report else 0, scores
    )
    scorers: list[tuple[str, ScoreName]] = [(w, s) for w in _listed(weights, "--weights") for s in _score_names(score)]
    for one in chosen:  # a path that is wrong shows before the first network runs
        with _named(one, chosen):
            open_set(one)
    _check_outputs((json, csv, md), (report, scores))
    if sml_images is None and any(s == "sml" for _, s in scorers):
        raise ConfigError("score sml needs --sml_images: a folder of images without anomalies for its statistics")
    several = len(chosen) * len(scorers) > 1
    judged: list[tuple[Result, list[Picture]]] = []
    try:
        for method in (open_method(w, s, device, sml_images if s == "sml" else None) for w, s in scorers):
            for one in chosen:
                with _named(one, chosen):
                    judged.append(judge(one, method, judging, _progress_of(one, method)))
                judged.sort(key=lambda pair: [c.name for c in chosen].index(pair[0].set))  # stable: scores in order
                if is_first():  # of torchrun's processes one writes
                    write_results([result for result, _ in judged], json, csv, md, several)
    finally:  # what is finished stands, whatever fails later
        if is_first() and judged:
            _show(judged, report, several)


def _check_outputs(files: Sequence[Path | None], folders: Sequence[Path | None]) -> None:
    """Before hours of work: ConfigError for a file that is a folder, or the other way round."""
    for path in files:
        if path is not None and path.is_dir():
            raise ConfigError(f"{path} is a folder: name the file to write")
    for path in folders:
        if path is not None and path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file: name the folder to write to")


def _show(judged: Sequence[tuple[Result, list[Picture]]], report: Path | None, several: bool) -> None:
    results = [result for result, _ in judged]
    print(table(results) if several else line(results[0]))
    print(*notes(results), sep="\n")
    if report is not None:
        from mgcda_core.evaluation.report import write_report

        title = "mgcda eval: " + ", ".join(dict.fromkeys(r.set for r in results))
        print(f"report: {write_report(results, [made for _, made in judged], report / 'report.html', title)}")


def _set_of_flags(
    dataset: str, images: Path | None, masks: Path | None, root: Path | None, split: str, semantics: Path | None,
    anomaly_values: str, ignore_values: str, normal_values: str,
) -> EvaluationSet:  # fmt: skip
    if dataset != FOLDER and (images or masks):
        raise ConfigError(f"--images and --masks belong to dataset folder; {dataset} is found below --root")
    values = {
        f"{meaning}_values": whole_numbers(text, f"--{meaning}_values")
        for meaning, text in (("anomaly", anomaly_values), ("ignore", ignore_values), ("normal", normal_values))
    }
    own = None if images is None else images.resolve()
    name = dataset if own is None else own.parent.name if own.name == "images" else own.name
    folders = {"images": images, "masks": masks, "root": root, "semantics": semantics}
    given = {key: str(folder) for key, folder in folders.items() if folder is not None}
    return EvaluationSet(name, dataset=dataset, split=split, **given, **values)  # pyright: ignore[reportArgumentType]


def _sets_of(path: Path) -> tuple[EvaluationSet, ...]:
    """The sets of a YAML file: a list, one mapping a set, whose keys are the fields of EvaluationSet."""
    try:
        entries = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path} must hold a list of sets, each with name and its folders: '- name: a' and so on")
    sets = tuple(_set_of_entry(entry, path) for entry in entries)
    names = [s.name for s in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path} has two sets named {twice[0]}: tables need a name for each")
    return sets


def _set_of_entry(entry: dict[str, Any], path: Path) -> EvaluationSet:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path}: a set has no name: {entry}")
    defaults = {field.name: field.default for field in dataclasses.fields(EvaluationSet)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in defaults:
            raise ConfigError(f"{path}: set {name} has an unknown field {key}; there are {', '.join(defaults)}")
        if isinstance(defaults[key], tuple):
            numbers = value if isinstance(value, list) else [value]
            if any(type(number) is not int for number in numbers):
                raise ConfigError(f"{path}: {key} of set {name} is {value!r}: give whole numbers")
            values[key] = tuple(numbers)
        elif not isinstance(value, str):
            raise ConfigError(f"{path}: {key} of set {name} is {value!r}: give text")
        else:
            values[key] = value
    return EvaluationSet(**values)


def _listed(text: str, flag: str) -> tuple[str, ...]:
    """Parts of a comma list, each once."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ConfigError(f"{flag} is empty: give a name, or several with commas between them")
    return parts


def _score_names(text: str) -> tuple[ScoreName, ...]:
    names = _listed(text, "--score")
    if unknown := [name for name in names if name not in get_args(ScoreName)]:
        raise ConfigError(f"unknown score {unknown[0]}: choose from {', '.join(get_args(ScoreName))}")
    return names  # pyright: ignore[reportReturnType]


@contextmanager
def _named(one: EvaluationSet, chosen: Sequence[EvaluationSet]) -> Iterator[None]:
    """An error among several sets says which one it was."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if len(chosen) == 1:
            raise
        kind = ConfigError if isinstance(error, ConfigError) else ValueError
        raise kind(f"set {one.name}: {error}") from error


def _progress_of(one: EvaluationSet, method: Method) -> Callable[[int, int], None]:
    """Writes a line over and over, and removes it at the end; nothing if nobody watches."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            text = f"{one.name}, {method.score}: {done} of {total} images" if done < total else ""
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    return show
