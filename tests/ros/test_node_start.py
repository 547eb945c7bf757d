"""How the node starts and ends: no parameters, wrong parameters, wrong weights, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from node_client import Client, node_and_client

from mgcda_ros.node_process import running_node, wait_active

pytestmark = pytest.mark.ros
STUCK = """
import sys, time, types
import torch
from mgcda_ros import lifecycle_node, network, node

class Predictor:
    backend = types.SimpleNamespace(device="cpu", name="slow", sha256="", max_batch=1)
    config = types.SimpleNamespace(threshold=0.5)

    def warm_up(self):
        pass

    def seen_size(self, size):
        return size

    def batch(self, images):
        print("in work", flush=True)
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            torch.nn.functional.conv2d(torch.ones(1, 8, 64, 64), torch.ones(8, 8, 3, 3))

torch.set_num_threads(1)
network.load = lambda *_, **__: Predictor()
lifecycle_node.EXIT_TIMEOUT_S = 0.2
sys.exit(node.main())
"""


def test_without_parameters_it_loads_lite_from_any_directory(ros: None, tmp_path: Path):
    with node_and_client([], tmp_path) as (_, client, _):
        sent = client.message(np.full((72, 128, 3), 120, np.uint8))
        mask = client.answer(sent, timeout=30.0)
        assert (mask.height, mask.width, mask.header) == (72, 128, sent.header)
        assert client.diagnostics()[2]["weights"] == "lite"


def test_wrong_weights_leave_it_unconfigured_until_they_are_set(ros: None, tiny_weights: Path, tmp_path: Path):
    given = ["--ros-args", "-p", "weights:=no_such", "-p", f"weights_folder:={tiny_weights.parent}"]
    with node_and_client(given, tmp_path, wait=False) as (_, client, log):
        assert client.state() == "unconfigured"
        level, said, _ = client.diagnostics()
        assert (level, "no_such" in said) == (b"\2", True)
        assert "unknown weights 'no_such'" in log.read_text()
        assert not client.change("configure")
        for path in (str(log), f"https://example.org/a.safetensors#sha256={'0' * 64}"):
            assert "weights may become a shipped name" in client.set("weights", path).reason
        assert client.set("weights", str(tiny_weights)).successful
        assert client.change("configure")
        assert client.change("activate")
        client.ready()
        assert client.answer(client.message(np.zeros((32, 32, 3), np.uint8))) is not None


@pytest.mark.parametrize(
    "argument", ["reliability:=sometimes", "camera_height:=-1.0", "threshold:=high", "roi:=[0.5, 0.5]"]
)
def test_a_wrong_parameter_at_start_is_one_line_and_exit_code_1(ros: None, argument: str, tmp_path: Path):
    with running_node(["--ros-args", "-p", argument], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=60.0)
    assert process.returncode == 1
    assert said.startswith("error: mgcda_node cannot start")
    assert argument.split(":")[0] in said
    assert "Traceback" not in said


def test_autostart_false_waits_unconfigured_and_sigterm_ends_it(ros: None, tmp_path: Path):
    with node_and_client(["--ros-args", "-p", "autostart:=false"], tmp_path, wait=False) as (process, client, log):
        assert client.state() == "unconfigured"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20.0) == 0
        assert "Traceback" not in log.read_text()


def test_repeated_sigint_in_the_clean_up_is_still_exit_code_0(ros: None, tiny_weights: Path, tmp_path: Path):
    """ros2 launch sends SIGINT twice; a user sends it more often."""
    arguments = ["--ros-args", "-p", f"weights:={tiny_weights}"]
    with node_and_client(arguments, tmp_path) as (process, client, log):
        client.images.publish(client.message(np.zeros((480, 640, 3), np.uint8)))
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.returncode == 0
        assert "Traceback" not in log.read_text()


def test_a_frame_that_outlasts_the_end_is_still_exit_code_0(ros: None, tmp_path: Path):
    """The interpreter would abort (134) with a thread inside torch."""
    log = tmp_path / "node.log"
    client = Client()
    command = [sys.executable, "-c", STUCK]
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream, text=True) as node:
        try:
            wait_active(client, client.spinner, node, 60.0)
            client.ready()
            client.images.publish(client.message(np.zeros((32, 32, 3), np.uint8)))
            assert client.until(lambda: "in work" in log.read_text())
            node.send_signal(signal.SIGINT)
            assert node.wait(10.0) == 0, log.read_text()
        finally:
            node.kill()
            client.destroy_node()
    assert "did not end in time" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_is_exit_code_0_without_a_word(number: signal.Signals, tmp_path: Path):
    with running_node(cwd=tmp_path, stderr=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1:
            time.sleep(0.005)  # the interpreter starts: the handlers are not there yet
        assert "/cv2/" not in Path(f"/proc/{process.pid}/maps").read_text()  # one of the last imports
        process.send_signal(number)
        _, said = process.communicate(timeout=20.0)
    assert (process.returncode, said) == (0, "")
