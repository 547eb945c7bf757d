"""The node's services: ~/enable, ~/reload_model and ~/save_frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from mgcda_ros.loading import Loading
from mgcda_ros.saved_frames import SavedFrames, SaveError

if TYPE_CHECKING:
    from mgcda_ros.lifecycle_node import MgcdaNode


class Services:
    """Creates the services on `node`; `poll`, from a timer, answers those that wait for a network."""

    def __init__(self, node: MgcdaNode) -> None:
        self._node = node
        self._saved = SavedFrames(node.current.save_folder, node.current.save_limit)
        self._waiting: list[tuple[Loading, Future[None]]] = []
        node.create_service(SetBool, "~/enable", self._enable)
        reload_model: Any = self._reload_model  # rclpy takes coroutines, its annotation does not say so
        # A group of its own: it is busy while the coroutine waits, and the timer that wakes that is in the other one.
        own = MutuallyExclusiveCallbackGroup()
        node.create_service(Trigger, "~/reload_model", reload_model, callback_group=own)
        node.create_service(Trigger, "~/save_frame", self._save_frame)

    def poll(self) -> None:
        """Let the callers whose network is there, or will never come, go on."""
        for loading, future in self._waiting:
            if loading.done or loading.abandoned:
                future.set_result(None)
        self._waiting = [(loading, future) for loading, future in self._waiting if not future.done()]

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._node.enabled = request.data
        response.success = True
        response.message = "frames are processed" if request.data else "frames are not processed until ~/enable true"
        self._node.get_logger().info(response.message)
        return response

    async def _reload_model(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Answers once the weights are read anew; the executor serves others meanwhile."""
        try:
            loading = self._node.network.reload()
        except RuntimeError as error:
            response.success, response.message = False, str(error)
            return response
        future: Future[None] = Future(executor=self._node.executor)
        self._waiting.append((loading, future))
        await future
        predictor, error = loading.predictor, loading.error
        response.success = predictor is not None
        response.message = (
            f"{predictor.backend.name} sha256 {predictor.backend.sha256[:12]}" if predictor is not None
            else f"the present network stays: {error or 'the node was cleaned up meanwhile'}"
        )  # fmt: skip
        return response

    def _save_frame(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Saves the last frame of every camera."""
        node = self._node
        last = [(stream, stream.last) for stream in node.streams.values() if stream.last is not None]
        predictor = node.network.predictor
        facts = {"weights_sha256": predictor.backend.sha256} if predictor is not None else {}
        try:
            if not last:
                raise SaveError("no frame was processed yet: is the node active, and do images come?")
            paths = [str(self._saved.save(stream.name, frame, facts)) for stream, frame in last]
            response.success, response.message = True, ", ".join(paths)
        except (SaveError, ValueError) as error:
            response.success, response.message = False, str(error)
            node.get_logger().warning(str(error))
        return response
