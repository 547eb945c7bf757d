"""Replay against the real node: every frame once, everything recorded, figures beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image

from mgcda_ros.playback import PlaybackError, items
from mgcda_ros.recorder import Recorder
from mgcda_ros.replay import MASK, OUTPUTS, Player

pytestmark = pytest.mark.ros
FRAMES, HEIGHT, WIDTH = 5, 48, 64
STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types


def write_bag(path: Path, topics: tuple[str, ...] = ("/camera/image_raw",), calibrated: bool = True) -> list[int]:
    """A small bag with images and camera infos; gives the stamps."""
    stamps = [1_700_000_000_000_000_000 + i * 100_000_000 for i in range(FRAMES)]
    image_type, info_type = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = [writer.add_connection(topic, image_type, typestore=STORE) for topic in topics]
        infos = writer.add_connection("/camera/camera_info", info_type, typestore=STORE) if calibrated else None
        for stamp in stamps:
            seconds, nanoseconds = divmod(stamp, 1_000_000_000)
            when = TYPES["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
            header = TYPES["std_msgs/msg/Header"](stamp=when, frame_id="camera")
            data = np.random.default_rng(stamp % 97).integers(0, 256, HEIGHT * WIDTH * 3, np.uint8)
            image = TYPES[image_type](
                header=header, height=HEIGHT, width=WIDTH, encoding="rgb8", is_bigendian=0, step=WIDTH * 3, data=data
            )
            for connection in connections:
                writer.write(connection, stamp, STORE.serialize_cdr(image, image_type))
            if infos is not None:
                writer.write(infos, stamp, STORE.serialize_cdr(camera_info(header), info_type))
    return stamps


def camera_info(header: Any) -> Any:
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    k = np.array([60.0, 0.0, 32.0, 0.0, 60.0, 20.0, 0.0, 0.0, 1.0])
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=header, height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=np.zeros(5), k=k,
        r=np.eye(3).ravel(), p=np.zeros(12), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mgcda_ros.replay", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_bag_goes_in_and_a_bag_with_every_output_comes_out(tiny_weights: Path, tmp_path: Path):
    stamps = write_bag(tmp_path / "in")
    out = tmp_path / "out" / "result.mcap"
    node_arguments = ["--node-args", "--ros-args", "-p", f"weights:={tiny_weights}", "-p", "threshold:=0.0"]
    node_arguments += ["-p", "confirm_hits:=1"]
    done = run("--bag", tmp_path / "in", "--out", out, *node_arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.with_suffix(".json").read_text())
    assert (report["frames_in"], report["masks_out"], report["drops"]) == (FRAMES, FRAMES, 0)
    assert report["hazards"] == FRAMES  # threshold 0: one region an image
    assert report["node_exit_code"] == 0
    assert len(report["latencies_ms"]) == FRAMES
    assert all(latency > 0.0 for latency in report["latencies_ms"])
    with AnyReader([out]) as reader:
        found: dict[str, list[int]] = {}
        for connection, received, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            header = message.markers[0].header if connection.topic.endswith("hazards") else message.header
            found.setdefault(connection.topic, []).append(header.stamp.sec * 10**9 + header.stamp.nanosec)
            assert received > stamps[-1]  # the receive time, not the stamp
    assert found == {f"/mgcda_node/{topic}": stamps for topic in ("mask", "score", "overlay", "hazards")}
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_a_folder_of_images_at_a_fixed_rate(tiny_weights: Path, tmp_path: Path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((HEIGHT, WIDTH, 3), 80 * index, np.uint8))
    out = tmp_path / "result.mcap"
    done = run(
        "--bag", tmp_path, "--out", out, "--rate", 4, "--node-args", "--ros-args", "-p", f"weights:={tiny_weights}"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["frames_in"] == 3
    assert report["masks_out"] + report["drops"] == 3
    assert report["masks_out"] >= 2


def test_time_that_is_up_still_serves_the_outputs(ros: None, tmp_path: Path):
    """A rate that the player cannot hold."""
    topics = {topic: kind for topic, (_, kind) in OUTPUTS.items()}
    with Recorder(tmp_path / "r.mcap", topics) as recorder:
        player = Player(recorder)
        stand_in = player.create_publisher(Image, MASK, 10)
        assert player.spin_until(lambda: stand_in.get_subscription_count() == 1, 10.0)
        for count in range(1, 4):
            stand_in.publish(Image())
            time.sleep(0.1)
            assert not player.spin_until(lambda: False, -1.0)
            assert player.masks_out == count
        player.destroy_node()


def test_failures_are_one_line_and_leave_no_old_result(tmp_path: Path):
    out = tmp_path / "result.mcap"
    out.write_text("old")
    done = run("--bag", tmp_path / "none", "--out", out)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert run("--bag", tmp_path, "--out", tmp_path / "result.bag").returncode == 2


def test_a_node_that_cannot_start_is_an_error(tmp_path: Path):
    write_bag(tmp_path / "in")
    done = run(
        "--bag", tmp_path / "in", "--out", tmp_path / "r.mcap", "--node-args", "--ros-args", "-p", "weights:=nothing"
    )
    assert done.returncode == 1
    assert "unknown weights 'nothing'" in done.stderr
    assert "Traceback" not in done.stderr


def test_items_of_a_bag(tmp_path: Path):
    stamps = write_bag(tmp_path / "one")
    found = list(items(tmp_path / "one"))
    assert found[0].stamp_ns is None  # the first CameraInfo leads
    assert [item.stamp_ns for item in found if item.stamp_ns is not None] == stamps
    assert sum(item.stamp_ns is None for item in found) == FRAMES + 1
    write_bag(tmp_path / "two", ("/left", "/right"), calibrated=False)
    with pytest.raises(PlaybackError, match="several topics"):
        list(items(tmp_path / "two"))
    assert [item.stamp_ns for item in items(tmp_path / "two", "/left")] == stamps
    with pytest.raises(PlaybackError, match="no topic /middle"):
        list(items(tmp_path / "two", "/middle"))


def test_a_truncated_bag_is_a_clear_error(tmp_path: Path):
    write_bag(tmp_path / "in")
    storage = next((tmp_path / "in").glob("*.mcap"))
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match="in"):
        list(items(tmp_path / "in"))
