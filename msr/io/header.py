"""The size that an image file declares, read from its first bytes before any decoder sees it."""

from __future__ import annotations

import struct

from msr.errors import InputError
from msr.io.tiff_layout import tiff_layout


def declared_size(data: bytes, name: str) -> tuple[str, int, int]:
    """Return the format and the declared width and height of an encoded image.

    A file may declare a size that fills the memory of the machine when decoded, so the size is known before decoding.
    The layouts are those of the PNG specification (ISO/IEC 15948), JPEG (ITU-T T.81), TIFF 6.0 and BigTIFF, BMP
    and the WebP container (RFC 9649).

    Args:
        data: the encoded file.
        name: how an error names the file.

    Returns:
        Format (``"png"``, ``"jpeg"``, ``"tiff"``, ``"bmp"`` or ``"webp"``), width and height in pixels, as stored
        (before any EXIF rotation).

    Raises:
        InputError: the bytes are none of these formats, or end before the size.

    Example:
        >>> declared_size(b"BM" + bytes(12) + (40).to_bytes(4, "little") + b"\\x05\\0\\0\\0\\x03\\0\\0\\0", "a.bmp")
        ('bmp', 5, 3)
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return ("png", *struct.unpack_from(">II", data, 16))
        if data.startswith(b"\xff\xd8"):
            return ("jpeg", *_jpeg_size(data))
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            layout = tiff_layout(data)
            return "tiff", layout.width, layout.height
        if data.startswith(b"BM"):
            return ("bmp", *_bmp_size(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return ("webp", *_webp_size(data))
    except (struct.error, IndexError, KeyError, TypeError):
        raise InputError(f"{name} is damaged: it ends before its image size") from None
    raise InputError(f"{name} is not an image that msr reads (PNG, JPEG, TIFF, WebP, BMP, HEIF)")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        if data[at] != 0xFF:
            raise IndexError
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte before a marker
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header; DHT, JPG, DAC are not
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            length = struct.unpack_from(">H", data, at + 2)[0]
            if length < 2:
                raise IndexError
            at += 2 + length


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # the OS/2 header
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height means rows from top to bottom


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def embedded_exif(data: bytes, kind: str) -> bytes | None:
    """Find the EXIF block of an encoded image without decoding it.

    It is a marker segment APP1 of JPEG, a chunk eXIf of PNG or EXIF of WebP; a TIFF file is one itself.

    Args:
        data: the encoded file.
        kind: what ``declared_size`` says it is.

    Returns:
        The block, for ``msr.io.exif``; None where there is none or the file is damaged before it.

    Example:
        >>> embedded_exif(b"\\x89PNG\\r\\n\\x1a\\n", "png") is None
        True
    """
    find = {"jpeg": _jpeg_exif, "png": _png_exif, "webp": _webp_exif, "tiff": lambda whole: whole}.get(kind)
    try:
        return find(data) if find is not None else None
    except (struct.error, IndexError):
        return None


def _jpeg_exif(data: bytes) -> bytes | None:
    at = 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:  # up to the scan
        if data[at + 1] == 0xFF:
            at += 1
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 10 : at + 2 + length]
        at += 2 + length
    return None


def _png_exif(data: bytes) -> bytes:
    at = 8
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length


def _webp_exif(data: bytes) -> bytes:
    at = 12
    while True:
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
