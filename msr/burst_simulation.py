"""Bursts simulated from a photo, with the truth and the true motion: RAW mosaics or sRGB frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from msr.camera import Sensor, color_masks, inverse_srgb_curve, random_sensor, srgb_curve, undevelop
from msr.degradation import compress_jpeg, to_tensor
from msr.metrics import quantize

# Low-resolution pixels that a moving object travels from frame to frame.
_OBJECT_STEP = (0.5, 2.0)


@dataclass(frozen=True)
class Shake:
    """How the camera moves between the base frame and any other; lengths in low-resolution pixels."""

    shift: float = 4.0  # largest shift along each axis
    rotation: float = 1.0  # largest turn, degrees
    parallax: float = 0.0  # how much more the nearest part of the scene shifts than the farthest


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a burst. Frames are named by their index; the base frame is 0."""

    other: np.ndarray | None = None  # (H, W, 3) uint8: the photo that the object and the foreign frame show
    moving: bool = False  # an object moves through the scene by itself
    foreign: int | None = None  # this frame shows something else
    blurred: int | None = None  # this frame is shaken while it is exposed
    exposed: int | None = None  # this frame has half or twice the light


@dataclass(frozen=True)
class SimulatedBurst:
    """N frames and what is true of them; the first is the base and has not moved."""

    frames: np.ndarray  # RAW: (N, H, W) uint16, stored levels; sRGB: (N, H, W, 3) uint8
    truth: Tensor  # (3, sH, sW): the base frame without noise; linear camera RGB for RAW, else sRGB
    flows: Tensor  # (N, 2, H, W): motion from the base frame to each frame, low-resolution pixels
    visible: Tensor  # (N, 1, H, W) bool: where what the base frame shows is seen in the frame
    moving: Tensor  # (1, sH, sW) bool: where the object is in any frame, seen from the base frame
    sensor: Sensor | None = None  # RAW only

    @property
    def mosaics(self) -> np.ndarray:
        """RAW frames ``(N, H, W)`` float32: 0 at black (noise goes below), 1 at saturation."""
        assert self.sensor is not None
        black, white = self.sensor.black, self.sensor.white
        return (self.frames.astype(np.float32) - black) / (white - black)


