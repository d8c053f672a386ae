"""Optical flow by a small coarse-to-fine network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.nn.blocks import conv3x3, join, leaky
from msr.ops._transforms import without_autocast
from msr.ops.correlation import correlation
from msr.ops.flow_warp import flow_warp
from msr.ops.local_contrast_norm import local_contrast_norm

_RADIUS = 2

#: Exponents beyond it count as it does: 25 of its powers still have a sum, and their inverse, in bfloat16 and float32.
_STEEPEST = 60.0


class Described(NamedTuple):
    """What a `FlowNetwork` compares of frames."""

    levels: list[Tensor]  # of the pyramid, (B, C, H, W) each, the finest, padded, first
    height: int  # of the frames
    width: int

    def chunk(self, count: int) -> tuple[Described, ...]:
        """So many equal parts of the batch."""
        parts = zip(*(level.chunk(count) for level in self.levels), strict=True)
        return tuple(self._replace(levels=list(part)) for part in parts)

    def at(self, index: Tensor | slice) -> Described:
        """Those at ``index`` in the batch."""
        return self._replace(levels=[level[index] for level in self.levels])


class FlowNetwork(nn.Module):
    """Flow from a target frame to a source frame, coarse to fine, one decoder for all levels.

    Source: the pyramid, warping and cost volume of PWC-Net (Sun et al. 2018), its decoder shared over levels as in
    later work. Frames ``(B, 3, H, W)`` RGB in [0, 1], of any size; flow ``(B, 2, H, W)`` in pixels, float32, channel 0
    right, channel 1 down, such that ``flow_warp(source, flow)`` looks like ``target``. Gives zero flow before training.

    Args:
        channels: width of the features that are compared.
        width: of the decoder.
        levels: of the pyramid, each half the size of the one below.

    Example:
        >>> import torch
        >>> from msr.nn.flow import FlowNetwork
        >>> FlowNetwork()(torch.rand(1, 3, 5, 6), torch.rand(1, 3, 5, 6)).shape
        torch.Size([1, 2, 5, 6])
    """

    def __init__(self, channels: int = 24, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.encode1 = conv3x3(3, channels)
        self.encode2 = conv3x3(channels, channels)
        inputs = (2 * _RADIUS + 1) ** 2 + channels + 4
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.decode1 = conv3x3(inputs, width)
        self.decode2 = conv3x3(width, width)
        self.decode3 = conv3x3(width, width)
        self.delta = conv3x3(width, 2, gain=0.0)

    def _features(self, x: Tensor) -> Tensor:
        # The pattern matters, not the light; and neighbouring shifts differ clearly even in half precision.
        return local_contrast_norm(self.encode2(leaky(self.encode1(x))), _RADIUS)

    def _likely_shift(self, cost: Tensor) -> Tensor:
        """The shift that the cost volume speaks for, ``(B, 2, H, W)``: a softmax over shifts, then their mean."""
        x = self.sharpness * cost
        x = x if x.dtype == torch.bfloat16 else x.float()  # whose range float16 lacks
        # Bounded instead of less its greatest value, which takes longer than all the rest; pictures reach some 40.
        weight = x.clamp_(-_STEEPEST, _STEEPEST).exp_()
        axis = torch.arange(-_RADIUS, _RADIUS + 1, device=x.device, dtype=x.dtype)
        down, right = (each.flatten() for each in torch.meshgrid(axis, axis, indexing="ij"))
        # A product with three columns would round by how many pixels there are, and so by how many frames.
        moments = torch.stack([right, down, torch.ones_like(down), torch.ones_like(down)], dim=1)
        with without_autocast(weight):  # which would have the product in float16
            sums = (weight.permute(0, 2, 3, 1) @ moments).float()
        return (sums[..., :2] / sums[..., 2:]).permute(0, 3, 1, 2).to(cost.dtype)

    def _refine(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        warped = flow_warp(source, flow, padding_mode="border")
        cost = correlation(target, warped, _RADIUS)
        x = join([cost, self._likely_shift(cost), target, flow.to(target.dtype)])
        x = leaky(self.decode1(x))
        x = x + leaky(self.decode2(x))
        x = x + leaky(self.decode3(x))
        return flow + self.delta(x).float()

    def describe(self, frames: Tensor) -> Described:
        """What is compared of ``frames (B, 3, H, W)``, so that each is looked at once."""
        height, width = frames.shape[-2:]
        multiple = 2 ** (self.levels - 1)
        pad = (0, -width % multiple, 0, -height % multiple)
        level = F.pad(frames.to(self.encode1.weight.dtype) - 0.5, pad, mode="replicate")
        features = [self._features(level)]
        for _ in range(self.levels - 1):
            level = F.avg_pool2d(level, 2)
            features.append(self._features(level))
        return Described(features, height, width)

    def between(self, target: Described, source: Described) -> Tensor:
        """Flow ``(B, 2, H, W)`` from described frames to others; k times as many sources are k for each target."""
        flow = torch.zeros_like(source.levels[-1][:, :2], dtype=torch.float32)
        for number, (a, b) in enumerate(zip(target.levels[::-1], source.levels[::-1], strict=True)):
            if number:
                flow = 2.0 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
            times = b.shape[0] // max(a.shape[0], 1)
            flow = self._refine(torch.cat([a] * times) if times > 1 else a, b, flow)
        return flow[..., : target.height, : target.width]

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        targets, sources = self.describe(torch.cat([target, source])).chunk(2)
        return self.between(targets, sources)


def steady_flow(flow: Tensor, tolerance: float = 0.75) -> Tensor:
    """Replace a flow by the global motion that fits it best wherever the two differ little.

    A camera that shakes moves the whole picture by nearly an affine map; a fit over all pixels knows it far better than
    the flow of one pixel does. What moves by itself differs from the fit and keeps its flow.

    Source: iteratively reweighted least squares with Geman-McClure weights (Black and Anandan, "The robust estimation
    of multiple motions", 1996).

    Args:
        flow: ``(B, 2, H, W)`` in pixels, float32.
        tolerance: difference in pixels at which the flow and the fit are mixed half and half.

    Returns:
        ``(B, 2, H, W)``; its gradient is that of ``flow``.

    Example:
        >>> import torch
        >>> from msr.nn.flow import steady_flow
        >>> bool((steady_flow(torch.full((1, 2, 8, 8), 1.5)) - 1.5).abs().max() < 1e-4)
        True
    """
    height, width = flow.shape[-2:]
    if min(height, width) < 2:
        return flow
    # Not in bfloat16 where autocast is on: the fit would be off by more than what it is to mend.
    with torch.no_grad(), without_autocast(flow):
        axes = [torch.linspace(-1.0, 1.0, n, device=flow.device) for n in (height, width)]
        y, x = torch.meshgrid(*axes, indexing="ij")
        place = torch.stack([torch.ones_like(x), x, y], dim=2)  # (H, W, 3)
        # Some thousand pixels determine six numbers as well as all of them do.
        every = (slice(None, None, -(-height // 64)), slice(None, None, -(-width // 64)))
        a = place[every].reshape(1, -1, 3)
        b = flow.float().permute(0, 2, 3, 1)[:, *every].flatten(1, 2)
        ridge = 1e-6 * torch.eye(3, device=flow.device)
        weight = torch.ones_like(b[..., :1])
        for step in range(10):
            # From forgiving to strict: the first fits are drawn aside by what moves by itself.
            scale = tolerance * max(1.0, 4.0 * 0.7**step)
            weighted = (a * weight / weight.sum(dim=1, keepdim=True)).transpose(1, 2)
            motion = torch.linalg.solve(weighted @ a + ridge, weighted @ b)  # (B, 3, 2)
            distance = (a @ motion - b).square().sum(dim=2, keepdim=True)
            weight = 1.0 / (1.0 + distance / scale**2) ** 2
        fit = (place.reshape(1, -1, 3) @ motion).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        distance = (fit - flow).square().sum(dim=1, keepdim=True)
        change = (fit - flow) / (1.0 + (distance / tolerance**2) ** 2)
    return flow + change
