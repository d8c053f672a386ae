"""Which encoder and which pixel format a clip is written with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

import av

from msr.errors import InputError
from msr.io.format import UNSPECIFIED, ChromaLocation, ClipFormat, Mastering, PixelFormat, planar_format

#: The containers that msr writes, and FFmpeg's names of them.
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}

#: What people call a codec, and the encoder that is taken for it.
_ENCODERS = {"h264": "libx264", "avc": "libx264", "h265": "libx265", "hevc": "libx265", "vp9": "libvpx-vp9",
             "av1": "libsvtav1", "prores": "prores_ks"}  # fmt: skip

#: The order of the points in the options of the encoders.
_POINTS = ("G", "B", "R", "WP")

_CRF = {"libx264": 17.0, "libx265": 18.0, "libvpx-vp9": 20.0, "libsvtav1": 20.0}


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """What the user chose of the encoder: a codec's or encoder's name, the quality (0: without loss), a pixel format.

    None: by the container and the source. Without a choice 8 bits are written as H.264 and more as H.265; in WebM as
    VP9 and AV1.
    """

    codec: str | None = None
    crf: float | None = None
    pix_fmt: str | None = None


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


def choose_encoder(settings: EncoderSettings, bits: int, suffix: str) -> str:
    """Name the encoder of FFmpeg for a depth and a container.

    Raises:
        InputError: no such encoder, or the container cannot hold what it makes.

    Example:
        >>> choose_encoder(EncoderSettings(), 10, ".mp4"), choose_encoder(EncoderSettings("av1"), 8, ".webm")
        ('libx265', 'libsvtav1')
    """
    if settings.codec is None:
        if suffix == ".webm":
            return "libvpx-vp9" if bits == 8 else "libsvtav1"
        return "libx264" if bits == 8 else "libx265"
    name = _ENCODERS.get(settings.codec.lower(), settings.codec)
    if not _formats(name):
        raise InputError(f"{settings.codec} is no video encoder here; h264, hevc, vp9, av1, ffv1, prores are some")
    return name


def encoder_pix_fmt(encoder: str, pixels: PixelFormat) -> str:
    """The encoder's own name of a planar format: itself, or the semi-planar form that holds the same."""
    names = [name for name in _formats(encoder) if _same(planar_format(name), pixels) and not name.startswith("yuvj")]
    return pixels.name if pixels.name in names else names[0]


def encoder_options(encoder: str, clip: ClipFormat, settings: EncoderSettings) -> dict[str, str]:
    """Options of the encoder for quality, chroma location and HDR metadata.

    Raises:
        InputError: a quality for an encoder that has none.
    """
    options: dict[str, str] = {}
    params: list[str] = []
    if settings.crf is not None and encoder not in _CRF and encoder.startswith(("ffv1", "prores", "dnxhd")):
        raise InputError(f"{encoder} has no quality (CRF) to choose")
    crf = settings.crf if settings.crf is not None else _CRF.get(encoder)
    if crf is not None and crf < 0:
        raise InputError(f"the CRF is {crf:g}; a number from 0 (no loss) on is expected")
    if crf == 0 and encoder in ("libx264", "libx265", "libvpx-vp9"):
        options |= {"libx264": {"qp": "0"}, "libx265": {}, "libvpx-vp9": {"lossless": "1"}}[encoder]
        params += ["lossless=1"] if encoder == "libx265" else []
    elif crf is not None:
        options["crf"] = f"{crf:g}"
    if encoder == "libvpx-vp9":
        options |= {"b": "0", "row-mt": "1", "cpu-used": "4"}
    if clip.chroma_location != "unspecified" and encoder != "prores_ks":
        options["chroma_sample_location"] = clip.chroma_location
    name = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}.get(encoder)
    if encoder == "libx265":
        params.append("log-level=none")
    if name:
        params += _hdr(encoder, clip)
        options |= {name: ":".join(params)} if params else {}
    return options


def holds_hdr(encoder: str) -> bool:
    """Whether an encoder writes the static HDR metadata into its stream."""
    return encoder in ("libx264", "libx265", "libsvtav1")


