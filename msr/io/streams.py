"""Which streams of a source go into a container packet for packet, which cannot, and what is said of them."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
from av.stream import Discard, Disposition

from msr.errors import InputError
from msr.io.captions import add_form, other_form
from msr.io.described import main_video, reason
from msr.io.encoders import CONTAINERS
from msr.io.image import IMAGE_SUFFIXES

#: Tags that a muxer writes anew or that describe the old coding of the video.
_OWN = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}

#: Matroska keeps covers as attachments of these names, by codec.
_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}

#: Languages that ISO 639-2 names twice: QuickTime and FFmpeg's QuickTime files use the second.
QUICKTIME_LANGUAGES = {
    "deu": "ger", "nld": "dut", "ell": "gre", "isl": "ice", "zho": "chi", "ces": "cze", "ron": "rum", "slk": "slo",
    "sqi": "alb", "hye": "arm", "eus": "baq", "mya": "bur", "kat": "geo", "mkd": "mac", "msa": "may", "fas": "per",
    "bod": "tib", "cym": "wel",
}  # fmt: skip

#: What the user data of MP4 and QuickTime has names for; anything else goes into its list of keys and values.
_ITUNES = {
    "title", "author", "artist", "album_artist", "album", "composer", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc",
    "creation_time", "compilation", "location",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Copied:
    """The streams to copy (indices in the source), and sentences on what cannot go along."""

    streams: tuple[int, ...]
    notes: tuple[str, ...]


def check_container(source: Path | None, suffix: str) -> list[str]:
    """Refuse a container that cannot hold the streams of a source, before any work is done for it.

    Each stream is tried in the muxer itself. Audio, subtitles and attachments that do not fit are an error where
    another container takes them; else they are left out and said, as data tracks are that FFmpeg cannot write (of some
    cameras).

    Args:
        source: the clip whose streams go along; None: there are none.
        suffix: ``".mp4"``, ``".mov"``, ``".mkv"`` or ``".webm"``; ``".y4m"``, that of a picture, or none (a folder)
            hold nothing but pictures, which is said.

    Returns:
        Sentences on what is left out.

    Raises:
        InputError: an unknown suffix, or the streams that do not fit by name.

    Example:
        >>> check_container(None, ".mp4")
        []
    """
    suffix = suffix.lower()
    plain = suffix in (".y4m", "", *IMAGE_SUFFIXES)
    if suffix not in CONTAINERS and not plain:
        raise InputError(f"{suffix} is no container that msr writes: {', '.join(CONTAINERS)}")
    if source is None:
        return []
    with open_source(source) as container:
        if plain:
            return _pictures_only(container, source)
        return list(choose_streams(container, source, suffix).notes)


def _pictures_only(container: av.container.InputContainer, source: Path) -> list[str]:
    main = main_video(container, source)
    others = [kind(stream) for stream in container.streams if stream.index != main.index]
    others += ["chapters"] if container.chapters() else []
    notes = ["pictures and y4m hold no times: every frame counts the same"]
    return notes + ([f"pictures and y4m hold no other streams: {', '.join(others)} left out"] if others else [])


def open_source(path: Path) -> av.container.InputContainer:
    """Open a clip; ``InputError`` where FFmpeg cannot, or it is no file: a pipe can be read only once."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no regular file; a clip comes through a pipe as y4m, with - as its name")
    try:
        # Text that is not UTF-8 must not keep anyone from the pictures.
        return av.open(os.path.abspath(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a clip that can be read, or is truncated ({reason(error)})") from None


def choose_streams(container: av.container.InputContainer, source: Path, suffix: str) -> Copied:
    """Sort the streams beside the main video into those that fit and those that do not."""
    main = main_video(container, source) if container.streams.video else None
    fitting: list[int] = []
    notes: list[str] = []
    wrong: list[Any] = []
    wanted: list[Any] = []  # all that some container holds
    for stream in container.streams:
        if main is not None and stream.index == main.index:
            continue
        if belongs_to_chapters(stream, container) or is_timecode(stream):
            continue
        held = [other for other in CONTAINERS if _held(stream, other)]
        if is_cover(stream) and suffix not in held:
            notes.append(f"{suffix} cannot hold the cover picture (stream {stream.index}); it is left out")
        elif suffix in held:
            fitting.append(stream.index)
            wanted += [stream] if stream.type not in ("data", "unknown") and not is_cover(stream) else []
            if not fits(stream, CONTAINERS[suffix]):
                form = other_form(stream, CONTAINERS[suffix])
                notes.append(f"the {kind(stream)} (stream {stream.index}) is written as {form}, without styles")
        elif stream.type in ("data", "unknown"):
            notes.append(f"{suffix} cannot hold the data of stream {stream.index} ({kind(stream)}); it is left out")
        elif not held:
            notes.append(f"no container can hold the {kind(stream)} (stream {stream.index}); it is left out")
        else:
            wrong.append(stream)
            wanted.append(stream)
    if wrong:
        whole = [other for other in CONTAINERS if all(_held(stream, other) for stream in wanted)]
        names = [f"the {kind(stream)} (stream {stream.index})" for stream in wrong]
        if whole or suffix != ".mkv":
            other = ".mkv" if ".mkv" in whole or not whole else whole[0]
            raise InputError(f"{suffix} cannot hold {' and '.join(names)} of {source}; choose {other}")
        notes += [f"no container can hold all streams; {name} is left out" for name in names]
    return Copied(tuple(fitting), tuple(notes))


def _held(stream: Any, suffix: str) -> bool:
    """Whether a container holds a stream, be it in another form."""
    if is_cover(stream) and suffix != ".mp4":
        return suffix == ".mkv" and stream.codec_context.name in _COVERS
    return fits(stream, CONTAINERS[suffix]) or other_form(stream, CONTAINERS[suffix]) is not None


def fits(stream: Any, container: str) -> bool:
    """Whether a container's muxer takes a stream: a header with nothing else in it is written to memory."""
    if stream.type == "attachment" or (is_cover(stream) and container == "matroska"):
        return container == "matroska"  # which keeps covers as attachments
    made = io.BytesIO()
    try:
        with av.open(made, "w", format=container) as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
        if stream.type == "data":  # of which MP4 writes some that nothing can read
            made.seek(0)
            with av.open(made) as result:
                return len(result.streams) == 1
    except (av.error.FFmpegError, ValueError, NotImplementedError):
        return False
    return True


def add_copy(target: av.container.OutputContainer, stream: Any) -> Any:
    """Add a stream to a container as it is, with its tags and its role."""
    if stream.type == "attachment":
        return target.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
    if is_cover(stream) and target.format.name == "matroska":
        name, media = _COVERS[stream.codec_context.name]
        return target.add_attachment(name, media, _cover(stream))
    form = other_form(stream, target.format.name)
    if form and not fits(stream, target.format.name):
        copy = add_form(target, form)
    else:
        copy = target.add_stream_from_template(stream, opaque=True)
    copy.disposition = stream.disposition
    copy.metadata.update(spelled(kept_tags(stream.metadata), target))
    return copy


def spelled(tags: dict[str, str], target: av.container.OutputContainer) -> dict[str, str]:
    """Tags with the language as the container spells it."""
    if target.format.name != "mov" or "language" not in tags:
        return tags
    return tags | {"language": QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])}


