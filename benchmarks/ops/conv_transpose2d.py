"""conv_transpose2d against its reference: upsampling tails over 1 x C x 180 x 320, the 56 -> 3 tail of FSRCNN first."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Case
from msr.ops import conv_transpose2d, conv_transpose2d_reference

# Name, channels in and out, kernel, stride, padding, output padding.
TAILS = (
    ("56 to 3, k9 s4", 56, 3, 9, 4, 4, 3),
    ("56 to 1, k9 s4", 56, 1, 9, 4, 4, 3),
    ("56 to 3, k9 s3", 56, 3, 9, 3, 4, 2),
    ("56 to 3, k9 s2", 56, 3, 9, 2, 4, 1),
    ("64 to 64, k4 s2", 64, 64, 4, 2, 1, 0),
    ("64 to 64, k8 s4", 64, 64, 8, 4, 2, 0),
)


def cases(device: torch.device) -> list[Case]:
    """Return the comparisons in both layouts, all with leaky_relu; the first candidate is the reference."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, channels, out, kernel, *sizes in TAILS:
        x = torch.randn(1, channels, 180, 320, generator=generator).to(device)
        weight = torch.randn(channels, out, kernel, kernel, generator=generator).to(device) / kernel
        bias = torch.randn(out, generator=generator).to(device)
        for layout in (torch.channels_last, torch.contiguous_format):
            called = f"{name}, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
            tensors = x.contiguous(memory_format=layout), weight, bias
            found.append(Case(called, _forward(*tensors, *sizes)))
            if name == TAILS[0][0]:
                low = [tensor.bfloat16() for tensor in tensors]
                found.append(Case(f"{called}, bfloat16", _forward(low[0], low[1], low[2], *sizes)))
                found.append(Case(f"{called}, training step", _step(*tensors, *sizes)))
    return found


def _forward(x: Tensor, weight: Tensor, bias: Tensor, *sizes: int) -> dict[str, Callable[[], object]]:
    stride, padding, extra = sizes
    arguments = x, weight, bias, stride, padding, extra
    return {
        "reference": lambda: conv_transpose2d_reference(*arguments, activation="leaky_relu"),
        "conv_transpose2d": lambda: conv_transpose2d(*arguments, activation="leaky_relu"),
    }


def _step(x: Tensor, weight: Tensor, bias: Tensor, *sizes: int) -> dict[str, Callable[[], object]]:
    """Time forward and backward together: the op computes the reference's forward again for its gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    calls = _forward(leaves[0], leaves[1], leaves[2], *sizes)

    def step(call: Callable[[], object]) -> object:
        out = call()
        assert isinstance(out, Tensor)
        return torch.autograd.grad(out.sum(), leaves)

    return {name: lambda call=call: step(call) for name, call in calls.items()}  # type: ignore[misc]
