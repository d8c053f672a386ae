"""conv_pixel_shuffle against its reference of three steps: 1 x 64 x 180 x 320 to pictures and to features."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Case
from msr.ops import conv_pixel_shuffle, conv_pixel_shuffle_reference

# Channels out and upscale factor.
LAYERS = ((3, 4), (3, 3), (3, 2), (1, 4), (64, 2))


def cases(device: torch.device) -> list[Case]:
    """Return the comparisons in both layouts, all with leaky_relu; the first candidate is the reference."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for out, factor in LAYERS:
        x = torch.randn(1, 64, 180, 320, generator=generator).to(device)
        weight = torch.randn(out * factor**2, 64, 3, 3, generator=generator).to(device) / 24
        bias = torch.randn(out * factor**2, generator=generator).to(device)
        for layout in (torch.channels_last, torch.contiguous_format):
            name = f"64 to {out}, x{factor}, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
            tensors = x.contiguous(memory_format=layout), weight, bias
            found.append(Case(name, _forward(*tensors, factor)))
            if (out, factor) == LAYERS[0]:
                x_low, weight_low, bias_low = (tensor.bfloat16() for tensor in tensors)
                found.append(Case(f"{name}, bfloat16", _forward(x_low, weight_low, bias_low, factor)))
                found.append(Case(f"{name}, training step", _step(*tensors, factor)))
    return found


def _forward(x: Tensor, weight: Tensor, bias: Tensor, factor: int) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: conv_pixel_shuffle_reference(x, weight, bias, factor, activation="leaky_relu"),
        "conv_pixel_shuffle": lambda: conv_pixel_shuffle(x, weight, bias, factor, activation="leaky_relu"),
    }


def _step(x: Tensor, weight: Tensor, bias: Tensor, factor: int) -> dict[str, Callable[[], object]]:
    """Time forward and backward together: the op computes the reference's forward again for its gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    calls = _forward(leaves[0], leaves[1], leaves[2], factor)

    def step(call: Callable[[], object]) -> object:
        out = call()
        assert isinstance(out, Tensor)
        return torch.autograd.grad(out.sum(), leaves)

    return {name: lambda call=call: step(call) for name, call in calls.items()}  # type: ignore[misc]
