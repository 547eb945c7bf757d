"""Two processes: the real node over DDS, with tiny weights (mechanics, no figures)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest_ros import Client
