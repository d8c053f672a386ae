"""An audit of two clips: what of the first is kept, changed or lost in the second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from msr.io.format import UNSPECIFIED, ClipFormat, Frame, LightLevel, Mastering
from msr.io.streams import open_source
from msr.io.video import VideoReader

Verdict = Literal["kept", "changed", "lost"]

#: Mean difference of a picture in small, in units of the whole range, from which colours are not the same any more.
_COLOUR = 0.03
#: Pictures that are looked at, and how far apart they are.
_LOOKS, _APART = 3, 8

_NAMES = {
    "matrix": {0: "RGB", 1: "BT.709", 4: "FCC", 5: "BT.601 (625)", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020"},
    "primaries": {1: "BT.709", 5: "BT.601 (625)", 6: "BT.601", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"},
    "transfer": {1: "BT.709", 6: "BT.601", 8: "linear", 13: "sRGB", 14: "BT.2020", 16: "PQ", 18: "HLG"},
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the audit: what was looked at, what it is in the first clip and in the second, and the verdict."""

    what: str
    before: str
    after: str
    verdict: Verdict


def audit(before: str | Path, after: str | Path) -> list[Finding]:
    """Compare two clips on everything but the resolution.

    Either may come from any tool. Times are compared to one step of the coarser container, relative to the first frame;
    streams by the bytes of their packets; colours and orientation by looking at a few small pictures, beside the tags.
    Interlaced clips are deinterlaced for the look, damaged places passed over.

    Args:
        before: the source.
        after: what was made of it.

    Returns:
        A finding for each thing that the source has; ``"lost"`` says that it is missing, or wrong where it is shown.

    Raises:
        InputError: a file is missing or not a clip.
        WorkError: a file cannot be read to its end.

    Example:
        >>> [row for row in audit("in.mp4", "out.mp4") if row.verdict == "lost"]    # doctest: +SKIP
        []
    """
    from msr.io.verify_streams import stream_findings

    paths = Path(before), Path(after)
    with _open(paths[0]) as a, _open(paths[1]) as b:
        rows = list(_format_findings(a.format, b.format))
        times = frame_times(paths[0]), frame_times(paths[1])
        rows += _time_findings(*times)
        rows += _look(a, b, len(times[0][0]) == len(times[1][0]))
    # Other streams are in time where they keep their distance to the first frame.
    starts = [(seconds[0] if seconds else Fraction(0)) for seconds, _ in times]
    steps = max(times[0][1], times[1][1])
    with open_source(paths[0]) as first, open_source(paths[1]) as second:
        rows += stream_findings((first, paths[0]), (second, paths[1]), (starts[0], starts[1]), steps)
    return rows


def _open(path: Path) -> VideoReader:
    return VideoReader(path, deinterlace=True, keep_going=True)


def frame_times(path: Path) -> tuple[list[Fraction], Fraction]:
    """When the frames of a clip are shown, in seconds and in order, and the step that its times are counted in.

    They are decoded: what is cut off by an edit list or has lost its key frame is not shown.
    """
    with _open(path) as clip:
        base = clip.format.time_base
        return [tick * base for tick in clip.times()], base


def _time_findings(a: tuple[list[Fraction], Fraction], b: tuple[list[Fraction], Fraction]) -> Iterator[Finding]:
    (before, _), (after, _) = a, b
    counts = len(before), len(after)
    fewer: Verdict = "kept" if counts[0] == counts[1] else "lost" if counts[1] < counts[0] else "changed"
    yield Finding("frames", str(counts[0]), str(counts[1]), fewer)
    step = max(a[1], b[1])
    if counts[0] == counts[1] and counts[0]:
        apart = max(abs((x - before[0]) - (y - after[0])) for x, y in zip(before, after, strict=True))
        verdict: Verdict = "kept" if apart <= step else "lost"
    else:
        apart, verdict = Fraction(0), "lost"
    said = "not comparable" if counts[0] != counts[1] else f"{pace(after)}, off by at most {float(apart * 1000):.3g} ms"
    yield Finding("times of the frames", pace(before), said, verdict)


