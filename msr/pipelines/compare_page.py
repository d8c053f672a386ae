"""The page of a comparison: pictures of bounded size in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from msr import io

#: JPEG quality (None: PNG) and reduction, from the best to the smallest.
CODINGS: tuple[tuple[int | None, int], ...] = (
    (None, 1),
    (95, 1),
    (88, 1),
    (80, 1),
    (80, 2),
    (75, 4),
    (75, 8),
    (70, 16),
)
#: Clips rather show fewer frames than worse ones than this.
_WORST_OF_CLIPS = 3


@dataclasses.dataclass(frozen=True)
class Shown:
    """One source on the page: its name, the size to show it at, its own width, and its colour profile."""

    label: str
    width: int
    height: int
    own_width: int
    icc: bytes | None


@dataclasses.dataclass(frozen=True)
class Moment:
    """The pictures of one moment, one of each source, as data URIs."""

    number: int
    time: float
    pictures: tuple[str, ...]


class Album:
    """Frames of several sources at evenly spread moments, within a number of moments and of bytes.

    Moments are taken at every ``step``-th frame. When there are too many, every other one goes and ``step`` doubles, so
    that no one needs to know in advance how long the clips are. One coding serves all pictures, so that none is put at
    a disadvantage.

    Args:
        moments: at most so many.
        limit: bytes of all pictures in the page.
        expected: how many frames there will be, as far as known.
    """

    def __init__(self, moments: int, limit: int, expected: int | None) -> None:
        self.moments: list[Moment] = []
        self.step = -(-expected // moments) if expected else 1
        self.coding: tuple[int | None, int] | None = None
        self._most, self._limit = moments, limit
        self._expected = min(moments, expected or moments)

    def takes(self, number: int) -> bool:
        """Whether the frames of this number are to be added."""
        return number % self.step == 0

    def add(self, number: int, time: float, pictures: Sequence[Tensor], icc: Sequence[bytes | None]) -> None:
        """Add the pictures ``(1, 3, H, W)`` in [0, 1] of one moment."""
        if self.coding is None:
            encoded = self._choose(pictures, icc)
        else:
            encoded = [_encode(picture, self.coding, profile) for picture, profile in zip(pictures, icc, strict=True)]
        self.moments.append(Moment(number, time, tuple(encoded)))
        while len(self.moments) > 1 and (len(self.moments) > self._most or self.size > self._limit):
            self.step *= 2
            self.moments = [moment for moment in self.moments if self.takes(moment.number)]

    @property
    def size(self) -> int:
        """Bytes of all pictures in the page."""
        return sum(len(picture) for moment in self.moments for picture in moment.pictures)

    @property
    def coding_note(self) -> str:
        """How the pictures are coded, as a sentence."""
        quality, reduction = self.coding or CODINGS[0]
        coded = "without loss (PNG)" if quality is None else f"as JPEG of quality {quality} to bound the page's size"
        return f"Pictures are embedded {coded}{f', reduced {reduction} times' if reduction > 1 else ''}."

    def _choose(self, pictures: Sequence[Tensor], icc: Sequence[bytes | None]) -> list[str]:
        """Encode the first moment in the best coding at which so many moments fit."""
        for index, coding in enumerate(CODINGS):
            self.coding = coding
            encoded = [_encode(picture, coding, profile) for picture, profile in zip(pictures, icc, strict=True)]
            size = sum(map(len, encoded))
            # A tenth is left for later frames that hold more than the first.
            if size * self._expected * (1.1 if self._expected > 1 else 1) <= self._limit:
                break
            if index >= _WORST_OF_CLIPS and size <= self._limit:
                break
        return encoded


def _encode(picture: Tensor, coding: tuple[int | None, int], icc: bytes | None) -> str:
    quality, reduction = coding
    if reduction > 1:
        picture = F.avg_pool2d(picture, reduction, ceil_mode=True)
    pixels = picture[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    kind, data = io.encode_picture(pixels, quality, icc)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_page(
    target: Path,
    title: str,
    sources: Sequence[Shown],
    album: Album,
    charts: Sequence[str],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    notes: Sequence[str],
) -> None:
    """Write the page; it appears under its name only when it is whole.

    Args:
        target: the file.
        title: plain text, as are all other texts but ``charts``.
        sources: what is compared; the first two are shown first.
        album: the pictures.
        charts: SVG elements.
        table: column names and rows.
        notes: sentences below the table.

    Raises:
        WorkError: the file cannot be written.
    """
    template = Path(__file__).with_name("compare.html").read_text(encoding="utf-8")
    script = template.split("<script>")[1].split("</script>")[0]
    columns, rows = table
    data = {
        "width": max(source.width for source in sources),
        "height": max(source.height for source in sources),
        "sources": [
            {
                "label": source.label,
                "width": source.own_width,
                "pictures": [moment.pictures[index] for moment in album.moments],
            }
            for index, source in enumerate(sources)
        ],
        "moments": [{"number": moment.number, "time": moment.time} for moment in album.moments],
    }
    texts = {
        # The browser runs this script only: no other that a file name might smuggle in.
        "SCRIPT_HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "TITLE": html.escape(title),
        "CHARTS": "\n".join(charts),
        "TABLE": _table(columns, rows),
        "NOTES": "\n".join(f"<p>{html.escape(note)}</p>" for note in notes),
        # "</script>" within a name must not end the element.
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    # Cut at the places first: what is put in must not be searched for places again.
    pieces = template.split("@")
    with io.whole(target) as part, part.open("w", encoding="utf-8") as page:
        page.writelines(texts.get(piece, piece) for piece in pieces)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        parts = []
        for number, cell in enumerate(cells):
            kind = ' class="number"' if number > 1 else ""
            parts.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    return f"<table>{line('th', columns)}{''.join(line('td', row) for row in rows)}</table>"
