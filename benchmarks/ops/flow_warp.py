"""flow_warp against its reference and grid_sample: 64 channels of two sizes along a smooth flow of a few pixels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import flow_warp, flow_warp_reference


def cases(device: torch.device) -> list[Case]:
    """Return the forward and backward comparisons in both layouts; the first candidate is the reference."""
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        name = f"bilinear, 360x640, {'channels_last' if layout == torch.channels_last else 'NCHW'}"
        features, flow = _arguments(360, 640, device)
        x = features.contiguous(memory_format=layout)
        found += [Case(name, _forward(x, flow, "bilinear")), Case(f"{name}, gradients", _backward(x, flow, "bilinear"))]
    features, flow = _arguments(180, 320, device)
    for layout in (torch.channels_last, torch.contiguous_format):
        x = features.contiguous(memory_format=layout)
        name = "channels_last" if layout == torch.channels_last else "NCHW"
        for interpolation in ("bilinear", "bicubic", "nearest"):
            found.append(Case(f"{interpolation}, {name}", _forward(x, flow, interpolation)))
        for dtype in (torch.float16, torch.bfloat16):
            short = str(dtype).removeprefix("torch.")
            found.append(Case(f"bilinear, {name}, {short}", _forward(x.to(dtype), flow, "bilinear")))
        for interpolation in ("bilinear", "bicubic", "nearest"):
            found.append(Case(f"{interpolation}, {name}, gradients", _backward(x, flow, interpolation)))
    return found


def _arguments(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 64, height, width, generator=generator)
    coarse = 4 * torch.randn(1, 2, 12, 20, generator=generator)
    return features.to(device), F.interpolate(coarse, size=(height, width), mode="bicubic").to(device)


def _grid_sample(x: Tensor, flow: Tensor, interpolation: str) -> Tensor:
    """What one writes without this op; the grid is part of the work, as the flow is what a model has.

    In float32 whatever the features: a float16 or bfloat16 grid is off by pixels (torch 2.13 may crash on it).
    """
    rows = torch.arange(flow.shape[2], device=x.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(flow.shape[3], device=x.device, dtype=flow.dtype)
    across = (2 * (columns + flow[:, 0]) + 1) / x.shape[3] - 1
    down = (2 * (rows + flow[:, 1]) + 1) / x.shape[2] - 1
    grid = torch.stack((across, down), -1)
    return F.grid_sample(x.float(), grid, interpolation, align_corners=False).to(x.dtype)


def _forward(x: Tensor, flow: Tensor, interpolation: str) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: flow_warp_reference(x, flow, interpolation),
        "flow_warp": lambda: flow_warp(x, flow, interpolation=interpolation),
        "grid_sample": lambda: _grid_sample(x, flow, interpolation),
    }


def _backward(x: Tensor, flow: Tensor, interpolation: str) -> dict[str, Callable[[], object]]:
    """Time the gradients of features and flow alone: the forward pass is done once, before."""
    x, flow = x.detach().requires_grad_(), flow.detach().requires_grad_()
    outputs = {
        "reference": flow_warp_reference(x, flow, interpolation),
        "flow_warp": flow_warp(x, flow, interpolation=interpolation),
        "grid_sample": _grid_sample(x, flow, interpolation),
    }
    grad = torch.ones_like(outputs["reference"])

    def again(output: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, (x, flow), grad, retain_graph=True, allow_unused=True)

    return {name: again(output) for name, output in outputs.items()}
