"""Results at the other phase: a model trained for centred reduction serves where the first pixel is kept, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.ops.resize import Phase

_LOBES = 8


def move(x: Tensor, distance: float) -> Tensor:
    """Sample pictures ``distance`` pixels further right and down.

    Source: the windowed sinc of Duchon, "Lanczos filtering in one and two dimensions", 1979, here with eight lobes; a
    whole distance is exact. Pictures end in their last pixels repeated.

    Args:
        x: ``(B, C, H, W)``, any range, float32 or float64.
        distance: less than eight in size.

    Returns:
        ``(B, C, H, W)``; where the sampled places lie between pixels, sharp edges may leave the range a little.

    Raises:
        ValueError: a distance of eight pixels or more.

    Example:
        >>> import torch
        >>> from msr.models.phase import move
        >>> move(torch.tensor([[[[1.0, 2.0, 3.0]]]]), 1.0)
        tensor([[[[2., 3., 3.]]]])
    """
    if not abs(distance) < _LOBES:
        raise ValueError(f"distance must be less than {_LOBES} pixels, got {distance}")
    reach = 2 * _LOBES - 1
    t = torch.arange(-reach, reach + 1, dtype=torch.float64) - distance
    taps = torch.sinc(t) * torch.sinc(t / _LOBES) * (t.abs() < _LOBES)
    taps = (taps / taps.sum()).to(x)
    channels, kernel = x.shape[1], taps.expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=channels)
    down = F.pad(across, (0, 0, reach, reach), mode="replicate")
    return F.conv2d(down, kernel.transpose(2, 3), groups=channels)


class AtPhase(nn.Module):
    """An image or video model whose results are moved to the other phase (see `at_phase`)."""

    def __init__(self, model: nn.Module, phase: Phase) -> None:
        super().__init__()
        self.model, self.phase = model, phase
        self.kind, self.scale = str(model.kind), int(model.scale)  # type: ignore[arg-type]
        # The centred pixel j lies at (j + 0.5) / s - 0.5 of the low resolution, the corner's at j / s.
        self.distance = (self.scale - 1) / 2 * (1 if phase == "corner" else -1)
        more = -(-2 * _LOBES // self.scale)  # low-resolution pixels that the sampling reaches over
        for name in ("lookahead", "warm_up", "state_type"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        if hasattr(model, "halo"):
            self.halo = int(model.halo) + more  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """What the model gives for a picture ``(B, 3, H, W)`` or clip ``(B, T, 3, H, W)``, moved."""
        large = self.model(x)
        return move(large.reshape(-1, *large.shape[-3:]), self.distance).view_as(large)

    def step(self, frame: Tensor, future: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The step of a video model, its result moved."""
        large, state = self.model.step(frame, future, state)  # type: ignore[operator]
        return move(large, self.distance), state


def at_phase(model: nn.Module, phase: Phase) -> nn.Module:
    """The model if it is of that phase, else one that moves its results there, by ``(s - 1) / 2`` pixels.

    A network spends nothing on a shift that it was not trained for, so one of a robust training serves both
    reductions that papers measure: BI (centred) and BD (corner).

    Args:
        model: of kind ``"image"`` or ``"video"``.
        phase: ``"centered"`` or ``"corner"``, that of the reduction that is to be undone.

    Raises:
        ValueError: a model of another kind.

    Example:
        >>> from msr.models import VideoModel, at_phase
        >>> at_phase(VideoModel(channels=8, blocks=1), "corner").phase
        'corner'
    """
    if model.kind not in ("image", "video"):
        raise ValueError(f"only image and video models can be at another phase, got one of kind {model.kind}")
    return model if model.phase == phase else AtPhase(model, phase)
