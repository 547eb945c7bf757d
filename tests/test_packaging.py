"""The installed package: everything is in it, and it predicts from there, not from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "LICENSE")
FOLDERS = ("mgcda_core", "mgcda_ros", "launch", "config", "resource")
EXEC_DEPEND = """
    rclpy sensor_msgs std_msgs std_srvs visualization_msgs diagnostic_msgs geometry_msgs lifecycle_msgs rcl_interfaces
    builtin_interfaces tf2_ros_py cv_bridge launch launch_ros launch_xml ros2bag
    python3-numpy python3-opencv python3-scipy python3-yaml
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a copy of the project installed by pip, without the network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return target


def python(installed: Path, cwd: Path, code: str) -> str:
    """Standard output of `code`, run with the installed copy first on the path and outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_lite_predicts_from_the_installed_copy(installed: Path, tmp_path: Path):
    code = (
        "import numpy as np, mgcda_core\n"
        "image = np.random.default_rng(0).integers(0, 256, (90, 161, 3), np.uint8)\n"
        "prediction = mgcda_core.load('lite', device='cpu')(image)\n"
        "print(mgcda_core.__file__, prediction.score.shape, prediction.mask.dtype)"
    )
    where, rest = python(installed, tmp_path, code).split(" ", 1)
    assert Path(where).is_relative_to(installed)
    assert rest == "(90, 161) bool"


def test_the_installed_node_finds_its_files(installed: Path, tmp_path: Path):
    code = "import mgcda_ros.node, mgcda_ros.node_process as p; print(mgcda_ros.node.__file__, p.dds_profile())"
    node, profile = python(installed, tmp_path, code).split()
    assert Path(node).is_relative_to(installed)
    assert Path(profile) == installed / "share" / "mgcda_ros" / "config" / "fastdds_large_images.xml"


def test_every_file_ros_looks_for_is_installed(installed: Path):
    share = installed / "share" / "mgcda_ros"
    assert (installed / "share/ament_index/resource_index/packages/mgcda_ros").is_file()
    shared = [*(ROOT / "launch").iterdir(), *(ROOT / "config").iterdir(), ROOT / "package.xml"]
    expected = [path.relative_to(ROOT) for path in shared if path.is_file()]
    assert {"mgcda.launch.xml", "cyclonedds.xml", "mgcda.rviz", "foxglove_layout.json"} <= {p.name for p in expected}
    assert [str(name) for name in expected if not (share / name).is_file()] == []
    for package in ("mgcda_core", "mgcda_ros"):
        assert (installed / package / "py.typed").is_file()
    shipped = {path.name for path in (ROOT / "mgcda_core/weights").iterdir() if path.suffix != ".py" and path.is_file()}
    assert {"lite.safetensors", "lite.json"} <= shipped
    assert shipped <= {path.name for path in (installed / "mgcda_core/weights").iterdir()}
    modules = {path.relative_to(ROOT) for name in FOLDERS[:2] for path in (ROOT / name).rglob("*.py")}
    assert [str(module) for module in sorted(modules) if not (installed / module).is_file()] == []
    assert not (installed / "tests").exists()


def test_the_commands_are_installed(installed: Path, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    assert (installed / "bin" / "mgcda_node").is_file()
    done = subprocess.run(
        [sys.executable, installed / "bin" / "mgcda", "--help"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_package_xml_and_setup_agree():
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    setup = (ROOT / "setup.py").read_text()
    assert root.get("format") == "3"
    assert [node.text for node in root.findall("exec_depend")] == EXEC_DEPEND.split()
    assert root.findtext("export/build_type") == "ament_python"
    name, version = root.findtext("name"), root.findtext("version")
    assert f'PACKAGE = "{name}"' in setup
    assert (ROOT / "resource" / str(name)).is_file()
    from mgcda_core import __version__

    assert re.findall(r'version="([^"]+)"', setup) == [version] == [__version__]


def test_pyproject_holds_tool_settings_only():
    """A [project] or [build-system] table would override setup.py under colcon, without a word."""
    tables = re.findall(r"^\[+([^\].]+)", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(tables) == {"tool"}
