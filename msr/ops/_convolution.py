"""What the fused convolutions share: their activations, checks, and the gradients that their backward ops return."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._layout import empty_like, memory_format
from msr.ops._processor import needs_widening
from msr.ops._transforms import autocast_dtype

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ACTIVATIONS = (None, "relu", "leaky_relu", "prelu")
KEEP_SIGNS = ("relu", "leaky_relu")  # their results tell their gradients
LEAKY_SLOPE = 0.1  # of "leaky_relu": what super-resolution networks use, and not PyTorch's default of 0.01


def in_autocast_dtype(
    x: Tensor, weight: Tensor, bias: Tensor | None, prelu_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the tensors in the dtype that autocast asks for, as PyTorch's convolutions take them; float64 stays."""
    dtype = autocast_dtype(x)
    if dtype is None or x.dtype not in FLOATS or x.dtype == torch.float64:
        return x, weight, bias, prelu_weight
    bias = None if bias is None else bias.to(dtype)
    return x.to(dtype), weight.to(dtype), bias, None if prelu_weight is None else prelu_weight.to(dtype)


def activate(x: Tensor, activation: str | None, prelu_weight: Tensor | None) -> Tensor:
    """Apply `activation` to `x (B, C, H, W)`; `prelu_weight (1,)` or `(C,)` holds the slopes of "prelu"."""
    if activation == "relu":
        return F.relu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, LEAKY_SLOPE)
    return F.prelu(x, prelu_weight) if prelu_weight is not None else x


def check_activation(activation: str | None, prelu_weight: Tensor | None, channels: int, like: Tensor) -> None:
    """Raise ValueError unless `activation` is known and `prelu_weight`, there for "prelu" alone, fits."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {ACTIVATIONS}; got {activation!r}")
    if (activation == "prelu") != (prelu_weight is not None):
        given = "without" if prelu_weight is None else "with"
        raise ValueError(f"prelu_weight belongs to activation 'prelu'; got {activation!r} {given} prelu_weight")
    if prelu_weight is not None:
        check_vector("prelu_weight", prelu_weight, (1, channels), like)


def check_vector(name: str, vector: Tensor, lengths: tuple[int, ...], like: Tensor) -> None:
    """Raise ValueError unless `vector` is one-dimensional, of one of `lengths`, with the dtype and device of `like`."""
    fits = vector.dim() == 1 and vector.shape[0] in lengths
    if not fits or vector.dtype != like.dtype or vector.device != like.device:
        wanted = " or ".join(f"({length},)" for length in lengths)
        raise ValueError(
            f"{name} has shape {wanted}, dtype {like.dtype} and device {like.device}; "
            f"got {tuple(vector.shape)} {vector.dtype} on {vector.device}"
        )


def new_output(like: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Return an uninitialised `shape` with the dtype, device and layout of `like`; one channel alone is contiguous."""
    return empty_like(like, shape) if shape[1] > 1 else like.new_empty(shape)


def in_layout_of(like: Tensor, out: Tensor) -> Tensor:
    """Return `out` with the strides that `new_output` gives it."""
    if out.shape[1] > 1:
        return out.contiguous(memory_format=memory_format(like))
    return out.contiguous().flatten().view(out.shape)  # flattened, as PyTorch calls some strange strides contiguous


def needed_gradients(
    forward: Callable[..., Tensor], grad: Tensor, tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Return the gradients of `forward(*tensors)`, each in the layout of its tensor, or empty where not needed.

    They are computed in float32 where the device has no products of the dtype.
    """
    wide_grad, *wide = _with_products(grad, *tensors)

    def of_needed(*needed: Tensor) -> Tensor:
        left = iter(needed)
        return forward(*(next(left) if need else tensor for tensor, need in zip(wide, needs, strict=True)))

    inputs = [tensor for tensor, need in zip(wide, needs, strict=True) if need and tensor is not None]
    with torch.autocast(grad.device.type, enabled=False):
        return _laid_out(torch.func.vjp(of_needed, *inputs)[1](wide_grad), tensors, needs)


def convolution_gradients(
    grad: Tensor, tensors: Sequence[Tensor | None], needs: Sequence[bool], *sizes: Sequence[int] | bool | int
) -> tuple[Tensor, ...]:
    """Return what `needed_gradients` returns of a convolution of `x, weight, bias` alone, without computing it again.

    `sizes` are those of `torch.convolution`: stride, padding, dilation, transposed, output_padding, groups.
    """
    wide_grad, x, weight, bias = _with_products(grad, *tensors[:3])
    wanted = [*needs[:2], needs[2] and bias is not None]
    lengths = None if bias is None else bias.shape
    found = torch.ops.aten.convolution_backward(wide_grad, x, weight, lengths, *sizes, wanted)
    return _laid_out([gradient for gradient, want in zip(found, wanted, strict=True) if want], tensors, needs)


def in_float32(convolution: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """Return `convolution(*tensors)`, computed in float32 where the device would round its sums in their dtype."""
    first = tensors[0]
    assert first is not None
    if not needs_widening(first.dtype, first.device):
        return convolution(*tensors)
    return convolution(*(None if tensor is None else tensor.float() for tensor in tensors)).to(first.dtype)


def before_activation(grad: Tensor, output: Tensor, activation: str) -> Tensor:
    """Return the gradient of what `activation` made `output` of: "relu" and "leaky_relu" keep the sign."""
    return torch.where(output > 0, grad, 0.0 if activation == "relu" else LEAKY_SLOPE * grad)


def _with_products(grad: Tensor, *tensors: Tensor | None) -> list[Any]:
    """Return all in float32 where the device has no products of the dtype."""
    if not needs_widening(grad.dtype, grad.device):
        return [grad, *tensors]
    return [None if tensor is None else tensor.float() for tensor in (grad, *tensors)]


def _laid_out(
    gradients: Sequence[Tensor], tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Return the gradients of the tensors that need one, in dtype and layout of each, and nothing for the others."""
    left, out = iter(gradients), []
    for empty, tensor, need in zip(empty_gradients(tensors, needs), tensors, needs, strict=True):
        if need and tensor is not None:
            gradient = next(left)
            as_it_is = gradient.dtype == empty.dtype and gradient.stride() == empty.stride()
            out.append(gradient if as_it_is else empty.copy_(gradient))
        else:
            out.append(empty)
    return tuple(out)


def empty_gradients(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> tuple[Tensor, ...]:
    """Return what `needed_gradients` returns, without its values."""
    some = next(tensor for tensor in tensors if tensor is not None)
    out = []
    for tensor, need in zip(tensors, needs, strict=True):
        if tensor is None or not need:
            out.append(some.new_empty(0))
        else:
            out.append(empty_like(tensor, tuple(tensor.shape)) if tensor.dim() == 4 else torch.empty_like(tensor))
    return tuple(out)
