"""resize: resampling by cubic, Lanczos or area kernels, as MATLAB's imresize defines the first two."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from msr.ops._arguments import is_whole
from msr.ops._layout import empty_like, memory_format
from msr.ops._transforms import by_reference

Phase = Literal["centered", "corner"]
Kernel = Literal["cubic", "lanczos3", "area"]

_LEAST = 2.0**-16  # below it a single pixel would be the mean of more taps than any picture has
_WIDTHS = {"cubic": 4.0, "lanczos3": 6.0, "area": 2.0}


def resize(
    x: Tensor,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    kernel: Kernel = "cubic",
    antialias: bool = True,
    phase: Phase = "centered",
) -> Tensor:
    """Resize pictures; with the cubic and the Lanczos kernel as MATLAB's ``imresize`` does.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981 (a = -0.5); C. Duchon,
    "Lanczos filtering in one and two dimensions", 1979. Borders, output size and the kernel widened for shrinking
    follow MATLAB. ``"area"`` weighs each pixel by how much of it an output pixel covers.

    Args:
        x: ``(B, C, H, W)``, floating point; half precision is computed in float32.
        scale: enlargement (> 1) or reduction (< 1) factor; the output is ``ceil(H * scale)`` by ``ceil(W * scale)``.
        size: output ``(height, width)``; exactly one of ``scale`` and ``size`` is given.
        kernel: ``"cubic"``, ``"lanczos3"`` or ``"area"``.
        antialias: widen the kernel when shrinking; ``"area"`` always covers what it shrinks.
        phase: ``"centered"`` keeps the centres of the two pictures together; ``"corner"`` puts output pixel 0 on input
            pixel 0, so that output pixel ``y`` lies at input ``y / scale`` (the inverse of keeping pixels 0, s, ..).

    Returns:
        ``(B, C, H', W')`` with the dtype and memory format of ``x``; values may overshoot the input's range, except by
        ``"area"``. Differentiable once.

    Raises:
        ValueError: ``x`` is not a floating-point picture batch, the target size is not positive, or there is no such
            kernel or phase.

    Example:
        >>> from msr.ops import resize
        >>> resize(torch.rand(1, 3, 8, 10), scale=4).shape
        torch.Size([1, 3, 32, 40])
    """
    targets = _targets(x, scale, size, kernel, phase)
    if by_reference(x):
        return _forward(x, *targets, kernel, antialias, phase)
    return torch.ops.msr.resize.default(x, *targets, kernel, antialias, phase)


def resize_reference(
    x: Tensor,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    kernel: Kernel = "cubic",
    antialias: bool = True,
    phase: Phase = "centered",
) -> Tensor:
    """Compute `resize` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    return _forward(x, *_targets(x, scale, size, kernel, phase), kernel, antialias, phase)


