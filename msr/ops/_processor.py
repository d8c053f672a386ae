"""What the processor at hand can do, by which ops choose between kernels and PyTorch's own."""

from collections.abc import Mapping
from typing import Any

import torch

_HAS: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()

#: Whether there are products of bfloat16; no where torch is too old to tell. The last name is that of Arm.
CPU_MULTIPLIES_BFLOAT16 = any(_HAS.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for it; where it has none, float32 is several times as quick.

    Example:
        >>> isinstance(multiplies_bfloat16(torch.device("cpu")), bool)
        True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return CPU_MULTIPLIES_BFLOAT16


def needs_widening(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device has no products of a dtype, so that PyTorch convolves slowly in it and rounds its sums.

    Example:
        >>> needs_widening(torch.float32, torch.device("cpu"))
        False
    """
    if device.type != "cpu":
        return False
    return dtype == torch.float16 or (dtype == torch.bfloat16 and not CPU_MULTIPLIES_BFLOAT16)
