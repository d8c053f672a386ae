"""Several processes that train one model, as torchrun starts them: each has its own batches, gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; alone where torchrun did not start it."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes, as the environment says (``WORLD_SIZE`` and what else torchrun sets).

        Example:
            >>> Ranks.join().count
            1
        """
        cuda = torch.cuda.is_available()
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, 1, torch.device("cuda" if cuda else "cpu"))
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)  # else all processes first meet on GPU 0
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo")
        return cls(distributed.get_rank(), count, device)

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their mean over the processes; all must have gradients of the same tensors."""
        if self.count == 1:
            return
        # One message instead of hundreds. By hand, since losses call parts of a model beside its forward.
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def agree(self, value: float) -> float:
        """The value of the first process, for all: clocks differ, and all must stop at one step."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return float(told)

    def leave(self) -> None:
        """Part from the other processes."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
