"""Training on bursts: of pictures, and of RAW frames."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.burst_simulation import Shake, SimulatedBurst, Trouble, simulate_jpeg_burst, simulate_raw_burst
from msr.camera import PATTERNS, develop, random_sensor
from msr.degradation import BURST_ROTATION, BURST_SHIFT, burst_from_photo, to_tensor
from msr.metrics import luma, psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.burst_protocol import CROP, handheld, learned, protocol_burst, raw_figures
from msr.pipelines.evaluate import read_rgb
from msr.pipelines.raw_input import decode_camera_rgb, encode_camera_rgb, encode_mosaics
from msr.train.config import Config
from msr.train.data import PhotoSet, augment, check_originals, list_photos
from msr.train.losses import LossName, picture_loss
from msr.train.motion_task import MotionTask, side_by_side
from msr.train.simulation import MotionRange

# Low-resolution pixels around a RAW patch into which frames shift; even, so that the mosaic's pattern stays.
_RAW_MARGIN = 8
# Patches of each simulated burst.
_PATCHES = 4
# Side of the tiles whose motion is simulated, and its largest standard deviation, pixels.
_TILE, _FLOW_ERROR = 8, 0.15


class BurstTask(MotionTask):
    """Bursts simulated from photos: a random number of frames of the same scene, now and then with a moving layer."""

    def __init__(self, config: Config, scale: int) -> None:
        motion = MotionRange(BURST_SHIFT * scale, BURST_ROTATION, zoom=0.0, layers=False, smooth=False)
        super().__init__(config, scale, motion)
        self.layers = MotionRange(BURST_SHIFT * scale, BURST_ROTATION, zoom=0.0, layers=True, smooth=False)
        self.validation = list_photos(Path(config.data.validation))[:8] if config.data.validation else []
        check_originals(self.validation, self.least(scale))

    @staticmethod
    def least(scale: int) -> int:
        """Pixels a side that an original for validation needs: a whole pixel pair within the crop of ``2 scale``."""
        return 6 * scale

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        settings = self.settings
        pairs = [(0, i) for i in range(1, settings.frames)]
        plain = self.motion
        items, truths, valids = [], [], []
        for _ in range(settings.batch):
            self.motion = self.layers if rng.random() < 0.15 else plain
            frames, truth, valid = self.simulated(pairs, rng)
            items.append(self.item(frames, rng))
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
        learn_flow = self.learn_flow()
        with torch.set_grad_enabled(learn_flow):
            flows = model.flows(lr)  # type: ignore[operator]
        total, logs = lr.new_zeros(()), {}
        if settings.flow_weight and learn_flow:
            others = lr[:, 1:, :3]
            base = lr[:, :1, :3].expand_as(others)
            flow_loss, known = self.flow_loss(flows.flatten(0, 1), base.flatten(0, 1), others.flatten(0, 1), batch)
            total, logs["flow_error"] = total + settings.flow_weight * flow_loss, known
        if not settings.flow_only:
            picture = picture_loss(model(lr, flows), batch["hr"], cast(LossName, settings.loss))
            total, logs["picture"] = total + picture, float(picture.detach())
        return total, logs

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        for index, path in enumerate(self.validation):
            lr, hr = self._held_out(read_rgb(path), np.random.default_rng(index))
            sr = quantize(model(lr[None].to(device)).float().cpu())
            figures.append(psnr(luma(sr), luma(hr[None]), crop=2 * self.scale))
            if shown is None:
                shown = side_by_side(resize(lr[:1], scale=self.scale)[0], sr[0], hr)
        assert shown is not None
        return float(np.mean(figures)), shown

    def _held_out(self, photo: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Frames and original: those of the protocol, or for "real" JPEG files as a phone keeps them."""
        if self.degradation.name != "real":
            return burst_from_photo(photo, self.settings.frames, self.scale, rng)
        burst = simulate_jpeg_burst(photo, self.settings.frames, self.scale, rng)
        return to_tensor(burst.frames), burst.truth


