"""splat against its reference and a scatter plane by plane: 64 channels along a smooth flow of a few pixels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import splat, splat_reference


def cases(device: torch.device) -> list[Case]:
    """Return the forward and backward comparisons in both layouts; the first candidate is the reference."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for height, width in ((180, 320), (360, 640)):
        features = torch.randn(1, 64, height, width, generator=generator).to(device)
        coarse = 4 * torch.randn(1, 2, 12, 20, generator=generator)
        flow = F.interpolate(coarse, size=(height, width), mode="bicubic").to(device)
        metric = torch.randn(1, 1, height, width, generator=generator).to(device)
        for layout in (torch.channels_last, torch.contiguous_format):
            x = features.contiguous(memory_format=layout)
            name = f"{height}x{width}, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
            found.append(Case(f"average, {name}", _forward(x, flow, None, "average")))
            found.append(Case(f"soft, {name}", _forward(x, flow, metric, "soft")))
            if height == 180:
                found.append(Case(f"sum, {name}", _forward(x, flow, None, "sum")))
                found.append(Case(f"average, {name}, bfloat16", _forward(x.bfloat16(), flow, None, "average")))
                found.append(Case(f"average, {name}, gradients", _backward(x, flow)))
    return found


def _by_planes(x: Tensor, flow: Tensor) -> Tensor:
    """Average as one writes it for planes: a scatter along the pixels of each channel, the divisor one channel more."""
    _, channels, height, width = x.shape
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1).float().flatten(2)
    total = torch.zeros_like(rows)
    across = torch.arange(width, device=x.device) + flow[:, 0]
    down = torch.arange(height, device=x.device)[:, None] + flow[:, 1]
    for v in (down.floor(), down.floor() + 1):
        for u in (across.floor(), across.floor() + 1):
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            weight = torch.where(inside, (1 - (across - u).abs()) * (1 - (down - v).abs()), 0).flatten(1)[:, None]
            place = torch.where(inside, v * width + u, 0).long().flatten(1)[:, None]
            total.scatter_add_(2, place.expand(-1, channels + 1, -1), rows * weight)
    divisor = total[:, -1:]
    return (total[:, :-1] / torch.where(divisor == 0, 1, divisor)).reshape(x.shape).to(x.dtype)


def _forward(x: Tensor, flow: Tensor, metric: Tensor | None, mode: str) -> dict[str, Callable[[], object]]:
    candidates: dict[str, Callable[[], object]] = {
        "reference": lambda: splat_reference(x, flow, metric, mode),
        "splat": lambda: splat(x, flow, metric, mode=mode),
    }
    if mode == "average":
        candidates["planes"] = lambda: _by_planes(x, flow)
    return candidates


def _backward(x: Tensor, flow: Tensor) -> dict[str, Callable[[], object]]:
    """Time the gradients of features and flow alone: the forward pass is done once, before."""
    x, flow = x.detach().requires_grad_(), flow.detach().requires_grad_()
    outputs = {
        "reference": splat_reference(x, flow, None, "average"),
        "splat": splat(x, flow, mode="average"),
        "planes": _by_planes(x, flow),
    }
    grad = torch.ones_like(outputs["reference"])

    def again(output: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, (x, flow), grad, retain_graph=True)

    return {name: again(output) for name, output in outputs.items()}
