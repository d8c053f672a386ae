"""What each kind of model is trained and validated on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from msr.degradation import to_tensor
from msr.errors import InputError
from msr.io.frames import image_files
from msr.metrics import luma, psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.evaluate import crop_to_multiple, read_rgb
from msr.pipelines.published import list_clips
from msr.train.bursts import BurstTask, RawBurstTask
from msr.train.config import Config
from msr.train.data import ClipSet, PhotoSet, augment, check_originals, list_photos
from msr.train.losses import LossName, taught_loss
from msr.train.motion_task import MARGIN, MotionTask, side_by_side
from msr.train.simulation import MotionRange

# Pixels that the figures of clips leave out at each border.
_CROP = 8


class Task(Protocol):
    """Batches, loss and validation of one kind of model.

    ``measure`` says what validation gives, in decibels; ``period`` is the number of batches that are simulated at once;
    ``begin`` puts a new task where a run is after so many steps.
    """

    measure: str
    period: int

    def begin(self, step: int) -> None: ...

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]: ...

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]: ...


class ImageTask:
    """Crops of photos, degraded."""

    measure = "PSNR-Y"
    period = 1

    def __init__(self, config: Config, scale: int) -> None:
        self.scale = scale
        self.settings = config.train
        self.degradation = config.degradation
        self.size = (config.train.patch + 2 * MARGIN) * scale
        self.photos = PhotoSet(Path(config.data.photos), self.size, config.data.photo_shrink, config.data.photo_drawn)
        self.validation = list_photos(Path(config.data.validation))[:10] if config.data.validation else []
        check_originals(self.validation, 3 * scale)  # one pixel of low resolution within the crop of as many

    def begin(self, step: int) -> None:
        """Nothing depends on the steps before."""

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        crops = [augment(self.photos.crop(self.size, rng), rng) for _ in range(self.settings.batch)]
        hr = to_tensor(np.stack(crops))
        # Each picture by itself: in "real" the frames of a clip share their blur, noise and compression.
        lr = torch.cat([self.degradation.apply(x[None], self.scale, rng) for x in hr])
        m, s = MARGIN, self.scale
        return {"lr": lr[..., m:-m, m:-m].contiguous(), "hr": hr[..., m * s : -m * s, m * s : -m * s].contiguous()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        lr, settings = batch["lr"].contiguous(memory_format=torch.channels_last), self.settings
        return taught_loss(model(lr), batch, cast(LossName, settings.loss), settings.teacher_weight), {}

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        rng = np.random.default_rng(0)
        for path in self.validation:
            hr = crop_to_multiple(to_tensor(read_rgb(path))[None], self.scale)
            lr = quantize(self.degradation.apply(hr, self.scale, rng))
            sr = quantize(model(lr.to(device)).float().cpu())
            figures.append(psnr(luma(sr), luma(hr), crop=self.scale))
            if shown is None:
                shown = side_by_side(resize(lr, scale=self.scale, phase=self.degradation.phase)[0], sr[0], hr[0])
        assert shown is not None
        return float(np.mean(figures)), shown


class ClipTask(MotionTask):
    """Crops of real clips, and clips simulated from photos with two moving layers."""

    def __init__(self, config: Config, scale: int) -> None:
        motion = MotionRange(shift=2.5 * scale, rotation=1.0, zoom=0.01, layers=True, smooth=True)
        super().__init__(config, scale, motion)
        data = config.data
        self.clips = ClipSet(Path(data.clips), config.train.frames, data.clip_shrink, self.size) if data.clips else None
        self.clip_share = (data.clip_share if data.photos else 1.0) if self.clips else 0.0
        clips = list_clips(Path(data.validation)) if data.validation else []
        self.validation = [image_files(folder)[:9] for folder in clips]
        for folder, paths in zip(clips, self.validation, strict=True):
            if len(check_originals(paths, 2 * _CROP + scale)) > 1:
                raise InputError(f"{folder}: its frames differ in size")

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        settings = self.settings
        count = settings.frames
        # Flows as VideoModel.flows orders them: of each frame to the one before, then to the one after.
        pairs = [(t, max(t - 1, 0)) for t in range(count)] + [(t, min(t + 1, count - 1)) for t in range(count)]
        items, truths, valids = [], [], []
        for _ in range(settings.batch):
            if self.clips is not None and rng.random() < self.clip_share:
                frames = augment(self.clips.crop(self.size, count, rng), rng)
                truth = torch.zeros(len(pairs), 2, settings.patch, settings.patch)
                valid = truth[:, :1]
            else:
                frames, truth, valid = self.simulated(pairs, rng)
            items.append(self.item(frames, rng))
            truths.append(truth)
            valids.append(valid)
        lr, hr = (torch.stack(x) for x in zip(*items, strict=True))
        return {"lr": lr, "hr": hr, "truth": torch.stack(truths), "valid": torch.stack(valids)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        lr, settings = batch["lr"], self.settings
        learn_flow = self.learn_flow()
        with torch.set_grad_enabled(learn_flow):
            past, ahead = model.flows(lr)  # type: ignore[operator]
        total, logs = lr.new_zeros(()), {}
        if settings.flow_weight and learn_flow:
            before = torch.cat([lr[:, :1], lr[:, :-1]], dim=1)
            after = torch.cat([lr[:, 1:], lr[:, -1:]], dim=1)
            flow = torch.cat([past, ahead], dim=1).flatten(0, 1)
            others = torch.cat([before, after], dim=1).flatten(0, 1)
            flow_loss, known = self.flow_loss(flow, torch.cat([lr, lr], dim=1).flatten(0, 1), others, batch)
            total, logs["flow_error"] = total + settings.flow_weight * flow_loss, known
        if not settings.flow_only:
            sr = model(lr, (past, ahead))
            picture = taught_loss(sr, batch, cast(LossName, settings.loss), settings.teacher_weight)
            total, logs["picture"] = total + picture, float(picture.detach())
        return total, logs

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        rng = np.random.default_rng(0)
        for paths in self.validation:
            hr = crop_to_multiple(torch.stack([to_tensor(read_rgb(path)) for path in paths]), self.scale)
            lr = quantize(self.degradation.apply(hr, self.scale, rng))
            sr = quantize(model(lr[None].to(device))[0].float().cpu())
            figures.append(float(np.mean([psnr(luma(a), luma(b), crop=_CROP) for a, b in zip(sr, hr, strict=True)])))
            if shown is None:
                shown = side_by_side(resize(lr, scale=self.scale, phase=self.degradation.phase)[-1], sr[-1], hr[-1])
        assert shown is not None
        return float(np.mean(figures)), shown


def make_task(config: Config, scale: int) -> Task:
    """The task for the model kind of a configuration."""
    if config.kind == "image":
        return ImageTask(config, scale)
    if config.kind == "video":
        return ClipTask(config, scale)
    return RawBurstTask(config, scale) if config.kind == "burst-raw" else BurstTask(config, scale)
