"""Motion between the frames of a burst: tiles matched coarse to fine, refined to a fraction of a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.ops.flow_warp import flow_warp
from msr.pipelines.handheld.filters import means
from msr.pipelines.handheld.motion import global_shift, smooth_motion
from msr.pipelines.handheld.parts import in_parts, rows_at_once

TILE = 16
#: Steps of refinement at the only size of a picture, at the finest of several, at others. More of them at the finest
#: would follow its noise and its aliasing: they make the motion worse, not better.
_ONLY, _FINEST, _COARSER = 5, 2, 4
#: Above so many pixels the finest pictures compared are of half the size: their motion is known as well from them.
_FULL_SIZE = 5_000_000
_COARSEST = 48
_SEARCH = 2


@dataclass(frozen=True)
class Motion:
    """Where a frame lies on the base.

    Attributes:
        flow: ``(1, 2, h, w)`` in pixels of the base, from base to frame, one for each tile.
        information: ``(1, 3, h, w)``, how well each tile fixes its motion: xx, xy, yy of the inverse covariance, in
            pixels to the power of minus two.
        tile: side of a tile in pixels of the base.
    """

    flow: Tensor
    information: Tensor
    tile: int

    def dense(self, height: int, width: int, top: int = 0) -> Tensor:
        """The flow of every pixel of ``height`` rows from ``top`` on, linear between the centres of tiles."""
        rows, columns = self.flow.shape[2:]
        at = torch.arange(top, top + height, device=self.flow.device, dtype=torch.float32)
        at = ((at + 0.5) / self.tile - 0.5).clamp(0, rows - 1)
        above = at.long()
        below, part = (above + 1).clamp(max=rows - 1), (at - above)[:, None]
        # Down the few columns of tiles first, then across only what is asked for.
        flow = torch.lerp(self.flow[:, :, above], self.flow[:, :, below], part)
        return F.interpolate(flow, size=(height, columns * self.tile), mode="bilinear", align_corners=False)[
            ..., :width
        ]

    def halved(self) -> Motion:
        """The same on pictures of half the size."""
        return Motion(self.flow / 2, self.information * 4, self.tile // 2)


def _spread(flow: Tensor, tile: int, height: int, width: int) -> Tensor:
    size = (flow.shape[2] * tile, flow.shape[3] * tile)
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False)[..., :height, :width]


def _pool(x: Tensor) -> Tensor:
    """Mean over the square of two tiles around each tile's centre, of what lies inside of the picture."""
    return F.avg_pool2d(_halves(x), 2, 1)


