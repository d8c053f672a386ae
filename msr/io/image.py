"""Still pictures: PNG, JPEG, TIFF, WebP and BMP through OpenCV."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from msr.errors import InputError, WorkError
from msr.io.exif import exif_orientation
from msr.io.header import declared_size
from msr.io.output import whole

#: A larger picture is refused before it is decoded.
MAX_PIXELS = 1 << 28

#: What a format holds: sample types, alpha, ICC profile, longest side.
_FORMATS: dict[str, tuple[tuple[str, ...], bool, bool, int]] = {
    ".png": (("uint8", "uint16"), True, True, 1_000_000),
    ".tif": (("uint8", "uint16", "float32"), True, False, 1_000_000),
    ".tiff": (("uint8", "uint16", "float32"), True, False, 1_000_000),
    ".jpg": (("uint8",), False, True, 65_500),
    ".jpeg": (("uint8",), False, True, 65_500),
    ".webp": (("uint8",), True, True, 16_383),
    ".bmp": (("uint8",), True, False, 32_767),
}

IMAGE_SUFFIXES = tuple(_FORMATS)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture: ``pixels (H, W)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA, and its ICC profile if any.

    Pixels are uint8, uint16 or float32 (float in [0, 1]), encoded as the file has them (sRGB unless ``icc`` says
    otherwise).
    """

    pixels: np.ndarray
    icc: bytes | None = None


def read_image(path: str | Path) -> Picture:
    """Read a picture upright, with its own bit depth, gray or colour, and alpha.

    The EXIF orientation (CIPA DC-008) is applied. JPEG in CMYK and pictures with a palette become RGB. The ICC profile
    of PNG, JPEG and WebP is kept as bytes; that of TIFF is not read. Of a file with several pages, the first is read.

    Args:
        path: a PNG, JPEG, TIFF, WebP or BMP file of at most ``MAX_PIXELS`` pixels.

    Returns:
        The picture: uint8, uint16 or float32, ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``.

    Raises:
        InputError: the file is missing, a folder, empty, damaged, too large, or not a picture of these kinds.

    Example:
        >>> read_image("photo.jpg").pixels.shape    # doctest: +SKIP
        (480, 640, 3)
    """
    path = Path(path)
    data = read_file(path)
    kind, width, height = declared_size(data, str(path))
    if width < 1 or height < 1:
        raise InputError(f"{path} declares a size of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise InputError(f"{path} declares {width}x{height} pixels; at most {MAX_PIXELS:,} are read")
    # The decoder would fill the missing part of these with whatever it has.
    if kind == "png" and b"IEND" not in data:
        raise InputError(f"{path} is damaged: it ends before the end of its picture")
    icc: bytes | None = None
    orientation = 1
    with _silent_opencv():
        try:
            decoded, kinds, chunks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except (cv2.error, MemoryError) as error:
            raise InputError(f"{path} cannot be decoded: {_reason(error)}") from None
    if decoded is None or decoded.size == 0:
        raise InputError(f"{path} is damaged: its picture cannot be decoded")
    for tag, chunk in zip(kinds, chunks, strict=True):
        if tag == cv2.IMAGE_METADATA_ICCP:
            icc = np.asarray(chunk).tobytes()
        elif tag == cv2.IMAGE_METADATA_EXIF and kind != "tiff":  # OpenCV itself turns a TIFF upright
            orientation = exif_orientation(np.asarray(chunk).tobytes())
    pixels = np.ascontiguousarray(turn_upright(_to_rgb(decoded), orientation))
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"{path} holds {pixels.dtype} samples; uint8, uint16 and float32 are read")
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise InputError(f"{path} holds values that are not finite (NaN or infinity)")
    return Picture(pixels, icc)


