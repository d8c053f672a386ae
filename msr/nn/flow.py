"""Optical flow by a small coarse-to-fine network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.nn.blocks import conv3x3
from msr.ops.correlation import correlation
from msr.ops.flow_warp import flow_warp

_RADIUS = 2


def _window_mean(x: Tensor) -> Tensor:
    """Mean over 5x5 pixels, of those that there are: down, then across, which takes 10 sums instead of 25."""
    x = F.avg_pool2d(x, (5, 1), stride=1, padding=(2, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, 5), stride=1, padding=(0, 2), count_include_pad=False)


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
        features = self.encode2(F.leaky_relu(self.encode1(x), 0.1))
        # What a window holds beyond its mean, at unit variance: the pattern matters, not the light, and neighbouring
        # shifts differ clearly even in half precision.
        features = features - _window_mean(features)
        power = _window_mean(features.square().mean(dim=1, keepdim=True).float())
        return features * torch.rsqrt(power + 1e-5).to(features.dtype)

    def _likely_shift(self, cost: Tensor) -> Tensor:
        """The shift that the cost volume speaks for, ``(B, 2, H, W)``: a softmax over shifts, then their mean."""
        axis = torch.arange(-_RADIUS, _RADIUS + 1, device=cost.device, dtype=torch.float32).view(1, -1, 1, 1)
        weight = torch.softmax(self.sharpness * cost.float(), dim=1).unflatten(1, (2 * _RADIUS + 1, 2 * _RADIUS + 1))
        # How likely each shift across is, whatever that down, and the other way round.
        return torch.stack([(weight.sum(dim) * axis).sum(dim=1) for dim in (1, 2)], dim=1).to(cost.dtype)

    def _refine(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        warped = flow_warp(source, flow, padding_mode="border")
        cost = correlation(target, warped, _RADIUS)
        x = torch.cat([cost, self._likely_shift(cost), target, flow.to(target.dtype)], dim=1)
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
        return flow[..., :height, :width]


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
    with torch.no_grad():
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
