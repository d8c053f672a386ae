"""flow_guided_deform_conv2d against the same alignment in separate passes over msr's own deform_conv2d."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Case
from msr.ops import deform_conv2d, flow_guided_deform_conv2d


def cases(device: torch.device) -> list[Case]:
    """Return the second-order alignment of 128 to 64 channels in 16 groups, at 180 x 320 and 360 x 640."""
    found = []
    for height, width in ((180, 320), (360, 640)):
        given = _arguments((1, 128, height, width), 16, device)
        for layout, name in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "channels_last")):
            arranged = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in given]
            found.append(Case(f"128 to 64, {height} x {width}, {name}", _calls(*arranged)))
    return found


def _arguments(shape: tuple[int, int, int, int], groups: int, device: torch.device) -> list[Tensor]:
    """Return x, head, flows (of some pixels), weight and bias of a 3x3 convolution to half the channels."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, *size = shape
    sizes = (shape, (batch, 27 * groups, *size), (batch, 4, *size), (channels // 2, channels, 3, 3), (channels // 2,))
    x, head, flows, weight, bias = (torch.randn(s, generator=generator).to(device) for s in sizes)
    return [x, head, 3 * flows, weight / (9 * channels) ** 0.5, bias]


def _calls(x: Tensor, head: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], object]]:
    @torch.no_grad()
    def separate() -> Tensor:
        first, second, strength = head.chunk(3, dim=1)
        offset = 10.0 * torch.tanh(torch.cat([first, second], dim=1))
        moved = []
        for residue, flow in zip(offset.chunk(2, dim=1), flows.chunk(2, dim=1), strict=True):
            moved.append(residue + flow.flip(1).repeat(1, residue.shape[1] // 2, 1, 1))
        return deform_conv2d(x, torch.cat(moved, dim=1), weight, bias, padding=1, mask=torch.sigmoid(strength))

    def fused() -> Tensor:
        return flow_guided_deform_conv2d(x, head, flows, weight, bias, max_residue=10.0)

    return {"separate passes": separate, "flow_guided_deform_conv2d": torch.no_grad()(fused)}
