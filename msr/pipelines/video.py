"""Clips of any length in constant memory, from frames to frames and from file to file."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from msr import io
from msr.errors import InputError, LastingError, MsrError
from msr.pipelines.choose import MAX_OUTPUT_PIXELS, Chosen, Model, choose_model, nearest_scale
from msr.pipelines.clip import Plan, pipe_writer, run_clip, segment_writer
from msr.pipelines.image import Written
from msr.pipelines.job import Job, describe_model, describe_source, job_folder
from msr.pipelines.pixels import Image, Layout, describe, pack, unpack
from msr.pipelines.progress import Bar, Report
from msr.pipelines.scenes import thumbnail
from msr.pipelines.stream import Stream
from msr.pipelines.target import Target, bring_to
from msr.pipelines.tiling import choose_tile

#: Frames of a segment, after which a run can be taken up: at most so many are computed twice.
SEGMENT = 96

_KINDS = ("video", "image")


@dataclasses.dataclass(frozen=True)
class VideoOptions:
    """What of a clip is enlarged and how it is written; see ``upscale_video``.

    Args:
        size: exactly this width and height instead of a scale.
        fit: the largest size of the clip's shape in this width and height.
        encoder: codec, quality and pixel format.
        start: where to begin, in seconds after the first frame.
        duration: seconds to enlarge; None: to the end.
        rate: frames a second of pictures, which do not say it themselves.
        resume: whether to go on with what a stopped run has left.
        deinterlace: whether interlaced frames are deinterlaced; else they are refused.
        keep_going: whether damaged places are passed over instead of an error.
        cuts: whether the video model starts anew where a scene does.
        segment: frames after which a run can be taken up again.
    """

    size: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None
    encoder: io.EncoderSettings = dataclasses.field(default_factory=io.EncoderSettings)
    start: float = 0.0
    duration: float | None = None
    rate: Fraction = Fraction(25)
    resume: bool = False
    deinterlace: bool = False
    keep_going: bool = False
    cuts: bool = True
    segment: int = SEGMENT


def upscale_frames(
    frames: Iterable[Image],
    scale: float | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    cuts: bool = True,
) -> Iterator[Image]:
    """Enlarge the frames of a clip, each yielded as soon as the frames that its model looks ahead to are there.

    Source: the recurrence of ``msr.models.video``; memory does not grow with the length of the clip. Where a scene
    seems to start, up to two frames more are waited for, to tell a cut from a flash.

    Args:
        frames: pictures as for ``upscale_image``, all of one size, dtype and number of channels.
        scale: enlargement factor, not necessarily whole: the nearest model, then an antialiased resize; None: the
            model's, or 4.
        model: None for ``video-x{scale}``, a name, a weights file or a loaded module; an image model
            runs frame by frame.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the
            device has instructions for it, else float32.
        tile: side of the tiles in LR pixels, at least 32; None or 0: by the size of the memory.
        cuts: whether the model starts anew where a scene does.

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
    target = Target(scale)
    chosen = _choose(scale, model, device, dtype)
    choose_tile(tile, chosen.device)
    return _run_frames(frames, chosen, tile, target, cuts)


def upscale_video(
    source: str | Path,
    target: str | Path,
    scale: float | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    options: VideoOptions | None = None,
    progress: bool | Report = False,
) -> Written:
    """Enlarge a clip from file to file; all but the size of its pictures stays as it is.

    Times, depth, subsampling, colour and its metadata, orientation and the other streams go along as ``msr.io`` says.
    What is done is kept beside the output until that is whole, so that a run that was stopped in any way goes on with
    ``VideoOptions(resume=True)``; the frames are those of a run that never stopped.

    Args:
        source: a clip, a folder of pictures in natural order, a pattern such as ``frames/%05d.png``, or ``-`` for
            y4m on standard input.
        target: ``.mp4``, ``.mov``, ``.mkv`` or ``.webm``; a name without a suffix becomes a folder of PNG files, a
            pattern such as ``out/%05d.png`` its pictures; ``-`` is y4m on standard output.
        scale: enlargement factor, not necessarily whole: the nearest model, then an antialiased resize; None: the
            model's, or 4.
        model: as for ``upscale_frames``.
        device: likewise.
        dtype: likewise.
        tile: likewise.
        options: other sizes, the encoder, the part of the clip, whether to go on with an earlier run.
        progress: whether to show a bar on a terminal; or what else hears how it goes.

    Returns:
        What was written.

    Raises:
        InputError: see ``upscale_frames``; also a source that cannot be read, a target that cannot be written, or an
            earlier run that was asked for something else.
        WorkError: the clip is truncated or damaged, or writing failed; nothing partial has the target's name.
        KeyboardInterrupt: stopped by the user; its text says how to go on.

    Example:
        >>> upscale_video("clip.mp4", "clip-x4.mp4")    # doctest: +SKIP
    """
    options = options or VideoOptions()
    asked = Target(scale, options.size, options.fit)
    report = progress if isinstance(progress, Report) else Bar() if progress else Report()
    started = time.perf_counter()
    check_names(source, target)
    source_path, target_path = Path(source), Path(target)
    suffix = ".y4m" if str(target) == "-" else target_path.suffix
    notes = _check(source_path, target_path, suffix)
    with (
        report,
        io.open_clip(
            source,
            start=options.start,
            duration=options.duration,
            rate=options.rate,
            deinterlace=options.deinterlace,
            keep_going=options.keep_going,
        ) as clip,
    ):
        upright = clip.format.upright_size
        chosen = _choose(asked.factor_of(*upright), model, device, dtype)
        choose_tile(tile, chosen.device)
        plan = _plan(clip.format, suffix, asked, chosen, tile, options)
        notes += _unheeded(clip, plan.written, suffix, options)
        for note in [*notes, *(f"left out of {source}: {what}" for what in clip.left_out)]:
            report.note(note)
        if suffix == ".y4m":
            report.begin(_label(source_path), clip.frames, 0)
            count = run_clip(clip, dataclasses.replace(plan, segment=0), pipe_writer(sys.stdout.buffer, plan), report)
        else:
            facts = _facts(source_path, plan, asked, options)
            with Job(target_path, facts, options.resume) as job:
                dropped = _run_job(job, clip, source_path, plan, options, report)
                count = job.frames
                job.remove()
            for note in dropped:
                if note not in notes:
                    report.note(note)
        if clip.damaged:
            report.note(f"{clip.damaged} damaged places of {source} were passed over")
    width, height = plan.written.upright_size
    return Written(target_path, width, height, count, time.perf_counter() - started)


