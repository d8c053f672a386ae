"""correlation: how alike each pixel of one feature map is to the pixels around the same place in another."""

from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._arguments import check_whole
from msr.ops._layout import empty_like
from msr.ops._transforms import autocast_dtype, by_reference


def correlation(a: Tensor, b: Tensor, radius: int, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """Compare `a` with `b` shifted: `out[:, (dy + r) (2r + 1) + dx + r, i, j]` is the mean over c of `a[:, c, y, x]`
    times `b[:, c, y + dilation dy, x + dilation dx]`, with `y = stride i`, `x = stride j` and dy, dx from -r to r.

    Source: the correlation layer of FlowNet (Dosovitskiy et al., 2015, arXiv:1504.06852) for patches of one pixel, the
    cost volume of PWC-Net (Sun et al., 2018, arXiv:1709.02371).

    Args:
        a: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range.
        b: of the same shape and dtype; 0 outside of its pixels.
        radius: r, of the square of shifts, 0 or more.
        stride: distance in pixels from one output to the next, 1 or more.
        dilation: distance in pixels from one shift to the next, 1 or more.

    Returns:
        `(B, (2r + 1)^2, ceil(H / stride), ceil(W / stride))` with the dtype and memory format of `a`: the mean over
        channels, not their sum (0 where there are none). Sums are float32, or float64 where `a` is. Under autocast `a`
        and `b` take its dtype. Differentiable once, in `a` and `b`.

    Raises:
        ValueError: shapes, dtypes, devices or numbers that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import correlation
        >>> correlation(torch.ones(1, 2, 1, 3), torch.tensor([2.0, 4.0, 6.0]).expand(1, 2, 1, 3), 1)[0, 3:6, 0]
        tensor([[0., 2., 4.],
                [2., 4., 6.],
                [4., 6., 0.]])
    """
    dtype = autocast_dtype(a)
    if dtype is not None and torch.float64 not in (a.dtype, b.dtype):
        a, b = a.to(dtype), b.to(dtype)
    _check(a, b, radius, stride, dilation)
    if by_reference(a, b):
        return correlation_reference(a, b, radius, stride, dilation)
    return torch.ops.msr.correlation.default(a, b, radius, stride, dilation)


def correlation_reference(a: Tensor, b: Tensor, radius: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Compute `correlation` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    _check(a, b, radius, stride, dilation)
    with torch.autocast(a.device.type, enabled=False):  # sums stay in the precision chosen below
        source, shifted = _prepare(a, b, radius, stride, dilation)
        # A product and a sum for each shift: nothing larger than `a` is ever made beside the result.
        costs = [(source * shifted[window]).sum(1) for window in _windows(a, radius, stride, dilation)]
        out = torch.stack(costs, 1) / max(1, a.shape[1])
    return empty_like(a, tuple(out.shape)).copy_(out)


def correlation_backward_reference(
    grad: Tensor, a: Tensor, b: Tensor, radius: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients for `a` and `b` from that of the output.

    Written out, since autograd would keep the product of every shift and pad each one's gradient to the size of `b`.
    """
    source, shifted = _prepare(a, b, radius, stride, dilation)
    grad = grad.to(source.dtype) / max(1, a.shape[1])
    grad_source, grad_shifted = torch.zeros_like(source), torch.zeros_like(shifted)
    for number, window in enumerate(_windows(a, radius, stride, dilation)):
        outer = grad[:, number : number + 1]
        grad_source.addcmul_(shifted[window], outer)
        grad_shifted[window].addcmul_(source, outer)
    grad_a = torch.zeros(a.shape, dtype=source.dtype, device=a.device)
    grad_a[..., ::stride, ::stride] = grad_source
    reach = radius * dilation
    grad_b = grad_shifted[..., reach : reach + b.shape[2], reach : reach + b.shape[3]]
    return empty_like(a, tuple(a.shape)).copy_(grad_a), empty_like(b, tuple(b.shape)).copy_(grad_b)


def _prepare(a: Tensor, b: Tensor, radius: int, stride: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Return the pixels of `a` that are compared and `b` with zeros around it, as sums are taken and plane by plane."""
    compute = torch.float64 if a.dtype == torch.float64 else torch.float32
    source = a[..., ::stride, ::stride].to(compute).contiguous()
    return source, F.pad(b.to(compute).contiguous(), (radius * dilation,) * 4)


def _windows(a: Tensor, radius: int, stride: int, dilation: int) -> list[tuple[EllipsisType, slice, slice]]:
    """Return for each shift where in the padded `b` its pixels lie."""
    starts = range(0, (2 * radius + 1) * dilation, dilation)
    height, width = a.shape[2:]
    return [(..., slice(y, y + height, stride), slice(x, x + width, stride)) for y in starts for x in starts]


def _output_shape(a: Tensor, radius: int, stride: int) -> tuple[int, int, int, int]:
    batch, _, height, width = a.shape
    return batch, (2 * radius + 1) ** 2, (height + stride - 1) // stride, (width + stride - 1) // stride


def _check(a: Tensor, b: Tensor, radius: int, stride: int, dilation: int) -> None:
    got = f"got a {tuple(a.shape)} {a.dtype} on {a.device} and b {tuple(b.shape)} {b.dtype} on {b.device}"
    if a.dim() != 4 or a.shape != b.shape:
        raise ValueError(f"correlation needs a and b (B, C, H, W) of one shape; {got}")
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if a.dtype not in floats or a.dtype != b.dtype or a.device != b.device:
        raise ValueError(f"correlation needs floating-point a and b of one dtype on one device; {got}")
    check_whole("correlation", radius=radius, stride=stride, dilation=dilation)
    if radius < 0 or stride < 1 or dilation < 1:
        numbers = f"radius {radius}, stride {stride}, dilation {dilation}"
        raise ValueError(f"correlation needs a radius of 0 or more, stride and dilation of 1 or more; got {numbers}")


_op = torch.library.custom_op("msr::correlation", correlation_reference, mutates_args=())
_backward_op = torch.library.custom_op("msr::correlation_backward", correlation_backward_reference, mutates_args=())


@_op.register_fake
def _(a: Tensor, b: Tensor, radius: int, stride: int = 1, dilation: int = 1) -> Tensor:
    return empty_like(a, _output_shape(a, radius, stride))


@_backward_op.register_fake
def _(grad: Tensor, a: Tensor, b: Tensor, radius: int, stride: int, dilation: int) -> tuple[Tensor, Tensor]:
    return empty_like(a, tuple(a.shape)), empty_like(b, tuple(b.shape))


def _setup_context(ctx, inputs, output) -> None:
    a, b, *ctx.numbers = inputs
    ctx.save_for_backward(a, b)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    grad_a, grad_b = torch.ops.msr.correlation_backward.default(grad, *ctx.saved_tensors, *ctx.numbers)
    needs_a, needs_b = ctx.needs_input_grad[:2]
    return grad_a if needs_a else None, grad_b if needs_b else None, None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
