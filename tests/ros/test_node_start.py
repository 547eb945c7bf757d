"""How the node starts and ends: no parameters, wrong parameters, wrong weights, signals."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from node_client import node_and_client

from mgcda_ros.node_process import running_node

pytestmark = pytest.mark.ros


def test_without_parameters_it_loads_lite_from_any_directory(ros: None, tmp_path: Path):
    with node_and_client([], tmp_path) as (_, client, _):
        sent = client.message(np.full((72, 128, 3), 120, np.uint8))
        mask = client.answer(sent, timeout=30.0)
        assert (mask.height, mask.width, mask.header) == (72, 128, sent.header)
        assert client.diagnostics()[2]["weights"] == "lite"


def test_wrong_weights_leave_it_unconfigured_until_they_are_set(ros: None, tiny_weights: Path, tmp_path: Path):
    with node_and_client(["--ros-args", "-p", "weights:=no_such"], tmp_path, wait=False) as (_, client, log):
        assert client.state() == "unconfigured"
        level, said, _ = client.diagnostics()
        assert (level, "no_such" in said) == (b"\2", True)
        assert "unknown weights 'no_such'" in log.read_text()
        assert not client.change("configure")
        assert client.set("weights", str(tiny_weights)).successful
        assert client.change("configure")
        assert client.change("activate")
        client.ready()
        assert client.answer(client.message(np.zeros((32, 32, 3), np.uint8))) is not None


@pytest.mark.parametrize("argument", ["reliability:=sometimes", "camera_height:=-1.0", "threshold:=high"])
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
