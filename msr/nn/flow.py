"""Optical flow by a small coarse-to-fine network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.nn.blocks import conv3x3
from msr.ops import flow_warp

_RADIUS = 2


def local_correlation(a: Tensor, b: Tensor, radius: int = _RADIUS) -> Tensor:
    """Mean over channels of ``a`` times ``b`` shifted by up to ``radius`` pixels, zero outside.

    ``a, b (B, C, H, W)`` to ``(B, (2r+1)^2, H, W)``; channel
    ``(dy + r) (2r + 1) + dx + r`` holds ``b`` at ``(y + dy, x + dx)``.
    Source: the cost volume of PWC-Net (Sun et al. 2018).

    Example:
        >>> import torch
        >>> from msr.nn.flow import local_correlation
        >>> local_correlation(torch.ones(1, 4, 3, 3), torch.ones(1, 4, 3, 3), radius=1)[0, 0]
        tensor([[0., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """
    height, width = a.shape[-2:]
    b = F.pad(b, (radius,) * 4)
    side = range(2 * radius + 1)
    return torch.stack([(a * b[..., y : y + height, x : x + width]).mean(dim=1) for y in side for x in side], dim=1)


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
        inputs = (2 * _RADIUS + 1) ** 2 + channels + 2
        self.decode1 = conv3x3(inputs, width)
        self.decode2 = conv3x3(width, width)
        self.decode3 = conv3x3(width, width)
        self.delta = conv3x3(width, 2, gain=0.0)

    def _features(self, x: Tensor) -> Tensor:
        features = self.encode2(F.leaky_relu(self.encode1(x), 0.1))
        # Correlation of features of unit variance: what matters is the pattern, not the light.
        features = features - features.mean(dim=1, keepdim=True)
        return features * torch.rsqrt(features.float().square().mean(dim=1, keepdim=True) + 1e-4).to(features.dtype)

    def _refine(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        warped = flow_warp(source, flow, padding_mode="border")
        cost = local_correlation(target, warped)
        x = torch.cat([cost, target, flow.to(target.dtype)], dim=1)
        x = F.leaky_relu(self.decode1(x), 0.1)
        x = x + F.leaky_relu(self.decode2(x), 0.1)
        x = x + F.leaky_relu(self.decode3(x), 0.1)
        return flow + self.delta(x).float()

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        height, width = target.shape[-2:]
        multiple = 2 ** (self.levels - 1)
        pad = (0, -width % multiple, 0, -height % multiple)
        dtype = self.encode1.weight.dtype
        pair = F.pad(torch.cat([target, source]).to(dtype) - 0.5, pad, mode="replicate")
        pyramid = [pair]
        for _ in range(self.levels - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        flow = torch.zeros(1, device=target.device)
        for level in reversed(pyramid):
            a, b = self._features(level).chunk(2)
            if flow.ndim == 1:
                flow = flow.new_zeros(a.shape[0], 2, *a.shape[-2:])
            else:
                flow = 2.0 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
            flow = self._refine(a, b, flow)
        # Twice at the finest level: what is left after the first is below a pixel.
        flow = self._refine(a, b, flow)
        return flow[..., :height, :width]