def _hdr(encoder: str, clip: ClipFormat) -> list[str]:
    params = []
    key = {"libx264": "mastering-display", "libx265": "master-display", "libsvtav1": "mastering-display"}[encoder]
    if clip.mastering is not None and clip.mastering.primaries and clip.mastering.luminance:
        params.append(f"{key}={_mastering(clip.mastering, whole=encoder != 'libsvtav1')}")
    if clip.light_level is not None:
        key = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}[encoder]
        params.append(f"{key}={min(clip.light_level.max_content, 65535)},{min(clip.light_level.max_average, 65535)}")
    return params


def _mastering(display: Mastering, whole: bool) -> str:
    """In the order green, blue, red, white; in the units of H.265's SEI message, or as decimal numbers."""
    assert display.primaries is not None
    assert display.luminance is not None
    xy, light = (50000, 10000) if whole else (1, 1)
    points = [display.primaries[i] for i in (1, 2, 0, 3)]
    least, most = display.luminance

    def said(value: Fraction) -> str:
        return str(round(value)) if whole else f"{float(value):.7f}"

    words = [f"{name}({said(x * xy)},{said(y * xy)})" for name, (x, y) in zip(_POINTS, points, strict=True)]
    return "".join(words) + f"L({said(most * light)},{said(least * light)})"


def _encoder_pixels(source: ClipFormat, width: int, height: int, settings: EncoderSettings, suffix: str) -> PixelFormat:
    if settings.pix_fmt is not None:
        try:
            wanted = planar_format(settings.pix_fmt)
        except ValueError:
            raise InputError(f"{settings.pix_fmt} is no pixel format; yuv420p and yuv444p10le are two") from None
    else:
        wanted = _wanted(source)
    encoder = choose_encoder(settings, wanted.bits, suffix)
    check_encoder(encoder, suffix)
    known = [planar_format(name) for name in _formats(encoder)]
    even_only = encoder in ("libx264", "libx265")
    known = [
        pixels
        for pixels in known
        if not (even_only and ((pixels.chroma_x and width % 2) or (pixels.chroma_y and height % 2)))
    ]
    if settings.pix_fmt is not None:
        found = [pixels for pixels in known if _same(pixels, wanted)]
    else:
        found = [pixels for pixels in known if _holds(pixels, wanted)]
    if not found:
        raise InputError(
            f"{encoder} cannot write {width}x{height} pixels as {wanted.name} into {suffix}; "
            "choose another --pix-fmt, --codec or .mkv"
        )
    return min(found, key=lambda pixels: (pixels.bits, -pixels.chroma_x - pixels.chroma_y))


def check_encoder(encoder: str, suffix: str) -> None:
    """Raise ``InputError`` where a container cannot hold what an encoder makes."""
    import io

    with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as container:
        try:
            container.add_stream(encoder, rate=25)
        except ValueError:
            raise InputError(f"{suffix} cannot hold video of {encoder}; choose another --codec or .mkv") from None


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


def _holds(pixels: PixelFormat, wanted: PixelFormat) -> bool:
    return (
        pixels.kind == wanted.kind
        and pixels.bits >= wanted.bits
        and pixels.chroma_x <= wanted.chroma_x
        and pixels.chroma_y <= wanted.chroma_y
    )


def _same(pixels: PixelFormat, wanted: PixelFormat) -> bool:
    return _holds(pixels, wanted) and _holds(wanted, pixels)


def _y4m_pixels(source: ClipFormat, settings: EncoderSettings) -> PixelFormat:
    if settings.codec is not None or settings.crf is not None:
        raise InputError("y4m holds frames as they are; it has no --codec and no --crf")
    pixels = planar_format(settings.pix_fmt) if settings.pix_fmt else source.pixels
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


@functools.cache
def _formats(encoder: str) -> Sequence[str]:
    """Pixel formats of an encoder; none where it does not exist."""
    try:
        codec = av.Codec(encoder, "w")
    except ValueError:
        return ()
    return [known.name for known in codec.video_formats or () if _usable(known.name)]


def _usable(name: str) -> bool:
    """No transparency, no memory of a GPU, not upside down in depth (msb)."""
    known = av.VideoFormat(name, 64, 64)
    return (
        bool(known.components) and not any(component.is_alpha for component in known.components) and "msb" not in name
    )


__all__ = [
    "CONTAINERS",
    "EncoderSettings",
    "check_encoder",
    "choose_encoder",
    "encoder_options",
    "encoder_pix_fmt",
    "holds_hdr",
    "output_format",
]
