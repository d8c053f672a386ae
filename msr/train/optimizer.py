"""What moves the weights: Adam, and Muon for the convolutions between the first and the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adam", "muon"]

# The quintic of Jordan (2024): after five rounds every singular value lies between about 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix (M, N) with the singular vectors of the one given and singular values near 1 (none where it was 0).

    Example:
        >>> import torch
        >>> x = orthogonalized(torch.tensor([[3.0, 0.0], [0.0, 0.1]]))
        >>> bool((torch.linalg.svdvals(x) - 1).abs().max() < 0.4)
        True
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-12)
    a, b, c = _QUINTIC
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, each step as long in all directions: the nearest (semi-)orthogonal matrix.

    A weight ``(O, I, kh, kw)`` counts as a matrix ``(O, I kh kw)``. Steps are as long as those of Adam usually are, so
    that a learning rate serves for both.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the length of a step, Liu et
    al., "Muon is scalable for LLM training", 2025.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                state["mean"].lerp_(p.grad, 1.0 - group["momentum"])
                ahead = p.grad.lerp(state["mean"], group["momentum"])
                change = orthogonalized(ahead.flatten(1))
                p.sub_(change.reshape(p.shape), alpha=group["lr"] * 0.2 * math.sqrt(max(change.shape)))


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a convolution from features to features."""
    return parameter.ndim == 4 and min(parameter.shape[:2]) >= 8 and not name.startswith("upsampler.")


def make_optimizers(
    named: list[tuple[str, nn.Parameter]], taken: set[str], name: OptimizerName, taken_rate: float, muon_rate: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a run, whose groups have a learning rate relative to the run's, ``rate``.

    Args:
        named: what is trained.
        taken: names of what was trained before.
        name: ``"adam"``, or ``"muon"`` for Muon where a weight leads from features to features and Adam elsewhere.
        taken_rate: the rate of what was trained before.
        muon_rate: the rate of what Muon moves.
    """

    def groups(hidden: bool, rate: float) -> list[dict[str, Any]]:
        chosen = [(k, p) for k, p in named if (name == "muon" and _is_hidden(k, p)) == hidden]
        parts = [([p for k, p in chosen if (k in taken) == old], taken_rate if old else 1.0) for old in (False, True)]
        return [{"params": params, "rate": rate * relative} for params, relative in parts if params]

    optimizers: list[torch.optim.Optimizer] = []
    if of_adam := groups(False, 1.0):
        optimizers.append(torch.optim.Adam(of_adam, betas=(0.9, 0.99)))
    if of_muon := groups(True, muon_rate):
        optimizers.append(Muon(of_muon))
    return optimizers
