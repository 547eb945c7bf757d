"""One run of the network over the newest frames of the cameras, from messages to published masks."""

from __future__ import annotations

import time

import numpy as np

from mgcda_core.inference.predictor import Predictor
from mgcda_core.prediction import Prediction
from mgcda_ros.camera_stream import Described, Frame
from mgcda_ros.latest_frame import FrameWorker
from mgcda_ros.network import Network
from mgcda_ros.node_parameters import NodeParameters


def infer(
    frames: list[Frame], predictor: Predictor, network: Network, now: NodeParameters, worker: FrameWorker[Frame]
) -> list[Described]:
    """Predict the frames, those of one size together, and publish their masks; what is left to describe of them.

    A frame that cannot be decoded or predicted is counted and reported by its camera, the others go on. Nothing more is
    published once `worker`, whose thread this is, stops. `network` hears of runs that fail for another reason than
    their images.
    """
    begun = time.monotonic()
    predictor.threshold = predictor.config.threshold if now.own_threshold is None else now.own_threshold
    predictor.scale = now.scale
    groups: dict[tuple[tuple[int, ...], float], list[tuple[Frame, np.ndarray]]] = {}
    for frame in frames:
        image = frame.stream.decode(frame)
        if image is not None:
            groups.setdefault((image.shape, frame.stream.parameters.crop_top), []).append((frame, image))
    described: list[Described] = []
    most = predictor.backend.max_batch  # another one may have taken over since the frames came together
    for (_, crop_top), group in groups.items():
        predictor.crop_top = crop_top
        for first in range(0, len(group), most):
            described += _answered(group[first : first + most], predictor, network, now, worker, begun)
    return described


def _answered(
    group: list[tuple[Frame, np.ndarray]],
    predictor: Predictor,
    network: Network,
    now: NodeParameters,
    worker: FrameWorker[Frame],
    begun: float,
) -> list[Described]:
    """What is left to describe of frames of one size, no more than the backend takes, once their masks are out."""
    try:
        predictions = _predicted([image for _, image in group], predictor, network, worker)
    except Exception as error:
        for frame, _ in group:
            frame.fail(error)
        return []
    described = []
    for (frame, image), prediction in zip(group, predictions, strict=True):
        if worker.stopping:
            frame.drop()
            continue
        try:
            described.append(frame.stream.answer(frame, image, prediction, now, begun))
        except Exception as error:  # a camera that fails must not take the others' masks
            frame.fail(error)
    return described


def _predicted(
    images: list[np.ndarray], predictor: Predictor, network: Network, worker: FrameWorker[Frame]
) -> list[Prediction]:
    """One run of the network, which the watchdog times alone."""
    height, width = predictor.seen_size((images[0].shape[0], images[0].shape[1]))
    worker.begin_step(network.grace_s(predictor, (len(images), height, width)))
    try:
        predictions = predictor.batch(images)
    except Exception as error:
        if not isinstance(error, ValueError) and not worker.stopping:  # then it is not the image that is wrong
            network.failed(error)
        raise
    finally:
        worker.begin_step()
    if not worker.stopping:
        network.worked()
    return predictions
