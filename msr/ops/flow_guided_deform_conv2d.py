"""flow_guided_deform_conv2d: the alignment of BasicVSR++, a deformable convolution around a flow, in one op."""

from collections.abc import Sequence

import torch
from torch import Tensor

from msr.ops._determinism import must_repeat
from msr.ops._layout import empty_like
from msr.ops._transforms import autocast_dtype, by_reference
from msr.ops.deform_conv2d import FLOATS, deform_conv2d_backward_reference, deform_conv2d_reference, settings_of


def flow_guided_deform_conv2d(
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    max_residue: float = 10.0,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Align `x` along `flows`, each tap displaced by a learned residue and weighed by a learned mask.

    Source: flow-guided deformable alignment of BasicVSR++ (Chan et al., 2022, arXiv:2104.13371, section 3.2). It is
    `deform_conv2d` with `offset = max_residue * tanh(residue) + flow` and `mask = sigmoid(strength)`, where residue and
    strength are the two parts of `head`; a kernel computes both where they are used and keeps them in no tensor.

    Args:
        x: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range. With two flows the features that they warp
            stand one after the other in its channels.
        head: `(B, 3 * G * kh * kw, Ho, Wo)`, the raw output of the convolution that predicts the alignment: for each
            of G offset groups and each tap how far it moves down, then right; after all of these the strengths of all
            groups and taps. G divides C.
        flows: `(B, 2 * F, Ho, Wo)` in pixels, for each of F flows right (x), then down (y), from the target to the
            source. F divides G: the first G / F groups follow the first flow, and so on.
        weight: `(Cout, C / groups, kh, kw)` of the dtype of `x`; the number of groups follows from its shape.
        bias: `(Cout,)` of the dtype of `x`, or None.
        max_residue: largest distance of a tap from the flow along each axis, in pixels.
        padding: the border of zeros around the image, in pixels; one number or a pair (down, right), as is
        dilation: the distance between taps, in pixels.

    Returns:
        `(B, Cout, Ho, Wo)` with the dtype and memory format of `x`. Positions, sums, tanh and sigmoid are float32, or
        float64 where `x` is; borders, NaN and infinite flows are treated as in `deform_conv2d`. `head` and `flows` may
        have any of the dtypes above. Under autocast `x`, `weight` and `bias` take its dtype, the others keep theirs.
        Differentiable once, in all tensors.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import flow_guided_deform_conv2d
        >>> x, head, flow = torch.rand(1, 8, 6, 6), torch.zeros(1, 54, 6, 6), torch.ones(1, 2, 6, 6)
        >>> flow_guided_deform_conv2d(x, head, flow, torch.rand(4, 8, 3, 3)).shape  # two groups, one flow
        torch.Size([1, 4, 6, 6])
    """
    dtype = autocast_dtype(x)
    if dtype is not None and x.dtype != torch.float64:
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    settings = settings_of("flow_guided_deform_conv2d", 1, padding, dilation)[1:]
    _check(x, head, flows, weight, bias, *settings)
    if by_reference(x, head, flows, weight, bias):
        offset, mask = _offset_and_mask(x, head, flows, weight, max_residue)
        return deform_conv2d_reference(x, offset, weight, bias, 1, padding, dilation, mask)
    return torch.ops.msr.flow_guided_deform_conv2d.default(x, head, flows, weight, bias, float(max_residue), *settings)


def flow_guided_deform_conv2d_reference(
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    max_residue: float = 10.0,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Compute `flow_guided_deform_conv2d` in plain PyTorch: the definition of the op."""
    _check(x, head, flows, weight, bias, *settings_of("flow_guided_deform_conv2d", 1, padding, dilation)[1:])
    offset, mask = _offset_and_mask(x, head, flows, weight, max_residue)
    return deform_conv2d_reference(x, offset, weight, bias, 1, padding, dilation, mask)


def _offset_and_mask(
    x: Tensor, head: Tensor, flows: Tensor, weight: Tensor, max_residue: float
) -> tuple[Tensor, Tensor]:
    """Return what `deform_conv2d` takes, in the precision of the positions."""
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    taps = weight.shape[2] * weight.shape[3]
    residue, strength = head.to(compute).split(_parts(head), dim=1)
    down_right = flows.to(compute).unflatten(1, (-1, 1, 2)).flip(3)  # (B, F, 1, 2, Ho, Wo)
    groups = residue.shape[1] // (2 * taps)
    around = down_right.expand(-1, -1, groups * taps // down_right.shape[1], -1, -1, -1).flatten(1, 3)
    return max_residue * residue.tanh() + around, strength.sigmoid()


def _parts(head: Tensor) -> list[int]:
    third = head.shape[1] // 3
    return [2 * third, third]


def _check(
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Raise ValueError where the arguments do not fit together."""
    named = {"x": x, "head": head, "flows": flows, "weight": weight, "bias": bias}
    given = {name: tensor for name, tensor in named.items() if tensor is not None}

    def require(condition: bool, rule: str, *numbers: int) -> None:
        if not condition:  # only here may sizes become text: that would fix them for torch.compile and torch.export
            rule = rule.format(*numbers)
            got = ", ".join(f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in given.items())
            raise ValueError(f"flow_guided_deform_conv2d needs {rule}; got {got}")

    require(all(t.dtype in FLOATS and t.device == x.device for t in given.values()), "floats on one device")
    same = bias is None or bias.dtype == x.dtype
    require(weight.dtype == x.dtype and same, "weight and bias of the dtype of x")
    require(all(t.dim() == 4 for t in (x, head, flows, weight)), "x, head, flows and weight of 4 dimensions")
    channels, (out_channels, per_group, *kernel) = x.shape[1], weight.shape
    require(min(out_channels, per_group, *kernel) > 0, "a weight (Cout, C / groups, kh, kw) without empty dimensions")
    require(channels > 0 and channels % per_group == 0, "channels of x that are a multiple of weight's second size")
    require(out_channels % (channels // per_group) == 0, "output channels that the groups divide")
    require(bias is None or bias.shape == (out_channels,), "a bias (Cout,)")
    size = [x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) for i in range(2)]
    require(min(size) >= 0, "an image (with its padding) that is not smaller than the kernel")
    taps = kernel[0] * kernel[1]
    groups, count = head.shape[1] // (3 * taps), flows.shape[1] // 2
    fits = groups > 0 and head.shape == (x.shape[0], 3 * groups * taps, *size) and channels % groups == 0
    require(fits, "a head (B, 3 * G * kh * kw, {}, {}) with G a divisor of the channels", *size)
    fits = count > 0 and flows.shape == (x.shape[0], 2 * count, *size) and groups % count == 0
    require(fits, "flows (B, 2 * F, {}, {}) with F a divisor of the {} offset groups", *size, groups)


def _forward(
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    max_residue: float,
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Compute the op where it has no kernel of its own, by that of `deform_conv2d` where there is one."""
    offset, mask = _offset_and_mask(x, head, flows, weight, max_residue)
    return torch.ops.msr.deform_conv2d.default(x, offset, weight, bias, mask, [1, 1], padding, dilation)


def _backward_op(
    grad: Tensor,
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    max_residue: float,
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of x, head, flows, weight and bias from that of the output."""
    offset, mask = _offset_and_mask(x, head, flows, weight, max_residue)
    backward = deform_conv2d_backward_reference if must_repeat(x) else torch.ops.msr.deform_conv2d_backward.default
    grads = backward(grad, x, offset, weight, mask, [1, 1], padding, dilation)
    grad_x, grad_offset, grad_weight, grad_bias, grad_mask = grads
    residue = head[:, : _parts(head)[0]].to(offset.dtype).tanh()
    grad_head = torch.cat([grad_offset * max_residue * (1 - residue * residue), grad_mask * mask * (1 - mask)], dim=1)
    count = flows.shape[1] // 2
    grad_flows = grad_offset.unflatten(1, (count, -1, 2)).sum(2).flip(2).flatten(1, 2)
    return grad_x, grad_head.to(head.dtype), grad_flows.to(flows.dtype), grad_weight, grad_bias


_op = torch.library.custom_op("msr::flow_guided_deform_conv2d", _forward, mutates_args=())
_backward_registered = torch.library.custom_op("msr::flow_guided_deform_conv2d_backward", _backward_op, mutates_args=())


@_op.register_fake
def _(
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    max_residue: float,
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return empty_like(x, (x.shape[0], weight.shape[0], head.shape[2], head.shape[3]))


@_backward_registered.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    head: Tensor,
    flows: Tensor,
    weight: Tensor,
    max_residue: float,
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_like(x, tuple(x.shape)),
        head.new_empty(head.shape),
        flows.new_empty(flows.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[:1]),
    )


def _setup_context(ctx, inputs, output) -> None:
    x, head, flows, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, head, flows, weight)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    grads = torch.ops.msr.flow_guided_deform_conv2d_backward.default(grad, *ctx.saved_tensors, *ctx.settings)
    needed = [value if need else None for value, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None, None)


_op.register_autograd(_backward, setup_context=_setup_context)
