"""How far each place of a frame is to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.camera import inverse_srgb_curve
from msr.ops.flow_warp import flow_warp
from msr.pipelines.handheld.filters import box, mirrored
from msr.pipelines.handheld.noise import GuideNoise

#: Share of the local variance that the means of three by three may differ by, because frames sample fine detail at
#: different places; and the same of single pixels, times the share at which doubt begins (more in a mosaic).
_ALIASING = 0.25
_PIXEL_ALIASING, _DOUBT, _MOSAIC_DOUBT = 0.3, 1.2, 3.5
#: Share of the base's detail below which a frame does not count, and from which on it counts fully.
_BLURRED, _SHARP = 0.65, 0.78
#: trust = _PLATEAU exp(-_STEEP distance) - _CUT, within 0 and 1.
_PLATEAU, _STEEP, _CUT = 2.5, 0.12, 0.25


def guide_of(pixels: Tensor, mosaic: str | None) -> Tensor:
    """A colour picture of half the size, ``(1, 3, H/2, W/2)``: the quads of a mosaic, or the means of four pixels.

    Example:
        >>> guide_of(torch.rand(1, 1, 6, 8), "bggr").shape
        torch.Size([1, 3, 3, 4])
    """
    if min(pixels.shape[2:]) < 2:
        return pixels.expand(-1, 3, -1, -1)
    if mosaic is None:
        return F.avg_pool2d(pixels, 2)
    quads = F.pixel_unshuffle(pixels[..., : pixels.shape[2] // 2 * 2, : pixels.shape[3] // 2 * 2], 2)
    colours = [quads[:, [i for i in range(4) if mosaic[i] == letter]].mean(1, keepdim=True) for letter in "rgb"]
    return torch.cat(colours, dim=1)


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
        >>> float(judge.trust(x, torch.zeros(1, 2, 12, 16)).min())
        1.0
    """

    def __init__(self, guide: Tensor, noise: GuideNoise, *, mosaic: bool) -> None:
        self.guide, self.mean = guide, box(guide, 1)
        self.doubt = _MOSAIC_DOUBT if mosaic else _DOUBT
        spread = (box(guide.square(), 1) - self.mean.square() - noise.pixel).clamp(min=0)
        # Both sides hold noise.
        self.expected = 2 * noise.mean + 1e-7 + _ALIASING * spread
        self.noise = 2 * box(noise.pixel, 2).sum(1, keepdim=True)
        self.band = self._band(self.mean)
        self.power = (self.band.square() - 0.81 * noise.mean).sum(1, keepdim=True)
        self.detail = (box(guide.square(), 2) - box(guide, 2).square()).sum(1, keepdim=True).clamp(min=0)

    def trust(self, guide: Tensor, flow: Tensor) -> Tensor:
        """The trust in a frame, ``(1, 1, h, w)`` from 0 to 1, by its guide and its flow (in pixels of the guide)."""
        warped = flow_warp(guide, flow, interpolation="bicubic", padding_mode="border")
        mean = box(warped, 1)
        distance = ((mean - self.mean).square() / self.expected).mean(dim=1, keepdim=True)
        trust = (_PLATEAU * torch.exp(-_STEEP * distance) - _CUT).clamp(0, 1)
        power = box((warped - self.guide).square().sum(1, keepdim=True), 2)
        excess = (power - self.noise) / (_PIXEL_ALIASING * self.detail + self.noise + 1e-6)
        trust = trust * (2 - excess / self.doubt).clamp(0, 1)
        rows = torch.arange(flow.shape[2], device=flow.device).view(1, 1, -1, 1)
        columns = torch.arange(flow.shape[3], device=flow.device).view(1, 1, 1, -1)
        x, y = columns + flow[:, :1], rows + flow[:, 1:]
        inside = (x >= -0.5) & (x <= flow.shape[3] - 0.5) & (y >= -0.5) & (y <= flow.shape[2] - 0.5)
        trust = -F.max_pool2d(mirrored(-(trust * inside), (2, 2, 2, 2)), 5, 1)
        return trust * self._sharpness(mean, trust)

    @staticmethod
    def _band(mean: Tensor) -> Tensor:
        """Detail that is neither so fine that frames differ in it nor so coarse that blur leaves it."""
        return mean - box(mean, 3)

    def _sharpness(self, mean: Tensor, trust: Tensor) -> float:
        """From 0 to 1, less for a frame that has less of the base's detail: a blurred one."""
        shared = float(((self._band(mean) * self.band).sum(1, keepdim=True) * trust).sum())
        share = shared / max(float((self.power * trust).sum()), 1e-9)
        return min(max((share - _BLURRED) / (_SHARP - _BLURRED), 0.0), 1.0)

    def exposure(self, guide: Tensor, flow: Tensor, *, linear: bool) -> float:
        """How many times the base's light a frame got: the median over what is neither dark nor saturated."""
        warped = box(flow_warp(guide, flow, padding_mode="border"), 1)
        skip = max(1, int((warped[0, 0].numel() / 1e5) ** 0.5))
        ours, theirs = (x[..., ::skip, ::skip] for x in (self.mean, warped))
        if not linear:
            ours, theirs = inverse_srgb_curve(ours), inverse_srgb_curve(theirs)
        least = float(ours.median()) / 4
        clear = (ours > least) & (theirs > least / 4) & (ours < 0.8) & (theirs < 0.8)
        if int(clear.sum()) < 16:
            return 1.0
        return float((theirs[clear] / ours[clear]).median())

    def clear(self, saturated: Tensor, flow: Tensor) -> Tensor:
        """1 where a frame is not saturated, else 0, ``(1, 1, h, w)``."""
        spread = F.max_pool2d(saturated.float(), 3, 1, 1)
        return (flow_warp(spread, flow, padding_mode="border") == 0).float()
