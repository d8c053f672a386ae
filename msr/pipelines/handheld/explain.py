"""A page on how a burst was merged: frames, motion, trust, and what came of it."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from msr import io
from msr.pipelines.handheld.merge import FrameUse, Merged
from msr.pipelines.handheld.shot import Shot
from msr.pipelines.handheld.single import single_picture

_CROP, _CROPS = 96, 4
_ARROWS = 12
#: Frames shown one by one; of more, evenly spread ones.
_FRAMES = 32
_STYLE = """
:root { color-scheme: dark; }
body { margin: 0 auto; max-width: 1400px; padding: 12px 20px; background: #1c1c1c; color: #e8e8e8;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 19px; } h2 { font-size: 17px; margin: 24px 0 8px; }
figure { margin: 0; } figcaption { color: #c4c4c4; font-size: 14px; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 14px; margin: 10px 0; }
img { display: block; max-width: 100%; } .crop { width: 384px; image-rendering: pixelated; }
svg { display: block; width: 320px; max-width: 100%; } .trust { width: 320px; image-rendering: pixelated; }
.arrow { stroke: #ffd21f; stroke-width: 1.5; marker-end: url(#tip); }
table { border-collapse: collapse; } th, td { text-align: left; padding: 3px 14px 3px 0;
  border-bottom: 1px solid #3a3a3a; }
"""


def write_explanation(
    target: Path, merged: Merged, base: Shot, scale: float, names: Sequence[str], show: Callable[[Tensor], Tensor]
) -> None:
    """Write one HTML page, which needs nothing else, on how a burst was merged.

    Args:
        target: the file.
        merged: by `merge_shots`.
        base: the base frame.
        scale: enlargement.
        names: of all frames, in the order of the burst.
        show: makes sRGB ``(1, 3, h, w)`` in [0, 1] of pixels in the space of the frames, without turning them.

    Raises:
        WorkError: the file cannot be written.
    """
    uses = merged.frames[:: -(-len(merged.frames) // _FRAMES)]
    alone = single_picture(base, scale)
    title = f"{len(merged.frames)} frames merged into one, {scale:g} times as large"
    parts = [
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><main><h1>{title}</h1>",
        "<svg width='0' height='0' style='position:absolute' aria-hidden='true'><defs><marker id='tip' "
        "markerWidth='6' markerHeight='6' refX='4' refY='3' orient='auto'><path d='M0,0 L6,3 L0,6 Z' fill='#ffd21f'/>"
        "</marker></defs></svg>",
        _table(merged, names),
        "<h2>Base frame alone, and merged</h2>",
        *(_pair(merged, alone, place, show) for place in _places(merged)),
        "<h2>Where the other frames count</h2>",
        _picture(_gray(_reduced(merged.weight, 800) / merged.weight.max().clamp(min=1e-6)), "trust", "weight"),
        f"<p>White: {float(merged.weight.max()):.1f} pixels of other frames for one of the result; black: none, the "
        "base frame stands alone.</p>",
        "<h2>Frames</h2><p>Arrows point from a place in the base frame to where it lies in this one, drawn longer than "
        "they are where the caption says so. Beside it, how far the frame was trusted: white fully, black not.</p>",
        *(_frame(use, names[use.index], base.size, show) for use in uses),
        "</main></body></html>\n",
    ]
    with io.whole(target) as part, part.open("w", encoding="utf-8", errors="replace") as page:
        page.writelines(parts)


def _table(merged: Merged, names: Sequence[str]) -> str:
    rows = []
    for use in merged.frames:
        if use.index == merged.base:
            told = ("base frame", "", "")
        elif use.motion is None:
            told = ("nothing new", "", "")
        else:
            x, y = use.motion.flow.mean(dim=(0, 2, 3)).tolist()
            trust = 0.0 if use.trust is None else float(use.trust.mean())
            told = ("merged" if use.used else "left out", f"{x:+.2f}, {y:+.2f}", f"{100 * trust:.0f} %")
        cells = (str(use.index), names[use.index], *told, f"{use.exposure:.2f}")
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("", "frame", "", "mean motion, pixels", "trusted", "light"))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _picture(srgb: Tensor, kind: str, alt: str, quality: int | None = None) -> str:
    pixels = srgb[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    media, data = io.encode_picture(pixels, quality)
    return f"<img class='{kind}' alt='{html.escape(alt)}' src='data:{media};base64,{base64.b64encode(data).decode()}'>"


def _gray(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


def _reduced(x: Tensor, side: int) -> Tensor:
    reduction = -(-max(x.shape[2:]) // side)
    return F.avg_pool2d(x, reduction, ceil_mode=True) if reduction > 1 else x


def _places(merged: Merged) -> list[tuple[int, int]]:
    """Corners of crops: where there is most detail that other frames count for, and where they count least."""
    height, width = merged.image.shape[2:]
    if min(height, width) < _CROP:
        return [(0, 0)]
    green = merged.image[:, 1:2]
    detail = F.avg_pool2d((green[..., 1:, 1:] - green[..., :-1, :-1]).abs(), _CROP - 1, _CROP)[0, 0]
    weight = F.avg_pool2d(merged.weight, _CROP)[0, 0][: detail.shape[0], : detail.shape[1]]
    weight = weight / weight.max().clamp(min=1e-6)
    gain, loss = detail * weight, detail * (1 - weight)
    order = [*gain.flatten().topk(min(_CROPS - 1, gain.numel())).indices.tolist(), int(loss.argmax())]
    return [(at // detail.shape[1] * _CROP, at % detail.shape[1] * _CROP) for at in dict.fromkeys(order)]


def _pair(merged: Merged, alone: Tensor, place: tuple[int, int], show: Callable[[Tensor], Tensor]) -> str:
    figures = []
    for label, picture in (("base frame alone", alone), ("merged", merged.image)):
        crop = show(picture[..., place[0] : place[0] + _CROP, place[1] : place[1] + _CROP])
        caption = f"{label}, at {place[1]}, {place[0]}"
        figures.append(f"<figure>{_picture(crop, 'crop', caption)}<figcaption>{caption}</figcaption></figure>")
    return f"<div class='row'>{''.join(figures)}</div>"


def _frame(use: FrameUse, name: str, size: tuple[int, int], show: Callable[[Tensor], Tensor]) -> str:
    height, width = size
    picture = _picture(show(use.preview), "frame", name, 85)
    source = picture.split("src='")[1].rstrip(">").rstrip("'")
    arrows, note = "", ""
    if use.motion is not None:
        flow = use.motion.flow[0]
        step = -(-max(flow.shape[1:]) // _ARROWS)
        longest = float(flow.square().sum(0).sqrt().max())
        factor = max(1.0, round(0.06 * max(size) / max(longest, 0.05)))
        lines = []
        for row in range(step // 2, flow.shape[1], step):
            for column in range(step // 2, flow.shape[2], step):
                x, y = ((n + 0.5) * use.motion.tile for n in (column, row))
                dx, dy = (factor * float(flow[axis, row, column]) for axis in (0, 1))
                if x < width and y < height:
                    lines.append(f"<line class='arrow' x1='{x:.1f}' y1='{y:.1f}' x2='{x + dx:.1f}' y2='{y + dy:.1f}'/>")
        arrows = f"<g vector-effect='non-scaling-stroke' stroke-width='{max(size) / 320:.2f}'>{''.join(lines)}</g>"
        arrows = arrows.replace("class='arrow'", f"class='arrow' style='stroke-width:{1.5 * max(size) / 320:.2f}'")
        note = f"; arrows {factor:g} times as long" if factor > 1 else ""
    drawing = (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{html.escape(name)}'>"
        f"<image href='{source}' width='{width}' height='{height}' preserveAspectRatio='none'/>{arrows}</svg>"
    )
    caption = f"<figcaption>{use.index}: {html.escape(name)}{note}</figcaption>"
    trust = "" if use.trust is None else _picture(_gray(_reduced(use.trust, 320)), "trust", f"trust in {name}")
    return f"<div class='row'><figure>{drawing}{caption}</figure>{trust}</div>"
