"""The `mgcda` commands as plain typed functions; flags and help texts come from signatures and docstrings.

Only what the chosen command needs is imported: `mgcda --help` loads no PyTorch. Exit codes: 0 done, 1 failed with one
line `error: ...` (MGCDA_DEBUG=1 shows the traceback), 2 wrong use.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mgcda_core.cli_arguments import Integers, Kinds, command_arguments, config_arguments
from mgcda_core.config import ConfigError

INSTALL = {
    "jsonargparse": "'jsonargparse[signatures]'",
    "cv2": "opencv-python-headless",
    "lightning_fabric": "lightning-fabric",
    "huggingface_hub": "transformers",
}
ALL_KINDS = Kinds(("score", "mask", "overlay"))
ANOMALY, IGNORE, NORMAL = Integers((1,)), Integers((255,)), Integers((0,))


def predict(
    source: str,
    out: Path,
    weights: str = "lite",
    save: Kinds = ALL_KINDS,
    threshold: float | None = None,
    topic: str | None = None,
    min_area: int = 100,
    device: str = "auto",
    backend: str = "auto",
    crop_top: float = 0.0,
) -> None:
    """Predict the anomalies of every frame of SOURCE, one by one.

    Args:
        source: image, folder of images, pattern ('drive/*.jpg'), video, or rosbag2 recording (folder, .mcap, .db3).
        out: folder to write: score/STEM.npy, mask/STEM.png, overlay/STEM.png, predictions.json.
        weights: a shipped name, a .safetensors path or an https url, or a file of mgcda export.
        save: what to write besides predictions.json: a comma list of score, mask, overlay.
        threshold: score in [0, 1] from which a pixel is masked; without it the weights' own.
        topic: image topic of a recording; needed if it has several.
        min_area: smallest region listed in predictions.json, in pixels.
        device: auto, cpu, cuda or cuda:N.
        backend: runtime; auto takes the best that works (mgcda doctor lists them).
        crop_top: share of each frame's height, from the top, that is not looked at (sky); in [0, 0.8].
    """
    import logging

    from mgcda_core.inference.pipeline import at_a_time, in_flight, use_one_core
    from mgcda_core.inference.predictor import load
    from mgcda_core.inference.save import PredictionWriter
    from mgcda_core.inference.sources import Frame, open_source
    from mgcda_core.prediction import Prediction

    frames = open_source(source, topic)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # why a runtime was left out, how far a build is
    predictor = load(weights, device, threshold, backend, crop_top)
    running = predictor.backend
    head = {"source": source, "weights": weights, "weights_sha256": running.sha256, "backend": running.name,
            "device": running.device, "threshold": predictor.threshold, "crop_top": predictor.crop_top}  # fmt: skip

    def work(frame: Frame) -> tuple[Frame, Prediction]:
        try:
            return frame, predictor(frame.image)
        except ValueError as error:
            raise ValueError(f"frame {frame.stem} of {source}: {error}") from error

    threads = at_a_time(running.device, running.config)
    with PredictionWriter(out, save, head, min_area) as writer:
        for frame, prediction in in_flight(work, frames, threads, use_one_core if threads > 1 else None):
            writer.add(frame, prediction)
            _progress(f"{writer.count} frames")
    _progress("")
    print(f"predict: frames={writer.count} saved={','.join(save)} out={out}")


def data_check(
    dataset: str,
    root: Path,
    split: str | None = None,
    out: Path = Path("out/data"),
    anomaly_values: Integers = ANOMALY,
    ignore_values: Integers = IGNORE,
    normal_values: Integers = NORMAL,
) -> None:
    """Read every file of a data set: counts, sizes, labels, files at fault, and a sheet of samples to look at.

    Args:
        dataset: camvid, idd_lite, cityscapes, cityscapes_train_ids, gta5, synthia, cutouts, coco, pascal_voc,
            fishyscapes_lost_and_found, fishyscapes_static, road_anomaly, smiyc_anomaly, smiyc_obstacle,
            lost_and_found, streethazards, bdd_anomaly, or folder (images/ beside masks/).
        root: folder of the set; its layout stands in the reader's file, mgcda_core/data/DATASET.py.
        split: one split; without it all.
        out: folder for the sheets, DATASET-SPLIT.png.
        anomaly_values: of dataset folder: comma list of the mask values that mean anomaly.
        ignore_values: of dataset folder: those that are not counted.
        normal_values: of dataset folder: those that mean normal.
    """
    from mgcda_core.data.check import check

    check(dataset, root, split, out, (anomaly_values, ignore_values, normal_values), _progress)


def doctor() -> None:
    """Show versions, devices, backends, ROS and the shipped weights."""
    from mgcda_core.doctor import report

    for line in report():
        print(line)


def import_synboost(archive: Path, out: Path, vgg19: Path | None = None) -> None:
    """Turn SynBoost's published models.tar into one weights file of the reference chain.

    Args:
        archive: the published tar.
        out: .safetensors file to write.
        vgg19: torchvision's vgg19-dcbb9e9d.pth, which the archive lacks; without it the error says where to get it.
    """
    from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
    from mgcda_core.models.loading import load_strict
    from mgcda_core.weights import synboost

    sha256 = synboost.import_synboost(
        archive, out, vgg19, check=lambda config, state: load_strict(AnomalySegmenter(config), state, str(archive))
    )
    print(f"import: {out} sha256={sha256}")


def _imported(module: str, name: str) -> Callable[[], Callable[..., Any]]:
    return lambda: getattr(importlib.import_module(module), name)


COMMANDS: dict[str, tuple[str, Callable[[], Callable[..., Any]]]] = {
    "predict": ("anomalies of images, videos and recordings", lambda: predict),
    "eval": (
        "AP, FPR95 and AUROC on labelled sets",
        _imported("mgcda_core.evaluation.eval_command", "evaluate_command"),
    ),
    "train segmentation": ("train the segmentation network", lambda: _training("segmentation")),
    "train synthesis": ("train the re-synthesis", lambda: _training("synthesis")),
    "train dissimilarity": ("train the comparing network", lambda: _training("dissimilarity")),
    "train adaptation": (
        "segmentation of scenes without labels, from scenes with",
        lambda: _training("adaptation"),
    ),
    "train dicnet": ("distil a student from the segmentation network", lambda: _training("dicnet")),
    "train pebal": ("teach its classifier to abstain on pasted outliers", lambda: _training("pebal")),
    "train synthetic_unknown": (
        "teach it what lies just outside the scenes it knows",
        lambda: _training("synthetic_unknown"),
    ),
    "train plain": ("a plain U-net as a control", lambda: _training("plain")),
    "prepare": ("the frozen networks once over a training domain", _imported("mgcda_core.training.prepare", "prepare")),
    "compare": ("the sibling methods under one budget", _imported("mgcda_core.bench.compare", "compare")),
    "ladder": ("the paper's ablation under one budget", _imported("mgcda_core.training.ladder", "climb")),
    "bench train": ("speed, memory and shares of a training step", _imported("mgcda_core.bench.train", "bench_train")),
    "bench video": (
        "what options for video save and cost on a drawn drive",
        _imported("mgcda_core.bench.video", "bench_video"),
    ),
    "bench metrics": (
        "time and memory of the pooled metrics beside scikit-learn's",
        _imported("mgcda_core.bench.metrics", "bench_metrics"),
    ),
    "bench parts": (
        "each map of the frozen networks by itself, on caches",
        _imported("mgcda_core.bench.parts", "bench_parts"),
    ),
    "export": ("the chain as one ONNX graph or TensorRT engine", _imported("mgcda_core.export.command", "export")),
    "build-engine": (
        "a TensorRT engine of an exported chain, ahead of its use",
        _imported("mgcda_core.export.build_command", "build_engine_command"),
    ),
    "bench": ("speed and memory of the chain on a runtime", _imported("mgcda_core.bench.infer", "bench")),
    "calibrate": (
        "a threshold for a wanted false alarm rate on road",
        _imported("mgcda_core.training.calibrate", "calibrate"),
    ),
    "data check": ("what a data set holds, its faults, a sheet to look at", lambda: data_check),
    "import synboost": ("published SynBoost checkpoints to one weights file", lambda: import_synboost),
    "render": (
        "draw a road drive with its truth as a recording",
        _imported("mgcda_core.evaluation.drive", "render"),
    ),
    "eval-bag": ("judge a recorded drive", _imported("mgcda_core.evaluation.bag.judge", "eval_bag")),
    "compare-bags": (
        "what changed between two recordings of outputs",
        _imported("mgcda_core.evaluation.bag.compare", "compare_bags"),
    ),
    "doctor": ("versions, devices, backends, weights", lambda: doctor),
}
# The arguments without a flag, and their help.
POSITIONAL: dict[str, tuple[tuple[str, str], ...]] = {
    "predict": (("source", "image, folder of images, pattern ('drive/*.jpg'), video, or rosbag2 recording"),),
    "import synboost": (("archive", "the published models.tar"),),
    "eval-bag": (("recording", "rosbag2 recording: folder, .mcap or .db3"),),
    "build-engine": (("artefact", ".onnx file of mgcda export, with its sidecar"),),
    "compare-bags": (("a", "outputs of the version before"), ("b", "outputs of the version after")),
}


def _training(part: str) -> Callable[..., Any]:
    """`train` of mgcda_core.training.<part>; imported when called, its configuration class is light."""

    def train(config: Any, run: Path, resume: bool) -> None:
        importlib.import_module(f"mgcda_core.training.{part}").train(config, run, resume)
        print(f"train: {run}")

    return train


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `mgcda`; exits with 0, 1 or 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(_run(words))
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install {INSTALL.get(str(error.name), error.name)}", error)
    except ConfigError as error:
        _fail(str(error), error, code=2)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        _fail(str(error) or type(error).__name__, error)
    except Exception as error:  # nothing foresaw it: its text alone ('x' of a KeyError) would say too little
        _fail(f"{type(error).__name__}: {error} (MGCDA_DEBUG=1 shows the traceback)", error)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from mgcda_core import __version__

        print(f"mgcda {__version__}")
        return 0
    name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), None)
    if name is None:
        group = [n for n in COMMANDS if n.startswith(f"{words[0]} ")]
        asked = len(words) > 1 and words[1] in ("-h", "--help")
        print(overview(words[0] if group else ""), file=sys.stdout if group and asked else sys.stderr)
        if not (group and asked):
            print(f"error: unknown command: mgcda {' '.join(words[:2])}", file=sys.stderr)
        return 0 if group and asked else 2
    rest = words[len(name.split()) :]
    function = COMMANDS[name][1]()
    if name == "doctor" and not rest:  # it reports missing packages, so the argument parser must not be one it needs
        doctor()
        return 0
    arguments = (
        config_arguments(name, rest)
        if name.startswith("train ") or name in ("prepare", "compare", "ladder", "calibrate")
        else command_arguments(name, function, rest, POSITIONAL.get(name, ()))
    )
    result = function(**arguments)
    if isinstance(result, Path):
        print(f"{name}: {result}")
    return 0


def overview(group: str = "") -> str:
    """Text of `mgcda --help`, or of one group of commands."""
    lines = [f"  {name:<23} {text}" for name, (text, _) in COMMANDS.items() if name.startswith(group)]
    return "\n".join(["usage: mgcda COMMAND ...", "", *lines, "", "mgcda COMMAND --help explains a command."])


def _progress(text: str) -> None:
    """One line that is written over; an empty text removes it. Nothing if nobody watches."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _fail(message: str, error: BaseException, code: int = 1) -> None:
    if os.environ.get("MGCDA_DEBUG") == "1":
        raise error
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
