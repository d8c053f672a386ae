"""deform_conv2d: a convolution whose taps each move by a learned offset and may be weighed by a learned mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from msr.ops._arguments import Pair, pair
from msr.ops._determinism import must_repeat
from msr.ops._layout import empty_like, memory_format
from msr.ops._transforms import autocast_dtype, by_reference

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve `input` with taps that are displaced by `offset` and, if given, multiplied by `mask`.

    Source: deformable convolution (Dai et al., 2017, arXiv:1703.06211), with `mask` its second version (Zhu et al.,
    2019, arXiv:1811.11168). Arguments, layout and results are those of `torchvision.ops.deform_conv2d`.

    Args:
        input: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range.
        offset: `(B, 2 * G * kh * kw, Ho, Wo)` in pixels: for each of G offset groups and each tap (row by row) how far
            the tap moves down (dy), then right (dx). G divides C; group g moves the g-th part of the channels.
        weight: `(Cout, C / groups, kh, kw)` of the dtype of `input`; the number of groups follows from its shape.
        bias: `(Cout,)` of the dtype of `input`, or None.
        stride: step of the kernel from one output to the next, in pixels; one number or a pair (down, right), as are
        padding: the border of zeros around the image, in pixels, and
        dilation: the distance between taps, in pixels.
        mask: `(B, G * kh * kw, Ho, Wo)`, the weight of each sample, or None for ones.

    Returns:
        `(B, Cout, Ho, Wo)` with the dtype and memory format of `input`; Ho and Wo as for a convolution. Samples are
        bilinear and the image is 0 outside: of the four pixels those inside count, and a sample one pixel or more
        outside is 0, as is one at a NaN or infinite position; its offset and mask have a zero gradient. Positions and
        sums are float32, or float64 where `input` is; where a CPU multiplies bfloat16, samples of it are rounded to it.
        `offset` and `mask` may have any of the dtypes above. Under autocast `input`, `weight` and `bias` take its
        dtype, the others keep theirs. Differentiable once, in all tensors. On a CPU, NaN and infinite values of `input`
        may reach groups beside their own, and those of `mask` count outside of the image, too.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import deform_conv2d
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> offset = torch.zeros(1, 2, 3, 3)
        >>> offset[:, 1] = 0.5  # sample half a pixel to the right
        >>> deform_conv2d(image, offset, torch.ones(1, 1, 1, 1))
        tensor([[[[0.5000, 1.5000, 1.0000],
                  [3.5000, 4.5000, 2.5000],
                  [6.5000, 7.5000, 4.0000]]]])
    """
    dtype = autocast_dtype(input)
    if dtype is not None and input.dtype != torch.float64:
        # Offsets keep their precision: bfloat16 has steps of a quarter of a pixel at 50 pixels.
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    settings = settings_of("deform_conv2d", stride, padding, dilation)
    _output_shape(input, offset, weight, bias, mask, *settings)
    if by_reference(input, offset, weight, bias, mask):
        return _forward(input, offset, weight, bias, mask, *settings)
    return torch.ops.msr.deform_conv2d.default(input, offset, weight, bias, mask, *settings)


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute `deform_conv2d` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    settings = settings_of("deform_conv2d", stride, padding, dilation)
    return _forward(input, offset, weight, bias, mask, *settings)


