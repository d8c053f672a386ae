"""Small networks that obey the interface of the models, for exact statements about the pipelines."""

import torch
from torch import Tensor, nn

from msr.models import build_model
from msr.ops import resize


class Convolutions(nn.Module):
    """An image network without pooling: what it gives at a pixel depends on ``halo`` pixels around it."""

    kind = "image"
    phase = "centered"

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.halo = 5  # two convolutions, and the taps of the cubic enlargement
        self.first, self.second = nn.Conv2d(3, 6, 5, padding=2), nn.Conv2d(6, 3 * scale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        detail = nn.functional.pixel_shuffle(self.second(torch.tanh(self.first(x - 0.5))), self.scale)
        return resize(x, scale=self.scale) + 0.2 * torch.tanh(detail)


class Running(nn.Module):
    """A video network: the mean of the frames so far and of the next, enlarged; ``forward`` is written on its own."""

    kind = "video"
    phase = "centered"
    lookahead = 1
    scale = 2
    halo = 5

    def step(self, frame: Tensor, future: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        past = frame if state is None else 0.5 * (state + frame)
        return resize((2 * past + future[:, 0]) / 3, scale=2), past

    def forward(self, clip: Tensor) -> Tensor:
        out, past = [], clip[:, 0]
        for t in range(clip.shape[1]):
            past = 0.5 * (past + clip[:, t])
            out.append(resize((2 * past + clip[:, min(t + 1, clip.shape[1] - 1)]) / 3, scale=2))
        return torch.stack(out, 1)


class Weighted(nn.Module):
    """A burst network: half the base frame and half the mean of all, enlarged."""

    kind = "burst"
    phase = "centered"
    scale = 2
    halo = 5

    def forward(self, frames: Tensor) -> Tensor:
        return resize(0.5 * (frames[:, 0] + frames.mean(1)), scale=2)


def stirred(kind: str, **arguments: int | str) -> nn.Module:
    """An architecture of msr with weights far from its quiet start, so that every part of it matters."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # whatever was drawn before: tests compare to fractions of a rounding step
        model = build_model(kind, {"channels": 8, "blocks": 2, **arguments})
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.requires_grad_(False).eval()
