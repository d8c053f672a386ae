"""The encoders: which one for what, what it can hold, and how it is told what to do."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import torch

from msr.errors import InputError
from msr.io.format import ClipFormat, Mastering, PixelFormat, planar_format

#: The containers that msr writes, and FFmpeg's names of them.
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}

VIDEO_SUFFIXES = tuple(CONTAINERS)

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


def check_video_suffix(path: Path) -> None:
    """Raise ``InputError`` unless the suffix names a container that msr writes."""
    if path.suffix.lower() not in CONTAINERS:
        raise InputError(f"cannot write {path}: the name must end in one of {', '.join(CONTAINERS)}")


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
    if not encoder_formats(name):
        raise InputError(f"{settings.codec} is no video encoder here; h264, hevc, vp9, av1, ffv1, prores are some")
    return name


def check_encoder(encoder: str, suffix: str) -> None:
    """Raise ``InputError`` where a container cannot hold what an encoder makes."""
    try:
        with av.open(io.BytesIO(), "w", format=CONTAINERS[suffix]) as container:
            container.add_mux_stream(av.Codec(encoder, "w").canonical_name, 25, width=64, height=64)
            if suffix in (".mp4", ".mov"):  # these refuse some only here; Matroska wants the encoder's data as well
                container.start_encoding()
    except (av.error.FFmpegError, ValueError):
        other = "choose another --codec" + (" or .mkv" if suffix != ".mkv" else "")
        raise InputError(f"{suffix} cannot hold video of {encoder}; {other}") from None


def encoder_pix_fmt(encoder: str, pixels: PixelFormat) -> str:
    """The encoder's own name of a planar format: itself, or the semi-planar form that holds the same."""
    names = [
        name for name in encoder_formats(encoder) if same(planar_format(name), pixels) and not name.startswith("yuvj")
    ]
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
    worst = 51 if encoder in ("libx264", "libx265") else 63
    if crf is not None and not 0 <= crf <= worst:
        raise InputError(f"the CRF is {crf:g}; {encoder} takes numbers from 0 (no loss) to {worst}")
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
    if encoder == "libx264":
        params += x264_params()
    if name:
        params += _hdr(encoder, clip)
        options |= {name: ":".join(params)} if params else {}
    return options


def x264_params() -> list[str]:
    """Settings with which x264 makes the same stream of the same frames each time.

    Its code for AVX-512 (seen in core 165) does not, at some sizes; that for AVX2 does, as fast.

    Example:
        >>> x264_params() in (["asm=avx2"], [])
        True
    """
    return ["asm=avx2"] if torch.backends.cpu.get_cpu_capability() == "AVX512" else []


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


def same(pixels: PixelFormat, wanted: PixelFormat) -> bool:
    return holds(pixels, wanted) and holds(wanted, pixels)


def holds(pixels: PixelFormat, wanted: PixelFormat) -> bool:
    return (
        pixels.kind == wanted.kind
        and pixels.bits >= wanted.bits
        and pixels.chroma_x <= wanted.chroma_x
        and pixels.chroma_y <= wanted.chroma_y
    )


@functools.cache
def encoder_formats(encoder: str) -> Sequence[str]:
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
