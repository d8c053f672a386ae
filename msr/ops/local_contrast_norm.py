"""local_contrast_norm: what a window of features holds beyond its mean, at unit variance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._arguments import check_whole
from msr.ops._convolution import FLOATS, needed_gradients
from msr.ops._layout import empty_like, memory_format
from msr.ops._transforms import by_reference


def local_contrast_norm(x: Tensor, radius: int, *, epsilon: float = 1e-5) -> Tensor:
    """Subtract from each pixel the mean of the window around it, and divide by the deviation of what is left.

    `d = x - mean of x over the window`, then `d / sqrt(mean of d^2 over the window and all channels + epsilon)`. So
    features of two frames are compared by their pattern, whatever the light.

    Source: local contrast normalisation (Jarrett et al., "What is the best multi-stage architecture for object
    recognition?", ICCV 2009), with windows of equal weights.

    Args:
        x: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range; B, H and W may be 0.
        radius: r of the windows of `(2r + 1)^2` pixels, 0 or more; at the border those of them that there are count.
        epsilon: added to the variance, above 0.

    Returns:
        `(B, C, H, W)` with the dtype and memory format of `x`. Sums are float32, or float64 where `x` is.
        Differentiable once.

    Raises:
        ValueError: a shape, dtype or number that does not fit.

    Example:
        >>> import torch
        >>> from msr.ops import local_contrast_norm
        >>> local_contrast_norm(torch.tensor([[[[0.0, 8.0, 0.0, 8.0]]]]), 3, epsilon=1e-12)
        tensor([[[[-1.,  1., -1.,  1.]]]])
    """
    _check(x, radius, epsilon)
    if by_reference(x):
        return local_contrast_norm_reference(x, radius, epsilon)
    return torch.ops.msr.local_contrast_norm.default(x, radius, epsilon)


def local_contrast_norm_reference(x: Tensor, radius: int, epsilon: float = 1e-5) -> Tensor:
    """Compute `local_contrast_norm` in plain PyTorch: the definition, and what runs where there is no kernel."""
    _check(x, radius, epsilon)
    if x.numel() == 0:  # PyTorch pools no picture without pixels
        return torch.zeros_like(empty_like(x, tuple(x.shape)))
    y = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    difference = y - _window_mean(y, radius)
    variance = _window_mean(difference.square().mean(1, keepdim=True), radius)
    out = difference * torch.rsqrt(variance + epsilon)
    return out.to(x.dtype).contiguous(memory_format=memory_format(x))


def local_contrast_norm_backward_reference(grad: Tensor, x: Tensor, radius: int, epsilon: float) -> Tensor:
    """Compute the gradient of `x` from that of the result."""
    return needed_gradients(lambda x: local_contrast_norm_reference(x, radius, epsilon), grad, [x], [True])[0]


def _window_mean(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _check(x: Tensor, radius: int, epsilon: float) -> None:
    if x.dim() != 4 or x.shape[1] == 0 or x.dtype not in FLOATS:
        raise ValueError(f"local_contrast_norm needs floating-point x (B, C, H, W); got {tuple(x.shape)} {x.dtype}")
    check_whole("local_contrast_norm", radius=radius)
    if radius < 0 or not epsilon > 0:
        raise ValueError(f"local_contrast_norm needs a radius of 0 or more, epsilon above 0; got {radius}, {epsilon}")


_op = torch.library.custom_op(
    "msr::local_contrast_norm",
    local_contrast_norm_reference,
    mutates_args=(),
    schema="(Tensor x, int radius, float epsilon) -> Tensor",
)
_backward_op = torch.library.custom_op(
    "msr::local_contrast_norm_backward", local_contrast_norm_backward_reference, mutates_args=()
)


@_op.register_fake
def _(x, radius, epsilon):
    return empty_like(x, tuple(x.shape))


@_backward_op.register_fake
def _(grad, x, radius, epsilon):
    return empty_like(x, tuple(x.shape))


def _setup_context(ctx, inputs, output) -> None:
    x, ctx.radius, ctx.epsilon = inputs
    ctx.save_for_backward(x)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    (x,) = ctx.saved_tensors
    return torch.ops.msr.local_contrast_norm_backward.default(grad, x, ctx.radius, ctx.epsilon), None, None


_op.register_autograd(_backward, setup_context=_setup_context)