def write_image(path: str | Path, pixels: np.ndarray, icc: bytes | None = None) -> None:
    """Write a picture; the file appears under its name only when it is whole.

    uint16 and float32 are rounded to the deepest samples that the format has: TIFF holds all, PNG 16 bits, the
    others 8. JPEG and WebP are written at quality 95.

    Args:
        path: the name; its suffix chooses the format.
        pixels: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA; uint8, uint16, or float32 in [0, 1].
        icc: a colour profile to embed; left out where the format or OpenCV cannot hold it (TIFF, BMP).

    Raises:
        InputError: unknown suffix, or the format cannot hold the picture.
        WorkError: the file cannot be written.

    Example:
        >>> write_image("/tmp/gray.png", np.zeros((4, 4), np.uint8))
    """
    path = Path(path)
    check_format(path, pixels.shape)
    suffix = path.suffix.lower()
    depths, _, holds_icc, _ = _FORMATS[suffix]
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    swapped = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    samples = np.ascontiguousarray(convert_depth(swapped, pixels.dtype if str(pixels.dtype) in depths else depths[-1]))
    options: list[int] = []
    if suffix in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    elif suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 95]
    # An RGB profile in a gray PNG is refused by libpng.
    embed = icc is not None and holds_icc and pixels.ndim == 3
    done = False
    with _silent_opencv():
        try:
            if embed:
                chunk = np.frombuffer(icc or b"", np.uint8)
                done, data = cv2.imencodeWithMetadata(suffix, samples, [cv2.IMAGE_METADATA_ICCP], [chunk], options)
            if not done:  # no profile, or one that the encoder finds broken
                done, data = cv2.imencode(suffix, samples, options)
        except (cv2.error, MemoryError) as error:
            raise WorkError(f"cannot encode {path}: {_reason(error)}") from None
    if not done:
        raise WorkError(f"cannot encode {path}")
    with whole(path) as part:
        part.write_bytes(data.tobytes())


def check_format(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a file name whose format cannot hold a picture of this shape.

    Args:
        path: the output name.
        shape: ``(H, W)`` or ``(H, W, C)``, in pixels.

    Raises:
        InputError: unknown suffix, an alpha channel in JPEG, or a side beyond the limit of the format.

    Example:
        >>> check_format(Path("a.png"), (480, 640, 4))
    """
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        raise InputError(f"cannot write {path}: the name must end in one of {', '.join(_FORMATS)}")
    _, alpha, _, longest = known
    if len(shape) == 3 and shape[2] == 4 and not alpha:
        raise InputError(f"cannot write {path}: JPEG holds no alpha channel; choose .png, .tif or .webp")
    if max(shape[:2]) > longest:
        raise InputError(f"cannot write {path}: {shape[1]}x{shape[0]} pixels, {path.suffix} holds {longest} a side")


def convert_depth(pixels: np.ndarray, dtype: np.dtype | str) -> np.ndarray:
    """Convert samples between uint8, uint16 and float32 in [0, 1], rounding to nearest and clipping.

    Args:
        pixels: any shape; uint8, uint16 or float32.
        dtype: the wanted one of the three.

    Returns:
        The same picture in ``dtype``.

    Example:
        >>> convert_depth(np.array([65535, 257], np.uint16), "uint8").tolist()
        [255, 1]
    """
    dtype = np.dtype(dtype)
    if pixels.dtype == dtype:
        return pixels
    unit = pixels.astype(np.float32)
    if pixels.dtype != np.float32:
        unit /= np.iinfo(pixels.dtype).max
    if dtype == np.float32:
        return unit
    top = np.iinfo(dtype).max
    return np.rint(np.clip(unit, 0.0, 1.0) * top).astype(dtype)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008).

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)`` as stored.
        orientation: 1 to 8; 2, 4, 5, 7 mirror, 3, 6, 8 turn.

    Returns:
        A view of them, upright.

    Example:
        >>> turn_upright(np.zeros((2, 3)), 6).shape
        (3, 2)
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def read_file(path: Path) -> bytes:
    """Read all of a file, or say in one sentence why not.

    Args:
        path: an existing file with something in it.

    Returns:
        Its bytes.

    Raises:
        InputError: missing, a folder, empty or not readable.

    Example:
        >>> read_file(Path("photo.jpg"))[:2]    # doctest: +SKIP
        b'\\xff\\xd8'
    """
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def check_file(path: Path) -> None:
    """Raise ``InputError`` unless ``path`` is a file with something in it."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; a file is expected")
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.stat().st_size == 0 and path.is_file():
            raise InputError(f"{path} is empty")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _to_rgb(decoded: np.ndarray) -> np.ndarray:
    if decoded.ndim == 2:
        return decoded
    return decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]


def _reason(error: BaseException) -> str:
    """The first line of an OpenCV message without its source position."""
    text = str(error).strip().splitlines()
    return text[0].rsplit("error:", 1)[-1].strip() if text else "out of memory"


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """OpenCV logs to stderr what is raised here as a sentence."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
