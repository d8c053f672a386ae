"""Bursts merged by a network, in tiles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.pipelines.choose import Chosen
from msr.pipelines.handheld import Shot, merge_shots
from msr.pipelines.handheld.align import Motion
from msr.pipelines.handheld.noise import estimate_noise
from msr.pipelines.pixels import Image, describe, unpack
from msr.pipelines.raw_input import decode_camera_rgb, encode_camera_rgb, encode_mosaics
from msr.pipelines.tiling import Tiles, choose_tile, join_within_memory

#: Frames that a network takes at most.
MOST_FRAMES = 30


def merge_pictures(
    frames: Sequence[Image],
    names: Sequence[str],
    chosen: Chosen,
    tile: int | None,
    told: Callable[[str], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Merge pictures by a network of kind ``"burst"``; they become floating point tile by tile.

    Args:
        frames: pictures of one size, dtype and number of channels, the base first.
        names: how an error names them.
        chosen: the network.
        tile: as for ``msr.merge_burst``.
        told: called with a sentence when memory runs out and tiles become smaller.

    Returns:
        ``(1, 3, sH, sW)`` RGB, and the alpha of the base ``(1, 1, H, W)`` or None.

    Raises:
        InputError: no frames, or frames that do not fit together.
    """
    if not len(frames):
        raise InputError("no frames: a burst needs at least one")
    layout = describe(frames[0], names[0])
    chosen.check_size(*layout.size, names[0])
    for frame, name in zip(frames, names, strict=True):
        other = describe(frame, name)
        if other.size != layout.size:
            raise InputError(f"{name} is {other}, expected {layout}")
        if (other.channels, other.dtype) != (layout.channels, layout.dtype):
            now, first = f"{other.channels} of {other.dtype}", f"{layout.channels} of {layout.dtype}"
            raise InputError(f"{name} has channels {now}, expected {first}")
    stored = [_channels_first(frame) for frame in frames]

    def run(tiles: Tiles, index: int) -> Tensor:
        parts = [tiles.cut(frame, index) for frame in stored]
        rgb = [unpack(part, describe(part, name), name)[0] for part, name in zip(parts, names, strict=True)]
        merged: Tensor = chosen.module(torch.stack([chosen.place(part) for part in rgb], 1))
        return merged

    with torch.inference_mode():
        side = choose_tile(tile, chosen.device)
        merged = join_within_memory(layout.size, side, chosen.halo, run, chosen.scale, told)
    alpha = unpack(frames[0], layout, names[0])[1] if layout.channels == 4 else None
    return merged, alpha


def merge_mosaics(
    frames: Sequence[io.RawFrame], chosen: Chosen, tile: int | None, told: Callable[[str], None] | None = None
) -> Tensor:
    """Merge RAW frames by a network of kind ``"burst-raw"``, which goes on from what merging without training gives.

    Args:
        frames: of one size, pattern and orientation, the base first, whose white balance and noise count.
        chosen: the network.
        tile: as for ``msr.merge_burst``.
        told: called with a sentence when memory runs out and tiles become smaller.

    Returns:
        ``(1, 3, sH, sW)`` linear camera RGB in [0, 1], as the sensor lay.
    """
    base = frames[0]
    height, width = base.mosaic.shape
    chosen.check_size(height, width, "the base frame")
    noise = base.noise
    if noise is None:
        noise = estimate_noise(torch.from_numpy(base.linear())[None, None], base.pattern)
    stored = [torch.from_numpy(frame.mosaic) for frame in frames]
    shots = [functools.partial(_shot, frame, base.white_balance, noise, chosen.device) for frame in frames]
    handheld = merge_shots(shots, float(chosen.scale))
    # The first is the base, which needs no motion.
    motions = [use.motion for use in handheld.frames[1:]]
    with torch.inference_mode():
        start = encode_camera_rgb(handheld.image[0].clamp(0, 1), base.white_balance)
    del handheld

    def run(tiles: Tiles, index: int) -> Tensor:
        # Tiles begin at even rows and columns, so that the pattern begins with the same colour.
        encoded = []
        for frame, mosaic in zip(frames, stored, strict=True):
            linear = torch.from_numpy(dataclasses.replace(frame, mosaic=tiles.cut(mosaic, index).numpy()).linear())
            encoded.append(encode_mosaics(linear[None].to(chosen.device), base.pattern, base.white_balance, noise))
        flows = [_cut_flow(motion, tiles, index).to(chosen.device) for motion in motions]
        flow = torch.cat(flows) if flows else start.new_zeros(0, 2, *encoded[0].shape[2:])
        merged: Tensor = chosen.module(torch.cat(encoded)[None], flow[None], tiles.cut(start, index)[None])
        return merged

    with torch.inference_mode():
        merged = join_within_memory(
            (height, width), choose_tile(tile, chosen.device), chosen.halo, run, chosen.scale, told
        )
        return decode_camera_rgb(merged, base.white_balance)


def _shot(
    frame: io.RawFrame, gains: tuple[float, float, float], noise: tuple[float, float], device: torch.device
) -> Shot:
    return Shot(torch.from_numpy(frame.linear())[None, None].to(device), frame.pattern, gains, noise)


def _cut_flow(motion: Motion | None, tiles: Tiles, index: int) -> Tensor:
    """The flow where a tile reads, ``(1, 2, h, w)``; that of all pixels of all frames would take more than they do."""
    row, column = tiles.rows[index // len(tiles.columns)], tiles.columns[index % len(tiles.columns)]
    height = row.read_stop - row.read_start
    if motion is None:
        return torch.zeros(1, 2, height, column.read_stop - column.read_start)
    return motion.dense(height, tiles.width, row.read_start)[..., column.read_start : column.read_stop]


def _channels_first(frame: Image) -> Tensor:
    """``(C, H, W)`` or ``(H, W)``, as stored."""
    if isinstance(frame, Tensor):
        return frame
    values = frame if frame.flags.writeable else frame.copy()
    return torch.from_numpy(values if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)))
