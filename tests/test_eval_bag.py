"""Judging a recorded replay: pairing by stamp, figures, files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosbags.typesys import Stores, get_typestore

from mgcda_core.data.rendered_bag import START_NS, frames_to_bag, render_drive
from mgcda_core.evaluation import bag
from mgcda_core.evaluation.pixel_metrics import exact

SIZE = (96, 192)
PERIOD = 100_000_000
FIGURES = {"frames_in": 5, "masks_out": 4, "hazards": 7, "latency_p50_ms": 12.34, "latency_p95_ms": 20.0, "drops": 1}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_drive(tmp_path_factory.mktemp("bag") / "drive", frames=5, size=SIZE, rate_hz=10)


@pytest.fixture
def red_is_odd(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], np.ndarray]:
    """In place of the trained network: its MSP is the red channel."""

    def scorer(image: np.ndarray) -> np.ndarray:
        return image[..., 0].astype(np.float32) / 255

    monkeypatch.setattr(bag, "open_scorer", lambda weights, score, device: (scorer, "0" * 64))
    return scorer


def record(path: Path, answers: list[tuple[int, np.ndarray]], *, late_mask: bool = False) -> Path:
    """A recording of masks and scores [(stamp, score)] as the replay makes it."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    image_type, time_type = store.types["sensor_msgs/msg/Image"], store.types["builtin_interfaces/msg/Time"]
    folder = path.with_suffix("")
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            t: writer.add_connection(t, "sensor_msgs/msg/Image", typestore=store) for t in ("/n/mask", "/n/score")
        }
        for i, (stamp, score) in enumerate(answers):
            mask = (score >= 0.6).astype(np.uint8) * 255
            for topic, encoding, pixels, delay in (
                ("/n/mask", "mono8", mask, 150 if late_mask else 0),
                ("/n/score", "32FC1", score.astype(np.float32), 1),
            ):
                header = store.types["std_msgs/msg/Header"](
                    stamp=time_type(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera"
                )
                message = image_type(
                    header=header, height=score.shape[0], width=score.shape[1], encoding=encoding, is_bigendian=0,
                    step=pixels.nbytes // score.shape[0], data=pixels.reshape(-1).view(np.uint8),
                )  # fmt: skip
                raw = store.serialize_cdr(message, "sensor_msgs/msg/Image")
                writer.write(topics[topic], START_NS + i * 100 + delay, raw)
    next(folder.glob("*.mcap")).replace(path)
    return path


def truths(drive: Path) -> list[np.ndarray]:
    return [frame.truth for frame in bag._sent(drive) if frame.truth is not None]


def test_report_line_video_and_sheet(
    tmp_path: Path, drive: Path, red_is_odd: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    labels = truths(drive)
    answered = [0, 1, 3, 4]  # frame 2 was dropped
    scores = {i: np.clip(0.5 * labels[i] + rng.uniform(0, 0.6, SIZE), 0, 1).astype(np.float32) for i in answered}
    recorded = record(tmp_path / "result.mcap", [(START_NS + i * PERIOD, scores[i]) for i in answered], late_mask=True)
    (tmp_path / "result.json").write_text(json.dumps(FIGURES))
    out = tmp_path / "out"
    report = bag.judge_bag(recorded, drive, tmp_path / "result.json", out)

    assert tuple(report) == bag.KEYS
    assert json.loads((out / "report.json").read_text()) == report
    label = np.stack([labels[i] for i in answered])
    wanted = exact(np.stack([scores[i] for i in answered]), label)
    images = [frame.image for frame in bag._sent(drive)]
    baseline = exact(np.stack([red_is_odd(images[i]) for i in answered]), label)
    assert report["ap"] == pytest.approx(wanted["ap"], abs=1e-4)
    assert report["fpr95"] == pytest.approx(wanted["fpr95"], abs=1e-4)
    assert report["msp_ap"] == pytest.approx(baseline["ap"], abs=1e-4)
    assert {k: report[k] for k in bag.KEYS[:5]} == {k: FIGURES[k] for k in bag.KEYS[:5]}

    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("demo: frames_in=5 masks_out=4 hazards=7 latency_p50_ms=12.3 latency_p95_ms=20.0 ap=0.")
    assert line.endswith(f" msp_ap={report['msp_ap']:.4f}")
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4 and video.get(cv2.CAP_PROP_FRAME_WIDTH) == SIZE[1]
    assert cv2.imread(str(out / "contact_sheet.png")) is not None


def test_real_frames_have_no_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    played = frames_to_bag([(image, None)] * 2, tmp_path / "bag", rate_hz=10)
    score = np.full(SIZE, 0.25, np.float32)
    recorded = record(tmp_path / "result.mcap", [(START_NS, score), (START_NS + PERIOD, score)])
    figures = {**FIGURES, "masks_out": 2, "latency_p50_ms": None, "latency_p95_ms": None}
    (tmp_path / "result.json").write_text(json.dumps(figures))
    report = bag.judge_bag(recorded, played, tmp_path / "result.json", tmp_path / "out")
    assert [report[k] for k in ("ap", "fpr95", "msp_ap", "latency_p50_ms")] == [None] * 4
    assert "latency_p95_ms=n/a ap=n/a fpr95=n/a msp_ap=n/a" in capsys.readouterr().out


def test_an_old_report_goes_before_anything_can_fail(tmp_path: Path, drive: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        bag.judge_bag(tmp_path / "result.mcap", drive, tmp_path / "result.json", tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_what_does_not_belong_together_is_named(tmp_path: Path, drive: Path, red_is_odd: Callable) -> None:
    figures = tmp_path / "result.json"
    figures.write_text(json.dumps(FIGURES))
    score = np.full(SIZE, 0.25, np.float32)
    other = record(tmp_path / "a.mcap", [(START_NS + 7, score)])
    with pytest.raises(ValueError, match="does not hold"):
        bag.judge_bag(other, drive, figures, tmp_path / "out")
    small = record(tmp_path / "b.mcap", [(START_NS, score[:50])])
    with pytest.raises(ValueError, match=r"score .*\(50, 192\)"):
        bag.judge_bag(small, drive, figures, tmp_path / "out")
    empty = record(tmp_path / "c.mcap", [])
    with pytest.raises(ValueError, match="no score"):
        bag.judge_bag(empty, drive, figures, tmp_path / "out")
    with pytest.raises(ValueError, match="/score"):
        bag.judge_bag(drive, drive, figures, tmp_path / "out")
    broken = tmp_path / "d.mcap"
    broken.write_bytes(other.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"d\.mcap"):
        bag.judge_bag(broken, drive, figures, tmp_path / "out")
    figures.write_text("{}")
    with pytest.raises(ValueError, match="frames_in"):
        bag.judge_bag(other, drive, figures, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
