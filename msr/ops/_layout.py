"""The memory format an op's result has; every reference, fake and kernel follows these two rules."""

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """Return channels_last where channels lie next to each other in `x (B, C, H, W)`, else contiguous_format."""
    channels_last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return an uninitialised tensor of `shape` with the dtype, device and memory format of `x`."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