def _cover(stream: Any) -> bytes:
    """The picture that a stream is, read through a file handle of its own."""
    with open_source(Path(stream.container.name)) as container:
        for packet in container.demux(container.streams[stream.index]):
            if packet.size:
                return bytes(packet)
    return b""


def kept_tags(tags: dict[str, str], video: bool = False) -> dict[str, str]:
    """The tags of a file or stream that are not the muxer's own; of video, none that measure its old coding."""
    kept: dict[str, str] = {}
    for key, value in tags.items():
        if key.lower() in _OWN or key.startswith("_STATISTICS"):
            continue
        if video and key.split("-")[0] in ("BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES"):
            continue
        # Matroska gives back what it has no name for in capitals; QuickTime calls the title of a track its name,
        # and repeats the location once for its language.
        if key == "name":
            kept.setdefault("title", value)
        elif key in ("TIMECODE", "LOCATION"):
            kept[key.lower()] = value
        elif not (key.startswith("location-") and "location" in tags):
            kept[key] = value
    return kept


def own_keys(tags: Iterable[str]) -> bool:
    """Whether MP4 needs its list of keys for these tags."""
    return any(key.lower() not in _ITUNES for key in tags)


def unsaid(origin: av.container.InputContainer, copied: Copied, result: av.container.InputContainer) -> list[str]:
    """What a muxer has left out of tags and streams without a word, as sentences."""
    notes: list[str] = []
    after = {key.lower() for key in kept_tags(result.metadata)}
    gone = [key for key in kept_tags(origin.metadata) if key.lower() not in after]
    if gone:
        notes.append(f"the container cannot hold the tags {', '.join(gone)}; they are left out")
    written: dict[str, list[Any]] = {}
    for stream in list(result.streams)[1:]:
        written.setdefault(_role(stream), []).append(stream)
    mains = [main_video(origin, Path(origin.name))] if origin.streams.video else []
    written.setdefault("main", []).append(result.streams[0])
    for stream in [*mains, *(origin.streams[index] for index in copied.streams)]:
        index = stream.index
        others = written.get("main" if stream in mains else _role(stream), [])
        if not others:
            notes.append(f"the {kind(stream)} (stream {index}) was not written by the muxer; it is left out")
            continue
        other, before = others.pop(0), kept_tags(stream.metadata)
        for key in ("language", "title"):
            if before.get(key, "und") != "und" and key not in kept_tags(other.metadata):
                notes.append(f"the container cannot say that the {key} of stream {index} is {before[key]}")
    return notes


def _role(stream: Any) -> str:
    return "cover" if is_cover(stream) else str(stream.type)


def is_timecode(stream: Any) -> bool:
    """A QuickTime timecode track: the muxer makes it from the video's tag, and takes none."""
    return stream.type == "data" and stream.name is None and "timecode" in stream.metadata


def belongs_to_chapters(stream: Any, container: av.container.InputContainer) -> bool:
    """The text track in which QuickTime keeps the names of chapters, which FFmpeg reads as chapters."""
    return bool(stream.type == "data" and stream.discard == Discard.all and container.chapters())


def is_cover(stream: Any) -> bool:
    """A picture of the whole file, not a moving one."""
    return bool(stream.type == "video" and stream.disposition & Disposition.attached_pic)


def kind(stream: Any) -> str:
    """A stream in words: codec and type."""
    name = stream.codec_context.name if stream.codec_context is not None else getattr(stream, "name", None)
    return f"{name or 'unknown'} {stream.type}"
