"""conv_transpose2d: a transposed convolution (deconvolution) with its activation fused in."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._arguments import Pair, check_whole, pair
from msr.ops._convolution import (
    FLOATS,
    KEEP_SIGNS,
    activate,
    before_activation,
    check_activation,
    check_vector,
    convolution_gradients,
    empty_gradients,
    in_autocast_dtype,
    in_float32,
    in_layout_of,
    needed_gradients,
    new_output,
)
from msr.ops._processor import CPU_MULTIPLIES_BFLOAT16
from msr.ops._transforms import by_reference


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    *,
    activation: str | None = None,
    prelu_weight: Tensor | None = None,
) -> Tensor:
    """Upsample by a transposed convolution, then add the bias and apply the activation, in one pass.

    Source: the deconvolution of Zeiler et al. (CVPR 2010), with the arguments and results of
    `torch.nn.functional.conv_transpose2d`; as the upsampling tail of FSRCNN (Dong et al., 2016, arXiv:1608.00367).

    Args:
        input: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range; H and W at least 1, B may be 0.
        weight: `(C, Cout / groups, kh, kw)`; it, bias and prelu_weight have the dtype and device of `input`.
        bias: `(Cout,)` or None.
        stride, padding, output_padding, dilation: in pixels, one number or one for rows and one for columns.
        groups: groups that the channels fall into.
        activation: None, "relu", "leaky_relu" (of slope 0.1) or "prelu".
        prelu_weight: `(1,)` or `(Cout,)`, the slopes of "prelu"; required with it, refused without.

    Returns:
        `(B, Cout, Ho, Wo)` with the dtype and memory format of `input`, where
        `Ho = (H - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1`. Sums are float32, or float64
        where `input` is. Under autocast all four take its dtype. Differentiable once, in all four. Kernels serve
        one group without dilation, sizes to 9 and strides 2 to 4, in bfloat16 on a CPU that multiplies it Cout to 4;
        all else runs as PyTorch's own convolution and activation.

    Raises:
        ValueError: shapes, dtypes, devices or names that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import conv_transpose2d
        >>> x, weight = torch.tensor([[[[1.0, -2.0]]]]), torch.ones(1, 1, 2, 2)
        >>> conv_transpose2d(x, weight, stride=2, activation="leaky_relu")
        tensor([[[[ 1.0000,  1.0000, -0.2000, -0.2000],
                  [ 1.0000,  1.0000, -0.2000, -0.2000]]]])
    """
    sizes = _sizes(stride, padding, output_padding, groups, dilation)
    input, weight, bias, prelu_weight = in_autocast_dtype(input, weight, bias, prelu_weight)
    _check(input, weight, bias, *sizes, activation, prelu_weight)
    if not _fits_kernels(weight, *sizes) or by_reference(input, weight, bias, prelu_weight):

        def convolution(input: Tensor, weight: Tensor, bias: Tensor | None, prelu_weight: Tensor | None) -> Tensor:
            return conv_transpose2d_reference(input, weight, bias, *sizes, activation, prelu_weight)

        return in_float32(convolution, input, weight, bias, prelu_weight)
    return torch.ops.msr.conv_transpose2d.default(input, weight, bias, *sizes, activation, prelu_weight)


def conv_transpose2d_reference(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    activation: str | None = None,
    prelu_weight: Tensor | None = None,
) -> Tensor:
    """Compute `conv_transpose2d` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    sizes = _sizes(stride, padding, output_padding, groups, dilation)
    _check(input, weight, bias, *sizes, activation, prelu_weight)
    out = F.conv_transpose2d(input, weight, bias, *sizes)
    return in_layout_of(input, activate(out, activation, prelu_weight))


