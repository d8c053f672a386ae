"""When the definition of an op computes although there is a kernel; and what autocast asks for."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def by_reference(*tensors: Tensor | None) -> bool:
    """Whether derivatives are asked for that no kernel has: in forward mode, or by `torch.func.grad` and the like.

    PyTorch would take an op of its own registration for constant in forward mode, and say nothing.
    """
    if torch.compiler.is_compiling():
        return False
    given = [t for t in tensors if t is not None]
    if any(torch._C._functorch.is_gradtrackingtensor(t) for t in given):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in given)


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off on the device of `like`, where it can be on."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast asks for on the device of `like`, None where it is off or not to be had (meta)."""
    device = like.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
