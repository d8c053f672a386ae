"""How a TIFF file stores its pixels, for what OpenCV takes for something else or multiplies."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np

from msr.errors import InputError

_BIG = (b"+\0", b"\0+")
_PLACES = {256: "width", 257: "height", 258: "bits", 262: "colours", 277: "channels", 284: "planes", 338: "extra",
           339: "kind"}  # fmt: skip
_WHITE_IS_ZERO, _RGB, _CMYK = 0, 2, 5
_MULTIPLIED, _ALPHA = 1, 2


@dataclasses.dataclass(frozen=True)
class TiffLayout:
    """Of the first page: size, bits of a sample, PhotometricInterpretation, samples of a pixel, PlanarConfiguration,
    the first of ExtraSamples and where in the file it stands, SampleFormat.
    """

    width: int
    height: int
    bits: int = 1
    colours: int = 1
    channels: int = 1
    planes: int = 1
    extra: int = 0
    kind: int = 1
    extra_at: int = 0


def tiff_layout(data: bytes) -> TiffLayout:
    """Read the layout of a TIFF 6.0 or BigTIFF file; of a repeated tag the first counts, as for libtiff.

    Args:
        data: the file.

    Returns:
        What it declares.

    Raises:
        struct.error, KeyError, TypeError: the file is damaged, or has no size.

    Example:
        >>> sides = struct.pack("<HHIIHHII", 256, 4, 1, 5, 257, 4, 1, 3)
        >>> tiff_layout(b"II*\\0\\x08\\0\\0\\0\\x02\\0" + sides + bytes(4)).width
        5
    """
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in _BIG
    step, value, room, far = (20, 12, 8, "Q") if big else (12, 8, 4, "I")
    directory = struct.unpack_from(order + far, data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, directory)[0]
    found: dict[str, int] = {}
    for entry in range(min(count, 65536)):
        at = directory + (8 if big else 2) + entry * step
        tag, kind = struct.unpack_from(order + "HH", data, at)
        name = _PLACES.get(tag)
        if name is None or name in found:
            continue
        letter, size = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}[kind]
        place = at + value
        if struct.unpack_from(order + far, data, at + 4)[0] * size > room:
            place = struct.unpack_from(order + far, data, place)[0]
        found[name] = struct.unpack_from(order + letter, data, place)[0]
        if name == "extra":
            found["extra_at"] = place + (size - 1 if order == ">" else 0)
    return TiffLayout(**found)


def check_tiff(layout: TiffLayout, name: str) -> None:
    """Raise ``InputError`` for what OpenCV cannot decode, or decodes wrongly; ``name`` is how it names the file."""
    if layout.channels == 2:
        raise InputError(f"{name} is a gray TIFF with alpha, which is not read; RGB with alpha is")
    if layout.planes == 2 and layout.channels > 1 and layout.bits > 8:
        raise InputError(
            f"{name} is a TIFF of {layout.bits} bits with its channels in planes (PlanarConfiguration 2), which is "
            "not read; one pixel after the other is"
        )
    half = layout.kind == 3 and layout.bits == 16
    if layout.channels > 4 or half or (layout.colours == _CMYK and layout.bits != 8):
        what = f"{layout.bits}-bit {'floating point' if layout.kind == 3 else 'samples'}"
        kind = "CMYK TIFF" if layout.colours == _CMYK else "TIFF"
        raise InputError(f"{name} is a {kind} of {layout.channels} channels of {what}, which is not read")


def unmultiplied(data: bytes, layout: TiffLayout) -> bytes | bytearray:
    """The file with its alpha as a channel of no meaning: libtiff multiplies 8-bit colours by an alpha that is one."""
    if layout.extra != _ALPHA:
        return data
    plain = bytearray(data)
    plain[layout.extra_at] = 0
    return plain


def as_meant(decoded: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Make what OpenCV decoded of `unmultiplied` what the file means: black is 0, and colours stand beside their alpha.

    Args:
        decoded: ``(H, W)`` or ``(H, W, C)``.
        layout: of the file.

    Returns:
        The same with white and alpha as in all other pictures.

    Example:
        >>> layout = TiffLayout(1, 1, bits=8, colours=2, channels=4, extra=1)
        >>> as_meant(np.array([[[20, 40, 60, 51]]], np.uint8), layout).tolist()
        [[[100, 200, 255, 51]]]
    """
    top = 1 if np.issubdtype(decoded.dtype, np.floating) else np.iinfo(decoded.dtype).max
    if layout.colours == _WHITE_IS_ZERO and layout.bits > 8:
        return (top - decoded).astype(decoded.dtype)
    if decoded.ndim == 2 or decoded.shape[2] != 4:
        return decoded
    if layout.channels != 4 or layout.colours == _CMYK:  # OpenCV adds an alpha of its own
        return decoded[..., :3]
    if layout.extra == _MULTIPLIED:
        alpha = decoded[..., 3:].astype(np.float32)
        colours = decoded[..., :3] * np.divide(top, alpha, out=np.zeros_like(alpha), where=alpha > 0)
        colours = colours if top == 1 else np.rint(colours.clip(max=top))
        return np.concatenate([colours.astype(decoded.dtype), decoded[..., 3:]], 2)
    return decoded
