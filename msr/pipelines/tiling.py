"""Tiles: a large picture in parts that fit in memory, joined without a seam."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

from msr.errors import InputError, WorkError

#: Width in LR pixels of the band on either side of a join in which two tiles fade into each other.
FADE = 8

#: Tiles are read from multiples of this many LR pixels on: the coarsest step of the flow network's pyramid.
ALIGN = 8

#: Peak of memory for one LR pixel in float32 at x4, measured on the CPU with 48 channels: image 2,700, burst 5,200,
#: video 6,400; rounded up.
_BYTES_PER_PIXEL = 8_000


@dataclasses.dataclass(frozen=True)
class Span:
    """Along one axis, in LR pixels: what a tile reads, and the trapezoid of its weight.

    The weight rises over ``[start, start + rise)`` and falls over ``[stop - fall, stop)``; rise and fall are 0 at the
    border of the picture.
    """

    read_start: int
    read_stop: int
    start: int
    stop: int
    rise: int
    fall: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A picture of ``height`` by ``width`` LR pixels cut into overlapping tiles.

    Source: halo (ghost-cell) tiling with a linear cross-fade between neighbours; weights sum to one at every pixel.
    """

    height: int
    width: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def cut(self, x: Tensor, index: int) -> Tensor:
        """The part of ``x (..., sH, sW)``, for any whole s, that tile ``index`` reads."""
        row, column = self._spans(index)
        scale = x.shape[-2] // self.height
        rows = slice(row.read_start * scale, row.read_stop * scale)
        return x[..., rows, column.read_start * scale : column.read_stop * scale]

    def join(self, run: Callable[[int], Tensor], scale: int) -> Tensor:
        """Enlarge every tile and join the results.

        Args:
            run: gives the enlargement ``(1, 3, sh, sw)`` of what ``cut(x, index)`` gave.
            scale: enlargement factor.

        Returns:
            ``(1, 3, sH, sW)``; float32 where there are several tiles.

        Raises:
            ValueError: ``run`` gave another size.

        Example:
            >>> x = torch.rand(1, 3, 50, 60)
            >>> tiles = plan_tiles(50, 60, 32, 8)
            >>> bool(torch.allclose(tiles.join(lambda i: tiles.cut(x, i), 1), x))
            True
        """
        if len(self) == 1:
            return run(0)
        canvas = Canvas(self)
        for index in range(len(self)):
            tile = run(index)
            row, column = self._spans(index)
            read = ((row.read_stop - row.read_start) * scale, (column.read_stop - column.read_start) * scale)
            if tuple(tile.shape[-2:]) != read:
                raise ValueError(f"a tile was enlarged to {tuple(tile.shape)}, expected (1, 3, {read[0]}, {read[1]})")
            canvas.add(index, tile)
        return canvas.joined()

    def _spans(self, index: int) -> tuple[Span, Span]:
        return self.rows[index // len(self.columns)], self.columns[index % len(self.columns)]


class Canvas:
    """Where the tiles' results are added up; each knows its scale by its size.

    Args:
        tiles: of the picture.

    Example:
        >>> x = torch.rand(1, 5, 50, 60)
        >>> tiles = plan_tiles(50, 60, 32, 8)
        >>> canvas = Canvas(tiles)
        >>> for index in range(len(tiles)):
        ...     canvas.add(index, tiles.cut(x, index))
        >>> bool(torch.allclose(canvas.joined(), x))
        True
    """

    def __init__(self, tiles: Tiles) -> None:
        self._tiles = tiles
        self._sum: Tensor | None = None

    def add(self, index: int, tile: Tensor) -> None:
        """Add what a tile gave, ``(B, C, sh, sw)`` for a whole scale s of what it read."""
        row, column = self._tiles._spans(index)
        scale = tile.shape[-2] // (row.read_stop - row.read_start)
        if self._sum is None:
            shape = (*tile.shape[:2], self._tiles.height * scale, self._tiles.width * scale)
            self._sum = torch.zeros(shape, device=tile.device)
        top, left = (row.start - row.read_start) * scale, (column.start - column.read_start) * scale
        high, wide = (row.stop - row.start) * scale, (column.stop - column.start) * scale
        inner = tile[..., top : top + high, left : left + wide].float()
        weight = _ramp(row, scale, tile.device)[:, None] * _ramp(column, scale, tile.device)
        place = (..., slice(row.start * scale, row.stop * scale), slice(column.start * scale, column.stop * scale))
        self._sum[place].addcmul_(inner, weight)

    def joined(self) -> Tensor:
        """The whole, ``(B, C, sH, sW)`` float32."""
        assert self._sum is not None
        return self._sum


def plan_tiles(height: int, width: int, tile: int, halo: int) -> Tiles:
    """Cut a picture into tiles whose results join without a seam.

    Each tile covers at most ``tile`` pixels a side, fades into its neighbours over ``2 * FADE`` pixels and reads
    ``halo`` pixels beyond what it gives. With a halo of at least the receptive field the result is that of the whole
    picture up to rounding. Layers that pool over the whole picture (channel attention) see the tile instead: there the
    tiles differ by the change of those means, and the fade spreads that difference so that no edge shows. With
    image-x4 and tiles of 48 or 96 pixels, that is 3 to 24 of 255 at its largest on photos (root mean square 0.2 to
    1.4). With the trained video model, whose state is joined and cut anew at each frame, and tiles of 96 pixels it is
    at most 0.92 of 255 on a clip of fast motion (root mean square 0.03); a test holds 1 of 255 on the clip of the
    examples.

    Args:
        height: of the picture in LR pixels.
        width: likewise.
        tile: side of a tile in LR pixels, at least ``4 * FADE``; one that covers the picture gives one tile.
        halo: pixels of context around a tile.

    Returns:
        The tiles.

    Raises:
        ValueError: ``tile`` is too small.

    Example:
        >>> len(plan_tiles(480, 640, 256, 32))
        6
    """
    if tile < 4 * FADE:
        raise ValueError(f"plan_tiles expects tiles of at least {4 * FADE} pixels a side, got {tile}")
    return Tiles(height, width, _spans(height, tile, halo), _spans(width, tile, halo))


def choose_tile(tile: int | None, device: torch.device) -> int:
    """The side of a tile in LR pixels: ``tile`` itself, or for None or 0 what a quarter of the device's memory holds.

    It depends on the size of the memory, not on what is free at the moment, so that a result can be repeated.

    Raises:
        InputError: ``tile`` is negative or too small.

    Example:
        >>> choose_tile(256, torch.device("cpu"))
        256
    """
    if tile and tile < 4 * FADE:
        raise InputError(f"a tile must be at least {4 * FADE} pixels a side, or 0 for automatic, got {tile}")
    if tile:
        return tile
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(max(math.sqrt(memory / 4 / _BYTES_PER_PIXEL), 96), 1024))


