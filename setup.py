"""Installs the ament_python package `mgcda_ros` and the ROS-free `mgcda_core` beside it."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "mgcda_ros"

train = ["lightning-fabric>=2.4", "jsonargparse[signatures]>=4.49", "tensorboardX", "pycocotools"]
evaluate = ["jsonargparse[signatures]>=4.49", "matplotlib", "h5py", "rich"]
export = ["onnx>=1.16", "onnxscript", "onnxruntime"]
bag = ["rosbags>=0.10"]
test = ["pytest", "pytest-timeout", "hypothesis", "scikit-learn"]
dev = ["ruff", "pyright", "import-linter"]


def files(folder: str, *endings: str) -> list[str]:
    """Sorted paths of `folder`, relative to this file: colcon runs it with the package as working directory."""
    return sorted(str(path) for path in Path(folder).iterdir() if path.suffix in endings)


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Anomaly segmentation for driving: PyTorch chain, commands and a ROS 2 node",
    license="Apache-2.0",
    maintainer="mgcda_ros maintainers",
    maintainer_email="maintainers@mgcda-ros.invalid",
    python_requires=">=3.10",
    packages=find_packages(include=["mgcda_ros", "mgcda_ros.*", "mgcda_core", "mgcda_core.*"]),
    package_data={
        "mgcda_core": [
            "py.typed",
            "weights/*.safetensors",
            "weights/*.json",
            "weights/*.md",
            "weights/*.onnx",
            "evaluation/report_page/*",
        ],
        "mgcda_ros": ["py.typed"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", files("launch", ".py", ".xml")),
        (f"share/{PACKAGE}/config", files("config", ".yaml", ".xml", ".rviz", ".json")),
    ],
    # PyTorch is left out on purpose: on a Jetson it is NVIDIA's wheel, elsewhere `pip install torch`.
    install_requires=["numpy", "scipy", "pyyaml", "safetensors", "opencv-python-headless"],
    extras_require={
        "train": train,
        "eval": evaluate,
        "export": export,
        "tensorrt": ["tensorrt", "onnx>=1.16"],
        "tensorrt-rtx": ["tensorrt-rtx", "onnx>=1.16"],
        "bag": bag,
        "bench": ["pillow"],  # the published composition resizes with it
        "hf": ["transformers"],
        "test": test,  # colcon test runs pytest only if it finds it here
        "dev": [*train, *evaluate, *export, *bag, *test, *dev],
    },
    zip_safe=False,
    entry_points={"console_scripts": ["mgcda_node = mgcda_ros.node:main", "mgcda = mgcda_core.cli:main"]},
)