def _unheeded(clip: io.ClipReader, written: io.ClipFormat, suffix: str, options: VideoOptions) -> list[str]:
    """Sentences on what was asked for, or belongs to the clip, and has no effect on what is written."""
    notes = []
    if options.rate != VideoOptions.rate and not isinstance(clip, io.FolderReader):
        notes.append("the clip has a frame rate of its own; --rate is for pictures")
    if written.aspect is not None and suffix != ".y4m" and suffix.lower() not in io.VIDEO_SUFFIXES:
        shape = f"{written.aspect.numerator}:{written.aspect.denominator}"
        notes.append(f"pictures cannot say that their pixels are not square ({shape})")
    return notes


def _run_job(
    job: Job, clip: io.ClipReader, source: Path, plan: Plan, options: VideoOptions, report: Report
) -> list[str]:
    """Make the segments that are missing and join them all; what stops it says how to go on. See _assemble."""
    joining = False
    try:
        if job.frames:
            report.note(f"going on after {job.frames} frames")
            clip.skip(job.frames)
        report.begin(_label(source), clip.frames, job.frames)
        icc = clip.icc if isinstance(clip, io.FolderReader) else None
        run_clip(clip, plan, segment_writer(job, plan, options.encoder, icc), report, job.state)
        joining = True
        return _assemble(job, clip, source, plan, options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(job)) from None
    except MsrError as error:
        how = "; the same command with --resume goes on"
        if isinstance(error, InputError | LastingError):  # not the same, then; and nothing helps what cannot be joined
            how = f" in {job.folder}" if joining and isinstance(error, LastingError) else " for --resume"
        kept = _how_to_go_on(job, how)
        raise type(error)(f"{error}; {kept}" if kept else str(error)) from None


def _label(source: Path) -> str:
    return "standard input" if str(source) == "-" else source.name


def _how_to_go_on(job: Job, how: str = "; the same command with --resume goes on") -> str:
    return f"{job.frames} frames are done and kept{how}" if job.segments else ""


def _assemble(job: Job, clip: io.ClipReader, source: Path, plan: Plan, options: VideoOptions) -> list[str]:
    """Join the segments under the output's name; sentences on what was left out."""
    if job.target.suffix.lower() in io.VIDEO_SUFFIXES:
        origin = source if isinstance(clip, io.VideoReader) else None
        return io.assemble(
            job.target,
            job.finished(),
            origin,
            plan.written,
            start=options.start,
            duration=options.duration,
            folder=job.folder,
        )
    io.join_folders(job.target, job.finished(), job.folder)
    return []


