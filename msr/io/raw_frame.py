"""RAW photos before demosaicking: the mosaic with the levels and colours that its pixels are to be read by."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rawpy

from msr.errors import InputError
from msr.io.exif import collect_exif
from msr.io.image import MAX_PIXELS, check_file
from msr.io.tags import Directory, read_children, read_directory

#: Linear sRGB to XYZ (IEC 61966-2-1, D65).
SRGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]], np.float64
)

#: Pixels that are made linear at once, so that they stay in the processor's cache.
_BAND = 1 << 16
_SUBDIRECTORIES, _CFA_SIZE, _ACTIVE_AREA, _NOISE_PROFILE = 330, 33421, 50829, 51041
#: Tags for the places and the lengths of strips and of tiles.
_PIXELS = ((273, 279), (324, 325))

#: EXIF orientation by LibRaw's flip: 1 mirrors columns, 2 rows, 4 swaps both.
_ORIENTATIONS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}


@dataclasses.dataclass(frozen=True)
class RawFrame:
    """One RAW photo before demosaicking.

    ``mosaic`` is the visible area as the sensor stored it, not turned upright, ``(H, W)`` uint16. ``pattern`` are the
    colours of its first 2x2 pixels, row by row: ``"rggb"``, ``"bggr"``, ``"grbg"`` or ``"gbrg"``; ``black`` the levels
    of those four, ``white`` that of saturation. ``white_balance`` are the gains of red, green and blue, green's is 1;
    ``to_srgb (3, 3)`` takes white-balanced camera RGB to linear sRGB, its rows sum to 1. ``noise`` is ``(a, b)``: a
    value x = (stored - black) / (white - black) varies by a x + b. ``orientation`` is that of EXIF, 1 to 8.
    """

    mosaic: np.ndarray
    pattern: str
    black: tuple[float, float, float, float]
    white: float
    white_balance: tuple[float, float, float]
    to_srgb: np.ndarray
    noise: tuple[float, float] | None = None
    orientation: int = 1
    exif: bytes | None = None

    def linear(self) -> np.ndarray:
        """The mosaic as ``(H, W)`` float32, 0 at black and 1 at saturation; noise may lead below 0.

        Example:
            >>> RawFrame(np.full((2, 2), 64, np.uint16), "rggb", (0,) * 4, 128, (1, 1, 1), np.eye(3)).linear().max()
            np.float32(0.5)
        """
        values = np.empty(self.mosaic.shape, np.float32)
        height, width = self.mosaic.shape
        black = np.tile(np.array(self.black, np.float32).reshape(2, 2), (1, (width + 1) // 2))[:, :width]
        rows = 2 * max(1, _BAND // (2 * width))

        def work(top: int) -> None:
            part = values[top : top + rows]
            part[...] = self.mosaic[top : top + rows]
            for row in (0, 1):
                part[row::2] -= black[row]
                part[row::2] /= np.float32(self.white) - black[row]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(work, range(0, height, rows)))
        return values


class NoMosaicError(InputError):
    """A RAW photo that can be developed, but has no Bayer mosaic to be merged on."""


def read_raw_frame(path: str | Path) -> RawFrame:
    """Read a RAW photo as its sensor stored it, without demosaicking.

    LibRaw decodes it; the noise profile of DNG (Adobe DNG 1.4, tag 51041; the mean over its colours) and EXIF are read
    from the file's own directories.

    Args:
        path: a DNG or another RAW file of a camera with a Bayer mosaic.

    Returns:
        The mosaic and all that is needed to develop it.

    Raises:
        InputError: missing, empty, no RAW file, damaged, larger than ``msr.io.MAX_PIXELS``, with impossible levels or
            colours.
        NoMosaicError: of another kind of sensor (X-Trans, Foveon, monochrome), or demosaicked already.

    Example:
        >>> read_raw_frame("shot.dng").pattern    # doctest: +SKIP
        'rggb'
    """
    path = Path(path)
    with open_raw(path) as raw:
        if raw.raw_type != rawpy.RawType.Flat or raw.raw_image is None or raw.raw_image.ndim != 2:
            raise NoMosaicError(
                f"{path} holds no mosaic: its pixels are demosaicked already, or have several values each"
            )
        if abs(raw.sizes.pixel_aspect - 1) > 0.005:
            raise InputError(f"{path} has pixels that are not square, which cannot be merged")
        mosaic = np.array(raw.raw_image_visible)
        height, width = mosaic.shape
        if height < 2 or width < 2:
            raise InputError(f"{path} is {width}x{height} pixels; a mosaic has at least 2x2")
        colours = _colours(raw, path)
        pattern = "".join("rgbg"[colour] for colour in colours)
        levels = raw.black_level_per_channel
        black = tuple(float(levels[colour]) for colour in colours)
        white = float(raw.white_level)
        if not (min(black) >= 0 and max(black) < white <= 65535):
            raise InputError(f"{path} has impossible levels: black {_words(black)}, white {white:g}")
        white_balance = _white_balance(raw, path)
        to_srgb = _to_srgb(raw, path)
        orientation = _ORIENTATIONS.get(raw.sizes.flip, 1)
    with _mapped(path) as data:
        directories = _directories(data, (_NOISE_PROFILE, _ACTIVE_AREA))
        black = _from_active_area(black, directories)
        noise = _noise(directories)
        exif = collect_exif(data)
    return RawFrame(mosaic, pattern, black, white, white_balance, to_srgb, noise, orientation, exif)  # type: ignore[arg-type]


def raw_exif(path: str | Path) -> bytes | None:
    """Return what EXIF says of a RAW photo, as far as its file is built like a TIFF (DNG, NEF, ARW, CR2, PEF, ..).

    Args:
        path: a file that LibRaw reads.

    Returns:
        As ``msr.io.exif.collect_exif``.

    Example:
        >>> raw_exif("shot.dng")    # doctest: +SKIP
    """
    with _mapped(Path(path)) as data:
        return collect_exif(data)


def raw_size(path: str | Path) -> tuple[int, int]:
    """Return the size of a RAW photo upright, without decoding it.

    Args:
        path: a file that LibRaw reads.

    Returns:
        Width and height in pixels.

    Raises:
        InputError: as for ``read_raw_frame``, as far as the file's head shows it.

    Example:
        >>> raw_size("shot.dng")    # doctest: +SKIP
        (4032, 3024)
    """
    with open_raw(Path(path), unpack=False) as raw:
        sizes = raw.sizes
        turned = _ORIENTATIONS.get(sizes.flip, 1) >= 5
        return (sizes.height, sizes.width) if turned else (sizes.width, sizes.height)


@contextlib.contextmanager
def open_raw(path: Path, unpack: bool = True) -> Iterator[rawpy.RawPy]:
    """Open and decode a RAW file; whatever LibRaw says of it in the block becomes one sentence.

    Args:
        path: a DNG or another RAW file that LibRaw reads.
        unpack: decode the pixels, too.

    Yields:
        LibRaw's view of the file.

    Raises:
        InputError: missing, empty, not RAW, damaged, or larger than ``msr.io.MAX_PIXELS``.

    Example:
        >>> with open_raw(Path("shot.dng")) as raw:    # doctest: +SKIP
        ...     print(raw.sizes)
    """
    check_file(path)
    if path.suffix.lower() == ".dng":
        _check_dng(path)
    with rawpy.RawPy() as raw:
        try:
            raw.open_file(str(path))
            sizes = raw.sizes
            for width, height in ((sizes.raw_width, sizes.raw_height), (sizes.width, sizes.height)):
                if width < 1 or height < 1:
                    raise InputError(f"{path} declares a size of {width}x{height} pixels")
                if width * height > MAX_PIXELS:
                    raise InputError(f"{path} declares {width}x{height} pixels; at most {MAX_PIXELS:,} are read")
            if unpack:
                raw.unpack()
            yield raw
        except (rawpy.LibRawError, OSError, RuntimeError, ValueError, MemoryError) as error:
            said = error.args[0] if error.args else error
            said = said.decode(errors="replace") if isinstance(said, bytes) else said
            said = "it is damaged or ends too early" if isinstance(error, rawpy.LibRawIOError) else said
            raise InputError(f"{path} is not a RAW photo that can be read: {said}") from None


def _check_dng(path: Path) -> None:
    """Refuse a DNG that LibRaw takes for another, or that ends before its pixels, as it says on standard error."""
    with _mapped(path) as data:
        for directory in _directories(data, (_CFA_SIZE, *itertools.chain(*_PIXELS))):
            size = directory[_CFA_SIZE].numbers if _CFA_SIZE in directory else (2, 2)
            if size not in ((2, 2), (6, 6)):
                raise InputError(
                    f"{path} has a colour filter of {'x'.join(f'{side:g}' for side in size)} pixels, which is not "
                    "read; 2x2 (Bayer) and 6x6 (X-Trans) are"
                )
            for where, how_long in _PIXELS:
                if where in directory and how_long in directory:
                    starts, lengths = directory[where].numbers, directory[how_long].numbers
                    if any(start + length > len(data) for start, length in zip(starts, lengths, strict=False)):
                        raise InputError(f"{path} is damaged: it ends before the end of its pixels")


def _colours(raw: rawpy.RawPy, path: Path) -> tuple[int, int, int, int]:
    """LibRaw's numbers of the colours of the first 2x2 pixels."""
    try:
        pattern = raw.raw_pattern
    except NotImplementedError:
        pattern = None
    if pattern is not None and len(pattern) > 1:
        sizes = raw.sizes
        ahead = np.roll(pattern, (-sizes.top_margin, -sizes.left_margin), (0, 1))
        four = tuple(int(colour) for colour in ahead[:2, :2].flat)
        whole = (np.tile(ahead[:2, :2], (len(ahead) // 2, len(ahead) // 2)) == ahead).all()
        names = "".join("rgbg"[colour] for colour in four)
        if whole and raw.color_desc in (b"RGBG", b"RGB") and names in ("rggb", "bggr", "grbg", "gbrg"):
            return four  # type: ignore[return-value]
    raise NoMosaicError(f"{path} is of a sensor without a Bayer mosaic of red, green and blue")


def _from_active_area(black: tuple[float, ...], directories: list[Directory]) -> tuple[float, ...]:
    """Levels as a DNG counts them, from the corner of ActiveArea, which LibRaw moves on to even rows and columns."""
    for directory in directories:
        tag = directory.get(_ACTIVE_AREA)
        if tag is not None and tag.kind in (3, 4) and len(tag.numbers) == 4:
            top, left = (int(side) for side in tag.numbers[:2])
            return tuple(np.roll(np.reshape(black, (2, 2)), (-top, -left), (0, 1)).ravel().tolist())
    return black


def _white_balance(raw: rawpy.RawPy, path: Path) -> tuple[float, float, float]:
    """The camera's gains, else those of daylight."""
    found = _to_green(raw.camera_whitebalance) or _to_green(raw.daylight_whitebalance)
    if found is None:
        raise InputError(f"{path} has an impossible white balance: {_words(tuple(raw.camera_whitebalance[:3]))}")
    return found


def missing_white_balance(raw: rawpy.RawPy) -> list[float] | None:
    """Where the camera states no possible gains, those of daylight, as for a `RawFrame`; LibRaw would guess others."""
    gains = _to_green(raw.daylight_whitebalance)
    return None if gains is None or _to_green(raw.camera_whitebalance) else [*gains, 1.0]


def _to_green(gains: list[float]) -> tuple[float, float, float] | None:
    """Gains of red, green and blue as multiples of green's; None if they are impossible."""
    red, green, blue = (float(gain) for gain in gains[:3])
    if all(np.isfinite(gain) and gain > 0 for gain in (red, green, blue)):
        found = red / green, 1.0, blue / green
        if all(1e-3 < gain < 1e3 for gain in found):
            return found
    return None


def _to_srgb(raw: rawpy.RawPy, path: Path) -> np.ndarray:
    """White-balanced camera RGB to linear sRGB: the file's own matrix, else that known of the camera, else none."""
    matrix = np.asarray(raw.color_matrix, np.float64)[:, :3]
    known = np.asarray(raw.rgb_xyz_matrix, np.float64)[:3]
    if not matrix[0, 0] > 0.125:  # LibRaw's own condition for using it
        matrix = np.eye(3)
        if known.any():
            camera = known @ SRGB_TO_XYZ
            with contextlib.suppress(np.linalg.LinAlgError), np.errstate(all="ignore"):
                matrix = np.linalg.inv(camera / camera.sum(1, keepdims=True))
    with np.errstate(all="ignore"):
        matrix = matrix / matrix.sum(1, keepdims=True)
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100 or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(f"{path} has an impossible colour matrix")
    return matrix.astype(np.float32)


def _directories(data: mmap.mmap, wanted: tuple[int, ...]) -> list[Directory]:
    """The first directory and those that it points to, of one of which the pixels of a DNG are."""
    first = read_directory(data, None, (_SUBDIRECTORIES, *wanted))
    return [first, *read_children(data, first, _SUBDIRECTORIES, wanted)]


def _noise(directories: list[Directory]) -> tuple[float, float] | None:
    for directory in directories:
        tag = directory.get(_NOISE_PROFILE)
        if tag is None or tag.kind != 12 or len(tag.numbers) < 2 or len(tag.numbers) % 2:
            continue
        a, b = np.array(tag.numbers).reshape(-1, 2).mean(0).tolist()
        # The offset may be slightly negative where a camera's fit is; the variance at white must not be.
        if np.isfinite([a, b]).all() and 0 <= a < 1 and -1 < b < 1 and a + b > 0:
            return a, max(b, 0.0)
    return None


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file, of which only those that are looked at are read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _words(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
