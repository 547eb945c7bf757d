"""eval-bag: predictions on every frame, or a recorded replay; figures, files, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_files import PERIOD, STORE, answers, camera, cut, stamps, write_bag
from rosbags.highlevel import AnyReader

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, START_NS, frames_to_bag, render_drive
from mgcda_core.evaluation.bag import judge
from mgcda_core.evaluation.bag.answers import to_logits
from mgcda_core.evaluation.bag.markers import MARKERS_TYPE, Markers
from mgcda_core.evaluation.bag.outputs import RecordedOutputs
from mgcda_core.evaluation.pixel_metrics import ExactMetrics
from mgcda_core.evaluation.scorers import Scorer
from mgcda_core.hazards.regions import Hazard, to_hazards
from mgcda_core.hazards.tracks import Track
from mgcda_core.inference.predictor import load
from mgcda_core.inference.sources import SourceError, open_source
from mgcda_core.prediction import Region

SIZE = (96, 192)
FIGURES = {"frames_in": 5, "masks_out": 4, "hazards": 7, "latency_p50_ms": 12.34, "latency_p95_ms": 20.0,
           "latencies_ms": [12.0, 13.0, 12.0, 20.0], "drops": 1}  # fmt: skip
FILES = {"report.json", "report.html", "overlay.mp4", "contact_sheet.png", "moments"}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_drive(tmp_path_factory.mktemp("bag") / "drive", frames=5, size=SIZE, rate_hz=10)


@pytest.fixture
def red_is_odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], np.ndarray]:
    """In place of the trained network: its MSP is the red channel, and everything is road."""

    def score(image: np.ndarray) -> np.ndarray:
        return image[..., 0].astype(np.float32) / 255

    scorer = Scorer(score, lambda image: np.zeros(image.shape[:2], np.uint8), False, "unit")
    monkeypatch.setattr(judge, "open_scorer", lambda weights, score, device: (scorer, "0" * 64))
    return score


def images_and_labels(drive: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    images = [frame.image for frame in open_source(drive, "/camera/image")]
    return images, [frame.image[..., 0] for frame in open_source(drive, ANOMALY_TOPIC)]


def exact(scores: list[np.ndarray], labels: list[np.ndarray]) -> Any:
    metrics = ExactMetrics()
    for score, label in zip(scores, labels, strict=True):
        metrics.update(score, label)
    return metrics.compute()


def written(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def content(path: Path) -> list[tuple[str, int, bytes]]:
    with AnyReader([path]) as reader:
        return [(c.topic, received, bytes(raw)) for c, received, raw in reader.messages()]


def timeless(report: dict[str, Any]) -> dict[str, Any]:
    """The report without what was measured with a clock."""
    rows = [{key: value for key, value in row.items() if key != "latency_ms"} for row in report["rows"]]
    return {key: value for key, value in report.items() if not key.startswith("latency_")} | {"rows": rows}


def test_predictions_of_a_labelled_drive(
    tmp_path: Path, drive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    for folder in (out, tmp_path / "b"):
        judge.eval_bag(drive, folder, weights=str(tiny_weights), latency_ms=150, moment_gap_s=0, device="cpu")
    report = written(out)
    assert tuple(report)[: len(judge.KEYS)] == judge.KEYS
    assert {path.name for path in out.iterdir()} == FILES | {"outputs"}
    assert timeless(report) == timeless(written(tmp_path / "b"))
    assert content(out / "outputs") == content(tmp_path / "b" / "outputs")

    predictor = load(tiny_weights, "cpu")
    images, labels = images_and_labels(drive)
    predictions = [predictor(image) for image in images]
    wanted = exact([prediction.logits for prediction in predictions], labels)
    for key in ("ap", "fpr95", "auroc"):
        assert report[key] == pytest.approx(wanted[key], abs=1e-3)
    # With 150 ms at 10 Hz: frame 0 is ready at 150 ms, then 1 at 300 ms, in the moment frame 3 comes, which is next.
    judged = [None, None, 0, 1, 1]
    late = [np.full(SIZE, -np.inf) if i is None else predictions[i].logits for i in judged]
    assert report["stream_ap"] == pytest.approx(exact(late, labels)["ap"], abs=1e-3)
    assert [row["judged_age_ms"] for row in report["rows"]] == [None, None, 200, 200, 300]
    assert report["stream_age_ms"] == pytest.approx((200 + 200 + 300) / 3)
    assert (report["stream_frames_without_output"], report["stream_latency"]) == (2, "stated: 150 ms")
    assert (report["complete"], report["frames_in"], report["masks_out"], report["seconds"]) == (True, 5, 5, 0.5)
    assert report["hazards_per_minute"] == pytest.approx(report["hazards"] * 120)
    road = [row["anomalous_road"] for row in report["rows"]]
    assert all(share is None or 0 <= share <= 1 for share in road)
    pictures = [Path(moment["picture"]) for moment in report["moments"]]
    assert sorted(pictures) == sorted(p.relative_to(out) for p in (out / "moments").iterdir())
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("eval-bag: frames_in=5 masks_out=5 hazards=")
    assert "stream_ap=" in lines[-2]

    topics = {topic for topic, _, _ in content(out / "outputs")}
    assert topics == {"/mgcda_node/mask", "/mgcda_node/score", "/mgcda_node/hazards", ANOMALY_TOPIC}
    for outputs, prediction, label in zip(RecordedOutputs(out / "outputs"), predictions, labels, strict=True):
        np.testing.assert_array_equal(outputs.score, prediction.score)
        np.testing.assert_array_equal(outputs.mask, prediction.mask)
        assert label.shape == outputs.mask.shape


def test_compressed_frames_without_labels(tmp_path: Path, tiny_weights: Path) -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8))
    recording = write_bag(tmp_path / "bag", camera(frames, stamps(3), compressed=True))
    judge.eval_bag(recording, tmp_path / "out", weights=str(tiny_weights), device="cpu")
    report = written(tmp_path / "out")
    assert [report[key] for key in ("ap", "fpr95", "msp_ap", "stream_ap")] == [None] * 4
    assert (report["metrics_reason"], report["labelled_frames"], report["stream_latency"]) == (
        "no labels",
        0,
        "measured",
    )
    assert report["latency_p95_ms"] >= report["latency_p50_ms"] > 0
    outputs = content(tmp_path / "out" / "outputs")
    assert {received for _, received, _ in outputs} == {stamp + 7 for stamp in stamps(3)}  # the inputs' clock


def test_the_filter_that_was_on_is_named(tmp_path: Path, drive: Path, tiny_weights: Path) -> None:
    judge.eval_bag(drive, tmp_path, weights=str(tiny_weights), device="cpu", temporal="ema", temporal_seconds=0.3)
    report = written(tmp_path)
    assert report["temporal"] == {"kind": "ema", "seconds": 0.3, "lost": 0}
    assert 0 < report["latency_temporal_ms"] < report["latency_p50_ms"]
    assert "ema over 0.3 s" in (tmp_path / "report.html").read_text()
    predictor, steady = load(tiny_weights, "cpu"), judge.TemporalFilter("ema", 0.3)
    for outputs, frame in zip(RecordedOutputs(tmp_path / "outputs"), judge.Drive(drive).frames(), strict=True):
        filtered = steady(predictor(frame.image), frame.image, frame.stamp_ns / 1e9)
        np.testing.assert_array_equal(outputs.score, filtered.score)


def test_hazards_stand_where_the_camera_info_says(tmp_path: Path, drive: Path, tiny_weights: Path) -> None:
    judge.eval_bag(drive, tmp_path, weights=str(tiny_weights), threshold=0.3, min_area=1, device="cpu")
    predictor = load(tiny_weights, "cpu", 0.3)
    with AnyReader([drive]) as reader:
        infos = [c for c in reader.connections if c.topic == "/camera/camera_info"]
        k = next(reader.deserialize(raw, c.msgtype).k for c, _, raw in reader.messages(infos))  # pyright: ignore
    camera = judge.PredictedAnswers(predictor, judge.TemporalFilter(), [], judge.Mount(1.5, 0.0, 1.2), 1, 0)._camera
    frame = next(iter(judge.Drive(drive).frames()))
    assert camera(frame).lens.fx == pytest.approx(k[0])  # the drive's camera has the default field of view
    hazards = to_hazards(predictor(frame.image).regions(1), camera(frame))
    first = next(iter(RecordedOutputs(tmp_path / "outputs")))
    assert np.allclose(first.hazards, [hazard.position[:2] for hazard in hazards])
    assert written(tmp_path)["rows"][0]["hazards"] == len(hazards)


def test_a_recording_cut_off_is_judged_as_far_as_it_goes(tmp_path: Path, tiny_weights: Path) -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8))
    recording = cut(write_bag(tmp_path / "bag", camera(frames, stamps(20))), 0.4)
    out, labels = tmp_path / "out", tmp_path / "labels"
    labels.mkdir()
    for i in range(20):
        cv2.imwrite(str(labels / f"{i:04d}.png"), np.arange(48 * 64).reshape(48, 64) % 2)
    with pytest.raises(SourceError, match=r"bag\.mcap is damaged or cut off .* covers the \d+ frames"):
        judge.eval_bag(recording, out, labels=labels, weights=str(tiny_weights), device="cpu", latency_ms=150)
    report = written(out)
    assert 4 < report["frames_in"] < 12
    assert report["complete"] is False
    assert report["labelled_frames"] == report["frames_in"] == 20 - report["labels_left_out"]
    assert 0 < report["ap"] < 1
    page = (out / "report.html").read_text()
    for text in ("Incomplete", "is damaged or cut off", "latency stated: 150 ms", "Before the first output", "2 frames",
                 "Labels left out", f"{report['labels_left_out']} labels belong to no readable frame"):  # fmt: skip
        assert text in page
    assert f"{report['frames_in']} images of /camera/image before that were read" in report["fault"]
    assert {path.name for path in out.iterdir()} == FILES | {"outputs"}
    assert len(list(RecordedOutputs(out / "outputs"))) == report["frames_in"]


def test_a_recorded_replay(
    tmp_path: Path, drive: Path, red_is_odd: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images, labels = images_and_labels(drive)
    answered = [0, 1, 3, 4]  # frame 2 was dropped
    scores = [np.clip(0.5 * labels[i] + rng.uniform(0, 0.6, SIZE), 0, 1).astype(np.float32) for i in answered]
    at = [START_NS + i * PERIOD for i in answered]
    recorded = write_bag(tmp_path / "result", answers(scores, at))
    (tmp_path / "result.json").write_text(json.dumps(FIGURES))
    out = tmp_path / "out"
    judge.eval_bag(drive, out, recorded=recorded / "result.mcap", result_json=tmp_path / "result.json")

    report = written(out)
    assert tuple(report)[: len(judge.KEYS)] == judge.KEYS
    assert {key: report[key] for key in judge.KEYS[:5]} == {key: FIGURES[key] for key in judge.KEYS[:5]}
    truth = [labels[i] for i in answered]
    wanted = exact(scores, truth)
    assert report["ap"] == pytest.approx(wanted["ap"], abs=1e-3)
    assert report["fpr95"] == pytest.approx(wanted["fpr95"], abs=1e-3)
    baseline = exact([red_is_odd(images[i]) for i in answered], truth)
    assert report["msp_ap"] == pytest.approx(baseline["ap"], abs=1e-4)
    # Latencies below the frame period: every frame sees the answered frame before it, the first nothing, 3 and 4 too.
    late = [np.full(SIZE, -np.inf), *(to_logits(scores[i]) for i in (0, 1, 1, 2))]
    assert report["stream_ap"] == pytest.approx(exact(late, labels)["ap"], abs=1e-3)
    assert report["threshold"] == min(score[score >= 0.6].min() for score in scores)
    assert {path.name for path in out.iterdir()} == FILES

    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("demo: frames_in=5 masks_out=4 hazards=7 latency_p50_ms=12.3 latency_p95_ms=20.0 ap=0.")
    assert line.endswith(f" msp_ap={report['msp_ap']:.4f}")
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4 and video.get(cv2.CAP_PROP_FRAME_WIDTH) == SIZE[1]


def test_a_replay_of_real_frames_without_its_figures(
    tmp_path: Path, red_is_odd: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    played = frames_to_bag([(image, None)] * 2, tmp_path / "bag", rate_hz=10)
    score = np.full(SIZE, 0.25, np.float32)
    recorded = write_bag(tmp_path / "result", answers([score] * 2, stamps(2), [[(5.0, 1.0)], []]))
    judge.eval_bag(played, tmp_path / "out", recorded=recorded)
    report = written(tmp_path / "out")
    missing = ("ap", "fpr95", "msp_ap", "latency_p50_ms", "stream_age_ms", "stream_frames_without_output", "threshold")
    assert [report[key] for key in missing] == [None] * len(missing)
    assert (report["hazards"], report["stream_latency"], report["moments"]) == (1, "unknown", [])
    printed = capsys.readouterr().out
    assert "latency_p95_ms=n/a ap=n/a fpr95=n/a msp_ap=n/a" in printed
    assert printed.startswith("eval-bag: no metrics: no labels\n")


def test_only_files_of_an_earlier_run_are_removed(tmp_path: Path, drive: Path, red_is_odd: Callable) -> None:
    kept = [tmp_path / "moments" / name for name in ("mine.png", "01_notes.png", "deep/01_1700000000.000000000.png")]
    old = tmp_path / "moments" / "01_1600000000.000000000.png"
    for path in (*kept, old):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    recorded = write_bag(tmp_path / "result", answers([np.full(SIZE, 0.25, np.float32)], [START_NS]))
    judge.eval_bag(drive, tmp_path, recorded=recorded)
    assert all(path.exists() for path in kept) and not old.exists()
    with pytest.raises(NotADirectoryError, match=r"mine\.png is a file: give --out the name of a folder"):
        judge.eval_bag(drive, kept[0], recorded=recorded)


@pytest.mark.parametrize(
    "option",
    [{"threshold": 0.5}, {"min_area": 5}, {"camera_info": "/c"}, {"camera_height": 1.0}, {"camera_pitch": 0.1},
     {"horizontal_fov": 1.0}, {"temporal": "vote"}, {"temporal_seconds": 0.5}],
)  # fmt: skip
def test_options_of_predictions_do_not_go_with_recorded_ones(
    tmp_path: Path, drive: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(option))} would not change what --recorded holds"):
        judge.eval_bag(drive, tmp_path, recorded=tmp_path / "result", **option)


def test_an_old_report_goes_before_anything_can_fail(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        judge.eval_bag(tmp_path / "nowhere", tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_what_does_not_belong_together_is_named(tmp_path: Path, drive: Path, red_is_odd: Callable) -> None:
    score = np.full(SIZE, 0.25, np.float32)
    broken = score.copy()
    broken[3, 4] = np.nan
    out, figures = tmp_path / "out", tmp_path / "result.json"
    for number, (recorded, message) in enumerate([
        (answers([score], [START_NS + 7]), f"answers a frame with stamp {START_NS + 7} ns that the recording does not"),
        (answers([score[:50]], [START_NS]), r"score is \(50, 192\), its frame \(96, 192\)"),
        (answers([score, broken], stamps(2)), rf"/n/score, stamp {START_NS + PERIOD} ns: 1 scores are NaN"),
        (answers([score + 1], [START_NS]), r"/n/score, .* scores reach from 1\.25 to 1\.25, outside \[0, 1\]"),
        (answers([score], [START_NS])[:1], r"no sensor_msgs/msg/Image topic \.\.\./score; it has /n/mask"),
    ]):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            judge.eval_bag(drive, out, recorded=write_bag(tmp_path / str(number), recorded))
    recorded = write_bag(tmp_path / "fine", answers([score], [START_NS]))
    for text, message in (("{}", "frames_in"), (json.dumps(FIGURES), "4 latencies_ms for 1 masks"), ("[", "JSON")):
        figures.write_text(text)
        with pytest.raises(ValueError, match=message):
            judge.eval_bag(drive, out, recorded=recorded, result_json=figures)
    with pytest.raises(ValueError, match="--recorded"):
        judge.eval_bag(drive, out, result_json=figures)
    for below in ("latency_ms", "moment_gap_s", "min_area"):
        with pytest.raises(ConfigError, match=f"{below} is -1"):
            judge.eval_bag(drive, out, **dict[str, Any]({below: -1}))
    with pytest.raises(ConfigError, match="--anomaly_values is '0'"):
        judge.eval_bag(drive, out, anomaly_values="0")
    assert not (out / "report.json").exists()


def test_markers_are_those_of_the_node() -> None:
    markers = pytest.importorskip("mgcda_ros.markers")
    time = pytest.importorskip("builtin_interfaces.msg").Time(sec=5, nanosec=7)
    serialize = pytest.importorskip("rclpy.serialization").serialize_message
    region = Region(0, 0, 1, 1, 1, 0.7, 0.0, 0.5)
    hazards = [
        Hazard((9.2, -1.0, 0.0), 0.03, 1.2, 9.3, 0.7, region, (0.2, 0.1, 0.2)),
        Hazard((4.0, 2.0, 0.0), 1.0, 0.5, 4.5, 1.0, region, (0.1, 0.0, 0.1)),
    ]
    tracks = [Track(i, hazard, (0.0, 0.0), (1.0, 1.0), 0.0, 0.0, 1, True, 1.0) for i, hazard in enumerate(hazards)]
    of_node = STORE.deserialize_cdr(bytes(serialize(markers.to_markers(tracks, time, "base_link"))), MARKERS_TYPE)
    ours = STORE.serialize_cdr(Markers(STORE).to_markers(hazards, 5_000_000_007), MARKERS_TYPE)
    assert repr(STORE.deserialize_cdr(ours, MARKERS_TYPE)) == repr(of_node)