def conv_transpose2d_backward_reference(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    activation: str | None,
    prelu_weight: Tensor | None,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Compute the gradients for input, weight, bias and prelu_weight; one that is not in `needs` comes back empty."""

    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, prelu_weight: Tensor | None) -> Tensor:
        sizes = stride, padding, output_padding, groups, dilation
        return conv_transpose2d_reference(input, weight, bias, *sizes, activation, prelu_weight)

    tensors = [input, weight, bias, prelu_weight]
    if activation is None and input.numel():
        return convolution_gradients(grad, tensors, needs, stride, padding, dilation, True, output_padding, groups)
    return needed_gradients(forward, grad, tensors, needs)


def _sizes(
    stride: Pair, padding: Pair, output_padding: Pair, groups: int, dilation: Pair
) -> tuple[list[int], list[int], list[int], int, list[int]]:
    op = "conv_transpose2d"
    check_whole(op, groups=groups)
    paddings = pair(op, "padding", padding), pair(op, "output_padding", output_padding)
    return pair(op, "stride", stride, 1), *paddings, groups, pair(op, "dilation", dilation, 1)


def _fits_kernels(
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> bool:
    """Return whether the compiled kernels cover these sizes and are faster than PyTorch there."""
    # Where the CPU has bfloat16 products of its own, the kernel wins for the channels of a picture alone.
    own_products = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and CPU_MULTIPLIES_BFLOAT16
    if own_products and weight.shape[1] > 4:
        return False
    plain = groups == 1 and all(step == 1 for step in dilation)
    return plain and max(weight.shape[2:]) <= 9 and all(2 <= step <= 4 for step in stride)


def _check(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    activation: str | None,
    prelu_weight: Tensor | None,
) -> None:
    got = f"got input {tuple(input.shape)} {input.dtype} on {input.device}, weight {tuple(weight.shape)} {weight.dtype}"
    got = f"{got} on {weight.device}, stride {stride}, padding {padding}, output_padding {output_padding}, "
    got = f"{got}groups {groups}, dilation {dilation}"
    if input.dim() != 4 or weight.dim() != 4 or input.shape[1] != weight.shape[0] or 0 in weight.shape:
        raise ValueError(f"conv_transpose2d needs input (B, C, H, W) and weight (C, Cout / groups, kh, kw); {got}")
    if input.dtype not in FLOATS or weight.dtype != input.dtype or weight.device != input.device:
        raise ValueError(f"conv_transpose2d needs floating-point tensors of one dtype on one device; {got}")
    if groups < 1 or input.shape[1] % groups:
        raise ValueError(f"conv_transpose2d needs groups that divide C; {got}")
    if any(extra >= max(step, gap) for extra, step, gap in zip(output_padding, stride, dilation, strict=True)):
        raise ValueError(f"conv_transpose2d needs an output_padding smaller than stride or dilation; {got}")
    if 0 in input.shape[2:] or min(_output_size(input, weight, stride, padding, output_padding, dilation)) < 1:
        raise ValueError(f"conv_transpose2d needs at least one pixel of input and of output; {got}")
    channels = weight.shape[1] * groups
    if bias is not None:
        check_vector("bias", bias, (channels,), input)
    check_activation(activation, prelu_weight, channels, input)


def _output_size(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    reach = [dilation[i] * (weight.shape[2 + i] - 1) + output_padding[i] + 1 for i in range(2)]
    height, width = ((input.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] for i in range(2))
    return height, width


_SIZES = "int[2] stride, int[2] padding, int[2] output_padding, int groups, int[2] dilation"
_op = torch.library.custom_op(
    "msr::conv_transpose2d",
    conv_transpose2d_reference,
    mutates_args=(),
    schema=f"(Tensor input, Tensor weight, Tensor? bias, {_SIZES}, str? activation, Tensor? prelu_weight) -> Tensor",
)
_backward_op = torch.library.custom_op(
    "msr::conv_transpose2d_backward",
    conv_transpose2d_backward_reference,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor input, Tensor weight, Tensor? bias, {_SIZES}, str? activation, Tensor? prelu_weight, "
    "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
)


@_op.register_fake
def _(input, weight, bias, stride, padding, output_padding, groups, dilation, activation, prelu_weight):
    size = _output_size(input, weight, stride, padding, output_padding, dilation)
    return new_output(input, (input.shape[0], weight.shape[1] * groups, *size))


@_backward_op.register_fake
def _(grad, input, weight, bias, stride, padding, output_padding, groups, dilation, activation, prelu_weight, needs):
    return empty_gradients([input, weight, bias, prelu_weight], needs)


def _setup_context(ctx, inputs, output) -> None:
    input, weight, bias, *ctx.sizes, ctx.activation, prelu_weight = inputs
    ctx.save_for_backward(input, weight, bias, prelu_weight, output if ctx.activation in KEEP_SIGNS else None)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    input, weight, bias, prelu_weight, output = ctx.saved_tensors
    activation = ctx.activation
    if output is not None:
        grad, activation = before_activation(grad, output, activation), None
    needs = [*ctx.needs_input_grad[:3], ctx.needs_input_grad[9]]
    gradients = torch.ops.msr.conv_transpose2d_backward.default(
        grad, input, weight, bias, *ctx.sizes, activation, prelu_weight, needs
    )
    wanted = [gradient if need else None for gradient, need in zip(gradients, needs, strict=True)]
    return *wanted[:3], *[None] * 6, wanted[3]


_op.register_autograd(_backward, setup_context=_setup_context)
