"""Two processes: the real node over DDS, with tiny weights (mechanics, no figures)."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from node_client import Client, stamp_of
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker

from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount
from mgcda_core.inference.encodings import from_rgb
from mgcda_ros.image_input import ImageInput

pytestmark = pytest.mark.ros
HEIGHT, WIDTH = 48, 70


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def pixels(message: Image, dtype: str = "u1") -> np.ndarray:
    return np.frombuffer(bytes(message.data), dtype).reshape(message.height, message.width)


def test_mask_has_the_size_and_header_of_the_image(client: Client):
    sent = client.message(picture(), "bgr8")
    mask = client.answer(sent)
    assert mask is not None, "no mask came"
    assert mask.header == sent.header
    assert (mask.height, mask.width, mask.step, mask.encoding) == (HEIGHT, WIDTH, WIDTH, "mono8")
    assert len(mask.data) == HEIGHT * WIDTH
    assert set(np.unique(pixels(mask))) <= {0, 255}


def test_encodings_and_row_padding_do_not_change_the_score(client: Client):
    subscription = client.listen("score", Image)
    assert client.until(lambda: client.count_publishers("/mgcda_node/score"))
    client.until(lambda: False, 0.3)
    grey = np.repeat(picture(1)[..., :1], 3, axis=2)
    cases = [
        (picture(), [("rgb8", None), ("bgr8", None), ("bgr8", WIDTH * 3 + 13)]),
        (grey, [("rgb8", None), ("mono8", None), ("mono8", WIDTH + 9)]),
    ]
    for image, encodings in cases:
        answers = [client.answer(client.message(image, *encoding), "score") for encoding in encodings]
        scores = [pixels(answer, "<f4") for answer in answers]
        assert scores[0].std() > 0.0
        assert 0.0 <= scores[0].min() <= scores[0].max() <= 1.0
        for score in scores[1:]:
            np.testing.assert_array_equal(score, scores[0])
    client.destroy_subscription(subscription)


def test_overlay_comes_only_to_those_who_subscribe(client: Client):
    subscription = client.listen("overlay", Image)
    client.until(lambda: client.count_publishers("/mgcda_node/overlay"))
    client.until(lambda: False, 0.3)
    sent = client.message(picture())
    overlay = client.answer(sent, "overlay")
    assert overlay.header == sent.header
    assert (overlay.encoding, overlay.step, len(overlay.data)) == ("bgr8", WIDTH * 3, WIDTH * 3 * HEIGHT)
    assert client.set("overlay_alpha", 0.0).successful
    plain = client.answer(client.message(picture()), "overlay")
    np.testing.assert_array_equal(np.frombuffer(bytes(plain.data), np.uint8), from_rgb(picture(), "bgr8")[0])
    assert client.set("overlay_alpha", 1.0).successful
    client.destroy_subscription(subscription)


def test_threshold_changes_at_run_time_and_hazards_begin_with_deleteall(client: Client):
    """Threshold 0 masks everything: one region, which ends at the lower edge of the image."""
    try:
        assert client.set("threshold", 0.0).successful
        sent = client.message(picture())
        assert pixels(client.answer(sent)).min() == 255
        markers = client.answer(sent, "hazards").markers
        assert [m.action for m in markers] == [Marker.DELETEALL, *[Marker.ADD] * 3]
        assert [m.type for m in markers[1:]] == [Marker.CUBE, Marker.TEXT_VIEW_FACING, Marker.LINE_LIST]
        assert {m.header.frame_id for m in markers} == {"base_link"}
        assert all(m.header.stamp == sent.header.stamp for m in markers)
        assert all(m.lifetime.nanosec == 500_000_000 for m in markers[1:])
        assert client.set("threshold", 1.0).successful
        sent = client.message(picture())
        assert pixels(client.answer(sent)).max() == 0
        assert [m.action for m in client.answer(sent, "hazards").markers] == [Marker.DELETEALL]
    finally:
        assert client.set("threshold", -1.0).successful


def test_hazards_are_published_once_they_are_confirmed(client: Client):
    """In two of three frames; whole pictures of the same place, a tenth of a second apart."""
    assert client.set("confirm_hits", 2).successful
    assert client.set("threshold", 0.0).successful
    try:
        counts = []
        for tenth in range(3):
            message = client.message(picture())
            message.header.stamp = Time(sec=1000, nanosec=tenth * 100_000_000)
            counts.append(sum(m.type == Marker.CUBE for m in client.answer(message, "hazards").markers[1:]))
        assert counts == [0, 1, 1]
    finally:
        assert client.set("threshold", -1.0).successful
        assert client.set("confirm_hits", 1).successful


def test_crop_top_changes_at_run_time(client: Client):
    """Threshold 1e-9 masks whatever is looked at."""
    try:
        assert client.set("threshold", 1e-9).successful
        for share, top in ((0.5, HEIGHT // 2), (0.0, 0)):
            assert client.set("crop_top", share).successful
            mask = pixels(client.answer(client.message(picture())))
            assert not mask[:top].any()
            assert mask[top:].all()
    finally:
        assert client.set("threshold", -1.0).successful


def test_hazards_stand_where_the_cameras_geometry_says(client: Client):
    """Without CameraInfo the field of view counts; with it (here of twice the image's size) its K, scaled."""
    assert client.set("threshold", 0.0).successful
    try:
        guess = Lens.from_field_of_view((HEIGHT, WIDTH), 1.2)
        known = Lens(200.0, 200.0, 80.0, 30.0).scaled(0.5, 0.5)
        info = CameraInfo(height=HEIGHT * 2, width=WIDTH * 2, k=[200.0, 0.0, 80.0, 0.0, 200.0, 30.0, 0.0, 0.0, 1.0])
        for lens, message in ((guess, CameraInfo()), (known, info)):
            client.infos.publish(message)  # the first one is not calibrated: K is zero
            client.until(lambda: False, 0.3)
            client.stamp += 10  # after such a gap nothing is followed: the place is this frame's alone
            cube = client.answer(client.message(picture()), "hazards").markers[1]
            foot = np.array([[(WIDTH - 1) / 2, HEIGHT - 0.5]])
            x, y, _ = Camera(lens, Mount.from_angles(2.0)).road_points(foot)[0]
            assert (cube.pose.position.x, cube.pose.position.y) == pytest.approx((x, y), rel=1e-6)
            assert cube.pose.position.z == pytest.approx(cube.scale.z / 2)
    finally:
        assert client.set("threshold", -1.0).successful


def test_camera_info_that_was_sent_once_and_kept_reaches_who_comes_later(client: Client):
    """Beside a publisher that does not keep its own, those of both are heard from then on."""
    info = CameraInfo(height=HEIGHT, width=WIDTH, k=[50.0, 0.0, 35.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0])
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    keeps = client.create_publisher(CameraInfo, "other/camera_info", latched)
    keeps.publish(info)
    camera = ImageInput(client, "other", lambda _: None)
    camera.open("raw", "auto")

    def informed() -> bool:
        camera.follow_publishers("auto")
        return camera.camera_info is not None

    assert client.until(informed)
    camera.camera_info = None
    plain = client.create_publisher(CameraInfo, "other/camera_info", 5)
    assert client.until(lambda: plain.publish(info) or informed())
    camera.close()
    for publisher in (keeps, plain):
        client.destroy_publisher(publisher)


def test_an_id_is_never_given_again_while_the_node_runs(client: Client):
    def first_id() -> int:
        return client.answer(client.message(picture()), "hazards").markers[1].id

    assert client.set("threshold", 0.0).successful
    try:
        ids = [first_id()]
        for timeout in (0.4, 0.5):  # another tracker each time
            assert client.set("track_timeout", timeout).successful
            ids.append(first_id())
        assert client.change("deactivate")
        assert client.change("activate")
        client.ready()
        ids.append(first_id())
    finally:
        assert client.set("threshold", -1.0).successful
    assert ids == sorted(set(ids))


BAD = {
    "short": ("data holds", {"data": b"\0" * 10}),
    "encoding": ("encoding 'rgb565' needs cv_bridge", {"encoding": "rgb565"}),
    "step": ("step is 3 bytes", {"step": 3}),
    "empty": ("0x0", {"height": 0, "width": 0, "step": 0, "data": b""}),
    "one pixel": ("1x1", {"height": 1, "width": 1, "step": 3, "data": b"\0\0\0"}),
}


def test_bad_images_are_counted_and_named_and_the_node_lives(client: Client):
    _, _, before = client.diagnostics()
    for index, (text, fields) in enumerate(BAD.values()):
        message = client.message(picture())
        for name, value in fields.items():
            setattr(message, name, value)
        client.images.publish(message)
        count = int(before["errors"]) + index + 1
        level, said, _ = client.diagnostics(lambda values, count=count: int(values["errors"]) == count)
        assert level != b"\0"
        assert text in said
        assert "/image" in said
    assert client.answer(client.message(picture())) is not None


def test_subscription_follows_the_publishers_reliability(client: Client):
    best_effort = client.publisher(ReliabilityPolicy.BEST_EFFORT)
    client.diagnostics(lambda values: values["reliability"] == "best_effort")
    client.until(best_effort.get_subscription_count)
    client.until(lambda: False, 0.3)
    for publisher in (best_effort, client.images):
        assert client.answer(client.message(picture()), publisher=publisher) is not None
    client.destroy_publisher(best_effort)
    client.diagnostics(lambda values: values["reliability"] == "reliable")
    client.until(client.images.get_subscription_count)
    client.until(lambda: False, 0.3)
    assert client.answer(client.message(picture())) is not None


def test_diagnostics_hold_rates_latency_and_weights(client: Client):
    for seed in range(3):
        client.answer(client.message(picture(seed)))
    _, _, values = client.diagnostics(lambda values: values["latency_p50_ms"] != "n/a")
    assert float(values["input_hz"]) > 0.0
    assert float(values["output_hz"]) > 0.0
    assert 0.0 < float(values["latency_p50_ms"]) <= float(values["latency_p95_ms"])
    assert int(values["masks_out"]) <= int(values["frames_in"])
    assert len(values["weights_sha256"]) == 64
    assert (values["device"], values["state"], values["precision"]) == ("cpu", "active", "fp32")


def test_parameters_out_of_range_or_fixed_are_refused(client: Client):
    assert "range" in client.set("threshold", 1.5).reason
    assert "allowed are auto, reliable, best_effort" in client.set("reliability", "sometimes").reason
    assert "deactivate and clean it up first" in client.set("weights", "other").reason


def test_lifecycle_there_and_back(client: Client):
    assert client.state() == "active"
    assert client.change("deactivate")
    assert client.answer(client.message(picture()), timeout=0.7) is None
    assert client.change("activate")
    client.ready()
    assert client.answer(client.message(picture())) is not None
    assert client.change("deactivate")
    assert client.change("cleanup")
    assert client.state() == "unconfigured"
    assert client.until(lambda: client.count_publishers("/mgcda_node/mask") == 0)
    assert client.change("configure")
    assert client.change("activate")
    client.ready()
    sent = client.message(picture())
    assert client.answer(sent) is not None
    assert stamp_of(client.answer(sent, "hazards")) == sent.header.stamp
