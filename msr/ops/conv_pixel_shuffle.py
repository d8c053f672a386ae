"""conv_pixel_shuffle: a 3x3 convolution, its activation and a pixel shuffle in one, the sub-pixel upsampling layer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._arguments import check_whole
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


def conv_pixel_shuffle(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    upscale_factor: int,
    *,
    activation: str | None = None,
    prelu_weight: Tensor | None = None,
) -> Tensor:
    """Upsample by a 3x3 convolution (stride 1, padding 1), an activation and a pixel shuffle, in one pass.

    Source: the sub-pixel convolution layer of ESPCN (Shi et al., CVPR 2016, arXiv:1609.05158); the results of
    `pixel_shuffle(activation(conv2d(x, weight, bias, padding=1)), r)`, without the picture between the two in memory.

    Args:
        x: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range; B, H and W may be 0.
        weight: `(Cout * r * r, C, 3, 3)`; it, bias and prelu_weight have the dtype and device of `x`.
        bias: `(Cout * r * r,)` or None.
        upscale_factor: r, at least 1.
        activation: None, "relu", "leaky_relu" (of slope 0.1) or "prelu".
        prelu_weight: `(1,)` or `(Cout * r * r,)`, the slopes of "prelu"; required with it, refused without.

    Returns:
        `(B, Cout, H * r, W * r)` with the dtype and memory format of `x`. Sums are float32, or float64 where `x` is.
        Under autocast all four take its dtype. Differentiable once, in all four tensors. Kernels serve r to 4; above,
        and in bfloat16 on a CPU that multiplies it, PyTorch's own three steps run.

    Raises:
        ValueError: shapes, dtypes, devices or names that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import conv_pixel_shuffle
        >>> weight = torch.zeros(4, 1, 3, 3)
        >>> weight[:, 0, 1, 1] = torch.arange(1.0, 5.0)
        >>> conv_pixel_shuffle(torch.tensor([[[[1.0, -1.0]]]]), weight, None, 2, activation="relu")
        tensor([[[[1., 2., 0., 0.],
                  [3., 4., 0., 0.]]]])
    """
    x, weight, bias, prelu_weight = in_autocast_dtype(x, weight, bias, prelu_weight)
    _check(x, weight, bias, upscale_factor, activation, prelu_weight)
    # Where the CPU has bfloat16 products of its own, PyTorch uses them and is faster than the kernel.
    own_products = x.dtype == torch.bfloat16 and x.device.type == "cpu" and CPU_MULTIPLIES_BFLOAT16
    if upscale_factor > 4 or own_products or by_reference(x, weight, bias, prelu_weight):

        def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, prelu_weight: Tensor | None) -> Tensor:
            return conv_pixel_shuffle_reference(x, weight, bias, upscale_factor, activation, prelu_weight)

        return in_float32(convolution, x, weight, bias, prelu_weight)
    return torch.ops.msr.conv_pixel_shuffle.default(x, weight, bias, upscale_factor, activation, prelu_weight)


def conv_pixel_shuffle_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    upscale_factor: int,
    activation: str | None = None,
    prelu_weight: Tensor | None = None,
) -> Tensor:
    """Compute `conv_pixel_shuffle` in plain PyTorch: the definition, and what runs where there is no kernel."""
    _check(x, weight, bias, upscale_factor, activation, prelu_weight)
    if x.numel() == 0:  # PyTorch convolves no picture without pixels, and shuffles none in a backward pass
        return torch.zeros_like(new_output(x, _output_shape(x, weight, upscale_factor)))
    out = activate(F.conv2d(x, weight, bias, padding=1), activation, prelu_weight)
    return in_layout_of(x, F.pixel_shuffle(out, upscale_factor))


def conv_pixel_shuffle_backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    upscale_factor: int,
    activation: str | None,
    prelu_weight: Tensor | None,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Compute the gradients for x, weight, bias and prelu_weight; one that is not in `needs` comes back empty."""

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, prelu_weight: Tensor | None) -> Tensor:
        return conv_pixel_shuffle_reference(x, weight, bias, upscale_factor, activation, prelu_weight)

    tensors = [x, weight, bias, prelu_weight]
    if activation is None and x.numel():
        small = F.pixel_unshuffle(grad, upscale_factor)
        return convolution_gradients(small, tensors, needs, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    return needed_gradients(forward, grad, tensors, needs)


def _output_shape(x: Tensor, weight: Tensor, upscale_factor: int) -> tuple[int, int, int, int]:
    r = upscale_factor
    return x.shape[0], weight.shape[0] // (r * r), x.shape[2] * r, x.shape[3] * r


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    upscale_factor: int,
    activation: str | None,
    prelu_weight: Tensor | None,
) -> None:
    def got() -> str:  # made on failure alone: torch.compile must not fix the sizes and the factor as text
        shapes = f"x {tuple(x.shape)} {x.dtype} on {x.device}, weight {tuple(weight.shape)} {weight.dtype}"
        return f"got {shapes} on {weight.device}, upscale_factor {upscale_factor}"

    if x.dim() != 4 or weight.shape[1:] != (x.shape[1], 3, 3) or 0 in weight.shape:
        raise ValueError(f"conv_pixel_shuffle needs x (B, C, H, W) and weight (Cout * r * r, C, 3, 3); {got()}")
    check_whole("conv_pixel_shuffle", upscale_factor=upscale_factor)
    if upscale_factor < 1 or weight.shape[0] % upscale_factor**2:
        raise ValueError(f"conv_pixel_shuffle needs weights for a multiple of upscale_factor ** 2 channels; {got()}")
    if x.dtype not in FLOATS or weight.dtype != x.dtype or weight.device != x.device:
        raise ValueError(f"conv_pixel_shuffle needs floating-point tensors of one dtype on one device; {got()}")
    if bias is not None:
        check_vector("bias", bias, (weight.shape[0],), x)
    check_activation(activation, prelu_weight, weight.shape[0], x)


_op = torch.library.custom_op(
    "msr::conv_pixel_shuffle",
    conv_pixel_shuffle_reference,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, int upscale_factor, str? activation, Tensor? prelu_weight) "
    "-> Tensor",
)
_backward_op = torch.library.custom_op(
    "msr::conv_pixel_shuffle_backward",
    conv_pixel_shuffle_backward_reference,
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor? bias, int upscale_factor, str? activation, "
    "Tensor? prelu_weight, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)",
)


@_op.register_fake
def _(x, weight, bias, upscale_factor, activation, prelu_weight):
    return new_output(x, _output_shape(x, weight, upscale_factor))


@_backward_op.register_fake
def _(grad, x, weight, bias, upscale_factor, activation, prelu_weight, needs):
    return empty_gradients([x, weight, bias, prelu_weight], needs)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, ctx.upscale_factor, ctx.activation, prelu_weight = inputs
    ctx.save_for_backward(x, weight, bias, prelu_weight, output if ctx.activation in KEEP_SIGNS else None)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    x, weight, bias, prelu_weight, output = ctx.saved_tensors
    activation = ctx.activation
    if output is not None:
        grad, activation = before_activation(grad, output, activation), None
    needs = [*ctx.needs_input_grad[:3], ctx.needs_input_grad[5]]
    gradients = torch.ops.msr.conv_pixel_shuffle_backward.default(
        grad, x, weight, bias, ctx.upscale_factor, activation, prelu_weight, needs
    )
    wanted = [gradient if need else None for gradient, need in zip(gradients, needs, strict=True)]
    return *wanted[:3], None, None, wanted[3]


_op.register_autograd(_backward, setup_context=_setup_context)
