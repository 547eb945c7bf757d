"""Starts the real node in its own process on the loopback, waits until it is active, stops it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future

PROFILE = "fastdds_large_images.xml"
FAST_DDS_2 = ("humble", "iron", "jazzy")
"""ROS distributions whose Fast DDS reads another variable; Fast DDS 3 warns about that one."""
NODE_NAME = "/mgcda_node"
STOP_TIMEOUT_S = 40.0
ASK_PERIOD_S = 2.0


class NodeProcessError(RuntimeError):
    """The node process did not start, become active or end as it should."""


def dds_profile() -> Path:
    """config/fastdds_large_images.xml of this checkout or installation. Raises FileNotFoundError."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / "config", parent / "share" / "mgcda_ros" / "config"):
            if (folder / PROFILE).is_file():
                return folder / PROFILE
    raise FileNotFoundError(f"{PROFILE} is in no config folder above {__file__}: install the package again")


def isolate(domain: int | None = None) -> int:
    """Keep this process and its children on the loopback in a ROS domain of their own; call it before rclpy.init.

    Returns the domain: the given one, or one in 1..100 drawn at random, so that two runs do not hear each other.
    """
    domain = random.SystemRandom().randint(1, 100) if domain is None else domain
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    library = "FASTRTPS" if os.environ.get("ROS_DISTRO") in FAST_DDS_2 else "FASTDDS"
    os.environ[f"{library}_DEFAULT_PROFILES_FILE"] = str(dds_profile())
    return domain


@contextmanager
def running_node(
    arguments: Sequence[str] = (), program: Sequence[str] = ("-m", "mgcda_ros.node"), **popen: Any
) -> Iterator[subprocess.Popen[str]]:
    """`python -m mgcda_ros.node ARGUMENTS` as a child process; killed at the end if it is still there.

    `program` is what Python runs instead. Further keywords go to subprocess.Popen (cwd, stderr ...).
    """
    command = [sys.executable, *program, *arguments]
    root = str(Path(__file__).absolute().parents[1])  # the child imports this very package, whatever its directory
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process: subprocess.Popen[str] = subprocess.Popen(
        command, text=True, env={**os.environ, "PYTHONPATH": path}, **popen
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_active(node: Node, executor: Executor, process: subprocess.Popen[str], timeout: float = 120.0) -> None:
    """Block until the node is active; `executor` is the one that `node` is in.

    With autostart the node answers its first service call after it has tried to activate: any other state is failure.
    Raises NodeProcessError if it ends, fails to configure, or takes longer than `timeout` seconds.
    """
    client = node.create_client(GetState, f"{NODE_NAME}/get_state")
    due = time.monotonic()
    deadline = due + timeout
    future: Future[GetState.Response] | None = None
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NodeProcessError(f"mgcda_node ended with exit code {process.returncode} at start; see its log")
            if time.monotonic() >= due and client.service_is_ready():
                # Asked again: a node that died before may still be known, and what it was asked is lost.
                future, due = client.call_async(GetState.Request()), time.monotonic() + ASK_PERIOD_S
            executor.spin_once(timeout_sec=0.1)
            response = future.result() if future is not None and future.done() else None
            if response is not None:
                break
        else:
            raise NodeProcessError(f"mgcda_node is not active after {timeout:.0f} s")
    finally:
        node.destroy_client(client)
    if response.current_state.label != "active":
        raise NodeProcessError(f"mgcda_node is {response.current_state.label}: it could not start; see its log")


def stop_node(process: subprocess.Popen[str], number: int = signal.SIGINT, timeout: float = STOP_TIMEOUT_S) -> int:
    """End the node with a signal and give its exit code. Raises NodeProcessError if it does not end in time."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise NodeProcessError(f"mgcda_node did not end within {timeout:.0f} s after signal {number}") from None
