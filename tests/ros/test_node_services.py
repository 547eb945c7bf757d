"""~/enable, ~/reload_model, ~/save_frame and the parameters of the real node; then 50 activations without a leak."""

from __future__ import annotations

import json
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_client import Client, node_and_client, node_in_process
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from tiny_artefact import write_artefact

from mgcda_ros.device_health import resident_mb

pytestmark = pytest.mark.ros
SHA = "0123456789abcdef" * 4
SIZE = (240, 320)
Parts = tuple[subprocess.Popen[str], Client, Path]


@pytest.fixture(scope="module")
def served(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """With the path of the weights, which lie in the folder of everything."""
    folder = tmp_path_factory.mktemp("served")
    weights = write_artefact(folder / "tiny.onnx", weights_sha256=SHA)
    given = ["--ros-args", "-p", f"weights:={weights}", "-p", f"save_folder:={folder / 'saved'}", "-p", "save_limit:=2"]
    given += ["-p", "threshold:=1.0"]
    with node_and_client(given, folder) as (process, client, _):
        yield process, client, folder


def frame(client: Client) -> Image:
    """Noise: as a png it is as large as it is in memory."""
    return client.message(np.random.default_rng(client.stamp).integers(0, 256, (*SIZE, 3), np.uint8))


def trigger(client: Client, service: str) -> Any:
    return client.call(Trigger, service, Trigger.Request())


def saved(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "saved").iterdir())


def test_nothing_is_saved_before_a_frame_came(served: Parts) -> None:
    _, client, folder = served
    answer = trigger(client, "save_frame")
    assert (answer.success, answer.message[:26]) == (False, "no frame was processed yet")
    assert "no frame was processed yet" in (folder / "node.log").read_text()


def test_enable_switches_the_masks_off_and_on_and_diagnostics_say_so(served: Parts) -> None:
    _, client, _ = served
    assert client.answer(frame(client)) is not None
    assert client.call(SetBool, "enable", SetBool.Request(data=False)).success
    assert client.answer(frame(client), timeout=0.5) is None
    level, said, values = client.diagnostics(lambda now: now["enabled"] == "false")
    assert (level, said) == (b"\0", "switched off by ~/enable: frames are not processed")
    assert (values["frames_in"], values["masks_out"], values["dropped"]) == ("2", "1", "1")
    assert client.call(SetBool, "enable", SetBool.Request(data=True)).message == "frames are processed"
    assert client.answer(frame(client)) is not None


def test_reload_answers_with_the_sha_and_the_frames_go_on(served: Parts) -> None:
    _, client, folder = served
    call: Any = client.create_client(Trigger, "/mgcda_node/reload_model")
    future = call.call_async(Trigger.Request())
    masks = 0
    while not future.done():
        masks += client.answer(frame(client)) is not None
    answer = future.result()
    assert (answer.success, answer.message) == (True, f"onnxruntime tiny fp32 sha256 {SHA[:12]}")
    assert client.diagnostics()[2]["weights_sha256"] == SHA
    assert masks > 0
    assert client.answer(frame(client)) is not None
    (folder / "tiny.onnx").rename(folder / "away.onnx")
    answer = trigger(client, "reload_model")
    (folder / "away.onnx").rename(folder / "tiny.onnx")
    assert not answer.success
    assert "the present network stays" in answer.message
    assert "tiny.onnx" in answer.message
    assert client.answer(frame(client)) is not None
    client.destroy_client(call)


def test_save_frame_writes_into_its_folder_whatever_the_frame_id_says(served: Parts) -> None:
    _, client, folder = served
    before = sorted(path.name for path in folder.iterdir())
    sent = frame(client)
    sent.header.frame_id = "../../x"
    assert client.answer(sent) is not None
    answer = trigger(client, "save_frame")
    assert answer.success
    stem = f"{sent.header.stamp.sec}_000000007_camera"
    assert answer.message == str(folder / "saved" / f"{stem}.json")
    assert saved(folder) == [f"{stem}{end}" for end in (".json", ".png", ".score.npy")]
    assert sorted({*before, "saved"}) == sorted(path.name for path in folder.iterdir())
    assert json.loads(Path(answer.message).read_text())["frame_id"] == "../../x"