@dataclass(frozen=True)
class _Camera:
    """Where a frame looks: from its pixels to the scene's by ``matrix``, then by ``depth`` times ``lean``."""

    matrix: np.ndarray  # (2, 3)
    depth: np.ndarray  # (H, W) in [0, 1]
    lean: np.ndarray  # (2,) pixels of the original

    def to_scene(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = _apply(self.matrix, x, y)
        near = self._near(u, v)
        return u + near * self.lean[0], v + near * self.lean[1]

    def from_scene(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = x, y
        for _ in range(8 if self.lean.any() else 0):  # depth is smooth: this converges at once
            near = self._near(u, v)
            u, v = x - near * self.lean[0], y - near * self.lean[1]
        return _apply(cv2.invertAffineTransform(self.matrix), u, v)

    def _near(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not self.lean.any():
            return np.zeros_like(x)
        return cv2.remap(self.depth, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=1)


def _apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = matrix
    return a[0, 0] * x + a[0, 1] * y + a[0, 2], a[1, 0] * x + a[1, 1] * y + a[1, 2]


def _smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A slowly varying field (H, W) from 0 to 1."""
    field = cv2.resize(rng.standard_normal((4, 4)).astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (field - field.min()) / max(float(np.ptp(field)), 1e-6)


def _camera(shape: tuple[int, int], depth: np.ndarray, scale: int, shake: Shake, rng: np.random.Generator) -> _Camera:
    turn = math.radians(float(rng.uniform(-1, 1)) * shake.rotation)
    shift = rng.uniform(-1, 1, 2) * shake.shift * scale
    lean = rng.uniform(-1, 1, 2) * shake.parallax * scale
    c, s = math.cos(turn), math.sin(turn)
    linear = np.array([[c, -s], [s, c]])
    center = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return _Camera(np.column_stack([linear, center - linear @ center + shift]), depth, lean)


class _Object:
    """Something cut out of another photo that moves through the scene at a constant speed."""

    def __init__(self, texture: np.ndarray, scale: int, rng: np.random.Generator) -> None:
        height, width = texture.shape[:2]
        self.texture = texture
        y, x = np.mgrid[:height, :width].astype(np.float32)
        cx, cy = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
        radius = rng.uniform(0.12, 0.2) * min(height, width)
        # An uneven outline, about a low-resolution pixel soft.
        uneven = (_smooth_field((height, width), rng) - 0.5) * radius
        self.shape = np.clip((radius + uneven - np.hypot(x - cx, y - cy)) / scale + 0.5, 0.0, 1.0)
        angle = rng.uniform(0, 2 * math.pi)
        self.velocity = np.array([math.cos(angle), math.sin(angle)]) * rng.uniform(*_OBJECT_STEP) * scale

    def place(self, index: int) -> np.ndarray:
        return self.velocity * index

    def cover(self, index: int) -> np.ndarray:
        """Its share of each pixel of the scene, (H, W)."""
        return self._moved(self.shape, index, cv2.INTER_LINEAR)

    def over(self, scene: np.ndarray, index: int) -> np.ndarray:
        cover = self.cover(index)[..., None]
        return scene * (1.0 - cover) + self._moved(self.texture, index, cv2.INTER_LANCZOS4) * cover

    def _moved(self, picture: np.ndarray, index: int, interpolation: int) -> np.ndarray:
        matrix = np.column_stack([np.eye(2), self.place(index)])
        border = cv2.BORDER_CONSTANT if picture.ndim == 2 else cv2.BORDER_REFLECT_101
        return cv2.warpAffine(picture, matrix, picture.shape[1::-1], flags=interpolation, borderMode=border)


def _reduce(picture: np.ndarray, scale: int) -> np.ndarray:
    height, width, channels = picture.shape
    return picture.reshape(height // scale, scale, width // scale, scale, channels).mean(axis=(1, 3))


def _blur(picture: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
    """Blurred along a line of 3 to 6 low-resolution pixels."""
    length, angle = rng.uniform(3.0, 6.0) * scale, rng.uniform(0, math.pi)
    size = int(length) // 2 * 2 + 1
    kernel = np.zeros((size, size), np.float32)
    for t in np.linspace(-0.5, 0.5, 4 * size):
        place = (size - 1) / 2 + t * (size - 1) * np.array([math.sin(angle), math.cos(angle)])
        kernel[tuple(place.round().astype(int))] = 1.0
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _frames(
    scene: np.ndarray,
    other: np.ndarray,
    thing: _Object | None,
    count: int,
    scale: int,
    rng: np.random.Generator,
    shake: Shake,
    trouble: Trouble,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Each frame (h, w, 3) in linear light, its flow (2, h, w), where it holds (h, w), and the object (H, W)."""
    height, width = scene.shape[:2]
    depth = _smooth_field((height, width), rng)
    full_y, full_x = np.mgrid[:height, :width].astype(np.float32)
    middle = (scale - 1) / 2
    y, x = (np.mgrid[: height // scale, : width // scale] * scale + middle).astype(np.float64)
    nothing = np.zeros((height, width), np.float32)
    first = nothing if thing is None else thing.cover(0)
    on_thing = _reduce(first[..., None], scale)[..., 0]
    for index in range(count):
        source = other if index == trouble.foreign else scene
        cover = nothing
        if thing is not None and index != trouble.foreign:
            source, cover = thing.over(scene, index), thing.cover(index)
        camera = _camera((height, width), depth, scale, shake, rng)
        frame = source
        if index:
            u, v = camera.to_scene(full_x, full_y)
            frame = cv2.remap(
                source,
                u.astype(np.float32),
                v.astype(np.float32),
                cv2.INTER_LANCZOS4,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        if index == trouble.blurred:
            frame = _blur(frame, scale, rng)
        if index == trouble.exposed:
            frame = frame * (2.0 if rng.random() < 0.5 else 0.5)
        flow, visible = np.zeros((2, *x.shape), np.float32), np.ones(x.shape, bool)
        if index:
            moved = np.zeros(2) if thing is None else thing.place(index)
            belongs = on_thing > 0.5
            u, v = camera.from_scene(x + belongs * moved[0], y + belongs * moved[1])
            flow = np.stack([u - x, v - y]).astype(np.float32) / scale
            visible = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
            # The outline belongs to nobody, and the object hides what is behind it.
            hidden = _reduce(cover[..., None], scale)[..., 0] > 0.0
            visible &= (on_thing > 0.999) | ((on_thing == 0.0) & ~hidden)
            visible &= index != trouble.foreign
        yield _reduce(np.clip(frame, 0.0, 1.0), scale), flow, visible, cover


def _prepared(photo: np.ndarray, scale: int, trouble: Trouble) -> tuple[np.ndarray, np.ndarray]:
    """The photo cut so that frames have even sides, and the other photo at the same size."""
    height, width = (n // (2 * scale) * 2 * scale for n in photo.shape[:2])
    if not height or not width:
        raise ValueError(f"the photo must have at least {2 * scale} pixels a side, got {photo.shape[:2]}")
    needed = trouble.moving or trouble.foreign is not None
    if needed and trouble.other is None:
        raise ValueError("a moving object or a foreign frame needs another photo to be taken from")
    photo, other = photo[:height, :width], photo if trouble.other is None else trouble.other
    if other.shape[0] < height or other.shape[1] < width:
        other = cv2.resize(other, (width, height), interpolation=cv2.INTER_CUBIC)
    return photo, other[:height, :width]


def _to_array(picture: Tensor) -> np.ndarray:
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def _truth(scene: np.ndarray, thing: _Object | None) -> Tensor:
    """What the base frame shows, object and all: (3, H, W), linear."""
    shown = scene if thing is None else np.clip(thing.over(scene, 0), 0.0, 1.0)
    return torch.from_numpy(np.ascontiguousarray(shown.transpose(2, 0, 1)))


def _gather(
    frames: list[np.ndarray], facts: list[tuple[np.ndarray, ...]], truth: Tensor, sensor: Sensor | None
) -> SimulatedBurst:
    flows, visible, covers = zip(*facts, strict=True)
    seen = torch.from_numpy(np.stack(visible))[:, None]
    moving = torch.from_numpy(np.max(np.stack(covers), axis=0) > 0.0)[None]
    return SimulatedBurst(np.stack(frames), truth, torch.from_numpy(np.stack(flows)), seen, moving, sensor)


def simulate_raw_burst(
    photo: np.ndarray,
    count: int,
    scale: int,
    rng: np.random.Generator,
    *,
    shake: Shake = Shake(),
    sensor: Sensor | None = None,
    trouble: Trouble = Trouble(),
) -> SimulatedBurst:
    """A RAW burst of a photo: camera colours, shake, area reduction, mosaic, shot and read noise, stored levels.

    Source: the inverse camera pipeline of Brooks et al. 2019 (``msr.camera.undevelop``), then the sensor.

    Args:
        photo: ``(H, W, 3)`` uint8 sRGB, at least ``2 scale`` a side; cut at the end so that frames have even sides.
        count: frames.
        scale: reduction.
        rng: decides all; a longer burst from the same state begins with the same frames.
        shake: of the camera.
        sensor: None: ``random_sensor(rng)``.
        trouble: what goes wrong.

    Returns:
        Frames as stored levels, and as ``mosaics``; the truth in linear camera RGB.

    Raises:
        ValueError: the photo is too small, or trouble needs another photo and has none.

    Example:
        >>> burst = simulate_raw_burst(np.zeros((64, 96, 3), np.uint8), 3, 4, np.random.default_rng(0))
        >>> burst.mosaics.shape, burst.truth.shape
        ((3, 16, 24), torch.Size([3, 64, 96]))
    """
    photo, other = _prepared(photo, scale, trouble)
    sensor = random_sensor(rng) if sensor is None else sensor
    scene, strange = (_to_array(undevelop(to_tensor(p), sensor)) for p in (photo, other))
    thing = _Object(strange, scale, rng) if trouble.moving else None
    masks = color_masks(sensor.pattern, photo.shape[0] // scale, photo.shape[1] // scale).permute(1, 2, 0).numpy()
    frames, facts = [], []
    for linear, *fact in _frames(scene, strange, thing, count, scale, rng, shake, trouble):
        light = (linear * masks).sum(axis=2)
        spread = np.sqrt(sensor.noise[0] * light + sensor.noise[1])
        light = light + spread * rng.standard_normal(light.shape, dtype=np.float32)
        levels = np.rint(sensor.black + light * (sensor.white - sensor.black))
        frames.append(np.clip(levels, 0, sensor.white).astype(np.uint16))
        facts.append(tuple(fact))
    return _gather(frames, facts, _truth(scene, thing), sensor)


def simulate_jpeg_burst(
    photo: np.ndarray,
    count: int,
    scale: int,
    rng: np.random.Generator,
    *,
    shake: Shake = Shake(),
    noise: float = 0.01,
    quality: int | None = 92,
    trouble: Trouble = Trouble(),
) -> SimulatedBurst:
    """A burst of a photo as a phone keeps it: shake and area reduction in linear light, sRGB, noise, JPEG.

    Args:
        photo: ``(H, W, 3)`` uint8 sRGB, at least ``2 scale`` a side.
        count: frames.
        scale: reduction.
        rng: decides all; a longer burst from the same state begins with the same frames.
        shake: of the camera.
        noise: standard deviation, sRGB, range 1.
        quality: of the JPEG that frames go through, 0 to 100; None: kept in 8 bits only.
        trouble: what goes wrong.

    Returns:
        Frames as uint8, the truth in sRGB.

    Raises:
        ValueError: as for ``simulate_raw_burst``.

    Example:
        >>> simulate_jpeg_burst(np.zeros((64, 96, 3), np.uint8), 3, 2, np.random.default_rng(0)).frames.shape
        (3, 32, 48, 3)
    """
    photo, other = _prepared(photo, scale, trouble)
    scene, strange = (_to_array(inverse_srgb_curve(to_tensor(p))) for p in (photo, other))
    thing = _Object(strange, scale, rng) if trouble.moving else None
    frames, facts = [], []
    for linear, *fact in _frames(scene, strange, thing, count, scale, rng, shake, trouble):
        frame = srgb_curve(torch.from_numpy(linear).permute(2, 0, 1))
        frame = quantize(frame + torch.from_numpy(rng.standard_normal(frame.shape, dtype=np.float32)) * noise)
        if quality is not None:
            frame = compress_jpeg(frame[None], quality)[0]
        frames.append(np.rint(_to_array(frame) * 255.0).astype(np.uint8))
        facts.append(tuple(fact))
    return _gather(frames, facts, srgb_curve(_truth(scene, thing)), None)
