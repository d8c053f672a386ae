"""correlation of radius 4 against its reference and a product of matrices: 64 channels, two sizes of picture."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import correlation, correlation_reference
from msr.ops.correlation import correlation_backward_reference

RADIUS = 4


def cases(device: torch.device) -> list[Case]:
    """Return the forward and backward comparisons in both layouts; the first candidate is the reference."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for height, width in ((180, 320), (360, 640)):
        features = torch.randn(2, 1, 64, height, width, generator=generator).to(device)
        for layout in (torch.channels_last, torch.contiguous_format):
            a, b = (t.contiguous(memory_format=layout) for t in features)
            name = f"{height}x{width}, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
            found.append(Case(name, _forward(a, b)))
            if height == 180:
                for dtype in (torch.float16, torch.bfloat16):
                    found.append(Case(f"{name}, {str(dtype)[6:]}", _forward(a.to(dtype), b.to(dtype))))
                found.append(Case(f"{name}, gradients", _backward(a, b)))
    return found


def _by_matrices(a: Tensor, b: Tensor) -> Tensor:
    """Multiply runs of 16 pixels by the pixels around them as matrices, and keep the diagonals that are asked for."""
    side, run = 2 * RADIUS + 1, 16
    batch, channels, height, width = a.shape
    extra = -width % run
    left = F.pad(a, (0, extra)).permute(0, 2, 3, 1).reshape(batch, height, -1, run, channels)
    right = F.pad(b, (RADIUS, RADIUS + extra, RADIUS, RADIUS)).permute(0, 2, 3, 1)
    found = []
    for dy in range(side):
        products = left @ right[:, dy : dy + height].unfold(2, run + 2 * RADIUS, run)
        *strides, down, across = products.stride()
        diagonals = products.as_strided((*products.shape[:4], side), (*strides, down + across, across))
        found.append(diagonals.reshape(batch, height, -1, side)[:, :, :width])
    return torch.cat(found, 3).permute(0, 3, 1, 2) / channels


def _forward(a: Tensor, b: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: correlation_reference(a, b, RADIUS),
        "correlation": lambda: correlation(a, b, RADIUS),
        "matrices": lambda: _by_matrices(a, b),
    }


def _backward(a: Tensor, b: Tensor) -> dict[str, Callable[[], object]]:
    """Time the gradients of both alone: the forward pass is done once, before.

    Two references: autograd, which pads the gradient of every shift to the size of the picture, and the op's own,
    written out by hand to save that.
    """
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    outputs = {"reference": correlation_reference(a, b, RADIUS), "correlation": correlation(a, b, RADIUS)}
    grad = torch.ones_like(outputs["reference"])

    def again(output: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, (a, b), grad, retain_graph=True)

    return {
        **{name: again(output) for name, output in outputs.items()},
        "by hand": lambda: correlation_backward_reference(grad, a.detach(), b.detach(), RADIUS, 1, 1),
    }
