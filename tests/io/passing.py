"""The pass of a clip through reader, segments and assembly, without any change to its planes."""

from pathlib import Path

from msr.io import EncoderSettings, Frame, SegmentWriter, VideoReader, assemble, output_format


def passed(
    source: Path,
    target: Path,
    *,
    segment: int = 3,
    settings: EncoderSettings | None = None,
    start: float = 0,
    duration: float | None = None,
) -> tuple[list[Frame], list[str]]:
    """Write what is read, in segments of so many frames; the frames that were read, and the notes."""
    settings = settings or EncoderSettings(crf=0)
    job = target.parent / "job"
    job.mkdir(exist_ok=True)
    with VideoReader(source, start=start, duration=duration) as clip:
        size = clip.format.width, clip.format.height
        written = output_format(clip.format, *size, settings, target.suffix)
        frames = list(clip)
    parts = []
    for first in range(0, len(frames), segment):
        parts.append(job / f"{first}.mkv")
        with SegmentWriter(parts[-1], written, settings, target.suffix) as out:
            for frame in frames[first : first + segment]:
                out.write(frame.planes, frame.pts, frame.duration)
    return frames, assemble(target, parts, source, written, start=start, duration=duration)


def read(path: Path) -> list[Frame]:
    """All frames of a clip."""
    with VideoReader(path) as clip:
        return list(clip)
