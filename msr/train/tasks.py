"""What each kind of model is trained and validated on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from msr.metrics import luma, psnr, quantize
from msr.nn.resize import resize
from msr.train.config import Config
from msr.train.data import PhotoSet, augment, list_photos, load_rgb, to_tensor
from msr.train.degradation import PHASES, DegradationName, degrade
from msr.train.losses import LossName, picture_loss

# Low-resolution pixels around a patch whose degradation would see the crop's border; they are cut off.
_MARGIN = 2


class Task(Protocol):
    """Batches, loss and validation of one kind of model."""

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]: ...

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]: ...


def _side_by_side(*pictures: Tensor) -> np.ndarray:
    """Pictures (3, H, W) next to each other as (H, n W, 3) uint8."""
    row = torch.cat([quantize(p.float().cpu()) for p in pictures], dim=2)
    return row.mul(255).byte().permute(1, 2, 0).numpy()


def crop_to_multiple(x: Tensor, scale: int) -> Tensor:
    """Cut rows and columns at the end so that ``scale`` divides the size."""
    return x[..., : x.shape[-2] // scale * scale, : x.shape[-1] // scale * scale]


class ImageTask:
    """Crops of photos, degraded."""

    def __init__(self, config: Config, scale: int) -> None:
        self.scale = scale
        self.settings = config.train
        self.degradation = cast(DegradationName, config.degradation.name)
        self.noise = config.degradation.noise
        self.size = (config.train.patch + 2 * _MARGIN) * scale
        self.photos = PhotoSet(Path(config.data.photos), self.size)
        self.validation = list_photos(Path(config.data.validation)) if config.data.validation else []

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        crops = [augment(self.photos.crop(self.size, rng), rng) for _ in range(self.settings.batch)]
        hr = to_tensor(np.stack(crops))
        lr = degrade(hr, self.degradation, self.scale, rng, self.noise)
        m, s = _MARGIN, self.scale
        return {"lr": lr[..., m:-m, m:-m].contiguous(), "hr": hr[..., m * s : -m * s, m * s : -m * s].contiguous()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        lr = batch["lr"].contiguous(memory_format=torch.channels_last)
        return picture_loss(model(lr), batch["hr"], cast(LossName, self.settings.loss)), {}

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        rng = np.random.default_rng(0)
        for path in self.validation[:10]:
            hr = crop_to_multiple(to_tensor(load_rgb(path))[None], self.scale)
            lr = quantize(degrade(hr, self.degradation, self.scale, rng, self.noise))
            sr = quantize(model(lr.to(device)).float().cpu())
            figures.append(psnr(luma(sr), luma(hr), crop=self.scale))
            if shown is None:
                shown = _side_by_side(resize(lr, scale=self.scale, phase=PHASES[self.degradation])[0], sr[0], hr[0])
        assert shown is not None
        return float(np.mean(figures)), shown


def make_task(config: Config, scale: int) -> Task:
    """The task for the model kind of a configuration."""
    return ImageTask(config, scale)