def test_a_full_disk_is_a_warning_leaves_no_half_frame_and_the_node_goes_on(served: Parts) -> None:
    """The disk: the system lets this process write no file of more than 0.2 MB. A png of noise has 0.23."""
    process, client, folder = served
    held = saved(folder)
    assert client.answer(frame(client)) is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        answer = trigger(client, "save_frame")
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    assert not answer.success
    assert answer.message == f"frame not saved in {folder / 'saved'}: File too large"
    assert client.until(lambda: "[WARN] " in (log := (folder / "node.log").read_text()) and answer.message in log)
    assert saved(folder) == held
    assert client.answer(frame(client)) is not None
    assert trigger(client, "save_frame").success


def test_the_folder_has_a_limit(served: Parts) -> None:
    """Noise: a frame has half a megabyte."""
    _, client, folder = served
    assert client.set("threshold", 0.7).successful
    answers = []
    for _ in range(5):
        assert client.answer(frame(client)) is not None
        answers.append(trigger(client, "save_frame"))
    assert not answers[-1].success
    assert "of the 2 MB of save_limit: take the frames away" in answers[-1].message
    held = sum(file.stat().st_size for file in (folder / "saved").iterdir())
    assert 1.0 < held / 1e6 <= 2.0
    assert client.answer(frame(client)) is not None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("weights", "lite", "weights cannot change while the node is active: deactivate and clean it up first"),
        ("size", [64, 128], "size cannot change while the node is active: deactivate and clean it up first"),
        ("precision", "fp16", "precision cannot change while the node is active: deactivate and clean it up first"),
        ("backend", "torch", "backend cannot change while the node is active: deactivate and clean it up first"),
        ("transport", "compressed", "transport cannot change while the node is active: deactivate it first"),
        ("ego_mask", "ego.png", "ego_mask cannot change while the node is active: deactivate it first"),
        ("max_batch", 2, "max_batch cannot change while the node is active: deactivate it first"),
        ("save_folder", "/", "read-only"),
        ("cameras", ["front"], "read-only"),
        ("roi", [0.1, 0.1, 0.5], "give x1, y1, x2, y2, x3, y3 ... in [0, 1]"),
        ("roi", [0.1, 0.1, 0.5, 0.1, 2.0, 1.0], "in [0, 1]"),
        ("threshold", float("nan"), "out of range"),
        ("threshold", "high", "type"),
        ("mask_scale", "half", "allowed are input, network"),
    ],
)
def test_what_cannot_change_is_refused_with_the_reason(served: Parts, name: str, value: Any, reason: str) -> None:
    result = served[1].set(name, value)
    assert not result.successful
    assert reason in result.reason


def test_live_parameters_change_while_frames_run(served: Parts) -> None:
    _, client, _ = served
    live = {
        "threshold": (0.2, -1.0), "crop_top": (0.5, 0.0), "mask_scale": ("network", "input"),
        "roi": ([0.0, 0.0, 1.0, 0.0, 0.5, 1.0], [0.0]), "lane": ([0.0, 0.0, 1.0, 0.0, 0.5, 1.0], [0.0]),
        "road_only": (True, False), "temporal_filter": ("vote", "none"), "min_region_area": (5, 100),
        "confirm_hits": (1, 2), "overlay_alpha": (0.3, 1.0), "camera_height": (1.2, 1.5),
        "reliability": ("reliable", "auto"), "hang_timeout": (5.0, 20.0),
    }  # fmt: skip
    for turn in (0, 1):
        for name, values in live.items():
            client.images.publish(frame(client))  # in work while the parameter changes
            result = client.set(name, values[turn])
            assert result.successful, (name, result.reason)
            assert client.answer(frame(client)) is not None, name
    _, _, values = client.diagnostics()
    assert (values["errors"], values["other_errors"]) == ("0", "0")


def test_50_activations_and_10_configurations_leave_nothing_behind(ros: None, tmp_path: Path) -> None:
    with node_in_process(weights=str(write_artefact(tmp_path / "tiny.onnx")), device="cpu") as node:

        def held() -> tuple[int, ...]:
            lists = (node.subscriptions, node.publishers, node.timers, node.services, node.waitables)
            return (threading.active_count(), *(len(list(entities)) for entities in lists))

        def turn(times: int, down: tuple[str, ...], up: tuple[str, ...]) -> None:
            for _ in range(times):
                for transition in (*down, *up):
                    assert getattr(node, f"trigger_{transition}")() == TransitionCallbackReturn.SUCCESS

        turn(5, ("deactivate", "cleanup"), ("configure", "activate"))
        before, memory = held(), resident_mb()
        turn(50, ("deactivate",), ("activate",))
        turn(10, ("deactivate", "cleanup"), ("configure", "activate"))
        assert held() == before
        assert resident_mb() - memory < 10.0
