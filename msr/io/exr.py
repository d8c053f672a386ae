"""OpenEXR: linear light in half precision."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from msr.io.output import whole

#: Rows that are compressed together by the method ZIP.
_ROWS = 16
_ZIP, _HALF = 3, 1


def write_exr(path: str | Path, linear: np.ndarray) -> None:
    """Write linear light as OpenEXR: one part, scan lines, half precision, ZIP compression, primaries of sRGB.

    Source: "The OpenEXR File Layout" (openexr.com).

    Args:
        path: the file to write.
        linear: ``(H, W)`` gray, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA, floating point, 1 is white; colours are
            multiplied by their alpha in the file, as the format has it.

    Raises:
        ValueError: another shape or dtype.
        WorkError: the file cannot be written.

    Example:
        >>> write_exr("/tmp/a.exr", np.zeros((4, 5, 3), np.float32))
    """
    planes = linear[..., None] if linear.ndim == 2 else linear
    if planes.ndim != 3 or planes.shape[2] not in (1, 3, 4) or not np.issubdtype(linear.dtype, np.floating):
        raise ValueError(f"linear light must be (H, W), (H, W, 3) or (H, W, 4), got {linear.dtype} {linear.shape}")
    height, width, count = planes.shape
    names = {1: "Y", 3: "RGB", 4: "RGBA"}[count]
    order = sorted(range(count), key=lambda channel: names[channel])
    header = _header(width, height, [names[channel] for channel in order])
    starts = range(0, height, _ROWS)
    offset = len(header) + 8 * len(starts)
    with whole(Path(path)) as part, part.open("wb") as file:
        file.write(header)
        file.seek(offset)
        offsets = []
        for top in starts:
            rows = planes[top : top + _ROWS].astype(np.float32)
            if count == 4:
                rows[..., :3] *= rows[..., 3:]
            # In each row one channel after the other.
            block = _compress(rows[..., order].transpose(0, 2, 1).astype("<f2").tobytes())
            offsets.append(offset)
            offset += file.write(struct.pack("<ii", top, len(block))) + file.write(block)
        file.seek(len(header))
        file.write(struct.pack(f"<{len(offsets)}Q", *offsets))


def _header(width: int, height: int, names: list[str]) -> bytes:
    channels = b"".join(name.encode() + b"\0" + struct.pack("<iBxxxii", _HALF, 0, 1, 1) for name in names) + b"\0"
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    attributes = [
        ("channels", "chlist", channels),
        ("chromaticities", "chromaticities", struct.pack("<8f", 0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329)),
        ("compression", "compression", bytes([_ZIP])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<ff", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ]
    packed = b"".join(
        f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value for name, kind, value in attributes
    )
    return struct.pack("<II", 20000630, 2) + packed + b"\0"


def _compress(data: bytes) -> bytes:
    """Even bytes before odd ones, differences, then deflate; as they are where that is no gain."""
    values = np.frombuffer(data, np.uint8)
    split = np.concatenate([values[0::2], values[1::2]])
    split[1:] = split[1:] - split[:-1] + np.uint8(128)
    packed = zlib.compress(split.tobytes(), 4)
    return packed if len(packed) < len(data) else data
