"""The frames of a burst as they are merged, and which of them is the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from msr import io
from msr.errors import InputError
from msr.pipelines.burst_sources import Source
from msr.pipelines.handheld import Shot, sharpest
from msr.pipelines.pixels import describe, unpack

#: Bytes of frames that are kept as they are stored.
_KEPT = 1 << 28


class Shots:
    """The frames of a burst, each read when it is asked for, all of the kind of the one that was read first.

    Args:
        frames: of the burst.
        device: for ``shot`` and ``load``.
        raw: whether RAW frames are taken before they are developed.

    Raises:
        InputError: a frame that cannot be read, with other channels, or whose mosaic begins with other colours or lies
            otherwise.

    Example:
        >>> import numpy as np
        >>> frames = [Source("a", (5, 4), lambda: io.Picture(np.zeros((4, 5, 3), np.uint8)))]
        >>> Shots(frames, torch.device("cpu"), raw=False).load(0).size
        (4, 5)
    """

    def __init__(self, frames: Sequence[Source], device: torch.device, raw: bool) -> None:
        self._frames, self._device, self._raw = frames, device, raw
        self._first: tuple[str, str] | None = None
        self._kept: dict[int, io.Picture | io.RawFrame] = {}
        self._room = _KEPT

    def read(self, index: int) -> io.Picture | io.RawFrame:
        """The frame as it is stored; the first ones stay in memory while there is room, for they are read twice."""
        if index in self._kept:
            return self._kept[index]
        frame = self._frames[index]
        loaded = frame.load_raw() if self._raw and frame.load_raw is not None else frame.load()
        if isinstance(loaded, io.RawFrame):
            kind = f"pattern {loaded.pattern} and orientation {loaded.orientation}"
        else:
            kind = f"{describe(loaded.pixels, frame.name).channels} channels"
        first = self._first = self._first or (kind, frame.name)
        if kind != first[0]:
            raise InputError(f"{frame.name} has {kind}, expected {first[0]} as {first[1]}")
        size = (loaded.mosaic if isinstance(loaded, io.RawFrame) else loaded.pixels).nbytes
        if size <= self._room:
            self._room -= size
            self._kept[index] = loaded
        return loaded

    def shot(self, index: int, loaded: io.Picture | io.RawFrame) -> Shot:
        """The frame as it is merged."""
        if isinstance(loaded, io.RawFrame):
            mosaic = torch.from_numpy(loaded.linear())[None, None].to(self._device)
            return Shot(mosaic, loaded.pattern, loaded.white_balance, loaded.noise)
        name = self._frames[index].name
        return Shot(unpack(loaded.pixels, describe(loaded.pixels, name), name)[0].to(self._device))

    def load(self, index: int) -> Shot:
        """Read it, and make it that."""
        return self.shot(index, self.read(index))


def choose_base(wanted: str | int, frames: Sequence[Source], load: Callable[[int], Shot]) -> int:
    """Choose the frame that the result is to look like.

    Args:
        wanted: ``"sharpest"``, ``"first"``, or its place in the burst as it was named.
        frames: of the burst.
        load: gives one of them.

    Returns:
        Its index.

    Raises:
        InputError: another word, or an index that there is not.

    Example:
        >>> choose_base("first", [], lambda index: Shot(torch.zeros(1, 3, 4, 5)))
        0
    """
    if wanted == "first":
        return 0
    if wanted == "sharpest":
        return sharpest(len(frames), load)
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        for index, frame in enumerate(frames):
            if wanted in frame.places:
                return index
    last = max(place for frame in frames for place in frame.places)
    raise InputError(f"base must be sharpest, first, or a number from 0 to {last}, got {wanted!r}")
