"""What FFmpeg tells of a clip only in words, and what of its video cannot be carried on."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, cast

import av
import av.logging

from msr.errors import InputError
from msr.io.format import ChromaLocation

_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
#: The level of FFmpeg's log belongs to the process.
_LOG = threading.Lock()

#: Side data of frames that PyAV can neither make nor pass to an encoder.
_LEFT_OUT = {
    "DOVI_RPU_BUFFER": "its Dolby Vision metadata",
    "DOVI_METADATA": "its Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "its HDR10+ metadata (frame by frame)",
    "DYNAMIC_HDR_VIVID": "its HDR Vivid metadata (frame by frame)",
    "A53_CC": "the closed captions inside its video stream",
    "STEREO3D": "its stereoscopic layout",
    "SPHERICAL": "its spherical projection",
}


def described(container: av.container.InputContainer) -> str:
    """FFmpeg's own description of an open file, as its command prints it, in detail."""
    with _LOG:
        before = av.logging.get_level(), av.logging.get_skip_repeated()
        try:
            av.logging.set_libav_level(av.logging.VERBOSE)
            av.logging.set_skip_repeated(False)
            av.logging.set_level(av.logging.VERBOSE)
            text: str = container.dumps_format()  # type: ignore[attr-defined]
            return text
        finally:
            av.logging.set_level(before[0])
            av.logging.set_skip_repeated(before[1])
            av.logging.set_libav_level(av.logging.INFO)


def chroma_location(container: av.container.InputContainer, stream: av.VideoStream) -> ChromaLocation:
    """Where the chroma samples of a stream lie; PyAV has no attribute for it."""
    line = re.search(rf"^ *Stream #\d+:{stream.index}\b.*Video: .*$", described(container), re.MULTILINE)
    # The pixel format, then in parentheses range, colours, field order and location.
    for words in re.findall(r", \w+\(([^()]*)\)", line[0]) if line else ():
        for word in words.split(", "):
            if word in _LOCATIONS:
                return cast(ChromaLocation, word)
    return "unspecified"


def main_video(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first video stream that is not a cover picture; ``InputError`` where there is no video.

    A cover alone counts only without sound. Text is none, which FFmpeg would show as on a terminal.
    """
    streams = list(container.streams.video) if container.format.name != "tty" else []
    moving = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
    if not moving and (not streams or container.streams.audio):
        raise InputError(f"{path} holds no video")
    return (moving or streams)[0]


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """The side data of a decoded frame by FFmpeg's names; empty where one of it is newer than PyAV."""
    try:
        # The stubs of PyAV take it for a mapping by name; iteration gives the entries.
        entries: list[Any] = list(frame.side_data)
    except ValueError:
        return {}
    return {entry.type.name: bytes(entry) for entry in entries}


def set_aside(frame: av.VideoFrame) -> list[str]:
    """What a decoded frame holds that cannot be carried on."""
    found = {_LEFT_OUT[name]: None for name in side_data(frame) if name in _LEFT_OUT}
    if any(component.is_alpha for component in frame.format.components):
        found["its transparency"] = None
    return list(found)


def reason(error: BaseException) -> str:
    """FFmpeg's or the system's words without number, file and function."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")