def _targets(
    x: Tensor, scale: float | None, size: tuple[int, int] | None, kernel: str, phase: str
) -> tuple[list[int], list[float]]:
    """Return the output size and the scale along each axis, or raise ValueError."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"resize expects a floating-point (B, C, H, W) tensor, got {tuple(x.shape)} of {x.dtype}")
    if kernel not in get_args(Kernel):
        raise ValueError(f"resize expects kernel {', '.join(map(repr, get_args(Kernel)))}, got {kernel!r}")
    if phase not in get_args(Phase):
        raise ValueError(f"resize expects phase 'centered' or 'corner', got {phase!r}")
    if (scale is None) == (size is None):
        raise ValueError(f"resize expects exactly one of scale and size, got {scale} and {size}")
    height, width = x.shape[-2:]
    if scale is not None:
        if isinstance(scale, Sequence):
            raise ValueError(f"resize expects a number as scale, got {scale!r}")
        if not _LEAST <= scale < math.inf:
            raise ValueError(f"resize expects a finite scale of at least {_LEAST}, got {scale}")
        size = (math.ceil(height * scale), math.ceil(width * scale))
    elif not isinstance(size, Sequence) or len(size) != 2 or not all(map(is_whole, size)):
        raise ValueError(f"resize expects a size (height, width) in pixels, got {size!r}")
    assert size is not None
    if min(size) < 1 or min(height, width) < 1:
        raise ValueError(f"resize expects sizes of at least 1, got {height}x{width} to {size[0]}x{size[1]}")
    scales = (scale, scale) if scale is not None else (size[0] / height, size[1] / width)
    return list(size), [float(s) for s in scales]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    ax = x.abs()
    inner = 1.5 * ax**3 - 2.5 * ax**2 + 1.0
    outer = -0.5 * ax**3 + 2.5 * ax**2 - 4.0 * ax + 2.0
    return torch.where(ax <= 1.0, inner, torch.where(ax <= 2.0, outer, 0.0))


def _lanczos3(x: Tensor) -> Tensor:
    """The sinc function in a window of three lobes."""
    return torch.where(x.abs() < 3.0, torch.sinc(x) * torch.sinc(x / 3.0), 0.0)


def _coverage(x: Tensor, shrink: float) -> Tensor:
    """How much of a pixel at distance x (in output pixels, of side `shrink`) lies in an output pixel of side 1."""
    return ((1.0 + shrink) / 2.0 - x.abs()).clamp(0.0, min(1.0, shrink))


@functools.lru_cache(maxsize=64)
def _kept_taps(
    size: int, out_size: int, scale: float, kernel: str, antialias: bool, phase: str
) -> tuple[Tensor, Tensor]:
    """Source indices (K, out_size) and weights (K, out_size) of a one-dimensional resampling."""
    shrink = scale if kernel == "area" or (antialias and scale < 1.0) else 1.0
    width = _WIDTHS[kernel] / min(shrink, 1.0)
    out = torch.arange(out_size, dtype=torch.float64)
    center = out / scale if phase == "corner" else (out + 0.5) / scale - 0.5
    taps = torch.arange(math.ceil(width) + 2)[:, None]
    index = (center - width / 2.0).floor().to(torch.int64) + taps
    distance = shrink * (center - index)
    weight = _coverage(distance, shrink) if kernel == "area" else (_cubic if kernel == "cubic" else _lanczos3)(distance)
    weight = weight / weight.sum(0)
    # The picture continues as its mirror image, the edge sample repeated, as in MATLAB.
    index = index.remainder(2 * size)
    index = torch.where(index >= size, 2 * size - 1 - index, index)
    used = (weight != 0.0).any(1)
    return index[used], weight[used]


def _taps(x: Tensor, *settings: int | float | str | bool) -> tuple[Tensor, Tensor]:
    """`_kept_taps` for `x`; the kept tensors must serve training even where inference mode asked for them first."""
    with torch.inference_mode(False):
        index, weight = _kept_taps(*settings)
        return index.to(x.device), weight.to(device=x.device, dtype=x.dtype)


def _compute(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _order(scales: list[float]) -> tuple[int, int]:
    """The axes in the order of the passes: the smaller intermediate first, as in MATLAB."""
    return (2, 3) if scales[0] <= scales[1] else (3, 2)


def _along(weight: Tensor, dim: int) -> list[int]:
    return [-1 if axis == dim else 1 for axis in range(4)]


def _forward(x: Tensor, size: list[int], scales: list[float], kernel: str, antialias: bool, phase: str) -> Tensor:
    y = _compute(x)
    for dim in _order(scales):
        index, weight = _taps(y, y.shape[dim], size[dim - 2], scales[dim - 2], kernel, antialias, phase)
        out = torch.zeros((), dtype=y.dtype, device=y.device)
        for source, factor in zip(index, weight, strict=True):
            out = out + y.index_select(dim, source) * factor.view(_along(factor, dim))
        y = out
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


def resize_backward_reference(
    grad: Tensor, shape: list[int], scales: list[float], kernel: str, antialias: bool, phase: str
) -> Tensor:
    """Compute the gradient of the picture, `(B, C, *shape)`, from that of the result."""
    y = _compute(grad)
    for dim in reversed(_order(scales)):
        size = shape[dim - 2]
        index, weight = _taps(y, size, y.shape[dim], scales[dim - 2], kernel, antialias, phase)
        out = torch.zeros(
            [size if axis == dim else n for axis, n in enumerate(y.shape)], dtype=y.dtype, device=y.device
        )
        for source, factor in zip(index, weight, strict=True):
            out.index_add_(dim, source, y * factor.view(_along(factor, dim)))
        y = out
    return y.to(grad.dtype).contiguous(memory_format=memory_format(grad))


_op = torch.library.custom_op("msr::resize", _forward, mutates_args=())
_backward_op = torch.library.custom_op("msr::resize_backward", resize_backward_reference, mutates_args=())


@_op.register_fake
def _(x: Tensor, size: list[int], scales: list[float], kernel: str, antialias: bool, phase: str) -> Tensor:
    return empty_like(x, (x.shape[0], x.shape[1], size[0], size[1]))


@_backward_op.register_fake
def _(grad: Tensor, shape: list[int], scales: list[float], kernel: str, antialias: bool, phase: str) -> Tensor:
    return empty_like(grad, (grad.shape[0], grad.shape[1], shape[0], shape[1]))


def _setup_context(ctx, inputs, output) -> None:
    x, _, *ctx.settings = inputs
    ctx.shape = list(x.shape[2:])


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    return torch.ops.msr.resize_backward.default(grad, ctx.shape, *ctx.settings), None, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
