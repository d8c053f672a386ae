"""How far each place of a frame is to be trusted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.camera import inverse_srgb_curve
from msr.ops.flow_warp import flow_warp
from msr.pipelines.handheld.filters import box, mirrored

#: Share of the local variance that a difference may have because frames sample fine detail at different places.
_ALIASING = 0.10


def guide_of(pixels: Tensor, mosaic: str | None) -> Tensor:
    """A colour picture of half the size, ``(1, 3, H/2, W/2)``: the quads of a mosaic, or the means of four pixels.

    Example:
        >>> guide_of(torch.rand(1, 1, 6, 8), "bggr").shape
        torch.Size([1, 3, 3, 4])
    """
    if mosaic is None:
        return F.avg_pool2d(pixels, 2)
    quads = F.pixel_unshuffle(pixels[..., : pixels.shape[2] // 2 * 2, : pixels.shape[3] // 2 * 2], 2)
    colours = [quads[:, [i for i in range(4) if mosaic[i] == letter]].mean(1, keepdim=True) for letter in "rgb"]
    return torch.cat(colours, dim=1)


def guide_variance(guide: Tensor, noise: tuple[float, float], mosaic: str | None) -> Tensor:
    """The variance of the noise in a picture by `guide_of`, ``(1, 3, h, w)``.

    Example:
        >>> guide_variance(torch.ones(1, 3, 1, 1), (1.0, 1.0), "rggb").flatten()
        tensor([2., 1., 2.])
    """
    share = (0.25, 0.25, 0.25) if mosaic is None else (1.0, 0.5, 1.0)
    variance = noise[0] * guide.clamp(min=0) + noise[1]
    return variance * torch.tensor(share, device=guide.device).view(1, 3, 1, 1)


def _mean(x: Tensor) -> Tensor:
    return box(x, 1)


class Judge:
    """Compares frames with the base, as sections 5.2 and 5.3 of B. Wronski et al., arXiv:1905.03277, do.

    Args:
        guide: of the base, ``(1, 3, h, w)`` as `guide_of` gives.
        variance: of the noise of one pixel of the guide, ``(1, 3, h, w)``.

    Example:
        >>> x = torch.rand(1, 3, 12, 16)
        >>> float(Judge(x, torch.full_like(x, 1e-4)).trust(x, torch.zeros(1, 2, 12, 16)).min())
        1.0
    """

    def __init__(self, guide: Tensor, variance: Tensor) -> None:
        self.mean = _mean(guide)
        self.spread = (_mean(guide.square()) - self.mean.square() - variance).clamp(min=0)
        # Means of nine pixels on both sides; and a warped frame is a little smoother.
        self.expected = 2 * _mean(variance) / 9 + 1e-7 + _ALIASING * self.spread

    def trust(self, guide: Tensor, flow: Tensor) -> Tensor:
        """The trust in a frame, ``(1, 1, h, w)`` from 0 to 1, by its guide and its flow (in pixels of the guide)."""
        warped = flow_warp(guide, flow, interpolation="bicubic", padding_mode="border")
        mean = _mean(warped)
        distance = ((mean - self.mean).square() / self.expected).mean(dim=1, keepdim=True)
        trust = (2.5 * torch.exp(-0.25 * distance) - 0.25).clamp(0, 1)
        rows = torch.arange(flow.shape[2], device=flow.device).view(1, 1, -1, 1)
        columns = torch.arange(flow.shape[3], device=flow.device).view(1, 1, 1, -1)
        x, y = columns + flow[:, :1], rows + flow[:, 1:]
        inside = (x >= -0.5) & (x <= flow.shape[3] - 0.5) & (y >= -0.5) & (y <= flow.shape[2] - 0.5)
        return -F.max_pool2d(mirrored(-(trust * inside), (2, 2, 2, 2)), 5, 1)

    def exposure(self, guide: Tensor, flow: Tensor, *, linear: bool) -> float:
        """How many times the base's light a frame got: the median over what is neither dark nor saturated."""
        warped = _mean(flow_warp(guide, flow, padding_mode="border"))
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
