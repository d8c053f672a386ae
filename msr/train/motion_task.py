"""What training on clips and on bursts shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msr.degradation import to_tensor
from msr.metrics import quantize
from msr.train.config import Config
from msr.train.data import PhotoSet
from msr.train.losses import flow_error, warp_error
from msr.train.simulation import MotionRange, simulate, true_flow

# Low-resolution pixels around a patch whose degradation would see the crop's border; they are cut off.
MARGIN = 2


def side_by_side(*pictures: Tensor) -> np.ndarray:
    """Pictures (3, H, W) next to each other as (H, n W, 3) uint8."""
    row = torch.cat([quantize(p.float().cpu()) for p in pictures], dim=2)
    return row.mul(255).byte().permute(1, 2, 0).numpy()


class MotionTask:
    """What clips and bursts share: simulated frames, their flow, its loss."""

    measure = "PSNR-Y"
    period = 1

    def __init__(self, config: Config, scale: int, motion: MotionRange) -> None:
        self.scale = scale
        self.settings = config.train
        self.motion = motion
        self.degradation = config.degradation
        self.size = (config.train.patch + 2 * MARGIN) * scale
        self._flow_turns = 0.0
        data = config.data
        canvas = int(self.size * 1.5)
        self._photos = PhotoSet(Path(data.photos), canvas, data.photo_shrink, data.photo_drawn) if data.photos else None

    def item(self, frames: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Degrade the frames of one clip together: low and high resolution, margins cut off."""
        hr = to_tensor(frames)
        lr = self.degradation.apply(hr, self.scale, rng)
        m, s = MARGIN, self.scale
        return lr[..., m:-m, m:-m], hr[..., m * s : -m * s, m * s : -m * s]

    def simulated(self, pairs: list[tuple[int, int]], rng: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor]:
        """Frames, the true flow (P, 2, h, w) of pairs (target, source), and where it holds (P, 1, h, w)."""
        settings, s, m = self.settings, self.scale, MARGIN
        assert self._photos is not None
        frames, maps, shares = simulate(self._photos, self.size, settings.frames, self.motion, rng)
        centered = self.degradation.phase == "centered"
        side = self.size // s
        truth = torch.stack([true_flow(maps, t, r, side, s, centered) for t, r in pairs])
        share = torch.from_numpy(np.stack([shares[t] for t, _ in pairs])).permute(0, 3, 1, 2)[..., ::s, ::s]
        return frames, truth[..., m:-m, m:-m], (share[..., m:-m, m:-m] > 0.99).float()

    def begin(self, step: int) -> None:
        """Be where a run is after so many steps."""
        self._flow_turns = 0.0
        for _ in range(step):
            self.learn_flow()

    def learn_flow(self) -> bool:
        """Whether the flow network learns in this step: evenly spread over the steps."""
        self._flow_turns += self.settings.flow_share
        if self._flow_turns < 1.0:
            return False
        self._flow_turns -= 1.0
        return True

    def flow_loss(self, flow: Tensor, lr: Tensor, others: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        """Known motion where simulated (``valid``), agreement of the warped frames everywhere: all (B P, .., h, w)."""
        truth, valid = batch["truth"].flatten(0, 1), batch["valid"].flatten(0, 1)
        known = flow_error(flow, truth, valid)
        return known + 2.0 * warp_error(flow, lr, others), float(known.detach())
