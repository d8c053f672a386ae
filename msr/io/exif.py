"""EXIF: what a photo says of itself, carried from the source to the result."""

from __future__ import annotations

from mmap import mmap

from msr.io.tags import SHORT, Directory, make_tag, pack_tags, read_children, read_directory

#: Of the first directory: what describes the photo, not the layout of the file it came in.
_DESCRIBING = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432)
#: Of the EXIF directory: the size in pixels, which the result does not share, and what points into the old file or has
#: offsets into it (interoperability, the maker's own notes).
_DROPPED = (40962, 40963, 40965, 37500)

_ORIENTATION, _EXIF, _GPS, _ICC = 274, 34665, 34853, 34675
_HEADER = b"II*\0\x08\0\0\0"


def collect_exif(data: bytes | mmap) -> bytes | None:
    """Collect what describes a photo from an EXIF block, a TIFF file or a RAW file built like one.

    Source: CIPA DC-008 (EXIF 2.32). The thumbnail, the size in pixels and the maker's private notes, which have
    offsets into the old file, are left out; the orientation becomes 1, as pixels are given upright.

    Args:
        data: the file, or an EXIF block with or without its ``Exif\\0\\0``.

    Returns:
        An EXIF block (a TIFF structure), or None where there is nothing to carry over.

    Example:
        >>> collect_exif(b"no EXIF") is None
        True
    """
    if isinstance(data, bytes):
        data = data.removeprefix(b"Exif\0\0")
    first, exif, gps = split_exif(data)
    if not (first or exif or gps):
        return None
    return _HEADER + pack_tags({**first, _ORIENTATION: make_tag(SHORT, [1])}, {_EXIF: exif, _GPS: gps}, 8)


def split_exif(data: bytes | mmap) -> tuple[Directory, Directory, Directory]:
    """Return the describing tags of the first directory, those of EXIF and those of GPS; see ``collect_exif``."""
    first = read_directory(data, None, (*_DESCRIBING, _EXIF, _GPS))
    exif, gps = ((read_children(data, first, number) or [{}])[0] for number in (_EXIF, _GPS))
    return (
        {number: tag for number, tag in first.items() if number in _DESCRIBING},
        {number: tag for number, tag in exif.items() if number not in _DROPPED},
        gps,
    )


def exif_orientation(data: bytes | mmap) -> int:
    """Return the orientation that an EXIF block or a TIFF file states, 1 to 8; 1 where it is missing or damaged.

    Args:
        data: as for ``collect_exif``.

    Returns:
        Tag 274 of the first directory.

    Example:
        >>> exif_orientation(b"")
        1
    """
    if isinstance(data, bytes):
        data = data.removeprefix(b"Exif\0\0")
    tag = read_directory(data, None, (_ORIENTATION,)).get(_ORIENTATION)
    value = int(tag.numbers[0]) if tag is not None and tag.kind in (1, 3, 4) else 1
    return value if 1 <= value <= 8 else 1


def tiff_profile(data: bytes) -> bytes | None:
    """Return the ICC profile of a TIFF file (ICC.1:2010, annex B.4), None where there is none.

    Example:
        >>> tiff_profile(b"II*\\0") is None
        True
    """
    tag = read_directory(data, None, (_ICC,)).get(_ICC)
    return tag.data if tag is not None else None
