"""Two pictures or clips side by side in a page with a divider, and how near they come to a reference."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.metrics import luma, psnr, ssim
from msr.ops.resize import resize
from msr.pipelines.chart import Curve, draw_curves
from msr.pipelines.compare_page import Album, Shown, write_page
from msr.pipelines.progress import progress_bar
from msr.pipelines.yuv import to_rgb

#: Frames and pixels that are measured at most, of frames that are evenly spread, but always some frames: SSIM of 2
#: megapixels takes more than a second.
MEASURED, MEASURED_PIXELS, MEASURED_ALWAYS = 128, 1 << 26, 16

#: Transfer characteristics of ITU-T H.273 that a page cannot show as they are meant.
_HDR = {16: "PQ", 18: "HLG"}


@dataclasses.dataclass(frozen=True)
class Figures:
    """PSNR in dB (infinite: equal) and SSIM (NaN: too small for it) of one source at each measured frame."""

    name: str
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def mean_psnr(self) -> float:
        """Mean over the frames that differ from the reference; infinite where none does."""
        return _mean([value for value in self.psnr if math.isfinite(value)], math.inf)

    @property
    def mean_ssim(self) -> float:
        """Mean over the frames."""
        return _mean([value for value in self.ssim if not math.isnan(value)], math.nan)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a page holds: how many frames were compared and how many of them are shown; figures where measured."""

    path: Path
    frames: int
    shown: int
    figures: tuple[Figures, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Source:
    """A picture (a clip of one frame) or a clip; `frames` gives the time of each frame and how to convert it."""

    key: str
    path: Path
    width: int
    height: int
    shown_width: int
    count: int | None
    icc: bytes | None
    notes: tuple[str, ...]
    frames: Iterator[tuple[float, Callable[[], Tensor]]]

    @property
    def label(self) -> str:
        return f"{self.key}: {self.name}"

    @property
    def name(self) -> str:
        """The file's name, of which some bytes may be no text."""
        return self.path.name.encode("utf-8", "replace").decode()


def compare(
    a: str | Path,
    b: str | Path,
    target: str | Path,
    reference: str | Path | None = None,
    *,
    frames: int = 24,
    megabytes: float = 32,
    progress: bool = True,
) -> Comparison:
    """Write one HTML page, which needs no network, that shows two pictures or clips on both sides of a divider.

    Frames of clips are paired by their number. Sources of different sizes are shown at the size of the largest. With a
    reference, PSNR and SSIM of luma (``msr.metrics``) are drawn over time; a source of another size than the reference
    is resized to it by cubic convolution first.

    Args:
        a: a picture (also RAW), a clip, a folder of pictures or a pattern such as ``frames/%05d.png``.
        b: another one of the same kind.
        target: the page, ``.html``.
        reference: the truth, of the same kind.
        frames: frames of a clip that the page holds at most, evenly spread.
        megabytes: size of the pictures in the page at most; beyond it they are coded with loss, and fewer are shown.
        progress: whether to show a progress bar.

    Returns:
        What the page holds.

    Raises:
        InputError: a missing or damaged input, a picture and a clip, or a wrong argument.
        WorkError: a truncated clip, or the page cannot be written.

    Example:
        >>> compare("clip.mp4", "clip-x4.mp4", "page.html")     # doctest: +SKIP
    """
    target = Path(target)
    paths = [Path(path) for path in (a, b, reference) if path is not None]
    _check(paths, target, frames, megabytes)
    kinds = [_is_picture(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind != kinds[0]:
            picture, clip = (path, paths[0]) if kind else (paths[0], path)
            raise InputError(f"{picture} is a picture and {clip} a clip; only two of a kind can be compared")
    with contextlib.ExitStack() as stack:
        sources = [
            _picture(key, path) if kinds[0] else _clip(key, path, stack)
            for key, path in zip(("A", "B", "reference"), paths, strict=False)
        ]
        known = [source.count for source in sources if source.count]
        expected = min(known) if known else None
        album = Album(frames, int(megabytes * 1e6), expected)
        measured = _Measured(sources, expected)
        with progress_bar("compare", expected, "frames", progress) as advance:
            count, notes = _walk(sources, album, measured, advance)
    notes = [*dict.fromkeys(note for source in sources for note in source.notes), *measured.notes(), *notes]
    if count > 1:
        notes.insert(0, f"{len(album.moments)} of {count} frames are shown, one of {album.step}.")
    notes.append(album.coding_note)
    _write(target, sources, album, measured, notes)
    return Comparison(target, count, len(album.moments), tuple(measured.figures()), tuple(notes))


def _check(paths: Sequence[Path], target: Path, frames: int, megabytes: float) -> None:
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {target}: a page is named .html")
    if frames < 1:
        raise InputError(f"the number of frames to show must be at least 1, got {frames}")
    if not 1 <= megabytes <= 512:
        raise InputError(f"the size of a page must be 1 to 512 megabytes, got {megabytes:g}")
    if Path("-") in paths:
        raise InputError("compare reads files, not the standard input")
    io.check_output(target, paths)


def _is_picture(path: Path) -> bool:
    named = path.suffix.lower() in io.IMAGE_SUFFIXES or io.is_raw(path)
    return named and not path.is_dir() and not io.is_pattern(path)


def _picture(key: str, path: Path) -> _Source:
    picture = io.Picture(io.read_raw(path)) if io.is_raw(path) else io.read_image(path)
    unit = torch.from_numpy(io.convert_depth(picture.pixels, "float32"))
    unit = unit[..., None].expand(-1, -1, 3) if unit.ndim == 2 else unit
    notes: tuple[str, ...] = ()
    if unit.shape[2] == 4:
        notes = ("Transparent pictures are shown on white.",)
        unit = unit[..., :3] * unit[..., 3:] + (1 - unit[..., 3:])
    rgb = unit.permute(2, 0, 1)[None].contiguous()
    height, width = rgb.shape[2:]
    return _Source(key, path, width, height, width, 1, picture.icc, notes, iter([(0.0, lambda: rgb)]))


def _clip(key: str, path: Path, stack: contextlib.ExitStack) -> _Source:
    reader = io.open_clip(path)
    stack.callback(reader.close)
    format = reader.format
    width, height = format.upright_size
    aspect = float(format.aspect or 1)
    shown = max(1, round(width * (1 / aspect if format.turns % 2 else aspect)))
    notes = []
    if format.transfer in _HDR:
        notes.append(f"{key} is HDR ({_HDR[format.transfer]}), shown and measured as coded, without tone mapping.")

    def frames() -> Iterator[tuple[float, Callable[[], Tensor]]]:
        start: int | None = None
        for frame in reader:
            start = frame.pts if start is None else start

            def convert(frame: io.Frame = frame) -> Tensor:
                rgb = to_rgb([torch.from_numpy(plane) for plane in frame.planes], frame.format).clamp_(0, 1)
                turned = torch.rot90(rgb, frame.format.turns, (2, 3))
                return turned.flip(3) if frame.format.mirrored else turned

            yield float((frame.pts - start) * format.time_base), convert

    icc = getattr(reader, "icc", None)  # only pictures have one
    return _Source(key, path, width, height, shown, reader.frames, icc, tuple(notes), frames())


def _walk(
    sources: Sequence[_Source], album: Album, measured: _Measured, advance: Callable[[], None]
) -> tuple[int, list[str]]:
    """Read all sources in step; return the number of frames that all have, and what is to be said about the others."""
    icc = [source.icc for source in sources]
    count = 0
    for count, together in enumerate(itertools.zip_longest(*(source.frames for source in sources))):
        ended = [source.label for source, frame in zip(sources, together, strict=True) if frame is None]
        if ended:
            return count, [f"Only the {count} frames that all have are compared: {', '.join(ended)} ends there."]
        if album.takes(count) or measured.takes(count):
            time = together[0][0]
            pictures = [convert() for _, convert in together]
            if measured.takes(count):
                measured.add(count, time, pictures)
            if album.takes(count):
                album.add(count, time, pictures, icc)
        advance()
    return count + 1, []


class _Measured:
    """PSNR and SSIM of the sources before the last against the last, at evenly spread frames."""

    def __init__(self, sources: Sequence[_Source], expected: int | None) -> None:
        self._reference = sources[2] if len(sources) > 2 else None
        self._sources = sources[:2]
        pixels = sources[-1].width * sources[-1].height
        self._most = max(MEASURED_ALWAYS, min(MEASURED, MEASURED_PIXELS // pixels))
        self._step = -(-expected // self._most) if expected else 1
        self._numbers: list[int] = []
        self.times: list[float] = []
        self._values: list[list[tuple[float, float]]] = []

    def takes(self, number: int) -> bool:
        return self._reference is not None and number % self._step == 0

    def add(self, number: int, time: float, pictures: Sequence[Tensor]) -> None:
        *others, truth = (luma(picture) for picture in pictures)
        values = []
        for other in others:
            if other.shape != truth.shape:
                other = resize(other, size=(truth.shape[2], truth.shape[3])).clamp(0, 1)
            large = min(truth.shape[2:]) >= 11
            values.append((psnr(other, truth), ssim(other, truth) if large else math.nan))
        self._numbers.append(number)
        self.times.append(time)
        self._values.append(values)
        if len(self._numbers) >= self._most:  # the clip is longer than it said: measure on, but more seldom
            self._most *= 2
            self._step *= 2

    def figures(self) -> list[Figures]:
        figures = []
        for index, source in enumerate(self._sources if self._values else ()):
            values = [together[index] for together in self._values]
            figures.append(Figures(source.key, tuple(v[0] for v in values), tuple(v[1] for v in values)))
        return figures

    def notes(self) -> list[str]:
        if self._reference is None:
            return []
        truth = self._reference
        notes = [f"PSNR and SSIM: luma (BT.601), {len(self._numbers)} frames measured, mean over those that differ."]
        if len(self._numbers) == 1:
            notes = ["PSNR and SSIM: luma (BT.601)."]
        if any(math.isinf(value) for together in self._values for value, _ in together):
            notes.append("A PSNR at the upper edge of its chart is infinite: these frames equal the reference.")
        for source in self._sources:
            if (source.width, source.height) != (truth.width, truth.height):
                size = f"{truth.width}x{truth.height}"
                notes.append(f"{source.key} was resized to {size} by cubic convolution before it was measured.")
        return notes


def _write(target: Path, sources: Sequence[_Source], album: Album, measured: _Measured, notes: Sequence[str]) -> None:
    figures = {figure.name: figure for figure in measured.figures()}
    charts = []
    if len(measured.times) > 1:
        for title, unit, values in (
            ("PSNR", "dB", [Curve(key, figure.psnr) for key, figure in figures.items()]),
            ("SSIM", "", [Curve(key, figure.ssim) for key, figure in figures.items()]),
        ):
            charts.append(draw_curves(title, unit, measured.times, values))
    columns = ["", "file", "size", *(["PSNR, dB", "SSIM"] if figures else [])]
    rows = []
    for source in sources:
        row = [source.key, source.name, f"{source.width}x{source.height}"]
        if figure := figures.get(source.key):
            row += [_said(figure.mean_psnr, 2, "equal"), _said(figure.mean_ssim, 4, "too small")]
        rows.append(row + [""] * (len(columns) - len(row)))
    shown = [Shown(source.label, source.shown_width, source.height, source.width, source.icc) for source in sources]
    title = f"{sources[0].name} and {sources[1].name}"
    write_page(target, title, shown, album, charts, (columns, rows), notes)


def _said(value: float, digits: int, otherwise: str) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else otherwise


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
