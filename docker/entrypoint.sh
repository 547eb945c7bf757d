#!/bin/bash
# Runs its arguments with ROS 2, the workspace and the environment that holds PyTorch.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ws/install/local_setup.bash
export PATH="/opt/venv/bin:$PATH"
exec "$@"
