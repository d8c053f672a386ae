"""Results as the mean over turns and flips of the picture: a little better, for eight times the work."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _turned(x: Tensor, quarters: int, flipped: bool) -> Tensor:
    """``x`` turned by so many quarters, then flipped; laid out as ``x`` is."""
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    x = torch.rot90(x, quarters, (-2, -1))
    return (x.flip(-1) if flipped else x).contiguous(memory_format=layout)


class SelfEnsemble(nn.Module):
    """An image model whose results are means over turns and flips (see `self_ensemble`)."""

    kind = "image"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.scale, self.phase = model.scale, "centered"
        if hasattr(model, "halo"):
            self.halo = model.halo

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the eight results for a picture ``(B, 3, H, W)``."""
        total = self.model(x)
        for quarters, flipped in [(1, False), (2, False), (3, False), *((n, True) for n in range(4))]:
            found = self.model(_turned(x, quarters, flipped))
            total = total + torch.rot90(found.flip(-1) if flipped else found, -quarters, (-2, -1))
        return total / 8


def self_ensemble(model: nn.Module) -> nn.Module:
    """The model, its result the mean of those for the picture turned and flipped in all eight ways, put back.

    What the network finds by chance in one position averages out: some 0.1 dB, for eight times the work.

    Source: "enhanced prediction" of Timofte, Rothe and Van Gool, "Seven ways to improve example-based single image
    super resolution", 2016, known as geometric self-ensemble since EDSR (Lim et al. 2017).

    Args:
        model: of kind ``"image"``, its phase ``"centered"``: turned, the other is no longer at its phase.

    Returns:
        A module of the same kind, scale, phase and halo.

    Raises:
        ValueError: a model of another kind or phase.

    Example:
        >>> import torch
        >>> from msr.models import ImageModel, self_ensemble
        >>> self_ensemble(ImageModel(scale=2, channels=8, blocks=1))(torch.rand(1, 3, 6, 9)).shape
        torch.Size([1, 3, 12, 18])
    """
    phase = getattr(model, "phase", "centered")
    if model.kind != "image" or phase != "centered":
        raise ValueError(
            f"only image models of the phase 'centered' can be run on turned pictures, got one of kind {model.kind} "
            f"and the phase {phase!r}"
        )
    return SelfEnsemble(model)
