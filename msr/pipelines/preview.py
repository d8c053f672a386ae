"""A look at the result before the work is done: a few seconds of it, and one frame before and after."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from msr import io
from msr.errors import InputError
from msr.ops.resize import resize
from msr.pipelines.choose import Model
from msr.pipelines.image import Written
from msr.pipelines.job import discard_job
from msr.pipelines.progress import Report
from msr.pipelines.video import VideoOptions, check_names, upscale_video

#: Width in pixels of the line between before and after.
_LINE = 4


def preview_video(
    source: str | Path,
    target: str | Path,
    seconds: float,
    scale: float | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    options: VideoOptions | None = None,
    progress: bool | Report = False,
) -> tuple[Written, Path]:
    """Enlarge the first seconds of what is wanted of a clip, and put one of its frames beside its cubic enlargement.

    For ``large.mp4`` the results are ``large.preview.mp4`` and ``large.preview.png``, whose left half is the source
    enlarged by cubic convolution and whose right half is what the model made of it.

    Args:
        source: as for ``upscale_video``, but not a pipe.
        target: the name that the whole result is to have; not a pipe.
        seconds: how many.
        scale: as for ``upscale_video``.
        model: likewise.
        device: likewise.
        dtype: likewise.
        tile: likewise.
        options: likewise.
        progress: likewise.

    Returns:
        What was written, and the picture.

    Raises:
        InputError: a pipe, or no positive number of seconds; see ``upscale_video``.
        WorkError: likewise.

    Example:
        >>> preview_video("clip.mp4", "large.mp4", 2)    # doctest: +SKIP
    """
    if "-" in (str(source), str(target)):
        raise InputError("a preview needs files; standard input can be read only once")
    if not seconds > 0:
        raise InputError(f"the preview must last more than 0 seconds, got {seconds:g}")
    check_names(source, target)
    options = options or VideoOptions()
    length = seconds if options.duration is None else min(seconds, options.duration)
    target = Path(target)
    suffix = target.suffix if target.suffix.lower() in io.VIDEO_SUFFIXES else ".mp4"
    clip = target.with_name(f"{target.stem.replace('%', '')}.preview{suffix}")
    # It is short: nothing of it is kept when it is stopped, and what a killed one has left is in nobody's way.
    part = dataclasses.replace(options, duration=length, resume=False, segment=sys.maxsize)
    discard_job(clip)
    written = upscale_video(
        source, clip, scale, model, device=device, dtype=dtype, tile=tile, options=part, progress=progress
    )
    middle = written.frames // 2
    before = _frame(source, options, middle)
    after = _frame(clip, VideoOptions(), middle)
    picture = clip.with_suffix(".png")
    io.write_image(picture, _side_by_side(before, after))
    return written, picture


def _frame(path: str | Path, options: VideoOptions, index: int) -> np.ndarray:
    """Frame ``index`` from the start on as upright RGB of 8 bits."""
    with io.open_clip(
        path,
        start=options.start,
        rate=options.rate,
        deinterlace=options.deinterlace,
        keep_going=options.keep_going,
    ) as clip:
        clip.skip(index)
        return io.convert_depth(next(iter(clip)).pixels, "uint8")


def _side_by_side(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The left half of the source, enlarged to the size of the result, and the right half of the result."""
    height, width = after.shape[:2]
    unit = torch.from_numpy(before.copy()).permute(2, 0, 1)[None].float() / 255
    large = resize(unit, size=(height, width))[0].permute(1, 2, 0)
    joined = (large.clamp(0, 1) * 255).round().byte().numpy()
    joined[:, width // 2 :] = after[:, width // 2 :]
    line = min(_LINE, width) // 2
    joined[:, width // 2 - line : width // 2 + line] = 255
    return joined
