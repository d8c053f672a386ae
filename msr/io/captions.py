"""Text subtitles carried from the form of one container into that of another."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import av

#: Codecs of plain text lines, and what Matroska and MP4 call theirs.
_TEXT = ("mov_text", "srt", "subrip", "text")
_FORM = {"matroska": "subrip", "mp4": "mov_text", "mov": "mov_text"}

#: Marks of SubRip and of ASS within a line, which other forms would show as they stand.
_MARKS = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")

#: What the encoder of MP4's form derives its look from.
_LOOK = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
""".replace(b"\\\n", b"")


def other_form(stream: Any, container: str) -> str | None:
    """What a text subtitle becomes in a container of FFmpeg's name; None where it is no text or there is no form."""
    if stream.type != "subtitle" or stream.codec_context is None or stream.codec_context.name not in _TEXT:
        return None
    form = _FORM.get(container)
    own = "subrip" if stream.codec_context.name == "srt" else stream.codec_context.name
    return form if form != own else None


def add_form(target: av.container.OutputContainer, form: str) -> Any:
    """Add a stream of this form to a container."""
    if form == "subrip":
        stream: Any = target.add_mux_stream(form)
    else:
        stream = target.add_stream(form)
        stream.codec_context.subtitle_header = _LOOK
        stream.codec_context.time_base = Fraction(1, 1000)
    stream.time_base = Fraction(1, 1000)
    return stream


def changed_form(source: Any, copy: Any) -> str | None:
    """The form that a subtitle stream was added in, where it is not its own."""
    if source.type != "subtitle":
        return None
    if copy.codec_context is None:
        return "subrip"
    name = str(copy.codec_context.name)
    return name if name == "mov_text" != source.codec_context.name else None


def in_form(packet: av.Packet, form: str) -> av.Packet | None:
    """The line of a packet in the other form, with its times; None of an empty line.

    Example:
        >>> bytes(in_form(av.Packet(b"<i>Hello</i>"), "mov_text"))
        b'\\x00\\x05Hello'
        >>> bytes(in_form(av.Packet(b"\\0\\5Hello"), "subrip"))
        b'Hello'
    """
    data = bytes(packet)
    if form == "subrip":
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    else:
        text = _MARKS.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n").strip("\n")
        # The length is written in two bytes; a letter is not cut in the middle.
        data = text.encode()[:65535].decode("utf-8", "ignore").encode()
        data = len(data).to_bytes(2, "big") + data if data else b""
    if not data:
        return None
    made = av.Packet(data)
    made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
    if packet.time_base:
        made.time_base = packet.time_base
    return made
