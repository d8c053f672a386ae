"""Training originals: crops of photos, runs of real clips."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from msr.errors import InputError
from msr.io.frames import FolderReader
from msr.io.image import IMAGE_SUFFIXES, convert_depth, image_size
from msr.io.video import VideoReader
from msr.pipelines.evaluate import read_rgb
from msr.train.graphics import drawing

# What is read as a clip: more than can be written.
_CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".264", ".h264")

# Every stage of a run looks at the same photos.
_size = functools.lru_cache(maxsize=None)(image_size)


def list_photos(folder: Path) -> list[Path]:
    """The pictures below a folder, sorted; hidden ones, which programs leave behind, do not count."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of photos")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    paths = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    if not paths:
        raise InputError(f"{folder}: holds no pictures")
    return paths


def check_originals(paths: Iterable[Path], least: int) -> set[tuple[int, int]]:
    """The heights and widths of originals for validation.

    Raises:
        InputError: one of them cannot be read, or has fewer than ``least`` pixels a side.
    """
    sizes = set()
    for path in paths:
        height, width = read_rgb(path).shape[:2]
        if min(height, width) < least:
            raise InputError(f"{path} is too small for validation: it needs {least} pixels a side")
        sizes.add((height, width))
    return sizes


def augment(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random flip and quarter turn of all frames (.., H, W, 3), before any degradation."""
    if rng.random() < 0.5:
        frames = frames[..., ::-1, :]
    return np.rot90(frames, int(rng.integers(4)), axes=(-3, -2))


class PhotoSet:
    """Photos of a folder, kept decoded up to a limit of memory.

    Args:
        folder: searched recursively.
        minimum: photos of fewer pixels a side are left out.
        shrink: crops are reduced by up to so much, at random, where the photo is large enough: finer detail, more
            variety.
        drawn: share of crops that are drawn and no part of a photo.
        cache_bytes: the limit of memory.

    Raises:
        InputError: no photo is large enough, or the first bytes of one do not tell its size.
    """

    def __init__(
        self, folder: Path, minimum: int, shrink: float = 1.0, drawn: float = 0.0, cache_bytes: int = 3 << 30
    ) -> None:
        self.paths = [path for path in list_photos(folder) if min(_size(path)) >= minimum]
        if not self.paths:
            raise InputError(f"{folder}: holds no photo of {minimum} pixels a side, which training crops")
        self.minimum = minimum
        self.shrink = shrink
        self.drawn = drawn
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._room = cache_bytes

    def photo(self, rng: np.random.Generator) -> np.ndarray:
        """A random photo at least ``minimum`` pixels high and wide."""
        path = self.paths[int(rng.integers(len(self.paths)))]
        picture = self._cache.get(path)
        if picture is None:
            picture = read_rgb(path)
            self._cache[path] = picture
            self._room -= picture.nbytes
            while self._room < 0 and len(self._cache) > 1:
                self._room += self._cache.popitem(last=False)[1].nbytes
        return picture

    def crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A random crop (size, size, 3), the livelier of two candidates: flat sky teaches little."""
        if self.drawn and rng.random() < self.drawn:
            return drawing(size, rng)
        best, best_score = None, -1.0
        picture = self.photo(rng)
        wide = size
        if self.shrink > 1.0:
            wide = min(round(size * self.shrink ** rng.random()), *picture.shape[:2])
        for _ in range(2):
            y = int(rng.integers(picture.shape[0] - wide + 1))
            x = int(rng.integers(picture.shape[1] - wide + 1))
            crop = picture[y : y + wide, x : x + wide]
            green = crop[::2, ::2, 1].astype(np.float32)
            score = float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
            if score > best_score:
                best, best_score = crop, score
        assert best is not None
        return best if wide == size else cv2.resize(best, (size, size), interpolation=cv2.INTER_AREA)


class ClipSet:
    """Runs of consecutive frames of real clips: video files, or folders of numbered pictures.

    Of each clip some windows of frames are kept in memory, reduced so that compression is left behind.

    Args:
        folder: of files and folders; other files and hidden ones do not count.
        length: of a run, frames; clips of fewer than twice as many are left out.
        shrink: by how much frames are reduced.
        minimum: clips of fewer pixels a side, reduced, are left out.
        windows: of a clip, at most.

    Raises:
        InputError: no clip serves, or one cannot be read.
    """

    def __init__(self, folder: Path, length: int, shrink: float, minimum: int = 1, windows: int = 5) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of clips")
        self.runs: list[np.ndarray] = []
        for path in sorted(folder.iterdir()):
            reader: FolderReader | VideoReader
            if path.name.startswith("."):
                continue
            if path.is_dir():
                reader = FolderReader(path)
            elif path.suffix.lower() in _CLIP_SUFFIXES:
                reader = VideoReader(path)
            else:
                continue
            with reader as clip:
                # Runs of twice the length that is asked for, with pauses between them for variety.
                for index, frame in enumerate(clip):
                    if index >= 4 * length * windows:
                        break
                    if index % (4 * length) == 0:
                        run: list[np.ndarray] = []
                    if index % (4 * length) < 2 * length:
                        run.append(self._reduce(convert_depth(frame.pixels, "uint8"), shrink))
                        if min(run[-1].shape[:2]) < minimum:
                            break
                        if run[-1].shape != run[0].shape:
                            raise InputError(f"{path}: its frames differ in size")
                        if len(run) == 2 * length:
                            self.runs.append(np.stack(run))
        if not self.runs:
            raise InputError(f"{folder}: holds no clip of {2 * length} frames and {minimum} pixels a side, reduced")

    @staticmethod
    def _reduce(frame: np.ndarray, shrink: float) -> np.ndarray:
        if shrink == 1.0:
            return frame
        size = (max(round(frame.shape[1] / shrink), 1), max(round(frame.shape[0] / shrink), 1))
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

    def crop(self, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """A random crop of ``count`` consecutive frames, played either way: (T, size, size, 3), the livelier of two."""
        best, best_score = None, -1.0
        for _ in range(2):
            run = self.runs[int(rng.integers(len(self.runs)))]
            t = int(rng.integers(len(run) - count + 1))
            y = int(rng.integers(run.shape[1] - size + 1))
            x = int(rng.integers(run.shape[2] - size + 1))
            crop = run[t : t + count, y : y + size, x : x + size]
            moved = crop[1:, ::4, ::4, 1].astype(np.float32) - crop[:-1, ::4, ::4, 1]
            score = float(np.abs(moved).mean())
            if score > best_score:
                best, best_score = crop, score
        assert best is not None
        return best[::-1] if rng.random() < 0.5 else best
