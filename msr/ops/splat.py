"""splat: move the pixels of an image along an optical flow (forward warping)."""

import torch
from torch import Tensor

from msr.ops._layout import empty_like
from msr.ops._transforms import by_reference

MODES = ("sum", "average", "linear", "soft")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST_METRIC = 1e30  # of "soft": infinite metrics are drawn in to here


def splat(x: Tensor, flow: Tensor, metric: Tensor | None = None, *, mode: str = "sum") -> Tensor:
    """Warp `x` forwards along `flow`: the pixel at `(j, i)` lands at `(j + flow[b, 0, i, j], i + flow[b, 1, i, j])`.

    Each pixel is shared bilinearly among the four around the place where it lands. With w for a pixel's share, x for
    its values and m for its metric, an output pixel is, over all that land on it: "sum" `Σ w x`; "average"
    `Σ w x / Σ w`; "linear" `Σ w m x / Σ w m`; "soft" `Σ w exp(m) x / Σ w exp(m)`; and 0 where the divisor is.

    Source: Niklaus and Liu, "Softmax splatting for video frame interpolation", CVPR 2020 (arXiv:2003.05534). The
    exponentials are taken relative to the largest metric that lands on the same pixel, so that no metric is too large.

    Args:
        x: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range.
        flow: `(B, 2, H, W)` in pixels, channel 0 = x (right), channel 1 = y (down), from `x` to the result; pixel
            centres are at integers. Any of the dtypes above, whatever that of `x`.
        metric: `(B, 1, H, W)` of any of these dtypes, for "linear" and "soft": how much a pixel matters, larger in
            front of smaller. None for "sum" and "average".
        mode: "sum", "average", "linear" or "soft".

    Returns:
        `(B, C, H, W)` with the dtype and memory format of `x`. Positions, shares and sums are float32, or float64
        where `x` is; under autocast too. What leaves the image is lost, as are pixels whose flow is NaN or infinite;
        their flow and metric have a zero gradient. Differentiable once, in `x`, `flow` and `metric`. On a CPU the
        result is the same in every run; on a GPU it is where `torch.use_deterministic_algorithms` asks for that (then
        an infinite feature gives NaN), and else differs by the order of its sums.

    Raises:
        ValueError: shapes, dtypes, devices or names that do not fit, or a metric that the mode has no use for or lacks.

    Example:
        >>> import torch
        >>> from msr.ops import splat
        >>> flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> splat(torch.tensor([[[[2.0, 4.0, 8.0]]]]), flow)
        tensor([[[[1., 3., 6.]]]])
        >>> splat(torch.tensor([[[[2.0, 4.0, 8.0]]]]), flow, mode="average")
        tensor([[[[2., 3., 6.]]]])
    """
    _check(x, flow, metric, mode)
    if by_reference(x, flow, metric):
        return splat_reference(x, flow, metric, mode)
    return torch.ops.msr.splat.default(x, flow, metric, mode, torch.are_deterministic_algorithms_enabled())


def splat_reference(
    x: Tensor, flow: Tensor, metric: Tensor | None = None, mode: str = "sum", deterministic: bool = False
) -> Tensor:
    """Compute `splat` in plain PyTorch: the definition of the op, and what runs where there is no kernel.

    `deterministic` is for the kernels: PyTorch's own ops ask for themselves.
    """
    _check(x, flow, metric, mode)
    if x.numel() == 0:
        return torch.zeros_like(empty_like(x, tuple(x.shape)))
    batch, channels, height, width = x.shape
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        # All pixels of the batch in one row, and behind the last of each image one place for what leaves it.
        corners = _corners(flow.to(compute))
        rows = x.to(compute).permute(0, 2, 3, 1).reshape(-1, channels)
        if metric is not None:
            corners = _weigh(corners, metric.to(compute).flatten(), mode, batch * (height * width + 1))
        if mode != "sum":  # the divisor is one more channel, of ones
            rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        total = torch.zeros(batch * (height * width + 1), rows.shape[1], dtype=compute, device=x.device)
        for place, weight in corners:
            total.index_add_(0, place, rows * weight[:, None])
        if mode != "sum":
            total, divisor = total[:, :-1], total[:, -1:]
            total = torch.where(divisor == 0, 0, total / torch.where(divisor == 0, 1, divisor))
        total = total.unflatten(0, (batch, -1))[:, :-1].unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return empty_like(x, tuple(x.shape)).copy_(total)


