"""The core's log lines (which backend runs, and why not another) in the node's log."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


def forward_core_log(logger: RcutilsLogger) -> None:
    """From here on mgcda_core logs to `logger`, from level INFO on."""
    core = logging.getLogger("mgcda_core")
    core.setLevel(logging.INFO)
    core.handlers = [_Forward(logger)]


class _Forward(logging.Handler):
    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR:  # rclpy wants a line of code of its own for each severity
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
