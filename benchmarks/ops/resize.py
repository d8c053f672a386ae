"""resize against its reference: pictures of 3 channels enlarged and shrunk, and PyTorch's own bicubic beside them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import resize, resize_reference


def cases(device: torch.device) -> list[Case]:
    """Return the comparisons at 1 x 3 x 360 x 640 in both layouts; the first candidate is the reference."""
    x = torch.rand(1, 3, 360, 640, generator=torch.Generator().manual_seed(0)).to(device)
    found = []
    for layout, name in ((torch.channels_last, "channels_last"), (torch.contiguous_format, "NCHW")):
        for scale in (4.0, 2.0, 0.25):
            found.append(Case(f"x{scale:g}, {name}", _forward(x.contiguous(memory_format=layout), scale)))
    return found


def _forward(x: Tensor, scale: float) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: resize_reference(x, scale=scale),
        "resize": lambda: resize(x, scale=scale),
        # Of another cubic, a = -0.75 where nothing is shrunk, and with other borders.
        "interpolate": lambda: F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=scale < 1),
    }
