"""Cubic resampling that agrees with MATLAB's ``imresize``."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Phase = Literal["centered", "corner"]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5."""
    ax = np.abs(x)
    inner = 1.5 * ax**3 - 2.5 * ax**2 + 1.0
    outer = -0.5 * ax**3 + 2.5 * ax**2 - 4.0 * ax + 2.0
    return np.where(ax <= 1.0, inner, np.where(ax <= 2.0, outer, 0.0))


@functools.lru_cache(maxsize=64)
def _kept_taps(size: int, out_size: int, scale: float, antialias: bool, phase: str) -> tuple[Tensor, Tensor]:
    """Source indices (K, out_size) and weights (K, out_size) of a one-dimensional resampling."""
    shrink = scale if antialias and scale < 1.0 else 1.0
    width = 4.0 / shrink
    out = np.arange(out_size, dtype=np.float64)
    center = out / scale if phase == "corner" else (out + 0.5) / scale - 0.5
    taps = math.ceil(width) + 2
    index = np.floor(center - width / 2.0).astype(np.int64)[None, :] + np.arange(taps)[:, None]
    weight = shrink * _cubic(shrink * (center[None, :] - index))
    weight /= weight.sum(axis=0, keepdims=True)
    # The picture continues as its mirror image, the edge sample repeated, as in MATLAB.
    index = np.mod(index, 2 * size)
    index = np.where(index >= size, 2 * size - 1 - index, index)
    used = np.abs(weight).max(axis=1) > 0.0
    return torch.from_numpy(index[used]), torch.from_numpy(weight[used])


@torch.compiler.assume_constant_result
def _taps(size: int, out_size: int, scale: float, antialias: bool, phase: str) -> tuple[Tensor, Tensor]:
    """`_kept_taps`; the kept tensors must serve training even where inference mode asked for them first."""
    with torch.inference_mode(False):
        return _kept_taps(size, out_size, scale, antialias, phase)


def _resample(x: Tensor, dim: int, out_size: int, scale: float, antialias: bool, phase: str) -> Tensor:
    index, weight = _taps(x.shape[dim], out_size, scale, antialias, phase)
    index = index.to(x.device)
    shape = [1] * x.ndim
    shape[dim] = out_size
    weight = weight.to(device=x.device, dtype=x.dtype)
    out = torch.zeros((), dtype=x.dtype, device=x.device)
    for source, factor in zip(index, weight, strict=True):
        out = out + x.index_select(dim, source) * factor.view(shape)
    return out


def resize(
    x: Tensor,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
    phase: Phase = "centered",
) -> Tensor:
    """Resize pictures by cubic convolution, as MATLAB's ``imresize(..., 'bicubic')`` does.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981 (a = -0.5); borders, output
    size and the widened kernel for shrinking follow MATLAB.

    Args:
        x: ``(B, C, H, W)``, floating point; half precision is computed in float32.
        scale: enlargement (> 1) or reduction (< 1) factor; the output is ``ceil(H * scale)`` by ``ceil(W * scale)``.
        size: output ``(height, width)``; exactly one of ``scale`` and ``size`` is given.
        antialias: widen the kernel when shrinking.
        phase: ``"centered"`` keeps the centres of the two pictures together; ``"corner"`` puts output pixel 0 on input
            pixel 0, so that output pixel ``y`` lies at input ``y / scale`` (the inverse of keeping pixels 0, s, ..).

    Returns:
        ``(B, C, H', W')`` of ``x``'s dtype; values may overshoot the input's range.

    Raises:
        ValueError: ``x`` is not a floating-point picture batch, the target size is not positive, or there is no such
            phase.

    Example:
        >>> from msr.nn.resize import resize
        >>> resize(torch.rand(1, 3, 8, 10), scale=4).shape
        torch.Size([1, 3, 32, 40])
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"resize expects a floating-point (B, C, H, W) tensor, got {tuple(x.shape)} of {x.dtype}")
    if phase not in get_args(Phase):
        raise ValueError(f"resize expects phase 'centered' or 'corner', got {phase!r}")
    if (scale is None) == (size is None):
        raise ValueError("resize expects exactly one of scale and size")
    height, width = x.shape[-2:]
    if scale is not None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"resize expects a positive scale, got {scale}")
        size = (math.ceil(height * scale), math.ceil(width * scale))
    assert size is not None
    if min(size) < 1 or min(height, width) < 1:
        raise ValueError(f"resize expects sizes of at least 1, got {height}x{width} to {size[0]}x{size[1]}")
    scales = (scale, scale) if scale is not None else (size[0] / height, size[1] / width)
    y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    # The smaller intermediate first, as MATLAB orders the two passes.
    for dim in (2, 3) if scales[0] <= scales[1] else (3, 2):
        y = _resample(y, dim, size[dim - 2], scales[dim - 2], antialias, phase)
    return y.to(x.dtype)
