"""What each kind of model is trained and validated on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from msr.degradation import (
    BURST_ROTATION,
    BURST_SHIFT,
    PHASES,
    DegradationName,
    burst_from_photo,
    degrade,
    to_tensor,
)
from msr.errors import InputError
from msr.metrics import luma, psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.evaluate import crop_to_multiple, read_rgb
from msr.train.config import Config
from msr.train.data import ClipSet, PhotoSet, augment, list_clips, list_photos
from msr.train.losses import LossName, flow_error, picture_loss, warp_error
from msr.train.simulation import MotionRange, simulate, true_flow

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
            hr = crop_to_multiple(to_tensor(read_rgb(path))[None], self.scale)
            lr = quantize(degrade(hr, self.degradation, self.scale, rng, self.noise))
            sr = quantize(model(lr.to(device)).float().cpu())
            figures.append(psnr(luma(sr), luma(hr), crop=self.scale))
            if shown is None:
                shown = _side_by_side(resize(lr, scale=self.scale, phase=PHASES[self.degradation])[0], sr[0], hr[0])
        assert shown is not None
        return float(np.mean(figures)), shown


class _MotionTask:
    """What clips and bursts share: simulated frames, their flow, its loss."""

    def __init__(self, config: Config, scale: int, motion: MotionRange) -> None:
        self.scale = scale
        self.settings = config.train
        self.motion = motion
        self.degradation = cast(DegradationName, config.degradation.name)
        self.noise = config.degradation.noise
        self.size = (config.train.patch + 2 * _MARGIN) * scale
        self._flow_turns = 0.0
        self._photos = PhotoSet(Path(config.data.photos), int(self.size * 1.5)) if config.data.photos else None

    def _item(self, frames: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Degrade the frames of one clip together: low and high resolution, margins cut off."""
        hr = to_tensor(frames)
        lr = degrade(hr, self.degradation, self.scale, rng, self.noise)
        m, s = _MARGIN, self.scale
        return lr[..., m:-m, m:-m], hr[..., m * s : -m * s, m * s : -m * s]

    def _simulated(self, pairs: list[tuple[int, int]], rng: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor]:
        """Frames, the true flow (P, 2, h, w) of pairs (target, source), and where it holds (P, 1, h, w)."""
        settings, s, m = self.settings, self.scale, _MARGIN
        assert self._photos is not None
        frames, maps, shares = simulate(self._photos, self.size, settings.frames, self.motion, rng)
        centered = PHASES[self.degradation] == "centered"
        side = self.size // s
        truth = torch.stack([true_flow(maps, t, r, side, s, centered) for t, r in pairs])
        share = torch.from_numpy(np.stack([shares[t] for t, _ in pairs])).permute(0, 3, 1, 2)[..., ::s, ::s]
        return frames, truth[..., m:-m, m:-m], (share[..., m:-m, m:-m] > 0.99).float()

    def _learn_flow(self) -> bool:
        """Whether the flow network learns in this step: evenly spread over the steps."""
        self._flow_turns += self.settings.flow_share
        if self._flow_turns < 1.0:
            return False
        self._flow_turns -= 1.0
        return True

    def _flow_loss(self, flow: Tensor, lr: Tensor, others: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        """Known motion where simulated (``valid``), agreement of the warped frames everywhere: all (B P, .., h, w)."""
        truth, valid = batch["truth"].flatten(0, 1), batch["valid"].flatten(0, 1)
        known = flow_error(flow, truth, valid)
        return known + 2.0 * warp_error(flow, lr, others), float(known.detach())


class ClipTask(_MotionTask):
    """Crops of real clips, and clips simulated from photos with two moving layers."""

    def __init__(self, config: Config, scale: int) -> None:
        motion = MotionRange(shift=2.5 * scale, rotation=1.0, zoom=0.01, layers=True, smooth=True)
        super().__init__(config, scale, motion)
        data = config.data
        self.clips = ClipSet(Path(data.clips), config.train.frames, data.clip_shrink) if data.clips else None
        self.clip_share = (data.clip_share if data.photos else 1.0) if self.clips else 0.0
        self.validation = list_clips(Path(data.validation)) if data.validation else []

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
                frames, truth, valid = self._simulated(pairs, rng)
            items.append(self._item(frames, rng))
            truths.append(truth)
            valids.append(valid)
        lr, hr = (torch.stack(x) for x in zip(*items, strict=True))
        return {"lr": lr, "hr": hr, "truth": torch.stack(truths), "valid": torch.stack(valids)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        lr, settings = batch["lr"], self.settings
        learn_flow = self._learn_flow()
        with torch.set_grad_enabled(learn_flow):
            past, ahead = model.flows(lr)  # type: ignore[operator]
        total, logs = lr.new_zeros(()), {}
        if settings.flow_weight and learn_flow:
            before = torch.cat([lr[:, :1], lr[:, :-1]], dim=1)
            after = torch.cat([lr[:, 1:], lr[:, -1:]], dim=1)
            flow = torch.cat([past, ahead], dim=1).flatten(0, 1)
            others = torch.cat([before, after], dim=1).flatten(0, 1)
            flow_loss, known = self._flow_loss(flow, torch.cat([lr, lr], dim=1).flatten(0, 1), others, batch)
            total, logs["flow_error"] = total + settings.flow_weight * flow_loss, known
        if not settings.flow_only:
            sr = model(lr, (past, ahead))
            picture = picture_loss(sr, batch["hr"], cast(LossName, settings.loss))
            total, logs["picture"] = total + picture, float(picture.detach())
        return total, logs

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        rng = np.random.default_rng(0)
        for folder in self.validation:
            originals = [to_tensor(read_rgb(p)) for p in list_photos(folder)[:9]]
            if len({x.shape for x in originals}) > 1:
                raise InputError(f"{folder}: its frames differ in size")
            hr = crop_to_multiple(torch.stack(originals), self.scale)
            lr = quantize(degrade(hr, self.degradation, self.scale, rng, self.noise))
            sr = quantize(model(lr[None].to(device))[0].float().cpu())
            figures.append(float(np.mean([psnr(luma(a), luma(b), crop=8) for a, b in zip(sr, hr, strict=True)])))
            if shown is None:
                shown = _side_by_side(resize(lr, scale=self.scale, phase=PHASES[self.degradation])[-1], sr[-1], hr[-1])
        assert shown is not None
        return float(np.mean(figures)), shown


class BurstTask(_MotionTask):
    """Bursts simulated from photos: a random number of frames of the same scene, now and then with a moving layer."""

    def __init__(self, config: Config, scale: int) -> None:
        motion = MotionRange(BURST_SHIFT * scale, BURST_ROTATION, zoom=0.0, layers=False, smooth=False)
        super().__init__(config, scale, motion)
        self.layers = MotionRange(BURST_SHIFT * scale, BURST_ROTATION, zoom=0.0, layers=True, smooth=False)
        self.validation = list_photos(Path(config.data.validation)) if config.data.validation else []

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        settings = self.settings
        pairs = [(0, i) for i in range(1, settings.frames)]
        plain = self.motion
        items, truths, valids = [], [], []
        for _ in range(settings.batch):
            self.motion = self.layers if rng.random() < 0.15 else plain
            frames, truth, valid = self._simulated(pairs, rng)
            items.append(self._item(frames, rng))
            truths.append(truth)
            valids.append(valid)
        self.motion = plain
        # All items of a batch have one number of frames; small bursts are trained as well as large ones.
        count = int(rng.integers(2, settings.frames + 1)) if not settings.flow_only else settings.frames
        lr = torch.stack([x for x, _ in items])[:, :count]
        hr = torch.stack([x[0] for _, x in items])
        truth, valid = torch.stack(truths)[:, : count - 1], torch.stack(valids)[:, : count - 1]
        return {"lr": lr, "hr": hr, "truth": truth, "valid": valid}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        lr, settings = batch["lr"], self.settings
        learn_flow = self._learn_flow()
        with torch.set_grad_enabled(learn_flow):
            flows = model.flows(lr)  # type: ignore[operator]
        total, logs = lr.new_zeros(()), {}
        if settings.flow_weight and learn_flow:
            others = lr[:, 1:]
            base = lr[:, :1].expand_as(others)
            flow_loss, known = self._flow_loss(flows.flatten(0, 1), base.flatten(0, 1), others.flatten(0, 1), batch)
            total, logs["flow_error"] = total + settings.flow_weight * flow_loss, known
        if not settings.flow_only:
            picture = picture_loss(model(lr, flows), batch["hr"], cast(LossName, settings.loss))
            total, logs["picture"] = total + picture, float(picture.detach())
        return total, logs

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        for index, path in enumerate(self.validation[:8]):
            lr, hr = burst_from_photo(read_rgb(path), self.settings.frames, self.scale, np.random.default_rng(index))
            sr = quantize(model(lr[None].to(device)).float().cpu())
            figures.append(psnr(luma(sr), luma(hr[None]), crop=2 * self.scale))
            if shown is None:
                shown = _side_by_side(resize(lr[:1], scale=self.scale)[0], sr[0], hr)
        assert shown is not None
        return float(np.mean(figures)), shown


def make_task(config: Config, scale: int) -> Task:
    """The task for the model kind of a configuration."""
    if config.kind == "image":
        return ImageTask(config, scale)
    return ClipTask(config, scale) if config.kind == "video" else BurstTask(config, scale)