def pace(times: Sequence[Fraction]) -> str:
    """A constant frame rate, or the range of a variable one."""
    gaps = [y - x for x, y in pairwise(times)]
    if not gaps:
        return "one frame"
    if times[-1] == times[0]:
        return "all at once"
    # Milliseconds make 33, 33 and 34 of 30 frames a second.
    if max(gaps) - min(gaps) <= Fraction(11, 10000):
        return f"{float(len(gaps) / (times[-1] - times[0])):.6g} a second"
    return f"variable, {float(min(gaps) * 1000):.4g} to {float(max(gaps) * 1000):.4g} ms"


def _format_findings(a: ClipFormat, b: ClipFormat) -> Iterator[Finding]:
    width, height = a.upright_size
    size = f"{width}x{height}", f"{b.upright_size[0]}x{b.upright_size[1]}"
    yield Finding("size", *size, "kept" if size[0] == size[1] else "changed")
    shapes = _shape(a), _shape(b)
    # Rounding to whole pixels changes the shape of a small picture by more than that of a large one.
    slack = Fraction(1, 100) + Fraction(1, min(a.width, a.height, b.width, b.height))
    same = abs(shapes[0] - shapes[1]) <= slack * shapes[0]
    words = [f"{float(shape):.4g} wide by 1 high" for shape in shapes]
    yield Finding("shape of the picture", words[0], words[1], "kept" if same else "lost")
    bits = a.pixels.bits, b.pixels.bits
    yield Finding("depth", f"{bits[0]} bits", f"{bits[1]} bits", "kept" if bits[1] >= bits[0] else "lost")
    yield Finding("chroma", _chroma(a), _chroma(b), _chroma_verdict(a, b))
    ranges = ["full" if clip.full_range else "limited" for clip in (a, b)]
    yield Finding("range", ranges[0], ranges[1], _range_verdict(a, b))
    for what in ("matrix", "primaries", "transfer"):
        tags = getattr(a, what), getattr(b, what)
        names = [_NAMES[what].get(tag, _tag(tag)) for tag in tags]
        yield Finding(what, names[0], names[1], _tag_verdict(what, a, b))
    if a.pixels.chroma_x and b.pixels.chroma_x:
        same = a.chroma_used == b.chroma_used
        yield Finding("chroma location", a.chroma_location, b.chroma_location, "kept" if same else "changed")
    if a.mastering or b.mastering:
        yield Finding("mastering display", _display(a.mastering), _display(b.mastering), _hdr_verdict(a, b))
    if a.light_level or b.light_level:
        levels = a.light_level, b.light_level
        verdict: Verdict = "kept" if levels[0] == levels[1] else "lost" if levels[1] is None else "changed"
        yield Finding("light level", _light(levels[0]), _light(levels[1]), verdict)


def _shape(clip: ClipFormat) -> Fraction:
    stored = Fraction(clip.width, clip.height) * (clip.aspect or 1)
    return 1 / stored if clip.turns % 2 else stored


def _chroma(clip: ClipFormat) -> str:
    pixels = clip.pixels
    if pixels.kind != "yuv":
        return "RGB" if pixels.kind == "rgb" else "none (gray)"
    return {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 1): "4:4:0"}.get((pixels.chroma_x, pixels.chroma_y), "4:4:4")


def _chroma_verdict(a: ClipFormat, b: ClipFormat) -> Verdict:
    if a.pixels.kind == "gray" or (a.pixels.kind == b.pixels.kind == "rgb"):
        return "kept"
    finer = b.pixels.chroma_x <= a.pixels.chroma_x and b.pixels.chroma_y <= a.pixels.chroma_y
    if b.pixels.kind == "gray" or not finer:
        return "lost"
    return "kept" if a.pixels.kind == b.pixels.kind else "changed"


def _range_verdict(a: ClipFormat, b: ClipFormat) -> Verdict:
    # RGB is full range by its nature; the limited range holds it as well.
    return "kept" if a.full_range == b.full_range else "changed"


def _tag_verdict(what: str, a: ClipFormat, b: ClipFormat) -> Verdict:
    before, after = getattr(a, what), getattr(b, what)
    if before == after:
        return "kept"
    if what == "matrix":
        if before in (0, UNSPECIFIED):
            return "kept" if a.pixels.kind != "yuv" or a.matrix_used == b.matrix_used else "changed"
        return "lost" if after == UNSPECIFIED and a.matrix_used != b.matrix_used else "changed"
    if what == "transfer" and before in (16, 18):
        return "lost"
    return "lost" if after == UNSPECIFIED else "changed"


