"""Pictures in a folder, or named by a pattern of numbers, read and written as a clip."""

from __future__ import annotations

import contextlib
import filecmp
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from msr.errors import InputError, WorkError
from msr.io.format import ClipFormat, Frame, PixelFormat, stretch
from msr.io.image import IMAGE_SUFFIXES, check_format, read_image, write_image
from msr.io.output import whole
from msr.io.raw import RAW_SUFFIXES
from msr.io.samples import convert_depth

#: One number as printf writes it: ``%d``, ``%5d`` is not among them, ``%05d`` is.
_NUMBER = re.compile(r"%(0\d{1,2})?d")


def image_files(folder: Path, raw: bool = False) -> list[Path]:
    """List the pictures in a folder in natural order (frame2 before frame10).

    Args:
        folder: an existing folder.
        raw: whether RAW photos count.

    Returns:
        At least one path.

    Raises:
        InputError: the folder cannot be read or holds no picture.

    Example:
        >>> image_files(Path("frames"))    # doctest: +SKIP
        [PosixPath('frames/2.png'), PosixPath('frames/10.png')]
    """
    wanted = IMAGE_SUFFIXES + (RAW_SUFFIXES if raw else ())
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in wanted and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None
    if not files:
        raise InputError(f"{folder} holds no pictures")
    return sorted(files, key=lambda path: [(len(part), part) if part.isdigit() else (0, part)
                                           for part in re.split(r"(\d+)", path.name)])  # fmt: skip


def is_pattern(path: Path) -> bool:
    """Whether a path stands for many pictures, as ``frames/%05d.png`` does.

    Example:
        >>> is_pattern(Path("frames/%05d.png")), is_pattern(Path("100%.png"))
        (True, False)
    """
    return len(_NUMBER.findall(path.name)) == 1 and path.suffix.lower() in IMAGE_SUFFIXES and not path.exists()


def pattern_files(pattern: Path) -> list[Path]:
    """List the pictures that a pattern names, in the order of their numbers.

    Args:
        pattern: a path with one ``%d`` or ``%05d`` in its name.

    Returns:
        At least one path; the numbers may begin anywhere.

    Raises:
        InputError: none is there, or a number between is missing.

    Example:
        >>> pattern_files(Path("frames/%05d.png"))    # doctest: +SKIP
        [PosixPath('frames/00001.png'), PosixPath('frames/00002.png')]
    """
    numbers = _numbers(pattern)
    if not numbers:
        raise InputError(f"there are no pictures {pattern}")
    for number, expected in zip(numbers, range(numbers[0], numbers[0] + len(numbers)), strict=True):
        if number != expected:
            raise InputError(f"{pattern.with_name(_numbered(pattern, expected))} is missing")
    return [pattern.with_name(_numbered(pattern, number)) for number in numbers]


def check_free(pattern: Path, own: Iterable[Path] = ()) -> None:
    """Refuse to write under a pattern that names files which are there: they would be replaced.

    Args:
        pattern: a path with one ``%d`` or ``%05d`` in its name.
        own: folders of what is to be written; what ``join_folders`` has made of them already may be there.

    Raises:
        InputError: the first file that is in the way, or a folder that cannot be read.

    Example:
        >>> check_free(Path("frames/%05d.png"))    # doctest: +SKIP
    """
    made = {file.name: file for folder in own for file in folder.iterdir()}
    for number in _numbers(pattern):
        there = pattern.with_name(_numbered(pattern, number))
        if there.name not in made or not _same(there, made[there.name]):
            raise InputError(f"{there} exists; pictures are written to names that are free")


def _same(path: Path, other: Path) -> bool:
    return path.samefile(other) or filecmp.cmp(path, other, shallow=False)


def _numbers(pattern: Path) -> list[int]:
    """The numbers of the files that a pattern names, in order."""
    before, after = _NUMBER.split(pattern.name)[0], _NUMBER.split(pattern.name)[-1]
    shape = re.compile(re.escape(before) + r"(\d{1,18})" + re.escape(after))
    try:
        names = [path.name for path in pattern.parent.iterdir()]
    except OSError as error:
        raise InputError(f"cannot read {pattern.parent}: {error.strerror or error}") from None
    return sorted(
        int(found[1])
        for name in names
        if (found := shape.fullmatch(name)) and _numbered(pattern, int(found[1])) == name
    )


def _numbered(pattern: Path, number: int) -> str:
    return _NUMBER.sub(lambda found: found[0] % number, pattern.name)


