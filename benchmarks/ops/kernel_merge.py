"""kernel_merge of eight frames to twice their size, against its reference."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Case
from msr.ops import kernel_merge, kernel_merge_reference


def cases(device: torch.device) -> list[Case]:
    """Return RGB frames and a mosaic, 180 x 320, with motion of some pixels and kernels that lie in all directions."""
    return [Case("8 frames, RGB, x2", _calls(3, None, device)), Case("8 frames, mosaic, x2", _calls(1, "rggb", device))]


def _calls(channels: int, mosaic: str | None, device: torch.device) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    height, width, count = 180, 320, 8

    def rand(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator)

    frames = rand(1, count, channels, height, width).to(device)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    motion = 8 * rand(1, count, 2, 1, 1) - 4 + 0.1 * rand(1, count, 2, height, width)
    positions = (torch.stack([x, y]) + motion).to(device)
    xx, yy = 0.1 + rand(1, count, 1, height, width), 0.1 + rand(1, count, 1, height, width)
    xy = 0.9 * (2 * rand(1, count, 1, height, width) - 1) * (xx * yy).sqrt()
    covariance = torch.cat([xx, xy, yy], dim=2).to(device)
    arguments = frames, positions, covariance, rand(1, count, 1, height, width).to(device), 2.0
    return {
        "reference": lambda: kernel_merge_reference(*arguments, mosaic=mosaic),
        "kernel_merge": lambda: kernel_merge(*arguments, mosaic=mosaic),
    }