def _tag(tag: int) -> str:
    return "not said" if tag == UNSPECIFIED else f"code {tag}"


def _display(display: Mastering | None) -> str:
    if display is None:
        return "none"
    points = [f"({float(x):.3f}, {float(y):.3f})" for x, y in display.primaries or ()]
    light = [f"{float(value):g}" for value in display.luminance or ()]
    return " ".join([*points, " to ".join(light) + " cd/m2"] if light else points)


def _light(level: LightLevel | None) -> str:
    return "none" if level is None else f"{level.max_content} and {level.max_average} cd/m2"


def _hdr_verdict(a: ClipFormat, b: ClipFormat) -> Verdict:
    if b.mastering is None:
        return "lost"
    if a.mastering is None:
        return "changed"
    before, after = (_numbers(display) for display in (a.mastering, b.mastering))
    # AV1 stores sixteen binary places where H.265 stores steps of 1/50000.
    same = len(before) == len(after) and all(
        abs(x - y) <= max(Fraction(1, 10_000), abs(x) / 1000) for x, y in zip(before, after, strict=True)
    )
    return "kept" if same else "changed"


def _numbers(display: Mastering) -> list[Fraction]:
    return [value for point in display.primaries or () for value in point] + list(display.luminance or ())


def _look(a: VideoReader, b: VideoReader, paired: bool) -> Iterator[Finding]:
    """Judge colours and orientation by pictures in small."""
    looks = [list(islice(clip, 0, _LOOKS * _APART if paired else 1, _APART)) for clip in (a, b)]
    small = [[_small(frame) for frame in frames] for frames in looks]
    pairs = list(zip(*small, strict=False))
    off = max(float(np.abs(x - y).mean()) for x, y in pairs)
    colour: Verdict = "kept" if off <= _COLOUR else "lost"
    turned = [(k, flip) for flip in (False, True) for k in range(4)]
    errors = {
        (k, flip): sum(float(np.abs(_turn(x, k, flip) - y).mean()) for x, y in pairs) for k, flip in turned
    }  # fmt: skip
    best = min(errors, key=lambda way: errors[way])
    # A picture that looks much the same turned says nothing.
    wrong = best != (0, False) and errors[best] < 0.5 * errors[0, False]
    if wrong:
        colour = "kept" if errors[best] / len(pairs) <= _COLOUR else "lost"
        off = errors[best] / len(pairs)
    yield Finding("colours as shown", "", f"off by {100 * off:.2g} %", colour)
    stored = _turned(a.format), _turned(b.format)
    verdict: Verdict = "lost" if wrong else "kept" if stored[0] == stored[1] else "changed"
    yield Finding("orientation", stored[0], stored[1] + (", shown wrong" if wrong else ""), verdict)


def _turned(clip: ClipFormat) -> str:
    turn = {0: "upright", 1: "turned by 90", 2: "turned by 180", 3: "turned by -90"}[clip.turns]
    return turn + (", mirrored" if clip.mirrored else "")


def _turn(picture: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    turned = np.rot90(picture, turns)
    return turned[:, ::-1] if mirrored else turned


def _small(frame: Frame) -> np.ndarray:
    """The frame as shown in 8 by 8 RGB values of 0 to 1, whatever its shape: ``(8, 8, 3)``."""
    pixels = frame.pixels
    unit = cv2.resize(pixels.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA)
    return unit / np.iinfo(pixels.dtype).max


def worst(findings: Sequence[Finding]) -> Verdict:
    """The gravest verdict: ``"lost"`` before ``"changed"`` before ``"kept"``.

    Example:
        >>> worst([Finding("frames", "2", "2", "kept"), Finding("depth", "10 bits", "8 bits", "lost")])
        'lost'
    """
    verdicts = {finding.verdict for finding in findings}
    return "lost" if "lost" in verdicts else "changed" if "changed" in verdicts else "kept"


__all__ = ["Finding", "Verdict", "audit", "worst"]