def _corners(flow: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels that each pixel falls on, `(B H W,)`: where in the row of all places, and the share."""
    batch, _, height, width = flow.shape
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    image = torch.arange(batch, device=flow.device)[:, None, None] * (height * width + 1)
    # Three pixels outside nothing lands inside: further out, and NaN, is the same as there.
    x = (columns + flow[:, 0]).nan_to_num(nan=-3.0, posinf=width + 2.0, neginf=-3.0).clamp(-3.0, width + 2.0)
    y = (rows + flow[:, 1]).nan_to_num(nan=-3.0, posinf=height + 2.0, neginf=-3.0).clamp(-3.0, height + 2.0)
    left, top = x.floor(), y.floor()
    found = []
    for row, share_y in ((top.long(), 1 - (y - top)), (top.long() + 1, y - top)):
        for column, share_x in ((left.long(), 1 - (x - left)), (left.long() + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = image + torch.where(inside, row * width + column, height * width)
            found.append((place.flatten(), torch.where(inside, share_x * share_y, 0).flatten()))
    return found


def _weigh(corners: list[tuple[Tensor, Tensor]], metric: Tensor, mode: str, places: int) -> list[tuple[Tensor, Tensor]]:
    """Return the corners with each share times the metric of its pixel, or its exponential."""
    if mode == "linear":
        return [(place, weight * metric) for place, weight in corners]
    metric = metric.clamp(-_LARGEST_METRIC, _LARGEST_METRIC)
    highest = torch.full((places,), -torch.inf, dtype=metric.dtype, device=metric.device)
    for place, weight in corners:
        landing = torch.where(weight > 0, metric, -torch.inf).detach()
        highest = highest.scatter_reduce(0, place, landing, "amax")
    # A share of zero may have the larger metric: its exponential is held at one.
    return [(place, weight * (metric - highest[place]).clamp(max=0).exp()) for place, weight in corners]


def splat_backward_reference(
    grad: Tensor, x: Tensor, flow: Tensor, metric: Tensor | None, out: Tensor, mode: str, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients for `x`, `flow` and `metric` (empty without one) from that of the output.

    `out`, the result before it was rounded, is for the kernels: they need not compute it again.
    """
    tensors = (x, flow) if metric is None else (x, flow, metric)

    def forward(x: Tensor, flow: Tensor, metric: Tensor | None = None) -> Tensor:
        return splat_reference(x, flow, metric, mode)

    with torch.autocast(x.device.type, enabled=False):
        _, backward, *_ = torch.func.vjp(forward, *tensors)
        grads = backward(grad)
    return (
        empty_like(x, tuple(x.shape)).copy_(grads[0]),
        grads[1].contiguous(),
        flow.new_empty(0) if metric is None else grads[2].contiguous(),
    )


def _check(x: Tensor, flow: Tensor, metric: Tensor | None, mode: str) -> None:
    given = {"x": x, "flow": flow} if metric is None else {"x": x, "flow": flow, "metric": metric}
    if x.dim() != 4 or flow.shape != (x.shape[0], 2, *x.shape[2:]):
        raise ValueError(f"splat needs x (B, C, H, W) and flow (B, 2, H, W); {_got(given)}")
    if metric is not None and metric.shape != (x.shape[0], 1, *x.shape[2:]):
        raise ValueError(f"splat needs a metric (B, 1, H, W); {_got(given)}")
    if any(t.dtype not in _FLOATS or t.device != x.device for t in given.values()):
        raise ValueError(f"splat needs floating-point tensors on one device; {_got(given)}")
    if mode not in MODES:
        raise ValueError(f"splat mode is one of {MODES}; got {mode!r}")
    if (metric is not None) != (mode in ("linear", "soft")):
        rule = "a metric for linear and soft, and none for sum and average"
        raise ValueError(f"splat needs {rule}; got {mode!r}, {_got(given)}")


def _got(given: dict[str, Tensor]) -> str:
    return "got " + ", ".join(f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in given.items())


_op = torch.library.custom_op("msr::splat", splat_reference, mutates_args=())
_backward_op = torch.library.custom_op("msr::splat_backward", splat_backward_reference, mutates_args=())


@_op.register_fake
def _(x: Tensor, flow: Tensor, metric: Tensor | None = None, mode: str = "sum", deterministic: bool = False) -> Tensor:
    return empty_like(x, tuple(x.shape))


@_backward_op.register_fake
def _(
    grad: Tensor, x: Tensor, flow: Tensor, metric: Tensor | None, out: Tensor, mode: str, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_metric = (
        flow.new_empty(0) if metric is None else torch.empty_like(metric, memory_format=torch.contiguous_format)
    )
    return empty_like(x, tuple(x.shape)), torch.empty_like(flow, memory_format=torch.contiguous_format), grad_metric


def _setup_context(ctx, inputs, output) -> None:
    x, flow, metric, ctx.mode, ctx.deterministic = inputs
    ctx.save_for_backward(x, flow, metric, output)


def _backward(ctx, grad: Tensor):
    x, flow, metric, out = ctx.saved_tensors
    if ctx.mode != "sum" and out.dtype in (torch.float16, torch.bfloat16):
        # The gradient of the flow has the differences of pixels from their mean, which rounding would drown.
        out = torch.ops.msr.splat.default(x.float(), flow, metric, ctx.mode, ctx.deterministic)
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    grads = torch.ops.msr.splat_backward.default(grad, x, flow, metric, out, ctx.mode, ctx.deterministic)
    needed = [value if need else None for value, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None)


_op.register_autograd(_backward, setup_context=_setup_context)
