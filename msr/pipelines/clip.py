"""One clip from its reader to its writer: decoding, the network and encoding side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from msr import io
from msr.errors import WorkError
from msr.pipelines.choose import Chosen
from msr.pipelines.job import Job
from msr.pipelines.progress import Report
from msr.pipelines.relay import read_ahead, write_behind
from msr.pipelines.scenes import thumbnail
from msr.pipelines.stream import Stream, StreamState
from msr.pipelines.target import bring_to
from msr.pipelines.yuv import from_rgb, to_rgb

#: Frames that may wait on either side of the network: enough to even out key frames, and few in memory.
_WAITING = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of the frames of a clip.

    ``size`` is width and height of the result as stored, None for what the model gives; ``written`` the format of the
    planes to write; ``segment`` the frames after which the state is handed on for saving (0: never).
    """

    chosen: Chosen
    written: io.ClipFormat
    size: tuple[int, int] | None
    tile: int | None
    cuts: bool
    segment: int


@dataclasses.dataclass(frozen=True)
class Finished:
    """An enlarged frame on its way to the writer: planes on the model's device, and its time."""

    planes: list[Tensor]
    pts: int
    duration: int

    def write(self, out: Any) -> None:
        """Write it."""
        out.write([plane.cpu().numpy() for plane in self.planes], self.pts, self.duration)


#: What a writer takes: frames, and after the last frame of a segment the state that it leaves.
Items = Iterator[Finished | StreamState]


def run_clip(
    clip: io.ClipReader, plan: Plan, write: Callable[[Items], None], report: Report, state: StreamState | None = None
) -> int:
    """Enlarge the frames of a reader and hand them to a writer, each of which has a thread of its own.

    Whichever of them fails, the others stop, and its error is raised here.

    Args:
        clip: at the frame at which to begin.
        plan: what becomes of the frames.
        write: takes the frames in order, with a state after each full segment and at the end.
        report: hears of each frame.
        state: what the frames before leave.

    Returns:
        How many frames were enlarged.
    """
    format = clip.format
    stream: Stream[io.Frame] = Stream(plan.chosen, (format.height, format.width), plan.tile, state, report.note)
    count = 0

    def results(frames: Iterator[tuple[io.Frame, Tensor | None]]) -> Iterator[tuple[io.Frame, Tensor]]:
        for frame, small in frames:
            planes = [torch.from_numpy(plane).to(plan.chosen.device) for plane in frame.planes]
            with torch.inference_mode():
                rgb = plan.chosen.place(to_rgb(planes, format))
            yield from stream.feed(rgb, small, _without_planes(frame))
        yield from stream.end()

    with read_ahead(_frames(clip, plan), _WAITING) as frames, write_behind(write, _WAITING) as put:
        for frame, large in results(frames):
            with torch.inference_mode():
                large = bring_to(large, plan.size, plan.chosen.phase)
                planes = from_rgb(_as_written(large, format, plan.written), plan.written)
            put(Finished(planes, frame.pts, frame.duration))
            del large, planes  # not to be held while the next frame is worked on
            count += 1
            if plan.segment and stream.state.frames % plan.segment == 0:
                put(stream.state)
            report.advance()
        # A run that goes on where all frames were done has none for another segment.
        if count and plan.segment and stream.state.frames % plan.segment:
            put(stream.state)
    return count


def segment_writer(
    job: Job, plan: Plan, settings: io.EncoderSettings, icc: bytes | None = None
) -> Callable[[Items], None]:
    """A writer for ``run_clip`` that fills the segments of a job: clips for clips, folders for pictures."""
    target = job.target

    def open_segment() -> io.SegmentWriter | io.FolderWriter:
        path = job.segment(job.segments)
        if target.suffix.lower() in io.VIDEO_SUFFIXES:
            return io.SegmentWriter(path, plan.written, settings, target.suffix)
        name = target.name if io.is_pattern(target) else "%06d.png"
        return io.FolderWriter(path, name, job.frames, icc)

    def write(items: Items) -> None:
        try:
            for first in items:
                item: Finished | StreamState = first
                with open_segment() as out:
                    while isinstance(item, Finished):
                        item.write(out)
                        item = next(items)
                job.finish_segment(item)
        except WorkError as error:
            # The user knows the output by its own name.
            raise WorkError(f"cannot write {target}: {str(error).rsplit(': ', 1)[-1]}") from error

    return write


def pipe_writer(file: Any, plan: Plan) -> Callable[[Items], None]:
    """A writer for ``run_clip`` that writes y4m into an open file."""

    def write(items: Items) -> None:
        try:
            with io.Y4mWriter(file, plan.written) as out:
                for item in items:
                    if isinstance(item, Finished):
                        item.write(out)
        except BrokenPipeError:  # its reader has seen enough
            raise
        except OSError as error:
            raise WorkError(f"cannot write the standard output: {error.strerror or error}") from None

    return write


def _frames(clip: io.ClipReader, plan: Plan) -> Iterator[tuple[io.Frame, Tensor | None]]:
    """The decoded frames, each with the thumbnail by which cuts are found."""
    look = plan.cuts and plan.chosen.kind == "video"
    top = (1 << clip.format.pixels.bits) - 1
    for frame in clip:
        # Of RGB, green is nearest to luma.
        luma = frame.planes[1] if frame.format.pixels.kind == "rgb" else frame.planes[0]
        yield frame, thumbnail(luma, top) if look else None


def _without_planes(frame: io.Frame) -> io.Frame:
    return dataclasses.replace(frame, planes=())


def _as_written(rgb: Tensor, source: io.ClipFormat, written: io.ClipFormat) -> Tensor:
    """Set a frame upright where what is written cannot say how it is to be turned."""
    if written.display_matrix is not None:
        return rgb
    turned = rgb.rot90(source.turns, (-2, -1)) if source.turns else rgb
    return turned.flip(-1) if source.mirrored else turned