class FolderReader:
    """Read pictures as the frames of a clip: those of a folder, or those that a pattern names.

    Args:
        path: a folder, or a path such as ``frames/%05d.png``; gray pictures become RGB.
        rate: frames a second.
        start: where to begin, in seconds.
        duration: seconds to read; None: to the end.

    Attributes:
        format: of the frames, RGB of 8 or 16 bits.
        frames: the number of pictures from ``start`` on.
        icc: the colour profile of the first picture, or None.
        audio: empty.
        left_out: what cannot be carried on.
        damaged: 0.

    Raises:
        InputError: no pictures, or (while reading) one that is damaged or of another size.

    Example:
        >>> with FolderReader("frames") as clip:     # doctest: +SKIP
        ...     print(clip.frames, clip.format.width)
    """

    def __init__(
        self, path: str | Path, *, rate: Fraction = Fraction(25), start: float = 0, duration: float | None = None
    ) -> None:
        self.path = Path(path)
        files = pattern_files(self.path) if is_pattern(self.path) else image_files(self.path)
        times = stretch(start, duration)
        begin = math.ceil(times[0] * rate)
        end = None if times[1] is None else math.ceil(times[1] * rate)
        self._files = files[begin:end]
        if not self._files:
            raise InputError(f"{self.path} has no picture from {start:g} s on at {float(rate):g} frames a second")
        self._index = begin
        self.frames = len(self._files)
        picture = read_image(self._files[0])
        self.icc = picture.icc
        height, width = picture.pixels.shape[:2]
        deep = picture.pixels.dtype != np.uint8
        self.format = ClipFormat(width, height, rate, 1 / rate, picture_format(deep), matrix=0, full_range=True)
        self.audio: list[str] = []
        self.left_out = ["its transparency"] if picture.pixels.shape[2:] == (4,) else []
        self.damaged = 0

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between frames."""

    def close(self) -> None:
        """Nothing stays open between frames."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the pictures in order, once."""
        depth = self.format.pixels.dtype
        while self._files:
            file = self._files.pop(0)
            pixels = read_image(file).pixels
            height, width = pixels.shape[:2]
            if (width, height) != (self.format.width, self.format.height):
                expected = f"{self.format.width}x{self.format.height}"
                raise InputError(f"{file}: frame {self._index} is {width}x{height}, expected {expected}")
            samples = convert_depth(pixels, depth)
            rgb = [samples] * 3 if samples.ndim == 2 else [samples[..., i] for i in range(3)]
            self._index += 1
            yield Frame(tuple(np.ascontiguousarray(plane) for plane in rgb), self._index - 1, 1, self.format)

    def skip(self, count: int) -> None:
        """Pass over pictures.

        Raises:
            WorkError: there are fewer.
        """
        if count > len(self._files):
            raise WorkError(f"{self.path} has only {len(self._files)} pictures left, expected {count}")
        del self._files[:count]
        self._index += count


class FolderWriter:
    """Write frames as numbered pictures into a folder.

    Args:
        path: the folder to make; it appears under this name when it is whole.
        name: of the pictures, with one ``%d`` or ``%06d``; the suffix chooses the format.
        first: the number of the first.
        icc: a colour profile to embed where the format can hold it.

    Raises:
        InputError: a name without a number or of an unknown format.
        WorkError: the folder or a file cannot be written.

    Example:
        >>> with FolderWriter("/tmp/msr-frames") as out:     # doctest: +SKIP
        ...     out.write([np.zeros((4, 4), np.uint8)] * 3, 0, 1)
    """

    def __init__(self, path: str | Path, name: str = "%06d.png", first: int = 0, icc: bytes | None = None) -> None:
        self.path = Path(path)
        self._name = Path(name)
        if len(_NUMBER.findall(name)) != 1:
            raise InputError(f"{name} must hold one number, as %06d.png does")
        check_format(self._name, (1, 1))
        self._count = first
        self._icc = icc
        with contextlib.ExitStack() as stack:
            self._part = stack.enter_context(whole(self.path))
            self._part.mkdir()
            self._stack = stack.pop_all()

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, value, trace)

    def write(self, planes: np.ndarray | Sequence[np.ndarray], pts: int, duration: int) -> None:
        """Write one frame: R, G, B planes ``(H, W)``, or a picture ``(H, W, 3)``. Pictures keep no times."""
        pixels = planes if isinstance(planes, np.ndarray) else np.stack(planes, -1)
        write_image(self._part / _numbered(self._name, self._count), pixels, self._icc)
        self._count += 1


def join_folders(target: Path, folders: Sequence[Path], folder: Path | None = None) -> None:
    """Give the pictures of folders that ``FolderWriter`` made their place, without a second copy where the disk can.

    The folders keep theirs: what is killed half-way can be done again.

    Args:
        target: a folder, made by this, or a pattern such as ``out/%06d.png`` in a folder that exists.
        folders: with pictures whose numbers go on from folder to folder.
        folder: where a folder is made before it is whole; as for ``whole``.

    Raises:
        InputError: a file of another content has one of the names.
        WorkError: a picture cannot be linked or copied.

    Example:
        >>> join_folders(Path("out"), [Path("job/0"), Path("job/1")])    # doctest: +SKIP
    """
    try:
        if is_pattern(target):
            check_free(target, folders)
            _link(folders, target.parent)
            return
        with whole(target, folder) as part:
            part.mkdir()
            _link(folders, part)
    except OSError as error:
        raise WorkError(f"cannot write {target}: {error.strerror or error}") from None


def _link(folders: Sequence[Path], to: Path) -> None:
    for folder in folders:
        for file in sorted(folder.iterdir()):
            part = to / f".{file.name}.part"
            part.unlink(missing_ok=True)
            try:
                os.link(file, part)
            except OSError:  # a file system without links
                shutil.copyfile(file, part)
            os.replace(part, to / file.name)
            part.unlink(missing_ok=True)  # which stays where both were the same file already


def picture_format(deep: bool) -> PixelFormat:
    """RGB of 16 bits, or of 8; FFmpeg's packed names tell pictures from RGB video."""
    return PixelFormat("rgb48le", 16, 0, 0, "rgb") if deep else PixelFormat("rgb24", 8, 0, 0, "rgb")
