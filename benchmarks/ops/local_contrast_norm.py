"""local_contrast_norm against its reference: the features that flow is found by."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.common import Case
from msr.ops import local_contrast_norm, local_contrast_norm_reference


def cases(device: torch.device) -> list[Case]:
    """Return the comparisons for 3 frames of 24 channels at 180 x 320; the first candidate is the reference."""
    x = torch.randn(3, 24, 180, 320, generator=torch.Generator().manual_seed(0)).to(device)
    found = []
    for layout, name in ((torch.channels_last, "channels_last"), (torch.contiguous_format, "NCHW")):
        for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, ", bfloat16")):
            found.append(Case(f"{name}{suffix}", _forward(x.to(dtype).contiguous(memory_format=layout))))
    return found


def _forward(x: Tensor) -> dict[str, Callable[[], object]]:
    return {
        "reference": lambda: local_contrast_norm_reference(x, 2),
        "local_contrast_norm": lambda: local_contrast_norm(x, 2),
    }
