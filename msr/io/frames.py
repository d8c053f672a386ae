"""A folder of pictures read and written as a clip."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from msr.errors import InputError
from msr.io.format import ClipFormat, Frame, planar_format
from msr.io.image import IMAGE_SUFFIXES, convert_depth, read_image, write_image
from msr.io.output import whole
from msr.io.raw import RAW_SUFFIXES


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


class FolderReader:
    """Read the pictures of a folder as the frames of a clip at 25 frames a second.

    Args:
        path: the folder; gray pictures become RGB, alpha is left out.

    Attributes:
        format: what a written clip takes over.
        frames: the number of pictures.

    Raises:
        InputError: no pictures, or (while reading) one that is damaged.

    Example:
        >>> with FolderReader("frames") as clip:     # doctest: +SKIP
        ...     print(clip.frames, clip.format.width)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = image_files(self.path)
        self.frames = len(self._files)
        first = read_image(self._files[0]).pixels
        rate = Fraction(25)
        height, width = first.shape[:2]
        self.format = ClipFormat(
            width, height, rate, 1 / rate, planar_format("rgb24" if first.dtype == np.uint8 else "rgb48le")
        )

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between frames."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the pictures in natural order."""
        for index, file in enumerate(self._files):
            pixels = read_image(file).pixels
            rgb = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels[..., :3]
            deep = self.format.pixels.bits > 8
            rgb = convert_depth(rgb, "uint16" if deep else "uint8")
            yield Frame(tuple(np.ascontiguousarray(rgb[..., i]) for i in range(3)), index, 1, self.format)


class FolderWriter:
    """Write frames as numbered PNG files.

    Args:
        path: the folder to make; it appears under this name when it is whole.

    Raises:
        WorkError: the folder or a file cannot be written.

    Example:
        >>> with FolderWriter("/tmp/msr-frames") as out:     # doctest: +SKIP
        ...     out.write(np.zeros((4, 4, 3), np.uint8), 0, 1)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._count = 0
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

    def write(self, pixels: np.ndarray, pts: int, duration: int) -> None:
        """Write one frame; a folder keeps no times."""
        write_image(self._part / f"{self._count:06d}.png", pixels)
        self._count += 1
