"""How far each place of a frame is to be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.camera import inverse_srgb_curve
from msr.ops.flow_warp import flow_warp
from msr.pipelines.handheld.align import Motion
from msr.pipelines.handheld.filters import box, least_around, means
from msr.pipelines.handheld.noise import GuideNoise
from msr.pipelines.handheld.parts import in_parts, rows_at_once

#: Share of the local variance that the means of three by three may differ by, because frames sample fine detail at
#: different places; and the same of single pixels, times the share at which doubt begins (more in a mosaic).
_ALIASING = 0.25
_PIXEL_ALIASING, _DOUBT, _MOSAIC_DOUBT = 0.3, 1.2, 3.5
#: Share of the base's detail below which a frame does not count, and from which on it counts fully.
_BLURRED, _SHARP = 0.65, 0.78
#: trust = _PLATEAU exp(-_STEEP distance) - _CUT, within 0 and 1.
_PLATEAU, _STEEP, _CUT = 2.5, 0.12, 0.25
#: Pixels of a guide that are more than it takes to compare exposures.
_MANY = 1 << 20
#: Rows of a guide beyond which nothing that is looked at reaches.
_REACH = 4


def guide_of(pixels: Tensor, mosaic: str | None) -> Tensor:
    """A colour picture of half the size, ``(1, 3, H/2, W/2)``: the quads of a mosaic, or the means of four pixels.

    Example:
        >>> guide_of(torch.rand(1, 1, 6, 8), "bggr").shape
        torch.Size([1, 3, 3, 4])
    """
    if min(pixels.shape[2:]) < 2:
        return pixels.expand(-1, 3, -1, -1)
    height, width = pixels.shape[2] // 2, pixels.shape[3] // 2
    out = pixels.new_empty(1, 3, height, width)

    def work(top: int, bottom: int) -> None:
        rows = pixels[:, :, 2 * top : 2 * bottom, : 2 * width]
        if mosaic is None:
            out[:, :, top:bottom] = means(rows, 2)
            return
        for channel, letter in enumerate("rgb"):
            places = [(place // 2, place % 2) for place in range(4) if mosaic[place] == letter]
            same = [rows[:, 0, y::2, x::2] for y, x in places]
            out[:, channel, top:bottom] = same[0] if len(same) == 1 else (same[0] + same[1]).div_(2)

    in_parts(height, rows_at_once(2 * width), pixels.device, work)
    return out


class Judge:
    """Compares frames with the base, as sections 5.2 and 5.3 of B. Wronski et al., arXiv:1905.03277, do.

    There, means of three by three pixels are compared, which tells another colour. Here the differences of single
    pixels are looked at, too, which tells another texture.

    Args:
        guide: of the base, ``(1, 3, h, w)`` as `guide_of` gives.
        noise: of the guide, each variance ``(1, 3, h, w)`` or ``(1, 3, 1, 1)``.
        mosaic: whether the guide is that of a mosaic.

    Example:
        >>> x = torch.rand(1, 3, 12, 16)
        >>> judge = Judge(x, white_noise(x, (0.0, 1e-4), "rggb"), mosaic=True)
        >>> still = Motion(torch.zeros(1, 2, 1, 1), torch.ones(1, 3, 1, 1), 16)
        >>> float(judge.trust(x, still).min())
        1.0
    """

    def __init__(self, guide: Tensor, noise: GuideNoise, *, mosaic: bool) -> None:
        self.guide = guide
        self.doubt = _MOSAIC_DOUBT if mosaic else _DOUBT
        self.mean, self.expected, self.band = (torch.empty_like(guide) for _ in range(3))
        self.noise, self.power, self.detail = (torch.empty_like(guide[:, :1]) for _ in range(3))
        self._each_part(lambda top, bottom: self._look(noise, top, bottom))

    def _each_part(self, work: Callable[[int, int], None]) -> None:
        height, width = self.guide.shape[2:]
        in_parts(height, rows_at_once(width), self.guide.device, work)

    def _look(self, noise: GuideNoise, top: int, bottom: int) -> None:
        """Find out about some rows of the base what does not change from frame to frame."""
        first, last = self._seen(top, bottom)
        own = slice(top - first, bottom - first)
        guide = self.guide[:, :, first:last]
        pixel, of_mean = (x if x.shape[2] == 1 else x[:, :, first:last] for x in (noise.pixel, noise.mean))
        mean, square = box(guide, 1), guide.square()
        spread = (box(square, 1) - mean.square() - pixel).clamp_(min=0)
        # Both sides hold noise.
        expected = spread.mul_(_ALIASING) + (2 * of_mean + 1e-7)
        band = self._band(mean)
        power = (band.square() - 0.81 * of_mean).sum(1, keepdim=True)
        detail = (box(square, 2) - box(guide, 2).square()).sum(1, keepdim=True).clamp_(min=0)
        of_all = 2 * box(pixel, 2).sum(1, keepdim=True).expand_as(detail)
        found = (self.mean, mean), (self.expected, expected), (self.band, band), (self.power, power)
        for kept, part in (*found, (self.detail, detail), (self.noise, of_all)):
            kept[:, :, top:bottom] = part[:, :, own]

    def _seen(self, top: int, bottom: int) -> tuple[int, int]:
        return max(top - _REACH, 0), min(bottom + _REACH, self.guide.shape[2])

    def trust(self, guide: Tensor, motion: Motion) -> Tensor:
        """The trust in a frame, ``(1, 1, h, w)`` from 0 to 1, by its guide and its motion (in pixels of the guide)."""
        trust = torch.empty_like(self.noise)
        shared, power = [], []

        def work(top: int, bottom: int) -> None:
            first, last = self._seen(top, bottom)
            own, rows = slice(top - first, bottom - first), slice(top, bottom)
            part, mean = self._trust(guide, motion.dense(last - first, guide.shape[3], first), first)
            trust[:, :, rows] = part = part[:, :, own]
            band = self._band(mean)[:, :, own]
            shared.append(float(((band * self.band[:, :, rows]).sum(1, keepdim=True) * part).sum()))
            power.append(float((self.power[:, :, rows] * part).sum()))

        self._each_part(work)
        # Less for a frame that has less of the base's detail: a blurred one.
        share = sum(shared) / max(sum(power), 1e-9)
        return trust.mul_(min(max((share - _BLURRED) / (_SHARP - _BLURRED), 0.0), 1.0))

    def _trust(self, guide: Tensor, flow: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The same of the rows that the flow is of, as if no frame were blurred; also the means of three by three."""
        part = slice(first, first + flow.shape[2])
        flow = flow + torch.tensor([0.0, first], device=flow.device).view(1, 2, 1, 1)
        warped = flow_warp(guide, flow, interpolation="bicubic", padding_mode="border")
        mean = box(warped, 1)
        distance = ((mean - self.mean[:, :, part]).square_() / self.expected[:, :, part]).mean(dim=1, keepdim=True)
        trust = distance.mul_(-_STEEP).exp_().mul_(_PLATEAU).sub_(_CUT).clamp_(0, 1)
        power = box((warped - self.guide[:, :, part]).square_().sum(1, keepdim=True), 2)
        noise = self.noise[:, :, part]
        excess = (power - noise) / (_PIXEL_ALIASING * self.detail[:, :, part] + noise + 1e-6)
        trust *= (2 - excess / self.doubt).clamp_(0, 1)
        height, width = guide.shape[2:]
        rows = torch.arange(flow.shape[2], device=flow.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=flow.device).view(1, 1, 1, -1)
        x, y = columns + flow[:, :1], rows + flow[:, 1:]
        trust *= (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return least_around(trust, 2), mean

    @staticmethod
    def _band(mean: Tensor) -> Tensor:
        """Detail that is neither so fine that frames differ in it nor so coarse that blur leaves it."""
        return mean - box(mean, 3)

    def exposure(self, guide: Tensor, motion: Motion, *, linear: bool) -> float:
        """How many times the base's light a frame got: the median over what is neither dark nor saturated."""
        # Large pictures are compared in small.
        factor = 4 if guide.shape[2] * guide.shape[3] > _MANY else 1
        ours, theirs = (means(x, factor) if factor > 1 else box(x, 1) for x in (self.guide, guide))
        small = Motion(motion.flow / factor, motion.information, motion.tile // factor)
        theirs = flow_warp(theirs, small.dense(*ours.shape[2:]), padding_mode="border")
        if not linear:
            ours, theirs = inverse_srgb_curve(ours), inverse_srgb_curve(theirs)
        least = float(ours.median()) / 4
        clear = (ours > least) & (theirs > least / 4) & (ours < 0.8) & (theirs < 0.8)
        if int(clear.sum()) < 16:
            return 1.0
        return float((theirs[clear] / ours[clear]).median())

    def clear(self, saturated: Tensor, motion: Motion) -> Tensor:
        """1 where a frame is not saturated, else 0, ``(1, 1, h, w)``."""
        flow = motion.dense(*saturated.shape[2:])
        spread = F.max_pool2d(saturated.float(), 3, 1, 1)
        return (flow_warp(spread, flow, padding_mode="border") == 0).float()
