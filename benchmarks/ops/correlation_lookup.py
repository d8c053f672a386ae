"""correlation_lookup of radius 4 against its reference and the volume of all pairs: features as RAFT has them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import correlation_lookup, correlation_lookup_reference

RADIUS = 4


def cases(device: torch.device) -> list[Case]:
    """Return the forward and backward comparisons; the first candidate is the reference."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for height, width in ((46, 64), (90, 120)):
        features = torch.randn(2, 1, 128, height, width, generator=generator).to(device)
        rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        coords = torch.stack((columns, rows))[None] + 3 * torch.randn(1, 2, height, width, generator=generator)
        for layout in (torch.channels_last, torch.contiguous_format):
            a, b = (t.contiguous(memory_format=layout) for t in features)
            name = f"{height}x{width}, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
            found.append(Case(name, _forward(a, b, coords.to(device))))
            if height == 46:
                found.append(Case(f"{name}, gradients", _backward(a, b, coords.to(device))))
    return found


def _through_all_pairs(a: Tensor, b: Tensor, coords: Tensor) -> Tensor:
    """Look up as RAFT does by default: make the volume and sample it. RAFT makes it once for some dozen lookups."""
    batch, channels, height, width = a.shape
    volume = (a.flatten(2).transpose(1, 2) @ b.flatten(2) / channels).reshape(-1, 1, *b.shape[2:])
    steps = torch.arange(-RADIUS, RADIUS + 1, device=a.device, dtype=coords.dtype)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    x = coords[:, 0].reshape(-1, 1, 1) + dx
    y = coords[:, 1].reshape(-1, 1, 1) + dy
    grid = torch.stack((2 * x / (b.shape[3] - 1) - 1, 2 * y / (b.shape[2] - 1) - 1), -1)
    return F.grid_sample(volume, grid, align_corners=True).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def _forward(a: Tensor, b: Tensor, coords: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: correlation_lookup_reference(a, b, coords, RADIUS),
        "correlation_lookup": lambda: correlation_lookup(a, b, coords, RADIUS),
        "all pairs": lambda: _through_all_pairs(a, b, coords),
    }


def _backward(a: Tensor, b: Tensor, coords: Tensor) -> dict[str, Callable[[], object]]:
    """Time the gradients of all three alone: the forward pass is done once, before."""
    a, b, coords = (t.detach().requires_grad_() for t in (a, b, coords))
    outputs = {
        "reference": correlation_lookup_reference(a, b, coords, RADIUS),
        "correlation_lookup": correlation_lookup(a, b, coords, RADIUS),
        "all pairs": _through_all_pairs(a, b, coords),
    }
    grad = torch.ones_like(outputs["reference"])

    def again(output: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, (a, b, coords), grad, retain_graph=True)

    return {name: again(output) for name, output in outputs.items()}
