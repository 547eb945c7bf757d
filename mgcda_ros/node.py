"""The node's process: signals, start, spin and end of `mgcda_node` and `python -m mgcda_ros.node`.

Nothing heavy is imported before `main` has its signal handlers: torch and rclpy take seconds to import.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.executors import SingleThreadedExecutor

    from mgcda_ros.lifecycle_node import MgcdaNode

SIGNAL_POLL_S = 0.2


class _Signals:
    """SIGINT and SIGTERM raise a flag; they end the imports at once, and the loading of weights by KeyboardInterrupt.

    rclpy's own handlers stay out: after theirs the context is gone in the middle of a callback, and the second SIGINT,
    which `ros2 launch` sends while the first is served, kills the process.
    """

    def __init__(self) -> None:
        self.stop = False
        self.importing = True
        self.node: MgcdaNode | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.importing:
            os._exit(0)  # nothing to close yet; an exception would have to pass through imports that catch everything
        first, self.stop = not self.stop, True
        if first and self.node is not None and self.node.loading:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From here on signals do nothing, to the end of the process (the interpreter would reset our handlers)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM: exit code 0. Wrong parameters at start: one line on stderr, exit code 1."""
    signals = _Signals()
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from mgcda_ros.lifecycle_node import MgcdaNode

    signals.importing = False
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = signals.node = MgcdaNode()
    except Exception as error:
        print(f"error: mgcda_node cannot start: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if not signals.stop:
            node.start()
        while rclpy.ok() and not signals.stop:
            _spin_once(executor, node)
    except KeyboardInterrupt:
        pass
    signals.ignore()
    node.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown(uninstall_handlers=False)  # else it would restore the default handler, which kills
    if node.stuck:  # a thread that is inside torch aborts the interpreter when that ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _spin_once(executor: SingleThreadedExecutor, node: MgcdaNode) -> None:
    from rclpy.executors import ExternalShutdownException

    try:
        executor.spin_once(timeout_sec=SIGNAL_POLL_S)
    except ExternalShutdownException:
        pass
    except Exception as error:  # one callback that fails must not end the node
        node.report(error)


if __name__ == "__main__":
    sys.exit(main())
