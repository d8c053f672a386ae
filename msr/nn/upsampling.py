"""Learned upsamplers: features at the input's size in, a picture ``s`` times as large out."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from msr.ops.conv_pixel_shuffle import conv_pixel_shuffle
from msr.ops.conv_transpose2d import conv_transpose2d

UpsamplerName = Literal["subpixel", "deconvolution"]


class SubPixelUpsampler(nn.Module):
    """A 3x3 convolution to ``3 s^2`` channels, shuffled to pixels.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN", 2016.
    ``(B, C, H, W) -> (B, 3, sH, sW)``; gives zeros before training.

    Example:
        >>> import torch
        >>> from msr.nn.upsampling import SubPixelUpsampler
        >>> SubPixelUpsampler(8, scale=3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 15, 18])
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(3 * scale * scale, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(3 * scale * scale))

    def forward(self, x: Tensor) -> Tensor:
        return conv_pixel_shuffle(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.scale)


class DeconvolutionUpsampler(nn.Module):
    """A transposed 9x9 convolution of stride ``s``.

    Source: Dong et al., "Accelerating the Super-Resolution Convolutional Neural Network" (FSRCNN), 2016.
    ``(B, C, H, W) -> (B, 3, sH, sW)``; gives zeros before training.

    Example:
        >>> import torch
        >>> from msr.nn.upsampling import DeconvolutionUpsampler
        >>> DeconvolutionUpsampler(8, scale=3)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 3, 15, 18])
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(channels, 3, 9, 9))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        # Kernel 9, padding 4: the output has s (H - 1) + 1 rows, and the output padding adds the s - 1 that lack.
        return conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.scale, 4, self.scale - 1)


def add_detail(base: Tensor, detail: Tensor) -> Tensor:
    """Add what an upsampler gives to the enlarged picture ``base``, in place and in its dtype; both ``(B, 3, H, W)``.

    On the CPU some rows at a time are converted: all at once would be one more picture in memory, and its pages new.

    Example:
        >>> import torch
        >>> from msr.nn.upsampling import add_detail
        >>> add_detail(torch.ones(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.5, dtype=torch.bfloat16)).flatten()
        tensor([1.5000, 1.5000, 1.5000])
    """
    whole = base.device.type != "cpu" or detail.dtype == base.dtype
    if whole or detail.requires_grad or base.requires_grad or torch.compiler.is_compiling():
        return base.add_(detail)
    for rows, added in zip(base.split(64, dim=2), detail.split(64, dim=2), strict=True):
        rows.add_(added)
    return base


def make_upsampler(name: UpsamplerName, channels: int, scale: int) -> nn.Module:
    """The upsampler of that name for features of ``channels`` and an enlargement of ``scale``.

    Raises:
        ValueError: the name is neither ``"subpixel"`` nor ``"deconvolution"``.

    Example:
        >>> type(make_upsampler("deconvolution", 8, 2)).__name__
        'DeconvolutionUpsampler'
    """
    if name == "subpixel":
        return SubPixelUpsampler(channels, scale)
    if name == "deconvolution":
        return DeconvolutionUpsampler(channels, scale)
    raise ValueError(f"upsampler must be 'subpixel' or 'deconvolution', got {name!r}")
