"""Training originals: crops of photos, runs of real clips, and clips and bursts simulated from photos."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from msr.errors import InputError

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}


def list_photos(folder: Path) -> list[Path]:
    """The pictures below a folder, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: holds no pictures")
    return paths


def load_rgb(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"{path}: not a picture that can be read")
    return np.ascontiguousarray(picture[..., ::-1])


def augment(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random flip and quarter turn of all frames (.., H, W, 3), before any degradation."""
    if rng.random() < 0.5:
        frames = frames[..., ::-1, :]
    return np.rot90(frames, int(rng.integers(4)), axes=(-3, -2))


def to_tensor(frames: np.ndarray) -> Tensor:
    """(.., H, W, 3) uint8 to (.., 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))).float().div_(255.0)


class PhotoSet:
    """Photos of a folder, kept decoded up to a limit of memory."""

    def __init__(self, folder: Path, minimum: int, cache_bytes: int = 3 << 30) -> None:
        self.paths = list_photos(folder)
        self.minimum = minimum
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._room = cache_bytes

    def photo(self, rng: np.random.Generator) -> np.ndarray:
        """A random photo at least ``minimum`` pixels high and wide."""
        for _ in range(100):
            path = self.paths[int(rng.integers(len(self.paths)))]
            picture = self._cache.get(path)
            if picture is None:
                picture = load_rgb(path)
                self._cache[path] = picture
                self._room -= picture.nbytes
                while self._room < 0 and len(self._cache) > 1:
                    self._room += self._cache.popitem(last=False)[1].nbytes
            if min(picture.shape[:2]) >= self.minimum:
                return picture
        raise InputError(f"{self.paths[0].parent}: hardly any photo has {self.minimum} pixels a side")

    def crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A random crop (size, size, 3), the livelier of two candidates: flat sky teaches little."""
        best, best_score = None, -1.0
        picture = self.photo(rng)
        for _ in range(2):
            y = int(rng.integers(picture.shape[0] - size + 1))
            x = int(rng.integers(picture.shape[1] - size + 1))
            crop = picture[y : y + size, x : x + size]
            green = crop[::2, ::2, 1].astype(np.float32)
            score = float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
            if score > best_score:
                best, best_score = crop, score
        assert best is not None
        return best


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
        return [
            _affine(velocity * t + jitter[i], turn * t, 1.0 + zoom * t, center) for i, t in enumerate(steps)
        ]
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
        Frames ``(T, size, size, 3)`` uint8; for each frame the map from its pixels to the background's, ``(T, 3, 3)``; and the share
        of background in each pixel, ``(T, size, size, 1)``.
    """
    margin = int(math.ceil(motion.shift * (count if motion.smooth else 1) + size * 0.05 + 4))
    canvas = min(size + 2 * margin, photos.minimum)
    margin = (canvas - size) // 2
    pictures = [augment(photos.crop(canvas, rng), rng) for _ in range(2 if motion.layers else 1)]
    center = (size - 1) / 2
    maps = [_motions(count, motion, center, rng) for _ in pictures]
    shape = _blob(canvas, rng) if motion.layers else None
    to_canvas = np.array([[1.0, 0.0, margin], [0.0, 1.0, margin], [0.0, 0.0, 1.0]])

    def render(picture: np.ndarray, matrix: np.ndarray, interpolation: int) -> np.ndarray:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(picture, (to_canvas @ matrix)[:2], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        return warped if warped.ndim == 3 else warped[..., None]

    frames, shares = [], []
    for t in range(count):
        frame = render(np.ascontiguousarray(pictures[0]), maps[0][t], cv2.INTER_LANCZOS4)
        share = np.ones((size, size, 1), np.float32)
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