def _halves(x: Tensor, above: int = TILE // 2, below: int = TILE // 2) -> Tensor:
    """Means over squares of a tile's size, the first of which begins half a tile outside; there is nothing outside."""
    beside = -x.shape[3] % TILE
    x = F.pad(x, (TILE // 2, TILE // 2 + beside, above, below + -(x.shape[2] + above + below) % TILE))
    return x.unflatten(3, (-1, TILE)).sum(4).unflatten(2, (-1, TILE)).sum(3).div_(TILE * TILE)


class _Level:
    """The base at one size, with what does not change from frame to frame."""

    def __init__(self, base: Tensor) -> None:
        self.base = base
        padded = F.pad(base, (1, 1, 1, 1), mode="replicate")
        gx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
        gy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
        self.gradient = torch.cat([gx, gy], dim=1)
        self.hessian = _pool(torch.cat([gx * gx, gx * gy, gy * gy], dim=1))
        self.size = base.shape[2], base.shape[3]
        self.grid = self.hessian.shape[2], self.hessian.shape[3]
        axes = [torch.arange(n, device=base.device, dtype=torch.float32) for n in self.size]
        self.place = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"))[None]

    def inside(self, flow: Tensor, top: int = 0) -> Tensor:
        """Where the flow of each pixel, from a row on, leads into the frame, ``(1, 1, H, W)`` of 0 and 1."""
        at = self.place[:, :, top : top + flow.shape[2]] + flow
        height, width = self.size
        good = (at[:, :1] >= 0) & (at[:, :1] <= width - 1) & (at[:, 1:] >= 0) & (at[:, 1:] <= height - 1)
        return good.float()

    def search(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Move each tile by whole pixels to where the frame looks most like the base."""
        dense = _spread(flow, TILE, *self.size)
        warped = flow_warp(frame, dense, padding_mode="border")
        inside = self.inside(dense)
        padded = F.pad(warped, (_SEARCH,) * 4, mode="replicate")
        share = _pool(inside).clamp(min=0.05)
        height, width = self.size
        costs, shifts = [], []
        for dy in range(-_SEARCH, _SEARCH + 1):
            for dx in range(-_SEARCH, _SEARCH + 1):
                moved = padded[..., _SEARCH + dy : _SEARCH + dy + height, _SEARCH + dx : _SEARCH + dx + width]
                costs.append(_pool((moved - self.base).abs() * inside) / share * (1.0 + 0.02 * (abs(dx) + abs(dy))))
                shifts.append((dx, dy))
        best = torch.cat(costs, dim=1).argmin(dim=1)
        step = torch.tensor(shifts, device=flow.device, dtype=flow.dtype)[best]
        return flow + step.permute(0, 3, 1, 2)

    def refine(self, frame: Tensor, flow: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Inverse compositional Lucas-Kanade steps; also the information of each tile."""
        xx, xy, yy = self.hessian.unbind(1)
        ridge = 1e-3 * (xx + yy) + 1e-9
        determinant = (xx + ridge) * (yy + ridge) - xy * xy
        for _ in range(steps):
            ex, ey, power = self._compare(frame, flow).unbind(1)
            dx = ((yy + ridge) * ex - xy * ey) / determinant
            dy = ((xx + ridge) * ey - xy * ex) / determinant
            flow = flow - torch.stack([dx, dy], dim=1).clamp(-1.0, 1.0)
        # What is left of the difference is noise: neighbours share it, as the picture is smoothed, hence the 8.
        variance = power[:, None] + 1e-7
        return flow, self.hessian * (4 * TILE * TILE / 8) / variance

    def _compare(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Means around each tile of the error times the gradient in x and in y, and of its square: ``(1, 3, h, w)``."""
        height, width = self.size
        # Half a tile above the first on, as many as there are tiles and one more.
        halves = flow.new_empty(1, 3, self.grid[0] + 1, self.grid[1] + 1)
        motion = Motion(flow, self.hessian, TILE)

        def work(top: int, bottom: int) -> None:
            first, last = max(top * TILE - TILE // 2, 0), min(bottom * TILE - TILE // 2, height)
            if first >= last:
                halves[:, :, top:bottom] = 0
                return
            rows = slice(first, last)
            dense = motion.dense(last - first, width, first)
            inside = self.inside(dense, first)
            dense[:, 1] += first
            error = flow_warp(frame, dense, interpolation="bicubic", padding_mode="border")
            error.sub_(self.base[:, :, rows]).mul_(inside)
            products = torch.cat([self.gradient[:, :, rows] * error, error * error], dim=1)
            above, below = first - (top * TILE - TILE // 2), bottom * TILE - TILE // 2 - last
            halves[:, :, top:bottom] = _halves(products, above, below)

        in_parts(self.grid[0] + 1, rows_at_once(TILE * width, 4), frame.device, work)
        return F.avg_pool2d(halves, 2, 1)


class Aligner:
    """Finds how frames moved against a base frame.

    Source: tiles matched coarse to fine as in S. Hasinoff et al., "Burst photography for high dynamic range and
    low-light imaging on mobile cameras", 2016; sub-pixel motion by S. Baker and I. Matthews, "Lucas-Kanade 20 years
    on", 2004, as B. Wronski et al. do (arXiv:1905.03277). What a tile cannot tell, it takes from the motion of all.

    Args:
        base: gray picture ``(1, 1, H, W)``.

    Example:
        >>> import torch
        >>> x = torch.rand(1, 1, 64, 96)
        >>> x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
        >>> bool((Aligner(x).align(x).flow.abs() < 0.01).all())
        True
    """

    def __init__(self, base: Tensor) -> None:
        self.size = base.shape[2:]
        self.factor = 2 if base.shape[2] * base.shape[3] > _FULL_SIZE else 1
        self.levels = [_Level(level) for level in self._pyramid(base)]

    def _pyramid(self, gray: Tensor) -> list[Tensor]:
        levels = [means(gray, self.factor) if self.factor > 1 and gray.shape[2:] == self.size else gray]
        while min(levels[-1].shape[2:]) >= 2 * _COARSEST:
            levels.append(means(levels[-1], 2))
        return levels

    def align(self, gray: Tensor) -> Motion:
        """Align a frame ``(1, 1, H, W)`` of the base's size, or reduced by ``factor`` already."""
        frames = self._pyramid(gray)
        start = min(len(frames) - 1, 2)
        shift = global_shift(self.levels[start].base, frames[start]) / 2 ** (len(frames) - 1 - start)
        flow = shift.view(1, 2, 1, 1).expand(1, 2, *self.levels[-1].grid)
        for number in reversed(range(len(frames))):
            level, frame = self.levels[number], frames[number]
            if number < len(frames) - 1:
                # Of an odd size, a level has up to one tile more than twice those of the next.
                wider = F.pad(2 * flow, (0, 1, 0, 1), mode="replicate")
                old = _spread(wider, 2 * TILE, *[n * TILE for n in level.grid])
                flow = F.avg_pool2d(old, TILE)
            if number > 0 or len(frames) == 1:
                flow = level.search(frame, flow)
            flow, information = level.refine(frame, flow, _COARSER if number else _FINEST if len(frames) > 1 else _ONLY)
            flow = smooth_motion(flow, information)
        return Motion(flow * self.factor, information / self.factor**2, TILE * self.factor)
