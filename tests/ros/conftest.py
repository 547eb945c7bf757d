"""A real node in its own process, on the loopback and in a domain of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from node_client import Client, node_and_client

from mgcda_ros.node_process import isolate


@pytest.fixture(scope="session")
def ros() -> Iterator[None]:
    isolate()
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="module")
def running(
    ros: None, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], Client, Path]]:
    """One node with tiny weights for a whole module."""
    folder = tmp_path_factory.mktemp("node")
    arguments = ["--ros-args", "-p", f"weights:={tiny_weights}", "-p", "camera_height:=2.0", "-p", "confirm_hits:=1"]
    with node_and_client([*arguments, "-p", f"weights_folder:={folder}"], folder) as parts:
        yield parts


@pytest.fixture()
def client(running: tuple[subprocess.Popen[str], Client, Path]) -> Client:
    return running[1]
