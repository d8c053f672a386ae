"""Clips and bursts simulated from photos, with their true motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from msr.train.data import PhotoSet, augment


@dataclass(frozen=True)
class MotionRange:
    """How a simulated clip or burst moves; lengths in pixels of the original."""

    shift: float  # largest translation: per frame for a clip, in all for a burst
    rotation: float  # degrees, likewise
    zoom: float  # relative, likewise
    layers: bool  # a second layer with an outline and a motion of its own
    smooth: bool  # a clip's steady motion instead of a burst's independent shake


def _affine(shift: np.ndarray, angle: float, zoom: float, center: float) -> np.ndarray:
    """3x3 map from output pixels to source pixels: turn and zoom about the centre, then shift."""
    c, s = math.cos(angle) * zoom, math.sin(angle) * zoom
    return np.array(
        [
            [c, -s, center - c * center + s * center + shift[0]],
            [s, c, center - s * center - c * center + shift[1]],
            [0.0, 0.0, 1.0],
        ]
    )


def _motions(count: int, motion: MotionRange, center: float, rng: np.random.Generator) -> list[np.ndarray]:
    if motion.smooth:
        strength = rng.random() ** 1.5
        velocity = rng.uniform(-1, 1, 2) * motion.shift * strength
        turn = rng.uniform(-1, 1) * math.radians(motion.rotation) * strength
        zoom = rng.uniform(-1, 1) * motion.zoom * strength
        jitter = rng.normal(0, 0.15, (count, 2)) * motion.shift * strength
        steps = np.arange(count) - (count - 1) / 2
        return [_affine(velocity * t + jitter[i], turn * t, 1.0 + zoom * t, center) for i, t in enumerate(steps)]
    out = []
    for i in range(count):
        shift = rng.uniform(-1, 1, 2) * motion.shift * (i > 0)
        turn = rng.uniform(-1, 1) * math.radians(motion.rotation) * (i > 0)
        out.append(_affine(shift, turn, 1.0 + rng.uniform(-1, 1) * motion.zoom * (i > 0), center))
    return out


def _blob(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random soft-edged shape covering some of the frame, (size, size, 1) in [0, 1]."""
    noise = cv2.resize(rng.standard_normal((5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip((noise - 0.4) * size / 12.0 + 0.5, 0.0, 1.0)[..., None]


def simulate(
    photos: PhotoSet, size: int, count: int, motion: MotionRange, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A clip or burst from photos, with its true motion.

    Returns:
        Frames ``(T, size, size, 3)`` uint8; for each frame the map from its pixels to the background's, ``(T, 3, 3)``;
        and the share of background in each pixel, ``(T, size, size, 1)``.
    """
    margin = math.ceil(motion.shift * (count if motion.smooth else 1) + size * 0.05 + 4)
    canvas = min(size + 2 * margin, photos.minimum)
    margin = (canvas - size) // 2
    pictures = [augment(photos.crop(canvas, rng), rng) for _ in range(2 if motion.layers else 1)]
    center = (size - 1) / 2
    maps = [_motions(count, motion, center, rng) for _ in pictures]
    shape = _blob(canvas, rng) if motion.layers else None
    to_canvas = np.array([[1.0, 0.0, margin], [0.0, 1.0, margin], [0.0, 0.0, 1.0]])

    def render(picture: np.ndarray, matrix: np.ndarray, interpolation: int) -> np.ndarray:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(
            picture, (to_canvas @ matrix)[:2], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        return warped if warped.ndim == 3 else warped[..., None]

    frames, shares = [], []
    for t in range(count):
        frame = render(np.ascontiguousarray(pictures[0]), maps[0][t], cv2.INTER_LANCZOS4)
        share: np.ndarray = np.ones((size, size, 1), np.float32)
        if shape is not None:
            front = render(np.ascontiguousarray(pictures[1]), maps[1][t], cv2.INTER_LANCZOS4).astype(np.float32)
            cover = render(shape, maps[1][t], cv2.INTER_LINEAR)
            frame = np.clip(frame * (1 - cover) + front * cover + 0.5, 0, 255).astype(np.uint8)
            share = 1.0 - cover
        frames.append(frame)
        shares.append(share)
    return np.stack(frames), np.stack(maps[0]), np.stack(shares)


def true_flow(maps: np.ndarray, target: int, source: int, size: int, scale: int, centered: bool) -> Tensor:
    """Background flow (2, size, size) in low-resolution pixels from one simulated frame to another."""
    offset = (scale - 1) / 2 if centered else 0.0
    axis = np.arange(size) * scale + offset
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    moved = np.linalg.inv(maps[source]) @ maps[target] @ points
    flow = (moved[:2] - points[:2]) / scale
    return torch.from_numpy(flow.reshape(2, size, size).astype(np.float32))
