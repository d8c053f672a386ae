"""Directories of tags, of which TIFF, EXIF and DNG are made: read with doubt, written anew."""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from mmap import mmap
from typing import NamedTuple

import numpy as np

#: struct's letter and the bytes of one number for each type of TIFF 6.0 (a rational is two numbers).
_TYPES = {
    1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4), 5: ("I", 4), 6: ("b", 1), 7: ("B", 1),
    8: ("h", 2), 9: ("i", 4), 10: ("i", 4), 11: ("f", 4), 12: ("d", 8), 13: ("I", 4),
}  # fmt: skip
_PAIRS = (5, 10)

#: Values of a directory are read up to so many bytes in all, and so many entries.
_LONGEST = 1 << 22
_MOST = 1024

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL, DOUBLE = 1, 2, 3, 4, 5, 7, 10, 12


class Tag(NamedTuple):
    """A value: its type by TIFF 6.0, and its bytes with every number in little-endian order."""

    kind: int
    data: bytes

    @property
    def numbers(self) -> tuple[float, ...]:
        """The value as numbers, a rational as numerator and denominator."""
        letter, size = _TYPES[self.kind]
        return struct.unpack(f"<{len(self.data) // size}{letter}", self.data)

    @property
    def text(self) -> str:
        """The value as text, up to its first zero."""
        return self.data.split(b"\0")[0].decode("utf-8", "replace").strip()


#: Tags by their number.
Directory = dict[int, Tag]


def make_tag(kind: int, values: Sequence[float] | bytes | str) -> Tag:
    """Make a tag of numbers (a rational of numerator and denominator), bytes or text.

    Args:
        kind: the type by TIFF 6.0.
        values: what it holds.

    Returns:
        The tag.

    Example:
        >>> make_tag(SHORT, [1, 2]).data
        b'\\x01\\x00\\x02\\x00'
    """
    if isinstance(values, str):
        return Tag(kind, values.encode() + b"\0")
    if isinstance(values, bytes):
        return Tag(kind, values)
    return Tag(kind, struct.pack(f"<{len(values)}{_TYPES[kind][0]}", *values))


def read_directory(data: bytes | mmap, offset: int | None = None, wanted: Container[int] = range(1 << 16)) -> Directory:
    """Read one directory of a TIFF structure (TIFF 6.0; also with the magic numbers of camera makers).

    Whatever is damaged, beyond the end, repeated or more than 4 MB in all is left out: tags describe a picture, and a
    picture is not refused because of them.

    Args:
        data: the file, or an EXIF block without its ``Exif\\0\\0``.
        offset: where the directory is; None: the first.
        wanted: the numbers of the tags to read.

    Returns:
        Its tags; empty where there is no directory.

    Example:
        >>> read_directory(b"II*\\0\\x08\\0\\0\\0\\x01\\0\\x12\\x01\\x03\\0\\x01\\0\\0\\0\\x06\\0\\0\\0")[274].numbers
        (6,)
    """
    found: Directory = {}
    left = _LONGEST
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or bytes(data[2:4]) in (b"+\0", b"\0+"):  # BigTIFF has directories of another kind
        return found
    try:
        at = struct.unpack_from(order + "I", data, 4)[0] if offset is None else offset
        for entry in range(min(struct.unpack_from(order + "H", data, at)[0], _MOST)):
            here = at + 2 + 12 * entry
            number, kind, count = struct.unpack_from(order + "HHI", data, here)
            if kind not in _TYPES or number not in wanted or number in found:
                continue
            size = _TYPES[kind][1]
            length = count * size * (2 if kind in _PAIRS else 1)
            start = here + 8 if length <= 4 else struct.unpack_from(order + "I", data, here + 8)[0]
            if not 0 < length <= left or start + length > len(data):
                continue
            left -= length
            value = bytes(data[start : start + length])
            found[number] = Tag(kind, np.frombuffer(value, f">u{size}").astype(f"<u{size}").tobytes()
                                if order == ">" and size > 1 else value)  # fmt: skip
    except struct.error:
        pass
    return found


def read_children(
    data: bytes | mmap, directory: Directory, number: int, wanted: Container[int] = range(1 << 16)
) -> list[Directory]:
    """Read the directories that a tag of a directory points to (EXIF: 34665, GPS: 34853, SubIFDs: 330).

    Args:
        data: as for ``read_directory``.
        directory: one of it.
        number: the tag.
        wanted: the numbers of the tags to read.

    Returns:
        The directories, at most 16.

    Example:
        >>> read_children(b"", {}, 34665)
        []
    """
    tag = directory.get(number)
    if tag is None or tag.kind not in (4, 13):
        return []
    return [read_directory(data, int(offset), wanted) for offset in tag.numbers[:16]]


def pack_tags(first: Directory, children: Mapping[int, Directory], start: int) -> bytes:
    """Lay out a directory with others that it points to, for a little-endian TIFF structure.

    Args:
        first: the tags of the directory.
        children: directories by the tag of ``first`` that is to point to them; empty ones are left out.
        start: where in the file the result will stand, an even number.

    Returns:
        The bytes to put there.

    Example:
        >>> read_directory(b"II*\\0\\x08\\0\\0\\0" + pack_tags({274: make_tag(SHORT, [6])}, {}, 8))[274].numbers
        (6,)
    """
    first = {number: tag for number, tag in first.items() if number not in children}
    filled = {number: child for number, child in children.items() if child}
    at = start + _length(first, len(filled))
    rest = b""
    for number, child in filled.items():
        first[number] = make_tag(LONG, [at])
        block = _pack(child, at)
        rest += block
        at += len(block)
    return _pack(first, start) + rest


def _length(directory: Directory, more: int = 0) -> int:
    """Bytes that a directory will take, with that many more entries whose value fits into them."""
    far = sum(len(tag.data) + len(tag.data) % 2 for tag in directory.values() if len(tag.data) > 4)
    return 6 + 12 * (len(directory) + more) + far


def _pack(directory: Directory, start: int) -> bytes:
    entries, values = [struct.pack("<H", len(directory))], []
    far = start + 6 + 12 * len(directory)
    for number, tag in sorted(directory.items()):
        size = _TYPES[tag.kind][1] * (2 if tag.kind in _PAIRS else 1)
        entries.append(struct.pack("<HHI", number, tag.kind, len(tag.data) // size))
        if len(tag.data) <= 4:
            entries.append(tag.data.ljust(4, b"\0"))
        else:
            entries.append(struct.pack("<I", far))
            values += [tag.data, bytes(len(tag.data) % 2)]
            far += len(tag.data) + len(tag.data) % 2
    return b"".join([*entries, bytes(4), *values])
