"""What a result is measured by, and the table of it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msr.metrics import luma, psnr, quantize, ssim
from msr.pipelines.protocols import Protocol

#: Sides that SSIM's window needs after the crop.
SMALLEST = 11

_DECIMALS = {"SSIM": 4, "tOF": 3, "LPIPS": 4}


@dataclass(frozen=True)
class Table:
    """Figures in rows: for each original and method one, then the mean of each method."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def as_json(self) -> str:
        """The table as a JSON object with ``title``, ``columns`` and ``rows``."""
        return json.dumps({"title": self.title, "columns": self.columns, "rows": self.rows}, indent=1)


@dataclass
class TableMaker:
    """Collects the figures of originals and methods; every original has the same methods.

    Example:
        >>> maker = TableMaker(["PSNR"])
        >>> maker.add("baby", "cubic", [31.78])
        >>> maker.add("bird", "cubic", [30.18])
        >>> maker.table("sisr-x4-y").rows[-1]
        ['mean', 'cubic', '30.98']
    """

    names: list[str]
    _rows: list[tuple[str, str, list[float]]] = field(default_factory=list)

    def add(self, original: str, method: str, values: list[float]) -> None:
        """One row."""
        self._rows.append((original, method, values))

    def table(self, title: str) -> Table:
        """All rows and, for each method, the mean over the originals."""
        # Methods by place, not by name: two may have one name.
        count = next((i for i, row in enumerate(self._rows) if row[0] != self._rows[0][0]), len(self._rows))
        rows = [*self._rows]
        for place in range(count):
            of_method = self._rows[place::count]
            values = np.array([row[2] for row in of_method])
            rows.append(("mean", of_method[0][1], [mean_known(column) for column in values.T]))
        said = [[a, b, *(_said(n, v) for n, v in zip(self.names, values, strict=True))] for a, b, values in rows]
        return Table(title, ["", "method", *self.names], said)


def _said(name: str, value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.{_DECIMALS.get(name, 2)}f}"


def mean_known(values: Sequence[float] | np.ndarray) -> float:
    """The mean of what is not NaN (a clip of one frame has no tOF); NaN where nothing is left.

    Example:
        >>> mean_known([1.0, float("nan"), 3.0])
        2.0
    """
    known = [float(value) for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


#: LPIPS of two pictures (3, H, W) in [0, 1].
Perceptual = Callable[[Tensor, Tensor], float]


def load_lpips(device: torch.device) -> Perceptual | None:
    """LPIPS (AlexNet, version 0.1) by its own package; None where that or AlexNet's weights are not to be had.

    Nothing is downloaded: the weights must lie where torch keeps them (``torch.hub.get_dir()``).

    Source: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018.

    Example:
        >>> measure = load_lpips(torch.device("cpu"))
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    if importlib.util.find_spec("lpips") is None or not weights.is_file():
        return None
    try:
        network = importlib.import_module("lpips").LPIPS(net="alex", verbose=False).to(device).eval()
    except (ImportError, RuntimeError):  # an lpips or torchvision that does not fit this torch
        return None
    return lambda a, b: float(network(*(x[None].to(device) * 2.0 - 1.0 for x in (a, b))))


def measure(sr: Tensor, hr: Tensor, protocol: Protocol, crop: int, perceptual: Perceptual | None = None) -> list[float]:
    """PSNR and SSIM in the protocol's space, then LPIPS of the RGB where it is at hand.

    Args:
        sr: ``(3, H, W)`` in [0, 1], already of 256 levels.
        hr: the original, likewise.
        protocol: its space.
        crop: pixels left out at each border.
        perceptual: what `load_lpips` gives.

    Example:
        >>> from msr.pipelines.protocols import PROTOCOLS
        >>> measure(torch.zeros(3, 32, 32), torch.zeros(3, 32, 32), PROTOCOLS["sisr-x4-y"], 4)
        [inf, 1.0]
    """
    a, b = (luma(sr), luma(hr)) if protocol.space == "y" else (sr, hr)
    figures = [psnr(a, b, crop=crop), ssim(a, b, crop=crop)]
    if perceptual is not None:
        inside = slice(crop, -crop) if crop else slice(None)
        figures.append(perceptual(sr[:, inside, inside], hr[:, inside, inside]))
    return figures


def in_8_bits(sr: Tensor) -> Tensor:
    """A result as it would be read from a PNG file, on the CPU."""
    return quantize(sr.float().cpu())
