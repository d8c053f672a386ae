"""Bringing one frame's features onto another's pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from msr.nn.blocks import conv3x3, join, leaky
from msr.ops.flow_guided_deform_conv2d import flow_guided_deform_conv2d
from msr.ops.flow_warp import flow_warp


def flow_phase(flow: Tensor) -> Tensor:
    """Where between the source's pixels each target pixel falls: ``(B, 2, H, W)`` to ``(B, 4, H, W)`` in [-1, 1].

    Cosine and sine of the flow's fractional part, so that it has no jump. What a frame adds to another depends on it
    alone.

    Example:
        >>> import torch
        >>> from msr.nn.alignment import flow_phase
        >>> flow_phase(torch.full((1, 2, 1, 1), 3.0)).flatten().round().abs()
        tensor([1., 1., 0., 0.])
    """
    angle = 2.0 * math.pi * flow
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)


class FlowGuidedAlignment(nn.Module):
    """Sample features where the flow points, with learned offsets around it.

    Source: the flow-guided deformable alignment of BasicVSR++ (Chan et al. 2022). Before training it is `flow_warp` by
    the flow. ``x, reference (B, C, H, W)``, ``flow (B, 2, H, W)`` in pixels from the reference to ``x``; gives
    ``(B, C, H, W)``.

    Args:
        channels: C, a multiple of ``offset_groups``.
        offset_groups: parts of the channels that are sampled at places of their own.
        width: of the hidden layer that finds the offsets.
        max_residue: how far, in pixels, an offset may leave the flow.

    Example:
        >>> import torch
        >>> from msr.nn.alignment import FlowGuidedAlignment
        >>> x = torch.rand(1, 8, 5, 6)
        >>> FlowGuidedAlignment(8)(x, x, torch.zeros(1, 2, 5, 6)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(self, channels: int, offset_groups: int = 4, width: int = 32, max_residue: float = 3.0) -> None:
        super().__init__()
        self.max_residue = max_residue
        self.inner = conv3x3(2 * channels + 2, width)
        self.head = conv3x3(width, 27 * offset_groups, gain=0.0)
        weight = torch.zeros(channels, channels, 3, 3)
        nn.init.dirac_(weight)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, reference: Tensor, flow: Tensor) -> Tensor:
        warped = flow_warp(x, flow)
        head = self.head(leaky(self.inner(join([warped, reference, flow.to(x.dtype)]))))
        # The op weighs a tap by at most 1; twice that, so that an untrained tap counts as it is.
        weight, bias = 2.0 * self.weight.to(x.dtype), self.bias.to(x.dtype)
        return flow_guided_deform_conv2d(x, head, flow, weight, bias, max_residue=self.max_residue)


class Doubt(nn.Module):
    """How far to trust aligned features at each pixel, in [0, 1]: ``(B, 1, H, W)``.

    It sees the features ``(B, C, H, W)``, the reference's, and how much the warped frame differs from the reference
    frame, ``(B, 3, H, W)``: where alignment failed, that difference is large.

    Example:
        >>> import torch
        >>> from msr.nn.alignment import Doubt
        >>> x = torch.rand(1, 8, 5, 6)
        >>> Doubt(8)(x, x, torch.zeros(1, 3, 5, 6)).shape
        torch.Size([1, 1, 5, 6])
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.inner = conv3x3(2 * channels + 3, width)
        self.outer = conv3x3(width, 1, gain=0.1)
        nn.init.constant_(self.outer.bias, 1.0)  # type: ignore[arg-type]

    def forward(self, aligned: Tensor, reference: Tensor, difference: Tensor) -> Tensor:
        x = join([aligned, reference, difference.to(aligned.dtype)])
        return torch.sigmoid(self.outer(leaky(self.inner(x))))
