"""The audit's part on all that is not the video: other streams, chapters, tags."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from msr.io.described import main_video
from msr.io.packets import audible
from msr.io.streams import QUICKTIME_LANGUAGES, belongs_to_chapters, is_cover, is_timecode, kept_tags
from msr.io.verify import Finding, Verdict

#: Sound that is off by less is not noticed; more is lost synchrony.
_SYNC = Fraction(20, 1000)

_Opened = tuple[av.container.InputContainer, Path]


@dataclasses.dataclass
class _Track:
    """A stream beside the video: its packets' times and digests."""

    kind: str
    codec: str
    tags: dict[str, str]
    roles: int
    rate: int
    times: list[Fraction] = dataclasses.field(default_factory=list)
    digests: list[bytes] = dataclasses.field(default_factory=list)


def stream_findings(
    before: _Opened, after: _Opened, starts: tuple[Fraction, Fraction], step: Fraction
) -> Iterator[Finding]:
    """Compare the streams beside the video, chapters and tags.

    Args:
        before: the open source and its path.
        after: the other clip.
        starts: when the first frame of each is shown, in seconds.
        step: of the coarser clock, in seconds.

    Yields:
        A finding for each stream of the source, for its language and roles, for chapters and tags.
    """
    tracks = _tracks(*before), _tracks(*after)
    for kind in ("audio", "subtitle", "data", "attachment", "cover", "video"):
        pair = [[track for track in side if track.kind == kind] for side in tracks]
        for number, track in enumerate(pair[0]):
            other = pair[1][number] if number < len(pair[1]) else None
            yield from _track_findings(f"{kind} {number + 1}", track, other, starts, step)
    yield from _chapter_findings(before[0].chapters(), after[0].chapters(), step)
    yield from _tag_findings("tag", kept_tags(before[0].metadata), kept_tags(after[0].metadata))
    videos = [kept_tags(main_video(*side).metadata, video=True) for side in (before, after)]
    yield from _tag_findings("video tag", _telling(videos[0]), _telling(videos[1]))


def _tracks(container: av.container.InputContainer, path: Path) -> list[_Track]:
    main = main_video(container, path)
    found: dict[int, _Track] = {}
    for stream in container.streams:
        if stream.index == main.index or belongs_to_chapters(stream, container) or is_timecode(stream):
            continue
        context: Any = stream.codec_context
        track = _Track(
            kind="cover" if is_cover(stream) else stream.type,
            codec=context.name if context is not None else str(getattr(stream, "name", "")),
            tags=kept_tags(stream.metadata),
            roles=int(stream.disposition) & ~1,
            rate=context.sample_rate if stream.type == "audio" and context is not None else 0,
        )
        if stream.type == "attachment":
            track.digests.append(_digest(stream.data))  # type: ignore[attr-defined]
        found[stream.index] = track
    wanted = [stream for stream in container.streams if stream.index in found and stream.type != "attachment"]
    for packet in audible(container.demux(wanted)) if wanted else ():
        track = found[packet.stream.index]
        data = _payload(packet, track)
        if data and (packet.pts is not None or track.kind == "cover"):
            track.times.append((packet.pts or 0) * (packet.time_base or Fraction(0)))
            track.digests.append(_digest(data))
    return list(found.values())


