"""Stretches of a clip, each encoded by itself into a file of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from msr.errors import WorkError
from msr.io.described import reason
from msr.io.encoders import EncoderSettings, choose_encoder, encoder_options, encoder_pix_fmt
from msr.io.format import ClipFormat
from msr.io.output import whole
from msr.io.planes import write_planes

#: Where a segment says when its first frame is shown: the file itself begins at zero.
START = "MSR_START"

#: Matroska counts milliseconds, whatever the clip does. Ticks of the clip are written as if they were
#: milliseconds, so that every time comes back exactly; no other container holds all codecs and all their tags.
TICK = Fraction(1, 1000)
_EARLY = 1 << 40


class SegmentWriter:
    """Encode planes one frame after another into a video-only Matroska file, for ``assemble`` to join.

    A segment is an encoder run of its own: it begins with a key frame and refers to nothing outside. Times are kept
    exactly, but a player shows them at the wrong speed.

    Args:
        path: the file to write (any name); it appears under this name when it is whole.
        clip: of the frames; what ``output_format`` returned.
        settings: the user's choice; the same as given to ``output_format``.
        suffix: of the final file, by which the encoder is chosen.

    Raises:
        WorkError: encoding or writing failed.

    Example:
        >>> with SegmentWriter("0.mkv", clip, EncoderSettings(), ".mp4") as out:    # doctest: +SKIP
        ...     out.write(planes, pts=0, duration=1)
    """

    def __init__(self, path: str | Path, clip: ClipFormat, settings: EncoderSettings, suffix: str) -> None:
        self.path = Path(path)
        self._clip = clip
        self._durations: dict[int, int] = {}
        self._first: int | None = None
        self._coded = 0
        encoder = choose_encoder(settings, clip.pixels.bits, suffix.lower())
        options = encoder_options(encoder, clip, settings)
        if encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors alone: it tells its settings on stderr otherwise
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(whole(self.path))
            try:
                self._container = av.open(
                    os.path.abspath(part), "w", format="matroska", container_options={"avoid_negative_ts": "disabled"}
                )
            except (av.error.FFmpegError, OSError) as error:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None
            stack.push(self._close)
            self._stream = self._add_stream(encoder, options)
            self._stack = stack.pop_all()

    def _add_stream(self, encoder: str, options: dict[str, str]) -> Any:
        clip = self._clip
        stream: Any = self._container.add_stream(encoder, rate=_plausible(clip.rate), options=options)
        stream.width, stream.height = clip.width, clip.height
        stream.pix_fmt = encoder_pix_fmt(encoder, clip.pixels)
        stream.time_base = TICK
        context = stream.codec_context
        context.time_base = clip.time_base
        context.colorspace = clip.matrix
        context.color_range = int(ColorRange.JPEG if clip.full_range else ColorRange.MPEG)
        context.color_primaries = clip.primaries
        context.color_trc = clip.transfer
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        return stream

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, trace)
            return
        with self._stack:
            try:
                self._mux(self._stream.encode())
                if self._first is None:
                    raise WorkError(f"cannot write {self.path}: it has no frames")
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the end of the file; after a failure its errors say nothing new."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            if kind is None:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None

    def write(self, planes: Sequence[np.ndarray], pts: int, duration: int) -> None:
        """Encode one frame.

        Args:
            planes: as the clip's ``pixels`` say, code values, ``(H, W)`` each.
            pts: when it is shown, in the clip's time base; increasing.
            duration: how long, in the same unit.

        Raises:
            ValueError: planes of another size or type.
            WorkError: encoding or writing failed.
        """
        frame = write_planes(planes, self._clip.pixels)
        if self._first is None:
            self._first = pts
            self._container.metadata[START] = str(pts)
        clip = self._clip
        frame.colorspace, frame.color_primaries, frame.color_trc = clip.matrix, clip.primaries, clip.transfer
        frame.color_range = int(ColorRange.JPEG if clip.full_range else ColorRange.MPEG)
        frame.pts, frame.time_base, frame.duration = pts - self._first, clip.time_base, duration
        self._durations[pts - self._first] = duration
        try:
            self._mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise WorkError(f"cannot write {self.path}: {reason(error)}") from None

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # The end of the longest packet becomes the length of the file, which tells how long the last frame is.
            packet.duration = self._durations.pop(packet.pts or 0, 1)
            # Encoders give decoding times that uneven frames contradict; ``assemble`` makes better ones. These only
            # increase and lie before every frame, as the muxer demands.
            packet.dts = self._coded - _EARLY
            packet.time_base = TICK
            self._coded += 1
            self._container.mux(packet)


def _plausible(rate: Fraction) -> Fraction:
    """Encoders count frames a second in 32 bits, and a few refuse what no clip has."""
    return rate.limit_denominator(100_000) if 1 <= rate <= 1000 else Fraction(25)