class RawBurstTask(BurstTask):
    """RAW bursts simulated from photos: any camera, noise and pattern; now and then something moves or is wrong.

    The network is given the motion about as `find_motion` would find it, and what merging without training gives.
    """

    measure = "PSNR in sRGB"
    # Batches that one round of simulated bursts lasts for.
    period = _PATCHES

    def __init__(self, config: Config, scale: int) -> None:
        super().__init__(config, scale)
        self.side = (config.train.patch * 2 + 2 * _RAW_MARGIN) * scale
        self.crops = PhotoSet(Path(config.data.photos), self.side, config.data.photo_shrink, config.data.photo_drawn)
        self._patches: list[dict[str, Tensor]] = []

    @staticmethod
    def least(scale: int) -> int:
        """Pixels a side that an original for validation needs: a whole tile of the mosaic within the crop."""
        return 2 * CROP + 2 * scale

    def sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = self.settings.batch
        if len(self._patches) < batch:
            # Merging needs more of the scene than a patch: each burst gives several. All have one number of frames.
            count = int(rng.integers(2, self.settings.frames + 1))
            pool = [patch for _ in range(batch) for patch in self._burst(count, rng)]
            self._patches = [pool[i] for i in rng.permutation(len(pool))]
        items, self._patches = self._patches[:batch], self._patches[batch:]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        if self.settings.flow_only:
            return super().loss(model, batch)
        picture = model(batch["lr"], batch["flows"], batch["merged"])
        return picture_loss(picture, batch["hr"], cast(LossName, self.settings.loss)), {}

    def _burst(self, count: int, rng: np.random.Generator) -> list[dict[str, Tensor]]:
        """Patches of one burst: frames, original, true flow and where it holds, flow as found, merged picture."""
        crop = np.ascontiguousarray(augment(self.crops.crop(self.side, rng), rng))
        trouble = Trouble()
        if rng.random() < 0.2:
            other = np.ascontiguousarray(augment(self.crops.crop(self.side, rng), rng))
            foreign = int(rng.integers(1, count)) if rng.random() < 0.3 else None
            trouble = Trouble(other, moving=foreign is None, foreign=foreign)
        shake = Shake(BURST_SHIFT, BURST_ROTATION, float(rng.choice([0.0, 0.0, 1.0])))
        sensor = random_sensor(rng, bits=int(rng.integers(10, 15)), pattern=str(rng.choice(PATTERNS)))
        burst = simulate_raw_burst(crop, count, self.scale, rng, shake=shake, sensor=sensor, trouble=trouble)
        low = {
            "lr": _encoded(burst),
            "truth": burst.flows[1:],
            "valid": burst.visible[1:].float(),
            "flows": _as_found(burst.flows[1:], rng),
        }
        gains, s, side = sensor.white_balance, self.scale, self.settings.patch
        high = {"hr": encode_camera_rgb(burst.truth, gains)}
        high["merged"] = encode_camera_rgb(handheld(burst, s), gains)
        patches = []
        for _ in range(_PATCHES):
            # Even places, so that the mosaic's pattern begins with the same colour.
            y, x = (_RAW_MARGIN + 2 * int(rng.integers(0, side // 2 + 1)) for _ in range(2))
            patch = {k: v[..., y : y + side, x : x + side].clone() for k, v in low.items()}
            patch |= {k: v[..., s * y : s * (y + side), s * x : s * (x + side)].clone() for k, v in high.items()}
            patches.append(patch)
        return patches

    def validate(self, model: nn.Module, device: torch.device) -> tuple[float, np.ndarray]:
        figures, shown = [], None
        for index, path in enumerate(self.validation[:4]):
            burst = protocol_burst(read_rgb(path), index, self.settings.frames, self.scale)
            assert burst.sensor is not None
            gains, matrix = burst.sensor.white_balance, burst.sensor.to_srgb
            result = learned(burst, model)
            figures.append(raw_figures(result, burst)[0])
            if shown is None:
                base = decode_camera_rgb(resize(_encoded(burst)[:1, :3], scale=self.scale)[0], gains)
                shown = side_by_side(*(develop(x, gains, matrix) for x in (base, result, burst.truth)))
        assert shown is not None
        return float(np.mean(figures)), shown


def _as_found(flows: Tensor, rng: np.random.Generator) -> Tensor:
    """True flows (N, 2, H, W) as matching tiles finds them: one motion for a tile, a little off."""
    tiles = F.avg_pool2d(flows, _TILE)
    error = torch.from_numpy(rng.standard_normal(tiles.shape, dtype=np.float32)) * float(rng.uniform(0.0, _FLOW_ERROR))
    return F.interpolate(tiles + error, size=flows.shape[2:], mode="bilinear", align_corners=False)


def _encoded(burst: SimulatedBurst) -> Tensor:
    assert burst.sensor is not None
    sensor = burst.sensor
    return encode_mosaics(torch.from_numpy(burst.mosaics), sensor.pattern, sensor.white_balance, sensor.noise)
