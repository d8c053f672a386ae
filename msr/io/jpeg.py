"""What OpenCV does not write into a JPEG."""

from __future__ import annotations

import struct

_MARK = b"ICC_PROFILE\0"
#: What a segment holds of a profile, and how many there can be.
_PART, _PARTS = 65_519, 255
#: The longest profile that a JPEG holds.
LONGEST_PROFILE = _PART * _PARTS


def with_profile(data: bytes, icc: bytes) -> bytes:
    """Put a colour profile into an encoded JPEG, in as many segments as it takes (ICC.1:2010, annex B.4).

    Args:
        data: the file, without a profile.
        icc: the profile, of at most ``LONGEST_PROFILE`` bytes.

    Returns:
        The file, with the profile behind its JFIF and EXIF.

    Example:
        >>> with_profile(b"\\xff\\xd8\\xff\\xd9", b"profile")[2:18]
        b'\\xff\\xe2\\x00\\x17ICC_PROFILE\\x00'
    """
    at = 2
    while data[at + 1] in (0xE0, 0xE1):
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    parts = [icc[start : start + _PART] for start in range(0, len(icc), _PART)]
    segments = [
        struct.pack(">HH", 0xFFE2, len(_MARK) + 4 + len(part)) + _MARK + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    ]
    return b"".join([data[:at], *segments, data[at:]])
