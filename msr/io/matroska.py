"""What PyAV gives no way to write into the head of a Matroska file: static HDR metadata, and the size to show."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from msr.io.format import ClipFormat

# Identifiers of RFC 9559.
_SEGMENT, _TRACKS, _ENTRY, _VIDEO, _COLOUR = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x55B0
_CLUSTER, _CRC = 0x1F43B675, 0xBF
_CONTENT, _AVERAGE, _MASTERING = 0x55BC, 0x55BD, 0x55D0
_SHOWN_WIDTH, _SHOWN_HEIGHT, _UNIT, _NAME, _VOID = 0x54B0, 0x54BA, 0x54B2, 0x536E, 0xEC

#: Characters of a track's name that make room for a display size.
ROOM = 80

#: Red, green, blue and white, x and y of each, then the greatest and the least luminance.
_POINTS, _MOST, _LEAST = range(0x55D1, 0x55D9), 0x55D9, 0x55DA


def with_static_hdr(data: bytes, clip: ClipFormat) -> bytes:
    """Put the mastering display and the light level into the first track of the beginning of a Matroska file.

    A demuxer hands them on with the stream, and so a stream that is made by its template has them in any container.

    Args:
        data: the beginning of a file by FFmpeg, up to somewhere behind its tracks.
        clip: whose ``mastering`` and ``light_level`` are meant.

    Returns:
        A file with the same track and what follows it; good for its head alone.

    Raises:
        ValueError: not the beginning of such a file.

    Example:
        >>> with_static_hdr(b"words", clip)    # doctest: +SKIP
        Traceback (most recent call last):
        ValueError: no Matroska
    """
    _, start, end = _element(data, 0)
    head = data[:end]
    number, start, _ = _element(data, end)
    if number != _SEGMENT:
        raise ValueError("no Matroska")
    at, kept = start, b""
    while at < len(data):
        number, inner, end = _element(data, at)
        if number == _CLUSTER:
            kept += data[at:]
            break
        if number == _TRACKS:
            kept += _made(_TRACKS, _inserted(data[inner:end], (_ENTRY, _VIDEO, _COLOUR), _static(clip)))
        at = end
    # A segment of unknown length, whose index would point to the wrong places and is left out.
    return head + _SEGMENT.to_bytes(4, "big") + b"\x01" + b"\xff" * 7 + kept


def set_display_size(path: Path, title: str, clip: ClipFormat) -> None:
    """Write the size that a player must show into a finished file, in the room that its first track's name leaves.

    PyAV tells the muxer of no aspect but in the stream itself, where VP9, AV1 and FFV1 have no place for it.

    Args:
        path: a file whose first track has a name of ``ROOM`` characters more than it should.
        title: the name that it should have, or nothing.
        clip: whose size and ``aspect`` are meant.

    Raises:
        ValueError: the file has no room.

    Example:
        >>> set_display_size(Path("b.webm"), "", clip)    # doctest: +SKIP
    """
    width = round(clip.width * (clip.aspect or 1))
    size = _made(_SHOWN_WIDTH, width.to_bytes(4, "big")) + _made(_SHOWN_HEIGHT, clip.height.to_bytes(4, "big"))
    with path.open("r+b") as file:
        data = file.read(1 << 20)
        _, at, end = _element(data, _element(data, 0)[2])
        number = 0
        while number != _TRACKS:
            begin = at = end if number else at
            number, at, end = _element(data, begin)
        track = _element(data, at) if data[at] != _CRC else _element(data, _element(data, at)[2])
        entry = _inserted(_without(data[track[1] : track[2]], _NAME), (_VIDEO,), size)
        entry += _made(_NAME, title.encode()) if title else b""
        content = _made(_ENTRY, entry) + data[track[2] : end]
        # What is left of the room, after an element of nothing and a checksum of the whole.
        room = end - begin - len(_made(_TRACKS, content)) - 9 - 6
        if room < 0 or track[0] != _ENTRY:
            raise ValueError("no room for the display size")
        content += _made(_VOID, bytes(room))
        checksum = bytes([_CRC, 0x84]) + zlib.crc32(content).to_bytes(4, "little")
        file.seek(begin)
        file.write(_made(_TRACKS, checksum + content))


def _without(data: bytes, unwanted: int) -> bytes:
    made, at = b"", 0
    while at < len(data):
        number, _, end = _element(data, at)
        made += data[at:end] if number != unwanted else b""
        at = end
    return made


def _static(clip: ClipFormat) -> bytes:
    made = b""
    if clip.light_level is not None:
        made += _made(_CONTENT, clip.light_level.max_content.to_bytes(4, "big"))
        made += _made(_AVERAGE, clip.light_level.max_average.to_bytes(4, "big"))
    if clip.mastering is not None:
        inside = b""
        if clip.mastering.primaries is not None:
            values = [value for point in clip.mastering.primaries for value in point]
            inside += b"".join(_number(name, float(value)) for name, value in zip(_POINTS, values, strict=True))
        if clip.mastering.luminance is not None:
            least, most = clip.mastering.luminance
            inside += _number(_MOST, float(most)) + _number(_LEAST, float(least))
        made += _made(_MASTERING, inside)
    return made


def _inserted(data: bytes, path: tuple[int, ...], extra: bytes) -> bytes:
    """The children of a master element, with more at the end of the first that the path leads to."""
    if not path:
        return _without(data, _UNIT) + extra  # FFmpeg calls a size that it was not told unknown
    made, at, found = b"", 0, False
    while at < len(data):
        number, inner, end = _element(data, at)
        if number == path[0] and not found:
            found = True
            made += _made(number, _inserted(data[inner:end], path[1:], extra))
        elif number != _CRC:  # a checksum of what was there before
            made += data[at:end]
        at = end
    return made if found else made + _made(path[0], _inserted(b"", path[1:], extra))


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Identifier, beginning and end of the content of the element (RFC 8794)."""
    if at >= len(data) or not data[at]:
        raise ValueError("no Matroska")
    width = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + width], "big")
    at += width
    if at >= len(data) or not data[at]:
        raise ValueError("no Matroska")
    width = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return number, at + width, at + width + size


def _made(number: int, content: bytes) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big") + _size(len(content)) + content


def _size(length: int) -> bytes:
    return (length | 1 << 56).to_bytes(8, "big")


def _number(name: int, value: float) -> bytes:
    return _made(name, struct.pack(">d", value))
