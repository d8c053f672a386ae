"""Still pictures: PNG, JPEG, TIFF, WebP and BMP through OpenCV, HEIF to read, OpenEXR to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from msr.errors import InputError, WorkError
from msr.io.exif import collect_exif, exif_orientation, tiff_profile
from msr.io.exr import write_exr
from msr.io.header import declared_size, embedded_exif
from msr.io.heif import HEIF_SUFFIXES, HeifPicture, is_heif
from msr.io.jpeg import LONGEST_PROFILE, with_profile
from msr.io.output import whole
from msr.io.samples import convert_depth, turn_upright
from msr.io.srgb import decode_srgb
from msr.io.tiff import write_tiff
from msr.io.tiff_layout import as_meant, check_tiff, tiff_layout, unmultiplied

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")

#: A larger picture is refused before it is decoded.
MAX_PIXELS = 1 << 28

#: What a format holds: sample types, alpha, ICC profile, longest side.
_FORMATS: dict[str, tuple[tuple[str, ...], bool, bool, int]] = {
    ".png": (("uint8", "uint16"), True, True, 1_000_000),
    ".tif": (("uint8", "uint16", "float32"), True, True, 1_000_000),
    ".tiff": (("uint8", "uint16", "float32"), True, True, 1_000_000),
    **dict.fromkeys(_JPEG, (("uint8",), False, True, 65_500)),
    ".webp": (("uint8",), True, True, 16_383),
    ".bmp": (("uint8",), True, False, 32_767),
    ".exr": (("float32",), True, False, 1_000_000),
}

#: What is read.
IMAGE_SUFFIXES = tuple(suffix for suffix in _FORMATS if suffix != ".exr") + HEIF_SUFFIXES
#: What a marker segment of JPEG holds of EXIF, with some room; what is written of it elsewhere.
_LONGEST_EXIF, _MOST_EXIF = 65_000, 1 << 20


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture: ``pixels (H, W)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA, its ICC profile and EXIF if any.

    Pixels are uint8, uint16 or float32 (float in [0, 1]), encoded as the file has them (sRGB unless ``icc`` says
    otherwise). ``exif`` is what describes the photo (see ``msr.io.exif``): without a thumbnail, upright.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None


def read_image(path: str | Path) -> Picture:
    """Read a picture upright, with its own bit depth, gray or colour, and alpha.

    The EXIF orientation (CIPA DC-008) is applied. JPEG in CMYK and pictures with a palette become RGB. The ICC profile
    and what EXIF says of the photo are kept as bytes. Of a file with several pages, the first is read.

    Args:
        path: a PNG, JPEG, TIFF, WebP or BMP file of at most ``MAX_PIXELS`` pixels, or HEIF where pillow_heif is
            installed.

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
    if is_heif(data):
        photo = HeifPicture(data, str(path))
        _check_size(path, *photo.size)
        return Picture(photo.decode(), photo.icc, collect_exif(photo.exif or b""))
    kind, width, height = declared_size(data, str(path))
    _check_size(path, width, height)
    layout = tiff_layout(data) if kind == "tiff" else None
    if layout is not None:
        check_tiff(layout, str(path))
    # The decoder would fill the missing part of these with whatever it has.
    if kind == "png" and b"IEND" not in data:
        raise InputError(f"{path} is damaged: it ends before the end of its picture")
    encoded = np.frombuffer(data if layout is None else unmultiplied(data, layout), np.uint8)
    with _silent_opencv():
        try:
            decoded, kinds, chunks = cv2.imdecodeWithMetadata(encoded, cv2.IMREAD_UNCHANGED)
        except (cv2.error, MemoryError) as error:
            raise InputError(f"{path} cannot be decoded: {_reason(error)}") from None
    if decoded is None or decoded.size == 0:
        raise InputError(f"{path} is damaged: its picture cannot be decoded")
    if sorted(decoded.shape[:2]) != sorted((height, width)):
        raise InputError(f"{path} is damaged: it declares {width}x{height} pixels, but has others")
    if layout is not None:
        decoded = as_meant(decoded, layout)
    elif kind == "webp" and data[12:16] == b"VP8X" and not data[20] & 0x10:
        decoded = decoded[..., :3]  # of an animation OpenCV gives an alpha that the file does not have
    icc = tiff_profile(data) if kind == "tiff" else None
    for tag, chunk in zip(kinds, chunks, strict=True):
        if tag == cv2.IMAGE_METADATA_ICCP:
            icc = np.asarray(chunk).tobytes()
    exif = embedded_exif(data, kind) or b""
    orientation = 1 if kind == "tiff" else exif_orientation(exif)  # OpenCV itself turns a TIFF upright
    pixels = np.ascontiguousarray(turn_upright(_to_rgb(decoded), orientation))
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"{path} holds {pixels.dtype} samples; uint8, uint16 and float32 are read")
    if pixels.dtype == np.float32 and not np.isfinite(pixels).all():
        raise InputError(f"{path} holds values that are not finite (NaN or infinity)")
    return Picture(pixels, icc, collect_exif(exif))


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the size of a picture as ``read_image`` will give it, without decoding it.

    Args:
        path: as for ``read_image``.

    Returns:
        Width and height in pixels, upright.

    Raises:
        InputError: as for ``read_image``, as far as the first bytes show it.

    Example:
        >>> image_size("photo.jpg")    # doctest: +SKIP
        (640, 480)
    """
    path = Path(path)
    data = read_file(path)
    if is_heif(data):
        width, height = HeifPicture(data, str(path)).size
    else:
        kind, width, height = declared_size(data, str(path))
        if exif_orientation(embedded_exif(data, kind) or b"") >= 5:
            width, height = height, width
    _check_size(path, width, height)
    return width, height


def write_image(
    path: str | Path,
    pixels: np.ndarray,
    icc: bytes | None = None,
    exif: bytes | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a picture; the file appears under its name only when it is whole.

    uint16 and float32 are rounded to the deepest samples that the format has: TIFF holds all, PNG 16 bits, the
    others 8. JPEG and WebP are written at quality 95. OpenEXR holds linear light, so there the curve of sRGB is undone.

    Args:
        path: the name; its suffix chooses the format.
        pixels: ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA; uint8, uint16, or float32 in [0, 1].
        icc: a colour profile to embed; left out where it is not of RGB (gray for gray), and in BMP and OpenEXR.
        exif: as ``read_image`` gives it; left out in BMP and OpenEXR, and where it is too long (64 KB in JPEG,
            1 MB elsewhere).
        told: called with a sentence when the colour profile is left out.

    Raises:
        InputError: unknown suffix, or the format cannot hold the picture.
        WorkError: the file cannot be written.

    Example:
        >>> write_image("/tmp/gray.png", np.zeros((4, 4), np.uint8))
    """
    path = Path(path)
    check_format(path, pixels.shape)
    suffix = path.suffix.lower()
    depths, _, holds_more, _ = _FORMATS[suffix]
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if icc is not None:
        reason = _without_profile(suffix, holds_more, icc, b"GRAY" if pixels.ndim == 2 else b"RGB ")
        if reason:
            told(f"{path} is without the colour profile of its source{reason}: its colours may look different")
            icc = None
    if exif is not None and (not holds_more or len(exif) > (_LONGEST_EXIF if suffix in _JPEG else _MOST_EXIF)):
        exif = None
    if suffix == ".exr":
        unit = convert_depth(pixels, "float32")
        linear = decode_srgb(unit if unit.ndim == 2 else unit[..., :3])
        write_exr(path, linear if pixels.shape[2:] != (4,) else np.concatenate([linear, unit[..., 3:]], 2))
        return
    samples = np.ascontiguousarray(convert_depth(pixels, pixels.dtype if str(pixels.dtype) in depths else depths[-1]))
    if suffix in (".tif", ".tiff"):
        write_tiff(path, samples, icc, exif)
        return
    if samples.ndim == 3:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGB2BGR if samples.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    data = _encode(path, samples, icc, exif, told)
    with whole(path) as part, part.open("wb") as file:
        file.write(data)


