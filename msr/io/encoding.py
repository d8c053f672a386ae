"""Which encoder and which pixel format a clip is written with."""

from __future__ import annotations

import dataclasses

from msr.errors import InputError
from msr.io.encoders import CONTAINERS, EncoderSettings, check_encoder, choose_encoder, encoder_formats, holds, same
from msr.io.format import UNSPECIFIED, ChromaLocation, ClipFormat, PixelFormat, planar_format


def output_format(source: ClipFormat, width: int, height: int, settings: EncoderSettings, suffix: str) -> ClipFormat:
    """Say how a clip of ``width`` x ``height`` made of ``source`` is written.

    Depth, subsampling, range, matrix, chroma location, aspect, HDR metadata and orientation are those of the source as
    far as encoder and container hold them. H.264 and H.265 cannot subsample an odd side, which is then written at full
    resolution. Pictures (RGB) become 4:2:0 of 8 or 10 bits, other RGB 4:4:4, gray 4:2:0.

    Args:
        source: of the frames read.
        width: of the frames to write, stored orientation (upright for ``.y4m`` and pictures), in pixels.
        height: likewise.
        settings: the user's choice.
        suffix: ``".mp4"``, ``".mov"``, ``".mkv"``, ``".webm"``; ``".y4m"``; or that of a picture.

    Returns:
        The format of the planes to hand to the writer.

    Raises:
        InputError: an unknown codec or pixel format, or one that the container or the encoder cannot hold.

    Example:
        >>> from fractions import Fraction
        >>> source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), planar_format("yuv422p10le"))
        >>> output_format(source, 128, 96, EncoderSettings(), ".mp4").pixels.name
        'yuv422p10le'
    """
    suffix = suffix.lower()
    if suffix == ".y4m":
        pixels, fixed = _y4m_pixels(source, settings), False
    elif suffix in CONTAINERS:
        pixels, fixed = _encoder_pixels(source, width, height, settings, suffix), True
    else:
        if settings != EncoderSettings():
            raise InputError("pictures have no --codec, no --crf and no --pix-fmt")
        deep = source.pixels.bits > 8 and suffix in (".png", ".tif", ".tiff")
        pixels, fixed = PixelFormat("rgb48le" if deep else "rgb24", 16 if deep else 8, 0, 0, "rgb"), False
    written = dataclasses.replace(source, width=width, height=height, pixels=pixels)
    if not fixed:
        written = dataclasses.replace(written, display_matrix=None)
    if pixels.kind == "rgb":
        return dataclasses.replace(written, matrix=0, full_range=True, chroma_location="unspecified")
    if source.pixels.kind == "rgb":
        # As players guess it, and said as well.
        return dataclasses.replace(
            written, matrix=1 if height >= 720 else 6, full_range=False, chroma_location="unspecified"
        )
    same = (pixels.chroma_x, pixels.chroma_y) == (source.pixels.chroma_x, source.pixels.chroma_y)
    return dataclasses.replace(
        written,
        # Without a tag players guess by the height, which may say something else of the enlarged clip.
        matrix=source.matrix_used if source.matrix in (0, UNSPECIFIED) else source.matrix,
        chroma_location=_held_location(source, suffix, settings) if same else "unspecified",
    )


def _encoder_pixels(source: ClipFormat, width: int, height: int, settings: EncoderSettings, suffix: str) -> PixelFormat:
    wanted = _named(settings.pix_fmt) if settings.pix_fmt is not None else _wanted(source)
    encoder = choose_encoder(settings, wanted.bits, suffix)
    check_encoder(encoder, suffix)
    known = [planar_format(name) for name in encoder_formats(encoder)]
    even_only = encoder in ("libx264", "libx265")
    known = [
        pixels
        for pixels in known
        if not (even_only and ((pixels.chroma_x and width % 2) or (pixels.chroma_y and height % 2)))
    ]
    if settings.pix_fmt is not None:
        found = [pixels for pixels in known if same(pixels, wanted)]
    else:
        found = [pixels for pixels in known if holds(pixels, wanted)]
    if not found:
        raise InputError(
            f"{encoder} cannot write {width}x{height} pixels as {settings.pix_fmt or wanted.name} into {suffix}; "
            "choose another --pix-fmt or --codec" + (" or .mkv" if suffix != ".mkv" else "")
        )
    return min(found, key=lambda pixels: (pixels.bits, -pixels.chroma_x - pixels.chroma_y))


def _named(pix_fmt: str) -> PixelFormat:
    try:
        return planar_format(pix_fmt)
    except ValueError:
        raise InputError(f"{pix_fmt} is no pixel format; yuv420p and yuv444p10le are two") from None


def _wanted(source: ClipFormat) -> PixelFormat:
    pixels = source.pixels
    if pixels.kind == "gray":
        return planar_format("yuv420p" + _suffix(pixels.bits))
    if pixels.kind == "rgb" and pixels.name.startswith("rgb"):
        return planar_format("yuv420p" + _suffix(8 if pixels.bits == 8 else 10))
    if pixels.kind == "rgb":
        return planar_format("yuv444p" + _suffix(pixels.bits))
    return pixels


def _suffix(bits: int) -> str:
    return "" if bits == 8 else f"{bits}le"


def _y4m_pixels(source: ClipFormat, settings: EncoderSettings) -> PixelFormat:
    if settings.codec is not None or settings.crf is not None:
        raise InputError("y4m holds frames as they are; it has no --codec and no --crf")
    pixels = _named(settings.pix_fmt) if settings.pix_fmt else source.pixels
    if pixels.kind == "rgb":
        pixels = planar_format("yuv444p" + _suffix(min(pixels.bits, 12)))
    if (pixels.chroma_x, pixels.chroma_y) == (0, 1):
        pixels = planar_format("yuv444p" + _suffix(pixels.bits))
    return pixels


def _held_location(source: ClipFormat, suffix: str, settings: EncoderSettings) -> ChromaLocation:
    """The chroma location, or "left" where codec and container have no word for it: chroma is then moved there."""
    location = source.chroma_location
    encoder = choose_encoder(settings, source.pixels.bits, suffix) if suffix in CONTAINERS else ""
    said_by_container = suffix in (".mkv", ".webm") or encoder in ("libx264", "libx265")
    if location in ("unspecified", "left") or said_by_container:
        return location
    if encoder == "libsvtav1" and location == "topleft":
        return location
    if suffix == ".y4m" and location in ("center", "topleft") and source.pixels.bits == 8:
        return location
    return "left"
