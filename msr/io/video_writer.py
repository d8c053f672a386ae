"""Clips written frame by frame with PyAV, the audio of their source copied along."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from msr.errors import InputError, WorkError
from msr.io.described import reason
from msr.io.format import UNSPECIFIED, ClipFormat
from msr.io.output import whole
from msr.io.planes import SWSCALE
from msr.io.planes import SWSCALE_MATRICES as MATRICES

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


class VideoWriter:
    """Encode RGB frames one by one, with the colours, times and audio of a source clip.

    ``.mp4``, ``.mov`` and ``.mkv`` are written as H.264 (libx264, CRF 17), ``.webm`` as VP9 (CRF 20); 4:2:0, or 4:4:4
    where a side is odd; 10 bits where the source has more than 8. Audio packets are copied as
    they are, never encoded again.

    Args:
        path: the clip to write; it appears under this name when it is whole.
        source: timing, colour tags and depth.
        width: of the written frames, in pixels.
        height: of the written frames, in pixels.
        audio_from: the clip whose audio goes along, or None.

    Raises:
        InputError: unknown suffix, or the container cannot hold the audio.
        WorkError: encoding or writing failed.

    Example:
        >>> with VideoReader("a.mp4") as clip, VideoWriter("b.mp4", clip.format, 640, 360) as out:    # doctest: +SKIP
        ...     for frame in clip:
        ...         out.write(frame.pixels, frame.pts, frame.duration)
    """

    def __init__(
        self, path: str | Path, source: ClipFormat, width: int, height: int, audio_from: Path | None = None
    ) -> None:
        self.path = Path(path)
        check_video_suffix(self.path)
        # Without a tag, players guess the matrix from the size, and the enlarged size may give another guess.
        self._matrix = source.matrix if source.matrix != UNSPECIFIED else (1 if height >= 720 else 6)
        self._full_range = source.full_range
        self._audio: _AudioCopy | None = None
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(whole(self.path))
            try:
                self._container = av.open(str(part), "w")
            except (av.error.FFmpegError, OSError) as error:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None
            stack.push(self._close)
            self._stream = self._add_stream(source, width, height)
            self._base = source.time_base
            if audio_from is not None:
                self._audio = stack.enter_context(_AudioCopy(audio_from, self._container, self.path))
            self._stack = stack.pop_all()

    def _add_stream(self, source: ClipFormat, width: int, height: int) -> Any:
        webm = self.path.suffix.lower() == ".webm"
        stream: Any = self._container.add_stream("libvpx-vp9" if webm else "libx264", rate=source.rate)
        stream.options = {"crf": "20", "b": "0", "row-mt": "1", "cpu-used": "4"} if webm else {"crf": "17"}
        stream.width, stream.height = width, height
        sampling = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        stream.pix_fmt = sampling + ("10le" if (source.pixels.bits > 8) else "")
        stream.time_base = source.time_base
        context = stream.codec_context
        context.time_base = source.time_base
        context.colorspace = self._matrix
        context.color_range = int(ColorRange.JPEG if source.full_range else ColorRange.MPEG)
        context.color_primaries = source.primaries
        context.color_trc = source.transfer
        if source.aspect:
            context.sample_aspect_ratio = source.aspect
        return stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, value, trace)
            return
        with self._stack:
            try:
                self._container.mux(self._stream.encode())
                if self._audio is not None:
                    self._audio.copy_until(None)
            except (av.error.FFmpegError, OSError) as error:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the end of the file; after a failure its errors say nothing new."""
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            if kind is None:
                raise WorkError(f"cannot write {self.path}: {reason(error)}") from None

    def write(self, pixels: np.ndarray, pts: int, duration: int) -> None:
        """Encode one frame.

        Args:
            pixels: ``(H, W, 3)`` RGB, uint8 or uint16.
            pts: when it is shown, in the source's time base; increasing.
            duration: how long, in the same unit.

        Raises:
            WorkError: encoding or writing failed.
        """
        layout = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout)
        frame = frame.reformat(
            format=self._stream.pix_fmt,
            dst_colorspace=MATRICES[self._matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if self._full_range else ColorRange.MPEG,
            interpolation=SWSCALE,
        )
        frame.pts, frame.time_base, frame.duration = pts, self._base, duration
        try:
            self._container.mux(self._stream.encode(frame))
            if self._audio is not None:
                self._audio.copy_until(pts * self._base)
        except (av.error.FFmpegError, OSError) as error:
            raise WorkError(f"cannot write {self.path}: {reason(error)}") from None


class _AudioCopy:
    """Copies the audio packets of a clip into a container, in step with its video."""

    def __init__(self, source: Path, target: av.container.OutputContainer, name: Path) -> None:
        self._target = target
        self._container = av.open(str(source))
        self._streams: dict[int, Any] = {}
        self._pending: av.Packet | None = None
        for stream in self._container.streams.audio:
            try:
                self._streams[stream.index] = target.add_stream_from_template(stream)
            except ValueError:
                codec = stream.codec_context.name
                self._container.close()
                raise InputError(f"{name.suffix} cannot hold the {codec} audio of {source}; choose .mkv") from None
        self._packets = self._container.demux(self._container.streams.audio) if self._streams else iter(())

    def __enter__(self) -> _AudioCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def copy_until(self, time: Fraction | None) -> None:
        """Copy what starts up to ``time`` in seconds, or the rest."""
        while True:
            packet = self._pending or next(self._packets, None)
            self._pending = None
            if packet is None:
                return
            if packet.dts is None:
                continue
            if time is not None and packet.dts * packet.time_base > time:
                self._pending = packet
                return
            packet.stream = self._streams[packet.stream.index]
            self._target.mux(packet)


def check_video_suffix(path: Path) -> None:
    """Raise ``InputError`` unless the suffix names a container that msr writes."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"cannot write {path}: the name must end in one of {', '.join(VIDEO_SUFFIXES)}")
