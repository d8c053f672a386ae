"""Clips of any length in constant memory, from frames to frames and from file to file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.pipelines.choose import Chosen, Model, choose_model
from msr.pipelines.image import Written
from msr.pipelines.memory import release_freed_memory
from msr.pipelines.pixels import Image, Layout, describe, pack, unpack
from msr.pipelines.progress import progress_bar
from msr.pipelines.tiling import Tiles, choose_tile, plan_tiles


def upscale_frames(
    frames: Iterable[Image],
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
) -> Iterator[Image]:
    """Enlarge the frames of a clip, each yielded as soon as the frames that its model looks ahead to are there.

    Source: the recurrence of ``msr.models.video``; memory does not grow with the length of the clip.

    Args:
        frames: pictures as for ``upscale_image``, all of one size, dtype and number of channels.
        scale: enlargement factor; None: the model's, or 4.
        model: None for ``video-x{scale}``, a name, a weights file or a loaded module; an image model
            runs frame by frame.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        tile: side of the tiles in LR pixels, at least 32; None or 0: by the size of the memory.

    Yields:
        One enlargement for each frame, of the same type, dtype and channels.

    Raises:
        InputError: a model, device or tile that does not fit (on the call); a frame that does not fit (counted from 0).

    Example:
        >>> import numpy as np
        >>> clip = (np.zeros((24, 32, 3), np.uint8) for _ in range(3))
        >>> [frame.shape for frame in upscale_frames(clip)]    # doctest: +SKIP
        [(96, 128, 3), (96, 128, 3), (96, 128, 3)]
    """
    chosen = choose_model(("video", "image"), scale, model, device, dtype)
    choose_tile(tile, chosen.device)
    return _run_frames(frames, chosen, tile)


def upscale_video(
    source: str | Path,
    target: str | Path,
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    progress: bool = False,
) -> Written:
    """Enlarge a clip from file to file, frame by frame, with its times, colours and audio.

    Args:
        source: a clip, or a folder of pictures in natural order.
        target: ``.mp4``, ``.mov``, ``.mkv`` (H.264) or ``.webm`` (VP9); a name without a suffix becomes a
            folder of PNG files.
        scale: enlargement factor; None: the model's, or 4.
        model: as for ``upscale_frames``.
        device: likewise.
        dtype: likewise.
        tile: likewise.
        progress: whether to show a bar on a terminal.

    Returns:
        What was written.

    Raises:
        InputError: see ``upscale_frames``; also a source that cannot be read or a target that cannot be written.
        WorkError: the clip is truncated or damaged, or writing failed; nothing is left under the target's name.

    Example:
        >>> upscale_video("clip.mp4", "clip-x4.mp4")    # doctest: +SKIP
    """
    source, target = Path(source), Path(target)
    started = time.perf_counter()
    if not source.is_dir():
        io.check_file(source)
    into_folder = _check_target(source, target)
    chosen = choose_model(("video", "image"), scale, model, device, dtype)
    choose_tile(tile, chosen.device)
    with io.FolderReader(source) if source.is_dir() else io.VideoReader(source) as clip:
        width, height = clip.format.width * chosen.scale, clip.format.height * chosen.scale
        chosen.check_size(clip.format.height, clip.format.width, str(source))
        audio = source if isinstance(clip, io.VideoReader) and clip.audio else None
        count = 0
        with (
            progress_bar(source.name, clip.frames, "frames", progress) as advance,
            _writer(target, into_folder, clip.format, chosen.scale, audio) as out,
        ):
            times: deque[tuple[int, int]] = deque()

            def pixels() -> Iterator[Image]:
                for frame in clip:
                    times.append((frame.pts, frame.duration))
                    yield frame.pixels

            for result in _run_frames(pixels(), chosen, tile):
                out.write(result, *times.popleft())  # type: ignore[arg-type]
                count += 1
                advance()
    return Written(target, width, height, count, time.perf_counter() - started)


def _run_frames(frames: Iterable[Image], chosen: Chosen, tile: int | None) -> Iterator[Image]:
    """The stream: a buffer of the frames ahead, and the tiles' states."""
    ahead = int(getattr(chosen.module, "lookahead", 0)) if chosen.kind == "video" else 0
    waiting: deque[tuple[Tensor, Tensor | None, Layout]] = deque()
    stream: _Stream | None = None
    first: Layout | None = None
    for index, frame in enumerate(frames):
        layout = describe(frame, f"frame {index}")
        if first is None:
            first = layout
            chosen.check_size(*layout.size, "the clip")
            stream = _Stream(chosen, plan_tiles(*layout.size, choose_tile(tile, chosen.device), chosen.halo))
        elif layout.size != first.size:
            raise InputError(f"frame {index} is {layout}, expected {first}")
        elif (layout.channels, layout.dtype) != (first.channels, first.dtype):
            now, before = f"{layout.channels} of {layout.dtype}", f"{first.channels} of {first.dtype}"
            raise InputError(f"frame {index} has channels {now}, expected {before}")
        rgb, alpha = unpack(frame, layout, f"frame {index}")
        waiting.append((chosen.place(rgb), alpha, layout))
        if len(waiting) > ahead and stream is not None:
            yield stream.step(waiting, ahead)
    while waiting and stream is not None:
        yield stream.step(waiting, ahead)


class _Stream:
    """Runs a model over the frames in order, with a recurrent state for each tile."""

    def __init__(self, chosen: Chosen, tiles: Tiles) -> None:
        self._chosen = chosen
        self._tiles = tiles
        self._states: list[Any] = [None] * len(tiles)

    def step(self, waiting: deque[tuple[Tensor, Tensor | None, Layout]], ahead: int) -> Image:
        """Enlarge the first waiting frame; at the end of a clip its last frame stands for those after it."""
        # The generator may be resumed from anywhere, so that the mode is set here and not around a yield.
        with torch.inference_mode():
            rgb, alpha, layout = waiting[0]
            future = [waiting[min(i, len(waiting) - 1)][0] for i in range(1, ahead + 1)]
            enlarged = self._tiles.join(self._one(rgb, future), self._chosen.scale)
            waiting.popleft()
            result = pack(enlarged, alpha, layout)
        # Less often lets the heap grow from frame to frame.
        release_freed_memory()
        return result

    def _one(self, rgb: Tensor, future: list[Tensor]) -> Callable[[int], Tensor]:
        tiles, module, states = self._tiles, self._chosen.module, self._states

        def run(index: int) -> Tensor:
            if self._chosen.kind == "image":
                result: Tensor = module(tiles.cut(rgb, index))
                return result
            coming = torch.stack([tiles.cut(frame, index) for frame in future], 1) if future else rgb[:, None, :, :0]
            result, states[index] = module.step(tiles.cut(rgb, index), coming, states[index])  # type: ignore[operator]
            return result

        return run


def _writer(
    target: Path, into_folder: bool, source: io.ClipFormat, scale: int, audio: Path | None
) -> io.FolderWriter | io.VideoWriter:
    if into_folder:
        return io.FolderWriter(target)
    return io.VideoWriter(target, source, source.width * scale, source.height * scale, audio)


def _check_target(source: Path, target: Path) -> bool:
    """Whether the target is a folder of frames."""
    io.check_output(target, [source])
    if not target.suffix:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists; a folder of frames is written to a new or empty one")
        return True
    io.check_video_suffix(target)
    if target.is_dir():
        raise InputError(f"{target} is a folder; a file name is expected")
    return False
