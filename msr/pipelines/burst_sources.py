"""What a burst is made of: files, a folder of them or the frames of a clip, looked at before they are loaded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from msr import io
from msr.errors import InputError
from msr.pipelines.yuv import to_rgb

#: Frames that are taken of a clip, from its first on; they are kept as decoded.
CLIP_FRAMES = 30

#: Bytes at the end of files that are compared first.
_ENDING = 1 << 16
_CLIPS = (*io.VIDEO_SUFFIXES, ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".y4m")


@dataclasses.dataclass(frozen=True)
class Source:
    """One frame of a burst that is not loaded yet.

    ``name`` is how an error names it, ``size`` its width and height upright. ``load`` reads it, or develops it if it is
    RAW; ``load_raw`` gives the mosaic of a RAW photo and is None of others. ``places`` are those of the frame and its
    copies in the burst as it was named.
    """

    name: str
    size: tuple[int, int]
    load: Callable[[], io.Picture]
    load_raw: Callable[[], io.RawFrame] | None = None
    places: tuple[int, ...] = (0,)


def burst_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files of a burst: those that are named, or the pictures of a folder in natural order.

    Raises:
        InputError: there are none.

    Example:
        >>> burst_files(["a.jpg", "b.jpg"])
        [PosixPath('a.jpg'), PosixPath('b.jpg')]
    """
    files = [Path(path) for path in paths]
    if len(files) == 1 and files[0].is_dir():
        files = io.image_files(files[0], raw=True)
    if not files:
        raise InputError("no input: at least one frame is needed")
    for file in files:
        io.check_file(file)
    return files


def burst_sources(paths: Sequence[str | Path], note: Callable[[str], None] = lambda text: None) -> list[Source]:
    """Find the frames of a burst and see that they belong together, without decoding them.

    Files that are copies of an earlier one say nothing new and are passed over.

    Args:
        paths: picture or RAW files in their order, or one folder of them, or one clip, of which the first
            ``CLIP_FRAMES`` frames are decoded.
        note: called with a sentence on what was left out.

    Returns:
        At least one frame, all of one size and all RAW or none.

    Raises:
        InputError: nothing there, a file that cannot be read, frames of different sizes, RAW photos among others.

    Example:
        >>> [source.name for source in burst_sources(["a.jpg", "b.jpg"])]    # doctest: +SKIP
        ['a.jpg', 'b.jpg']
    """
    files = burst_files(paths)
    clips = [file for file in files if file.suffix.lower() in _CLIPS]
    if clips and len(files) > 1:
        raise InputError(f"{clips[0]} is a clip, which is a burst of its own; the others must be pictures, too")
    if clips:
        return _clip_sources(clips[0], note)
    raw, other = ([file for file in files if io.is_raw(file) == kind] for kind in (True, False))
    if raw and other:
        raise InputError(f"{raw[0]} is RAW and {other[0]} is not; the frames of a burst are of one kind")
    return _of_one_size([_file_source(file, places) for file, places in _without_copies(files, note)])


def _file_source(path: Path, places: Sequence[int]) -> Source:
    if io.is_raw(path):
        return Source(
            str(path),
            io.raw_size(path),
            lambda: io.Picture(io.read_raw(path), exif=io.raw_exif(path)),
            functools.partial(io.read_raw_frame, path),
            tuple(places),
        )
    return Source(str(path), io.image_size(path), functools.partial(io.read_image, path), places=tuple(places))


def _of_one_size(sources: list[Source]) -> list[Source]:
    expected = sources[0].size
    for source in sources:
        if source.size != expected:
            size, wanted = (f"{width}x{height}" for width, height in (source.size, expected))
            turned = " (it is turned)" if source.size == expected[::-1] else ""
            raise InputError(f"{source.name} is {size}{turned}, expected {wanted} as {sources[0].name}")
    return sources


def _without_copies(files: list[Path], note: Callable[[str], None]) -> list[tuple[Path, list[int]]]:
    """Each file once, with its places among all."""
    sizes = [(file.stat().st_size, _ending(file)) for file in files]
    seen: dict[str, int] = {}
    kept: list[tuple[Path, list[int]]] = []
    for place, (file, size) in enumerate(zip(files, sizes, strict=True)):
        if sizes.count(size) > 1:
            with file.open("rb") as stream:
                first = seen.setdefault(hashlib.file_digest(stream, "sha256").hexdigest(), len(kept))
            if first < len(kept):
                note(f"{file} is a copy of {kept[first][0]} and is left out")
                kept[first][1].append(place)
                continue
        kept.append((file, [place]))
    return kept


def _ending(file: Path) -> bytes:
    """Its last bytes, in which photos differ unless they are copies: it is not read as a whole to tell that."""
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - _ENDING, 0))
        return stream.read(_ENDING)


def _clip_sources(path: Path, note: Callable[[str], None]) -> list[Source]:
    """The first frames of a clip, as decoded; each is made a picture when it is asked for."""
    with io.open_clip(path) as clip:
        format = clip.format
        frames: list[io.Frame] = []
        for frame in clip:
            if len(frames) == CLIP_FRAMES:
                note(f"{path} has more than {CLIP_FRAMES} frames: the first {CLIP_FRAMES} are used")
                break
            frames.append(frame)
    return [
        Source(
            f"{path}, frame {index}", format.upright_size, functools.partial(_picture, frame, format), places=(index,)
        )
        for index, frame in enumerate(frames)
    ]


def _picture(frame: io.Frame, format: io.ClipFormat) -> io.Picture:
    rgb = to_rgb([torch.from_numpy(plane) for plane in frame.planes], format)[0].clamp(0, 1)
    upright = io.upright(rgb.permute(1, 2, 0).numpy(), format)
    return io.Picture(io.convert_depth(upright, "uint8" if format.pixels.bits == 8 else "uint16"))
