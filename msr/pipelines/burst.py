"""Bursts: several frames of one scene to one picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.pipelines.choose import Chosen, Model, choose_model
from msr.pipelines.image import Written, load_picture
from msr.pipelines.pixels import Image, describe, pack, unpack
from msr.pipelines.progress import progress_bar
from msr.pipelines.tiling import choose_tile, plan_tiles


def merge_burst(
    frames: Sequence[Image],
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
) -> Image:
    """Merge the frames of a burst to one enlarged picture of what the first frame shows.

    Source: the fusion of ``msr.models.burst``; the order of the frames after the first does not matter.

    Args:
        frames: one or more pictures as for ``upscale_image``, all of one size, dtype and number of channels;
            the first is the base.
        scale: enlargement factor; None: the model's, or 4.
        model: None for ``burst-x{scale}``, a name, a weights file or a loaded module.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        tile: side of the tiles in LR pixels, at least 32; None or 0: by the size of the memory.

    Returns:
        One picture of the frames' type, dtype and channels; its alpha is the base frame's.

    Raises:
        InputError: no frames, frames of different sizes, or a model, device or tile that does not fit.

    Example:
        >>> import numpy as np
        >>> merge_burst([np.zeros((24, 32, 3), np.uint8)] * 4).shape    # doctest: +SKIP
        (96, 128, 3)
    """
    names = [f"frame {index}" for index in range(len(frames))]
    return _merge(frames, names, choose_model(("burst",), scale, model, device, dtype), tile)


def merge_burst_files(
    sources: Sequence[str | Path],
    target: str | Path,
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    progress: bool = False,
) -> Written:
    """Merge a burst of picture or RAW files to one picture file.

    Args:
        sources: files, the first of which is the base, or one folder of them (natural order).
        target: the file to write.
        scale: enlargement factor; None: the model's, or 4.
        model: as for ``merge_burst``.
        device: likewise.
        dtype: likewise.
        tile: likewise.
        progress: whether to show a bar on a terminal while the files are read.

    Returns:
        What was written.

    Raises:
        InputError: see ``merge_burst``; also a source that cannot be read or a target that cannot be written.
        WorkError: writing failed.

    Example:
        >>> merge_burst_files(["shots"], "merged.png")    # doctest: +SKIP
    """
    started = time.perf_counter()
    paths = [Path(source) for source in sources]
    target = Path(target)
    if len(paths) == 1 and paths[0].is_dir():
        paths = io.image_files(paths[0], raw=True)
    if not paths:
        raise InputError("no input: at least one frame is needed")
    for path in paths:
        io.check_file(path)
    io.check_output(target, paths)
    io.check_format(target, (1, 1))
    if target.is_dir():
        raise InputError(f"{target} is a folder; a file name is expected")
    chosen = choose_model(("burst",), scale, model, device, dtype)
    pictures = []
    with progress_bar("reading", len(paths), "frames", progress) as advance:
        for path in paths:
            pictures.append(load_picture(path))
            advance()
    base = pictures[0]
    height, width = base.pixels.shape[0] * chosen.scale, base.pixels.shape[1] * chosen.scale
    io.check_format(target, (height, width, *base.pixels.shape[2:]))
    merged = _merge([picture.pixels for picture in pictures], [str(path) for path in paths], chosen, tile)
    io.write_image(target, merged, base.icc)  # type: ignore[arg-type]
    return Written(target, width, height, len(paths), time.perf_counter() - started)


def _merge(frames: Sequence[Image], names: Sequence[str], chosen: Chosen, tile: int | None) -> Image:
    """Merge with a model at hand; ``names`` are how an error names the frames."""
    if not len(frames):
        raise InputError("no frames: a burst needs at least one")
    layout = describe(frames[0], names[0])
    chosen.check_size(*layout.size, names[0])
    unpacked: list[Tensor] = []
    alpha: Tensor | None = None
    for frame, name in zip(frames, names, strict=True):
        other = describe(frame, name)
        if other.size != layout.size:
            raise InputError(f"{name} is {other}, expected {layout}")
        if (other.channels, other.dtype) != (layout.channels, layout.dtype):
            now, first = f"{other.channels} of {other.dtype}", f"{layout.channels} of {layout.dtype}"
            raise InputError(f"{name} has channels {now}, expected {first}")
        rgb, own = unpack(frame, other, name)
        alpha = own if not unpacked else alpha
        unpacked.append(chosen.place(rgb))
    with torch.inference_mode():
        tiles = plan_tiles(*layout.size, choose_tile(tile, chosen.device), chosen.halo)
        merged = tiles.join(
            lambda index: chosen.module(torch.stack([tiles.cut(rgb, index) for rgb in unpacked], 1)), chosen.scale
        )
        return pack(merged, alpha, layout)
