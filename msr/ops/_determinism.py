"""When the backward kernels for CUDA, which add to memory in any order, give way to the references."""

import torch
from torch import Tensor


def must_repeat(x: Tensor) -> bool:
    """Return whether sums over `x` must come out the same in every run and the kernels for its device do not see to it.

    PyTorch's own ops, of which the references are made, obey `torch.use_deterministic_algorithms` by themselves. On the
    CPU the kernels add in a fixed order.
    """
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()
