"""flow_warp: sample an image or a feature map along an optical flow."""

import torch
from torch import Tensor

from msr.ops._determinism import must_repeat
from msr.ops._layout import empty_like, memory_format
from msr.ops._transforms import by_reference

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
PADDING_MODES = ("zeros", "border")


def flow_warp(x: Tensor, flow: Tensor, *, interpolation: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    """Warp `x` backwards along `flow`: `out[b, :, i, j]` is `x[b]` at `(j + flow[b, 0, i, j], i + flow[b, 1, i, j])`.

    Source: the sampler of spatial transformer networks (Jaderberg et al., 2015, arXiv:1506.02025), in pixels; cubic
    convolution after Keys (1981) with a = -0.75, as in `torch.nn.functional.grid_sample`.

    Args:
        x: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range.
        flow: `(B, 2, Ho, Wo)` in pixels, channel 0 = x (right), channel 1 = y (down), from the target to the source;
            pixel centres are at integers. Any of the dtypes above, whatever that of `x`.
        interpolation: "bilinear", "bicubic" or "nearest" (halves go to the even pixel).
        padding_mode: what lies outside of `x`: "zeros", or "border" for the nearest pixel of its edge.

    Returns:
        `(B, C, Ho, Wo)` with the dtype and memory format of `x`. Coordinates, weights and sums are float32, or float64
        where `x` is. A NaN coordinate reads as one far to the left (top) of the image, an infinite or huge one as far
        out on its side: 0 or the border's pixel, with a zero gradient for the flow. Differentiable once, in `x` and
        `flow` (whose gradient is zero for "nearest").

    Raises:
        ValueError: shapes, dtypes, devices or names that do not fit, or "border" of an image without pixels.

    Example:
        >>> import torch
        >>> from msr.ops import flow_warp
        >>> flow_warp(torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
        tensor([[[[1.5000, 3.0000, 2.0000]]]])
    """
    _check(x, flow, interpolation, padding_mode)
    if by_reference(x, flow):
        return flow_warp_reference(x, flow, interpolation, padding_mode)
    return torch.ops.msr.flow_warp.default(x, flow, interpolation, padding_mode)


def flow_warp_reference(
    x: Tensor, flow: Tensor, interpolation: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Compute `flow_warp` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    _check(x, flow, interpolation, padding_mode)
    batch, channels, height, width = x.shape
    shape = (batch, channels, *flow.shape[2:])
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() == 0 or flow.numel() == 0:
        return torch.zeros_like(empty_like(x, shape))
    columns = torch.arange(shape[3], device=x.device, dtype=compute)
    rows = torch.arange(shape[2], device=x.device, dtype=compute)[:, None]
    across = _taps(columns + flow[:, 0].to(compute), width, interpolation, padding_mode)
    down = _taps(rows + flow[:, 1].to(compute), height, interpolation, padding_mode)
    source = x.to(compute).flatten(2)
    out = torch.zeros((batch, channels, shape[2] * shape[3]), device=x.device, dtype=compute)
    for row, row_inside, row_weight in down:
        for column, column_inside, column_weight in across:
            place = (row * width + column).flatten(1)[:, None].expand(-1, channels, -1)
            inside = (row_inside & column_inside).flatten(1)[:, None]
            weight = (row_weight * column_weight).flatten(1)[:, None]
            out = out + torch.where(inside, source.gather(2, place), 0) * weight
    return out.reshape(shape).to(x.dtype).contiguous(memory_format=memory_format(x))


def _taps(position: Tensor, size: int, interpolation: str, padding_mode: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the pixels that each position reads along one axis: index (always in range), whether inside, weight."""
    # Three pixels outside of the image no tap of any kind reaches it: further out, and NaN, is the same as there.
    position = position.nan_to_num(nan=-3.0, posinf=size + 2.0, neginf=-3.0).clamp(-3.0, size + 2.0)
    if interpolation == "nearest":
        first, weights = position.round(), [torch.ones_like(position)]
    else:
        first = position.floor()
        t = position - first
        if interpolation == "bilinear":
            weights = [1 - t, t]
        else:
            first = first - 1
            weights = [_cubic_far(1 + t), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]
    taps = []
    for number, weight in enumerate(weights):
        index = first.to(torch.int64) + number
        inside = (index >= 0) & (index < size)
        taps.append((index.clamp(0, size - 1), torch.ones_like(inside) if padding_mode == "border" else inside, weight))
    return taps


def _cubic_near(t: Tensor) -> Tensor:
    """Return the cubic kernel (a = -0.75) for distances 0..1."""
    return (1.25 * t - 2.25) * t * t + 1


def _cubic_far(t: Tensor) -> Tensor:
    """Return the cubic kernel (a = -0.75) for distances 1..2."""
    return ((-0.75 * t + 3.75) * t - 6) * t + 3


def flow_warp_backward_reference(
    grad: Tensor,
    x: Tensor,
    flow: Tensor,
    interpolation: str,
    padding_mode: str,
    needs_x: bool,
    needs_flow: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients for `x` and `flow` from that of the output; one that is not needed comes back empty."""

    def forward(x: Tensor, flow: Tensor) -> Tensor:
        return flow_warp_reference(x, flow, interpolation, padding_mode)

    backward = torch.func.vjp(forward, x, flow)[1]
    grad_x, grad_flow = backward(grad)
    return (
        grad_x.contiguous(memory_format=memory_format(x)) if needs_x else x.new_empty(0),
        grad_flow.contiguous() if needs_flow else flow.new_empty(0),
    )


def _check(x: Tensor, flow: Tensor, interpolation: str, padding_mode: str) -> None:
    got = f"got x {tuple(x.shape)} {x.dtype} on {x.device} and flow {tuple(flow.shape)} {flow.dtype} on {flow.device}"
    if x.dim() != 4 or flow.dim() != 4 or flow.shape[1] != 2 or x.shape[0] != flow.shape[0]:
        raise ValueError(f"flow_warp needs x (B, C, H, W) and flow (B, 2, Ho, Wo) of the same batch size; {got}")
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if x.dtype not in floats or flow.dtype not in floats or x.device != flow.device:
        raise ValueError(f"flow_warp needs floating-point x and flow on one device; {got}")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"flow_warp interpolation is one of {INTERPOLATIONS}; got {interpolation!r}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"flow_warp padding_mode is one of {PADDING_MODES}; got {padding_mode!r}")
    if padding_mode == "border" and 0 in x.shape[2:] and 0 not in flow.shape:
        raise ValueError(f"flow_warp cannot pad with the border of an image without pixels; {got}")


_op = torch.library.custom_op("msr::flow_warp", flow_warp_reference, mutates_args=())
_backward_op = torch.library.custom_op("msr::flow_warp_backward", flow_warp_backward_reference, mutates_args=())


@_op.register_fake
def _(x: Tensor, flow: Tensor, interpolation: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    return empty_like(x, (x.shape[0], x.shape[1], flow.shape[2], flow.shape[3]))


@_backward_op.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    flow: Tensor,
    interpolation: str,
    padding_mode: str,
    needs_x: bool,
    needs_flow: bool,
) -> tuple[Tensor, Tensor]:
    grad_x = empty_like(x, tuple(x.shape)) if needs_x else x.new_empty(0)
    grad_flow = torch.empty(flow.shape, dtype=flow.dtype, device=flow.device) if needs_flow else flow.new_empty(0)
    return grad_x, grad_flow


def _setup_context(ctx, inputs, output) -> None:
    x, flow, ctx.interpolation, ctx.padding_mode = inputs
    ctx.save_for_backward(x, flow)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    x, flow = ctx.saved_tensors
    needs_x, needs_flow = ctx.needs_input_grad[:2]
    backward = flow_warp_backward_reference if must_repeat(x) else torch.ops.msr.flow_warp_backward.default
    grad_x, grad_flow = backward(grad, x, flow, ctx.interpolation, ctx.padding_mode, needs_x, needs_flow)
    return grad_x if needs_x else None, grad_flow if needs_flow else None, None, None


_op.register_autograd(_backward, setup_context=_setup_context)