def _plan(
    source: io.ClipFormat, suffix: str, asked: Target, chosen: Chosen, tile: int | None, options: VideoOptions
) -> Plan:
    """Sizes and formats; refuses what cannot be made before any work is done for it."""
    upright = source.upright_size
    wanted = asked.size_of(*upright) or (upright[0] * chosen.scale, upright[1] * chosen.scale)
    # The network works on frames as stored.
    stored = wanted if source.turns % 2 == 0 else (wanted[1], wanted[0])
    chosen.check_size(source.height, source.width, "the clip")
    if wanted[0] * wanted[1] > MAX_OUTPUT_PIXELS:
        raise InputError(f"{wanted[0]}x{wanted[1]} pixels are too many; at most {MAX_OUTPUT_PIXELS:,} are made")
    written = io.output_format(source, *stored, options.encoder, suffix)
    if written.display_matrix is None and source.display_matrix is not None:
        written = io.output_format(source, *wanted, options.encoder, suffix)
        if source.turns % 2 and written.aspect is not None:
            written = dataclasses.replace(written, aspect=1 / written.aspect)
    if asked.size is not None:
        written = dataclasses.replace(written, aspect=_aspect(source, stored, written))
    return Plan(chosen, written, stored, tile, options.cuts, options.segment)


def _aspect(source: io.ClipFormat, stored: tuple[int, int], written: io.ClipFormat) -> Fraction | None:
    """The shape of a pixel with which a stretched picture is shown as before."""
    stretch = Fraction(source.width * stored[1], source.height * stored[0])
    if abs(stretch - 1) < Fraction(1, 100):  # the sides were rounded
        return written.aspect
    aspect = (source.aspect or Fraction(1)) * stretch
    if source.turns % 2 and written.display_matrix is None:
        aspect = 1 / aspect
    aspect = aspect.limit_denominator(1000)
    return aspect if aspect != 1 else None


def _choose(factor: float | None, model: Model | None, device: str, dtype: str) -> Chosen:
    """The model named, or the one that ships whose scale is nearest."""
    if model is not None or factor is None:
        return choose_model(_KINDS, None, model, device, dtype)
    return choose_model(_KINDS, nearest_scale(_KINDS[0], factor), None, device, dtype)


def _facts(source: Path, plan: Plan, asked: Target, options: VideoOptions) -> dict[str, Any]:
    """All that decides what the frames are, for the journal."""
    return {
        "source": describe_source(source),
        "model": describe_model(plan.chosen.module),
        "device": plan.chosen.device.type,
        "dtype": str(plan.chosen.dtype),
        "tile": plan.tile or 0,
        "written as": str(plan.written),
        "encoder": str(options.encoder),
        "start": options.start,
        "duration": options.duration,
        "deinterlace": options.deinterlace,
        "keep_going": options.keep_going,
        "cuts": options.cuts,
        "segment": options.segment,
    }


def check_names(source: str | Path, target: str | Path) -> None:
    """Refuse what is no name of a file or folder, and pipes that are closed."""
    if not str(source):
        raise InputError("the input has no name; a clip, a folder, a pattern or - is expected")
    if str(target) != "-" and not Path(target).name:
        raise InputError(f"the output '{target}' has no name; a new file or folder, a pattern or - is expected")
    if str(target) == "-" and sys.stdout is None:
        raise InputError("the standard output is closed")


def _check(source: Path, target: Path, suffix: str) -> list[str]:
    """Refuse what cannot work before anything is read; sentences on what cannot go along."""
    plain = str(source) == "-" or source.is_dir() or io.is_pattern(source)
    if not plain:
        io.check_file(source)
    if suffix != ".y4m" or str(target) != "-":
        io.check_output(target, [] if str(source) == "-" else [source])
        if not suffix and target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists; a folder of frames is written to a new or empty one")
        if io.is_pattern(target):
            io.check_free(target, sorted(job_folder(target).glob("[0-9]*.mkv")))
        elif suffix:
            io.check_video_suffix(target)
            if target.is_dir():
                raise InputError(f"{target} is a folder; a file name is expected")
    return io.check_container(None if plain else source, suffix)


def _run_frames(
    frames: Iterable[Image], chosen: Chosen, tile: int | None, target: Target, cuts: bool
) -> Iterator[Image]:
    stream: Stream[tuple[Tensor | None, Layout]] | None = None
    first: Layout | None = None
    size: tuple[int, int] | None = None
    for index, frame in enumerate(frames):
        layout = describe(frame, f"frame {index}")
        if first is None or stream is None:
            first = layout
            chosen.check_size(*layout.size, "the clip")
            size = target.size_of(layout.size[1], layout.size[0])
            stream = Stream(chosen, layout.size, tile)
        elif layout.size != first.size:
            raise InputError(f"frame {index} is {layout}, expected {first}")
        elif (layout.channels, layout.dtype) != (first.channels, first.dtype):
            now, before = f"{layout.channels} of {layout.dtype}", f"{first.channels} of {first.dtype}"
            raise InputError(f"frame {index} has channels {now}, expected {before}")
        rgb, alpha = unpack(frame, layout, f"frame {index}")
        small = thumbnail(rgb[0].mean(0)) if cuts and chosen.kind == "video" else None
        for (own, shape), large in stream.feed(chosen.place(rgb), small, (alpha, layout)):
            yield pack(bring_to(large, size, chosen.phase), own, shape)
    for (own, shape), large in stream.end() if stream is not None else ():
        yield pack(bring_to(large, size, chosen.phase), own, shape)
