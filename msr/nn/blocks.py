"""Convolutional building blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv3x3(in_channels: int, out_channels: int, *, gain: float = 1.0) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, its weights those of He et al. (2015) times ``gain``.

    Example:
        >>> import torch
        >>> from msr.nn.blocks import conv3x3
        >>> conv3x3(3, 8, gain=0.0)(torch.rand(1, 3, 5, 6)).abs().max().item()
        0.0
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        conv.weight.mul_(gain)
    return conv


def leaky(x: Tensor) -> Tensor:
    """A leaky ReLU of slope 0.1 in place, for a convolution's result, which nobody else needs.

    Example:
        >>> leaky(torch.tensor([-1.0, 1.0]))
        tensor([-0.1000,  1.0000])
    """
    return F.leaky_relu(x, 0.1, inplace=True)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Put channels side by side, ``(B, C1, H, W), (B, C2, H, W) .. -> (B, C1 + C2 .., H, W)``, laid out as the first.

    ``torch.cat`` of parts that are not all in channels_last gives planes, which the next convolution turns round again.

    Example:
        >>> wide = torch.rand(1, 8, 4, 5).to(memory_format=torch.channels_last)
        >>> join([wide, torch.rand(1, 1, 4, 5)]).stride()
        (180, 1, 45, 9)
    """
    if parts[0].is_contiguous():
        return torch.cat(list(parts), dim=1)
    # By its strides, as torch.cat does: which layout a tensor of one channel or one picture has is ambiguous otherwise.
    laid_out = [p.stride(1) == 1 and p.stride(0) > p.stride(2) for p in parts]
    return torch.cat(
        [p if ok else p.clone(memory_format=torch.channels_last) for p, ok in zip(parts, laid_out, strict=True)], dim=1
    )


def weigh(features: Tensor, weight: Tensor) -> Tensor:
    """Multiply all channels by one value a pixel, ``(B, C, H, W), (B, 1, H, W) -> (B, C, H, W)``.

    On the CPU in channels_last a product spreads that value over one pixel's channels at a time, which takes several
    times as long as spreading it first.

    Example:
        >>> weigh(torch.full((1, 2, 1, 1), 3.0), torch.full((1, 1, 1, 1), 0.5)).flatten()
        tensor([1.5000, 1.5000])
    """
    if features.is_contiguous() or features.device.type != "cpu":
        return features * weight
    return features * weight.expand_as(features).contiguous(memory_format=torch.channels_last)


class ChannelAttention(nn.Module):
    """Scale each channel by a gate computed from all channels' means.

    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018; in super-resolution Zhang et al., "RCAN", 2018.
    ``(B, C, H, W) -> (B, C, H, W)``. Global pooling, two fully-connected layers, a sigmoid.

    Example:
        >>> import torch
        >>> from msr.nn.blocks import ChannelAttention
        >>> ChannelAttention(8)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(channels // reduction, 4))
        self.excite = nn.Linear(max(channels // reduction, 4), channels)

    def gate(self, x: Tensor) -> Tensor:
        """What each channel of ``x`` is multiplied by, ``(B, C, 1, 1)`` or spread over a row, ``(B, C, 1, W)``."""
        rows = x.permute(0, 2, 3, 1)
        # Along the rows first, which is far quicker in channels_last; a mean of bfloat16 copies all to float32 before.
        along = rows.sum(dim=2) / rows.shape[2] if x.dtype == torch.bfloat16 else rows.mean(dim=2)
        gate = along.mean(dim=1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(gate))))[:, :, None, None]
        if x.device.type == "cpu" and not x.is_contiguous():
            # In channels_last rows of a picture's width are multiplied faster than runs of a pixel's channels.
            gate = gate.expand(-1, -1, 1, x.shape[3]).contiguous(memory_format=torch.channels_last)
        return gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a ReLU, channel attention, and a skip: ``(B, C, H, W) -> (B, C, H, W)``.

    Source: the block of EDSR (Lim et al. 2017) with that of RCAN (Zhang et al. 2018).
    """

    def __init__(self, channels: int, *, attention: bool = True) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        # A small second convolution keeps a deep untrained stack close to the identity.
        self.conv2 = conv3x3(channels, channels, gain=0.2)
        self.attention = ChannelAttention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv2(F.relu(self.conv1(x), inplace=True))
        if isinstance(self.attention, ChannelAttention):
            return torch.addcmul(x, found, self.attention.gate(found))  # once through memory instead of twice
        return found.add_(x)


class Trunk(nn.Module):
    """Residual blocks and a last convolution, all inside one long skip: ``(B, C, H, W) -> (B, C, H, W)``.

    Example:
        >>> import torch
        >>> from msr.nn.blocks import Trunk
        >>> Trunk(8, blocks=2)(torch.rand(1, 8, 5, 6)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(self, channels: int, blocks: int, *, attention: bool = True) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[ResidualBlock(channels, attention=attention) for _ in range(blocks)])
        self.last = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x)).add_(x)
