"""The drawing surface of the rendered scenes: pinhole camera, textured quads in the world, multi-scale noise.

World axes are those of REP-103 base_link: x forward, y left, z up, in metres; the flat road is z = 0 and the camera
stands at (0, 0, height). Pixel (u, v) = (0, 0) is the centre of the top left pixel. Textures are uint8 [h, w, 4] RGBA
with premultiplied alpha, so that their edges blend without dark fringes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

NEAR_M = 0.4
"""Nothing closer to the camera plane than this is drawn."""
_KEEP = np.array([(0, 0, 0, -1 / 255, 1)] * 3)  # RGBA -> 1 - alpha, three times


@dataclass(frozen=True)
class RenderedCamera:
    """Pinhole intrinsics and mounting of the camera that sees a rendered scene."""

    fx: float
    fy: float
    """Focal lengths in pixels."""
    cx: float
    cy: float
    """Principal point in pixels."""
    height_m: float
    """Height of the optical centre above the road."""
    pitch_rad: float
    """Downward tilt; positive = looking down."""

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """float64 [3, 4] projection of homogeneous world points to homogeneous pixels; the third row is the depth."""
        c, s = np.cos(self.pitch_rad), np.sin(self.pitch_rad)
        rotation = np.array([[0.0, -1.0, 0.0], [-s, 0.0, -c], [c, 0.0, -s]])
        intrinsics = np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])
        return intrinsics @ np.c_[rotation, -rotation @ (0.0, 0.0, self.height_m)]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, 2] and depths [N] in metres of world points [N, 3]; pixels mean nothing where depth <= 0."""
        h = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        depth = h[:, 2]
        return h[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth

    @property
    def horizon(self) -> float:
        """Pixel row of the horizon (may lie outside the image)."""
        return self.cy - self.fy * float(np.tan(self.pitch_rad))


class Texture:
    """A picture with its halvings, so that a small view of it costs little; uint8 [h, w] or [h, w, 4]."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.levels = [np.ascontiguousarray(pixels)]

    @property
    def pixels(self) -> np.ndarray:
        """The full picture."""
        return self.levels[0]

    @functools.cached_property
    def alpha(self) -> Texture:
        """Its opacity alone, uint8 [h, w]."""
        return Texture(self.pixels[..., 3])

    @functools.cached_property
    def flipped(self) -> Texture:
        """Mirrored left to right."""
        return Texture(self.pixels[:, ::-1])

    def shrunk(self, width: int, height: int) -> np.ndarray:
        """The picture reduced by area to about this size, each axis by itself: distant detail must not alias."""
        level = 0
        while min(self.levels[level].shape[:2]) >= 4:
            if len(self.levels) == level + 1:
                h, w = self.levels[level].shape[:2]
                self.levels.append(
                    cv2.resize(self.levels[level], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA)
                )
            if self.levels[level + 1].shape[1] < width or self.levels[level + 1].shape[0] < height:
                break
            level += 1
        picture = self.levels[level]
        h, w = picture.shape[:2]
        wanted = min(w, max(2, width)), min(h, max(2, height))
        if wanted[0] * 1.4 > w and wanted[1] * 1.4 > h:
            return picture
        return cv2.resize(picture, wanted, interpolation=cv2.INTER_AREA)


@dataclass
class Canvas:
    """Image, labels and anomaly mask under construction, painted from far to near."""

    camera: RenderedCamera
    image: np.ndarray
    """float32 [H, W, 3] RGB in about [0, 1]."""
    labels: np.ndarray
    """uint8 [H, W] Cityscapes train ids."""
    anomaly: np.ndarray
    """uint8 [H, W], 1 = anomaly."""
    ids: np.ndarray
    """uint16 [H, W] number of the thing seen in each pixel, 0 = ground and sky."""
    haze_colour: np.ndarray
    """float32 [3]."""
    haze_per_m: float
    number: int = 0
    """Number of the thing being painted."""

    def haze(self, depth_m: float) -> float:
        """Share of the light that the haze replaces over this distance, in [0, 1)."""
        return float(1.0 - np.exp(-self.haze_per_m * max(depth_m, 0.0)))

    def quad(
        self,
        corners: np.ndarray,
        texture: Texture,
        label: int,
        light: np.ndarray | float = 1.0,
        *,
        anomaly: bool = False,
        snug: bool = False,
    ) -> None:
        """Paint a texture onto a world quad; where it covers more than half a pixel, the pixel takes the label.

        corners: float [4, 3], the texture's top left, top right, bottom right, bottom left. light: factor on the
        colour. snug: texel centres meet the corners (no seam to a neighbouring quad) instead of texel edges.
        """
        warped = self.warp(corners, texture, snug=snug)
        if warped is None:
            return
        (x, y, w, h), patch, depth = warped
        hazed = self.haze(depth)
        part = (slice(y, y + h), slice(x, x + w))
        mix = np.zeros((3, 4))  # RGBA -> lit and hazed RGB
        mix[(0, 1, 2), (0, 1, 2)] = light * np.float32((1 - hazed) / 255)
        mix[:, 3] = self.haze_colour * (hazed / 255)
        picture = patch.astype(np.float32)
        image = self.image[part]
        image *= cv2.transform(picture, _KEEP)
        image += cv2.transform(picture, mix)
        solid = patch[..., 3] > 127
        self.labels[part][solid] = label
        self.anomaly[part][solid] = anomaly
        self.ids[part][solid] = self.number

    def warp(
        self, corners: np.ndarray, texture: Texture, *, snug: bool = False
    ) -> tuple[tuple[int, int, int, int], np.ndarray, float] | None:
        """The texture as the camera sees it: box (x, y, w, h), patch [h, w(, C)], nearest depth in metres; or None."""
        corners = np.asarray(corners, float)
        height, width = self.labels.shape
        pixels, depth = self.camera.project(corners)
        polygon, clipped = pixels, bool(depth.min() < NEAR_M)
        if clipped:
            polygon = _clip(corners, depth, self.camera)
            if polygon is None:
                return None
        x0, y0 = np.floor(polygon.min(0) - 1).astype(int)
        x1, y1 = np.ceil(polygon.max(0) + 2).astype(int)
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            return None
        picture = texture.pixels
        if not clipped:
            top, right, bottom, left = np.hypot(*(pixels[[1, 2, 3, 0]] - pixels).T)
            if max(top, bottom) < 0.6 or max(left, right) < 0.6:
                return None
            picture = texture.shrunk(int(max(top, bottom)) + 1, int(max(left, right)) + 1)
        to_image = _homography(corners, pixels, picture.shape[:2], self.camera, clipped, snug)
        if to_image is None:
            return None
        shift = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0], [0.0, 0.0, 1.0]])
        patch = cv2.warpPerspective(picture, shift @ to_image, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        if clipped:  # beyond the camera plane the homography shows the mirrored rest of the plane
            mask = np.zeros(patch.shape[:2], np.uint8)
            cv2.fillConvexPoly(mask, np.round(polygon - (x0, y0)).astype(np.int32), 1)
            patch = patch * (mask if patch.ndim == 2 else mask[..., None])
        return (x0, y0, x1 - x0, y1 - y0), patch, float(max(depth.min(), NEAR_M))


def _clip(corners: np.ndarray, depth: np.ndarray, camera: RenderedCamera) -> np.ndarray | None:
    """Pixels of the part of the quad in front of the camera plane, or None."""
    kept: list[np.ndarray] = []
    for i in range(4):
        j = (i + 1) % 4
        if depth[i] >= NEAR_M:
            kept.append(corners[i])
        if (depth[i] >= NEAR_M) != (depth[j] >= NEAR_M):
            t = (NEAR_M - depth[i]) / (depth[j] - depth[i])
            kept.append(corners[i] + t * (corners[j] - corners[i]))
    return camera.project(np.array(kept))[0] if len(kept) >= 3 else None


def _homography(
    corners: np.ndarray,
    pixels: np.ndarray,
    size: tuple[int, int],
    camera: RenderedCamera,
    clipped: bool,
    snug: bool,
) -> np.ndarray | None:
    """float64 [3, 3] from texture pixels to image pixels."""
    height, width = size
    edge = 0.0 if snug else -0.5
    span_x, span_y = width - 1 - 2 * edge, height - 1 - 2 * edge
    if not clipped:
        source = np.array([[0, 0], [span_x, 0], [span_x, span_y], [0, span_y]], np.float32) + np.float32(edge)
        if abs(_area(pixels)) < 0.05:
            return None
        return cv2.getPerspectiveTransform(source, pixels.astype(np.float32))
    along, down = (corners[1] - corners[0]) / span_x, (corners[3] - corners[0]) / span_y
    origin = corners[0] - edge * (along + down)
    plane = np.zeros((4, 3))
    plane[:3] = np.stack([along, down, origin], 1)
    plane[3, 2] = 1.0
    return camera.matrix @ plane


def _area(pixels: np.ndarray) -> float:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = pixels.tolist()
    return 0.5 * ((cx - ax) * (dy - by) - (dx - bx) * (cy - ay))


def facing(canvas: Canvas, corners: np.ndarray) -> bool:
    """True where the quad (clockwise as seen from outside) shows the camera its outside."""
    pixels, depth = canvas.camera.project(np.asarray(corners, float))
    if depth.min() < NEAR_M:
        a, b, c = (np.asarray(corners[i], float) for i in (0, 1, 3))
        normal = np.cross(c - a, b - a)
        return bool(np.dot(normal, np.array([0.0, 0.0, canvas.camera.height_m]) - a) > 0)
    return _area(pixels) > 0.05


def fractal(rng: np.random.Generator, size: tuple[int, int], cells: int = 4, octaves: int = 4) -> np.ndarray:
    """Tileable multi-scale value noise, float32 [height, width] in about [-1, 1], unit-free.

    cells: lattice cells over the height at the coarsest octave; each further octave doubles them at half strength.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    strength = 1.0
    for _ in range(octaves):
        rows, columns = cells, max(1, round(cells * width / height))
        if rows > height or columns > width:
            break
        lattice = np.pad(rng.uniform(-1, 1, (rows, columns)).astype(np.float32), 2, mode="wrap")
        scale_y, scale_x = height / rows, width / columns
        big = cv2.resize(
            lattice, (round((columns + 4) * scale_x), round((rows + 4) * scale_y)), interpolation=cv2.INTER_CUBIC
        )
        y, x = round(2 * scale_y), round(2 * scale_x)
        total += strength * big[y : y + height, x : x + width]
        strength *= 0.5
        cells *= 2
    return total


@functools.lru_cache(maxsize=8)
def noise_tile(kind: int) -> np.ndarray:
    """float32 [512, 512] tileable noise number `kind`, zero mean, standard deviation 1; shared by every scene."""
    rng = np.random.default_rng(7000 + kind)
    noise = fractal(rng, (512, 512), cells=(4, 16, 2)[kind % 3], octaves=(7, 5, 6)[kind % 3])
    return (noise - noise.mean()) / noise.std()