def halve_tile(tile: int, height: int, width: int) -> int:
    """The next smaller side of tiles, for when memory is out: half of what is in use, a multiple of ``ALIGN``.

    Raises:
        WorkError: the tiles cannot be smaller.

    Example:
        >>> halve_tile(1024, 360, 640)
        320
    """
    smaller = max(min(tile, max(height, width)) // 2 // ALIGN * ALIGN, 4 * FADE)
    if smaller >= min(tile, max(height, width)):
        raise WorkError(f"out of memory, even with tiles of {min(tile, max(height, width))} pixels a side")
    return smaller


def join_within_memory(
    size: tuple[int, int],
    tile: int,
    halo: int,
    run: Callable[[Tiles, int], Tensor],
    scale: int,
    told: Callable[[str], None] | None = None,
) -> Tensor:
    """Enlarge a picture in tiles, from the start again with tiles of half the side when memory runs out.

    Args:
        size: height and width of the picture in LR pixels.
        tile: side of the tiles to begin with, in LR pixels.
        halo: see ``plan_tiles``.
        run: gives the enlargement of one tile, from the tiles and its number.
        scale: enlargement factor.
        told: called with a sentence when the tiles become smaller.

    Returns:
        ``(1, 3, sH, sW)``, as ``Tiles.join``.

    Raises:
        WorkError: the smallest tiles need more memory than there is, or the result is not finite.

    Example:
        >>> x = torch.rand(1, 3, 50, 60)
        >>> same = join_within_memory((50, 60), 32, 8, lambda tiles, index: tiles.cut(x, index), 1)
        >>> bool(torch.allclose(same, x))
        True
    """
    while True:
        tiles = plan_tiles(*size, tile, halo)
        try:
            joined = tiles.join(functools.partial(run, tiles), scale)
            if not all(bool(end.isfinite()) for end in joined.aminmax()):
                raise WorkError("the network's result is not finite (NaN or infinity); with dtype float32 it may be")
            return joined
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Here the error is gone, and with it what its traceback held.
        tile = halve_tile(tile, *size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if told is not None:
            told(f"out of memory: going on with tiles of {tile} pixels")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or for the processor.

    Example:
        >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
        True
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch has no error of its own for the processor's memory; nor have oneDNN, cuDNN, cuBLAS and our kernels.
    words = (
        "can't allocate memory",
        "not enough memory",
        "could not create a memory",
        "ALLOC_FAILED",
        "failed: out of memory",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _spans(size: int, tile: int, halo: int) -> tuple[Span, ...]:
    """Cut one axis evenly."""
    count = max(1, math.ceil(size / tile))
    edges = [size * i // count for i in range(count + 1)]
    spans = []
    for left, right in itertools.pairwise(edges):
        first, last = left == 0, right == size
        start, stop = (left if first else left - FADE), (right if last else right + FADE)
        start, stop = max(start, 0), min(stop, size)
        # Pyramids halve the picture from its corner: what a tile halves together is what the whole picture does.
        read = (max(start - halo, 0) // ALIGN * ALIGN, min(-(-(stop + halo) // ALIGN) * ALIGN, size))
        spans.append(Span(*read, start, stop, 0 if first else 2 * FADE, 0 if last else 2 * FADE))
    return tuple(spans)


def _ramp(span: Span, scale: int, device: torch.device) -> Tensor:
    """The weights along one axis: neighbours' ramps add up to one."""
    weight = torch.ones((span.stop - span.start) * scale, device=device)
    if span.rise:
        rise = span.rise * scale
        weight[:rise] = (torch.arange(rise, device=device) + 0.5) / rise
    if span.fall:
        fall = span.fall * scale
        weight[-fall:] = 1.0 - (torch.arange(fall, device=device) + 0.5) / fall
    return weight