def _forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    shape = _output_shape(input, offset, weight, bias, mask, stride, padding, dilation)
    if 0 in shape or input.numel() == 0:
        # No pixel to read: what is left is the bias, and it must stay connected to the graph of derivatives.
        nothing = torch.zeros_like(empty_like(input, shape))
        return nothing if bias is None else nothing + bias.view(-1, 1, 1)
    batch, channels = input.shape[:2]
    out_channels, per_group, *kernel = weight.shape
    compute = torch.float64 if input.dtype == torch.float64 else torch.float32
    taps = kernel[0] * kernel[1]
    offset_groups = offset.shape[1] // (2 * taps)
    columns = _sample(input.to(compute), offset.to(compute), mask, kernel, stride, padding, dilation)
    # (B, G, C / G, taps, Ho * Wo) -> (B, groups, C / groups * taps, Ho * Wo), the order of the weight's elements
    groups = channels // per_group
    columns = columns.reshape(batch, offset_groups * (channels // offset_groups), taps, -1)
    columns = columns.reshape(batch, groups, per_group * taps, -1)
    kernels = weight.to(compute).reshape(groups, out_channels // groups, per_group * taps)
    with torch.autocast(input.device.type, enabled=False):  # sums stay in the precision chosen above
        out = torch.matmul(kernels, columns).reshape(shape)
    if bias is not None:
        out = out + bias.to(compute).view(-1, 1, 1)
    return out.to(input.dtype).contiguous(memory_format=memory_format(input))


def _sample(
    image: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Return the bilinear, masked samples of all taps, `(B, G, C / G, taps * Ho * Wo)` for G offset groups."""
    batch, channels, height, width = image.shape
    taps, out_size = kernel[0] * kernel[1], offset.shape[2:]
    moves = offset.unflatten(1, (-1, taps, 2))  # (B, G, taps, 2, Ho, Wo)
    groups = moves.shape[1]

    def position(axis: int) -> Tensor:
        tap = torch.arange(kernel[axis], device=image.device, dtype=image.dtype) * dilation[axis]
        tap = (tap[:, None] if axis == 0 else tap[None]).expand(*kernel).reshape(taps, 1, 1)
        start = torch.arange(out_size[axis], device=image.device, dtype=image.dtype) * stride[axis] - padding[axis]
        return (tap + (start[:, None] if axis == 0 else start[None])) + moves[:, :, :, axis]

    y, x = position(0), position(1)
    # False for NaN, too. Positions outside become 0, so that no index and no derivative ever sees them.
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    top, left = y.floor(), x.floor()
    fy, fx = y - top, x - left
    strength = torch.ones_like(y) if mask is None else mask.to(image.dtype).unflatten(1, (groups, taps))
    strength = torch.where(inside, strength, 0)
    source = image.reshape(batch, groups, channels // groups, height * width)
    total = torch.zeros((), dtype=image.dtype, device=image.device)
    for row, row_weight in ((top, 1 - fy), (top + 1, fy)):
        for column, column_weight in ((left, 1 - fx), (left + 1, fx)):
            counts = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1).to(torch.int64) * width + column.clamp(0, width - 1).to(torch.int64)
            pixels = source.gather(3, place.flatten(2)[:, :, None].expand(-1, -1, channels // groups, -1))
            pixels = torch.where(counts.flatten(2)[:, :, None], pixels, 0)
            total = total + pixels * (row_weight * column_weight * strength).flatten(2)[:, :, None]
    return total


def deform_conv2d_backward_reference(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of input, offset, weight, bias and mask (empty without one) from that of the output."""
    bias = weight.new_zeros(weight.shape[0])
    tensors = (input, offset, weight, bias) if mask is None else (input, offset, weight, bias, mask)

    def forward(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
        return _forward(input, offset, weight, bias, mask, stride, padding, dilation)

    with torch.autocast(input.device.type, enabled=False):
        _, backward, *_ = torch.func.vjp(forward, *tensors)
        grads = [g.contiguous() for g in backward(grad)]
    if mask is None:
        grads.append(offset.new_empty(0))
    return grads[0].contiguous(memory_format=memory_format(input)), grads[1], grads[2], grads[3], grads[4]


def settings_of(op: str, stride: Pair, padding: Pair, dilation: Pair) -> tuple[list[int], list[int], list[int]]:
    """Return two numbers for each, or raise ValueError."""
    return pair(op, "stride", stride, 1), pair(op, "padding", padding), pair(op, "dilation", dilation, 1)


def _output_shape(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """Return the shape of the result, or raise ValueError where the arguments do not fit together."""
    named = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    given = {name: tensor for name, tensor in named.items() if tensor is not None}

    def require(condition: bool, rule: str, *numbers: int) -> None:
        if not condition:  # only here may sizes become text: that would fix them for torch.compile and torch.export
            rule = rule.format(*numbers)
            got = ", ".join(f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in given.items())
            raise ValueError(f"deform_conv2d needs {rule}; got {got}")

    require(all(t.dtype in FLOATS and t.device == input.device for t in given.values()), "floats on one device")
    same = bias is None or bias.dtype == input.dtype
    require(weight.dtype == input.dtype and same, "weight and bias of the dtype of input")
    require(input.dim() == 4 and offset.dim() == 4 and weight.dim() == 4, "input, offset and weight of 4 dimensions")
    channels, (out_channels, per_group, *kernel) = input.shape[1], weight.shape
    require(min(out_channels, per_group, *kernel) > 0, "a weight (Cout, C / groups, kh, kw) without empty dimensions")
    require(channels > 0 and channels % per_group == 0, "channels of input that are a multiple of weight's second size")
    require(out_channels % (channels // per_group) == 0, "output channels that the groups divide")
    require(bias is None or bias.shape == (out_channels,), "a bias (Cout,)")
    size = [
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    require(min(size) >= 0, "an image (with its padding) that is not smaller than the kernel")
    taps = kernel[0] * kernel[1]
    offset_groups = offset.shape[1] // (2 * taps)
    shape = (input.shape[0], 2 * offset_groups * taps, *size)
    fits = offset_groups > 0 and offset.shape == shape and channels % offset_groups == 0
    require(fits, "an offset (B, 2 * G * kh * kw, {}, {}) with G a divisor of the channels", *size)
    shape = (input.shape[0], offset_groups * taps, *size)
    require(mask is None or mask.shape == shape, "a mask ({}, {}, {}, {})", *shape)
    return (input.shape[0], out_channels, size[0], size[1])


_op = torch.library.custom_op("msr::deform_conv2d", _forward, mutates_args=())
_backward_op = torch.library.custom_op("msr::deform_conv2d_backward", deform_conv2d_backward_reference, mutates_args=())


@_op.register_fake
def _(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return empty_like(input, (input.shape[0], weight.shape[0], offset.shape[2], offset.shape[3]))


@_backward_op.register_fake
def _(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_like(input, tuple(input.shape)),
        offset.new_empty(offset.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape[:1]),
        offset.new_empty(0) if mask is None else mask.new_empty(mask.shape),
    )


def _setup_context(ctx, inputs, output) -> None:
    input, offset, weight, _, mask, *ctx.settings = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    input, offset, weight, mask = ctx.saved_tensors
    backward = deform_conv2d_backward_reference if must_repeat(input) else torch.ops.msr.deform_conv2d_backward.default
    grads = backward(grad, input, offset, weight, mask, *ctx.settings)
    needed = [value if need else None for value, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None, None)


_op.register_autograd(_backward, setup_context=_setup_context)
