"""Curves over time as SVG that a page holds inline."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 760, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 44


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve's name and its value at each time; infinite values lie on the upper edge, NaN leaves a gap."""

    name: str
    values: Sequence[float]


def draw_curves(title: str, unit: str, times: Sequence[float], curves: Sequence[Curve]) -> str:
    """Draw curves over time with labelled axes and a legend.

    The page styles ``curve0``, ``curve1``, ... (the second is dashed as well) and moves the line of class ``cursor``;
    the attributes ``data-from`` and ``data-to`` are the times at the left (x = ``data-left``) and right edge.

    Args:
        title: what is drawn.
        unit: of the values, empty for none.
        times: seconds, increasing, at least two.
        curves: as many values each.

    Returns:
        An ``<svg>`` element; all text is escaped.

    Raises:
        ValueError: fewer than two times, or a curve of another length.

    Example:
        >>> draw_curves("PSNR", "dB", [0, 1], [Curve("A", [30.0, 31.0])]).startswith("<svg")
        True
    """
    if len(times) < 2 or any(len(curve.values) != len(times) for curve in curves):
        lengths = ", ".join(str(len(curve.values)) for curve in curves)
        raise ValueError(f"curves need two times or more and a value at each, got {len(times)} times, {lengths} values")
    finite = [value for curve in curves for value in curve.values if math.isfinite(value)] or [0.0, 1.0]
    low, high, ticks = _axis(min(finite), max(finite))
    first, last = times[0], max(times[-1], times[0] + 1e-9)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(time: float) -> float:
        return round(_LEFT + (time - first) / (last - first) * (right - _LEFT), 2)

    def y(value: float) -> float:
        return round(bottom - (min(value, high) - low) / (high - low) * (bottom - _TOP), 2)

    label = html.escape(f"{title} over time, in {unit}" if unit else f"{title} over time", quote=True)
    parts = [
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}" data-from="{first:.6f}" '
        f'data-to="{last:.6f}" data-left="{_LEFT}" data-right="{right}">'
    ]
    for value, text in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{text}</text>')
    for value, text in _axis(first, last)[2]:
        if first <= value <= last:
            parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(f'<text class="tick" x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">time, s</text>')
    name = html.escape(f"{title}, {unit}" if unit else title)
    parts.append(f'<text class="axis" x="{_LEFT - 48}" y="{_TOP - 16}">{name}</text>')
    place = right
    for number, curve in reversed(list(enumerate(curves))):
        place -= 7 * len(curve.name) + 52
        parts.append(f'<line class="curve curve{number}" x1="{place}" x2="{place + 28}" y1="18" y2="18"/>')
        parts.append(f'<text class="legend" x="{place + 34}" y="22">{html.escape(curve.name)}</text>')
    for number, curve in enumerate(curves):
        for run in _runs(curve.values):
            points = " ".join(f"{x(times[index])},{y(curve.values[index])}" for index in run)
            parts.append(f'<polyline class="curve curve{number}" points="{points}"/>')
    parts.append(f'<line class="cursor" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{bottom}"/></svg>')
    return "\n".join(parts)


def _axis(low: float, high: float) -> tuple[float, float, list[tuple[float, str]]]:
    """Round limits around the values, and four to ten round places between with their labels."""
    span = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return first * step, last * step, [(n * step, f"{n * step:.{digits}f}") for n in range(first, last + 1)]


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Indices of the values that are numbers, in runs without a gap."""
    runs: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if math.isnan(value):
            runs.append([])
        else:
            runs[-1].append(index)
    return [run for run in runs if run]