def _payload(packet: av.Packet, track: _Track) -> bytes:
    """What a packet holds, without the wrapping that belongs to the container."""
    data = bytes(packet)
    if track.codec == "mov_text":
        return data[2 : 2 + int.from_bytes(data[:2], "big")]  # empty in the pauses
    if track.codec == "aac" and len(data) > 7 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]  # the header of a packet in a broadcast
    return data


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _track_findings(
    what: str, a: _Track, b: _Track | None, starts: tuple[Fraction, Fraction], step: Fraction
) -> Iterator[Finding]:
    title = f"{a.codec}, {len(a.digests)} packets" if a.kind not in ("attachment", "cover") else a.codec
    if b is None:
        yield Finding(what, title, "missing", "lost")
        return
    after = f"{b.codec}, {len(b.digests)} packets" if b.kind not in ("attachment", "cover") else b.codec
    same = a.digests == b.digests
    verdict: Verdict = "kept" if same else "changed"
    if not same and a.codec == b.codec:
        after += ", other bytes"
        verdict = "lost" if len(set(b.digests) & set(a.digests)) < len(set(a.digests)) and _shorter(a, b) else "changed"
    yield Finding(what, title, after, verdict)
    if a.times and b.times and a.kind != "cover":
        yield _sync(what, a, b, starts, max(step, Fraction(1, 1000)))
    for key, name in (("language", "language"), ("title", "title")):
        value, now = a.tags.get(key, ""), b.tags.get(key, "")
        if value and value != "und":
            yield Finding(
                f"{name} of {what}", value, now or "not said", "kept" if _said(value) == _said(now) else "lost"
            )
    if a.roles:
        yield Finding(f"roles of {what}", str(a.roles), str(b.roles), "kept" if a.roles == b.roles else "changed")


def _shorter(a: _Track, b: _Track) -> bool:
    """Whether a stream ends more than a fifth of a second early."""
    return not b.times or (a.times[-1] - a.times[0]) - (b.times[-1] - b.times[0]) > Fraction(1, 5)


def _sync(what: str, a: _Track, b: _Track, starts: tuple[Fraction, Fraction], step: Fraction) -> Finding:
    """Times are compared packet by packet where the packets are the same, else at both ends."""
    pairs = [(a.times[0], b.times[0]), (a.times[-1], b.times[-1])]
    if len(a.times) == len(b.times):
        pairs = list(zip(a.times, b.times, strict=True))
    apart = max(abs((x - starts[0]) - (y - starts[1])) for x, y in pairs)
    verdict: Verdict = "kept" if apart <= step else "changed" if apart <= _SYNC else "lost"
    begins = [float((track.times[0] - start) * 1000) for track, start in zip((a, b), starts, strict=True)]
    words = f"begins at {begins[1]:.4g} ms, off by at most {float(apart * 1000):.3g} ms"
    return Finding(f"times of {what}", f"begins at {begins[0]:.4g} ms", words, verdict)


def _chapter_findings(a: Sequence[Any], b: Sequence[Any], step: Fraction) -> Iterator[Finding]:
    if not a:
        return
    before, after = ([_chapter(chapter) for chapter in chapters] for chapters in (a, b))
    count = f"{len(before)} chapters", f"{len(after)} chapters"
    verdict: Verdict = "lost" if len(after) < len(before) else "kept"
    for (begin, title), (now, name) in zip(before, after, strict=False):
        if title != name:
            verdict = "lost"
        elif abs(begin - now) > max(step, Fraction(1, 1000)) and verdict == "kept":
            verdict = "changed"
    yield Finding("chapters", *count, verdict)


def _chapter(chapter: Any) -> tuple[Fraction, str]:
    return chapter["start"] * (chapter["time_base"] or Fraction(0)), chapter["metadata"].get("title", "")


def _telling(tags: dict[str, str]) -> dict[str, str]:
    """Tags of the video that a user has written or a player shows."""
    return {key: value for key, value in tags.items() if key in ("title", "timecode", "language") and value != "und"}


def _tag_findings(what: str, a: dict[str, str], b: dict[str, str]) -> Iterator[Finding]:
    after = {key.lower(): value for key, value in b.items()}
    for key, value in sorted(a.items()):
        now = after.get(key.lower())
        verdict: Verdict = "lost" if now is None else "kept" if _said(now) == _said(value) else "changed"
        yield Finding(f"{what} {key.lower()}", value, now if now is not None else "missing", verdict)


def _said(value: str) -> str:
    return QUICKTIME_LANGUAGES.get(value.strip(), value.strip())