def _without_profile(suffix: str, holds_more: bool, icc: bytes, space: bytes) -> str:
    """Why a format does not take a profile for a picture of that colour space; empty where it does."""
    if not holds_more:
        return f", for {suffix} holds none"
    if icc[16:20] != space:  # libpng would refuse it, and it is wrong elsewhere
        return f", for that is of {icc[16:20].decode('ascii', 'replace').strip()}"
    return ", for it is too long" if suffix in _JPEG and len(icc) > LONGEST_PROFILE else ""


def _encode(
    path: Path, samples: np.ndarray, icc: bytes | None, exif: bytes | None, told: Callable[[str], None]
) -> bytes | memoryview:
    suffix = path.suffix.lower()
    jpeg = suffix in _JPEG
    options: list[int] = []
    if jpeg:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]
    elif suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, 95]
    chunks = [(cv2.IMAGE_METADATA_EXIF, exif), (cv2.IMAGE_METADATA_ICCP, None if jpeg else icc)]
    found = [(kind, np.frombuffer(chunk, np.uint8)) for kind, chunk in chunks if chunk]
    done = False
    with _silent_opencv():
        try:
            # Without the profile, then without EXIF, if the encoder finds them broken.
            while not done and found:
                kinds, values = zip(*found, strict=True)
                done, data = cv2.imencodeWithMetadata(suffix, samples, list(kinds), list(values), options)
                if not done and found.pop()[0] == cv2.IMAGE_METADATA_ICCP:
                    told(f"{path} is without the colour profile of its source, for that is broken")
            if not done:
                done, data = cv2.imencode(suffix, samples, options)
        except (cv2.error, MemoryError) as error:
            raise WorkError(f"cannot encode {path}: {_reason(error)}") from None
    if not done:
        raise WorkError(f"cannot encode {path}")
    return with_profile(data.tobytes(), icc) if jpeg and icc else data.data


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


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{path} declares a size of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise InputError(f"{path} declares {width}x{height} pixels; at most {MAX_PIXELS:,} are read")


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
