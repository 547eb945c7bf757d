"""One run of the network over the newest frames of the cameras, from messages to published masks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mgcda_core.inference.predictor import Predictor
from mgcda_ros.camera_stream import Described, Frame
from mgcda_ros.network import Network
from mgcda_ros.node_parameters import NodeParameters


def infer(
    frames: list[Frame], predictor: Predictor, network: Network, now: NodeParameters, stopping: Callable[[], bool]
) -> list[Described]:
    """Predict the frames, those of one size together, and publish their masks; what is left to describe of them.

    A frame that cannot be decoded or predicted is counted and reported by its camera, the others go on. Nothing more is
    published once `stopping()`. `network` hears of runs that fail for another reason than their images.
    """
    begun = time.monotonic()
    predictor.threshold = predictor.config.threshold if now.own_threshold is None else now.own_threshold
    predictor.scale = "network" if now.mask_scale == "network" else "input"
    groups: dict[tuple[tuple[int, ...], float], list[tuple[Frame, np.ndarray]]] = {}
    for frame in frames:
        image = frame.stream.decode(frame)
        if image is not None:
            groups.setdefault((image.shape, frame.stream.parameters.crop_top), []).append((frame, image))
    described = []
    for (_, crop_top), group in groups.items():
        predictor.crop_top = crop_top
        try:
            predictions = predictor.batch([image for _, image in group])
        except Exception as error:
            if not isinstance(error, ValueError) and not stopping():  # then it is not the image that is wrong
                network.failed(error)
            for frame, _ in group:
                frame.stream.report(error)
            continue
        network.worked()
        for (frame, image), prediction in zip(group, predictions, strict=True):
            if stopping():
                frame.stream.statistics.dropped()
                continue
            try:
                described.append(frame.stream.answer(frame, image, prediction, now, begun))
            except Exception as error:  # a camera that fails must not take the others' masks
                frame.stream.report(error)
    return described
