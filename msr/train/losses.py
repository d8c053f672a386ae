"""Training losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from msr.ops.flow_warp import flow_warp

LossName = Literal["charbonnier", "mse"]


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of ``sqrt(d^2 + epsilon^2)``: an absolute difference, smooth at zero (Charbonnier et al. 1994)."""
    return torch.sqrt((prediction - target) ** 2 + epsilon**2).mean()


def picture_loss(prediction: Tensor, target: Tensor, name: LossName) -> Tensor:
    """The loss of that name: ``"charbonnier"`` or ``"mse"``."""
    if name == "charbonnier":
        return charbonnier(prediction, target)
    if name == "mse":
        return torch.mean((prediction - target) ** 2)
    raise ValueError(f"loss must be 'charbonnier' or 'mse', got {name!r}")


def taught_loss(prediction: Tensor, batch: dict[str, Tensor], name: LossName, weight: float) -> Tensor:
    """The loss to the originals ``hr``, mixed by ``weight`` with that to a teacher's results ``taught``, if there are.

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, with the pictures themselves
    for what the teacher knows.
    """
    loss = picture_loss(prediction, batch["hr"], name)
    if "taught" in batch:
        loss = torch.lerp(loss, picture_loss(prediction, batch["taught"], name), weight)
    return loss


def flow_error(flow: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean end-point error in pixels over the valid pixels: ``(B, 2, H, W)`` twice and ``(B, 1, H, W)`` of 0 and 1."""
    distance = torch.sqrt(((flow - truth) ** 2).sum(dim=1, keepdim=True) + 1e-6)
    return (distance * valid).sum() / valid.sum().clamp(min=1.0)


def warp_error(flow: Tensor, target: Tensor, source: Tensor) -> Tensor:
    """How badly the source frame, warped by the flow, looks like the target, a few outliers forgiven.

    ``flow (B, 2, H, W)``, frames ``(B, 3, H, W)``.
    """
    warped = flow_warp(source, flow, padding_mode="border")
    inside = flow_warp(torch.ones_like(source[:, :1]), flow)
    difference = (warped - target).abs().mean(dim=1, keepdim=True)
    return ((difference**2 + 1e-4) ** 0.4 * (inside > 0.99)).mean()
