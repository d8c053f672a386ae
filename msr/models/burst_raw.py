"""Burst super-resolution of RAW frames, upon what merging without training makes of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from msr.models.burst import BurstModel
from msr.nn.blocks import conv3x3
from msr.ops.resize import resize


class RawBurstModel(BurstModel):
    """`BurstModel` that improves the picture which merging without training gives, seeing the RAW frames again.

    Frames have seven channels (``msr.pipelines.raw_input.encode_mosaics`` makes them): white-balanced camera RGB under
    the curve of sRGB, the three masks of the mosaic, and the noise. The merged picture and the result are encoded as
    the first three are. It is trained for the motion and the merged picture of ``msr.pipelines.handheld``; without
    them it estimates the one and starts from the enlarged base frame.

    Source: that a network does better when it knows the mosaic and the noise level: Gharbi et al., "Deep Joint
    Demosaicking and Denoising", 2016; Brooks et al. 2019.

    Args:
        arguments: those of `BurstModel`.

    Raises:
        ValueError: as `BurstModel`.

    Example:
        >>> import torch
        >>> from msr.models import RawBurstModel
        >>> RawBurstModel(channels=8, blocks=1)(torch.rand(1, 3, 7, 16, 24)).shape
        torch.Size([1, 3, 64, 96])
    """

    kind = "burst-raw"
    # The motion found by matching tiles is far more exact than the flow network's.
    tolerance = 0.15

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.measured = conv3x3(4, self.head.out_channels, gain=0.0)
        self.merged = conv3x3(3 * self.scale**2, self.head.out_channels, gain=0.0)

    def _encode(self, frame: Tensor) -> Tensor:
        return super()._encode(frame[:, :3]) + self.measured(frame[:, 3:].to(self.measured.weight.dtype))

    def forward(self, frames: Tensor, flows: Tensor | None = None, merged: Tensor | None = None) -> Tensor:
        """Merge a burst.

        Args:
            frames: ``(B, N, 7, H, W)``, N >= 1, the base frame first.
            flows: motion from the base frame to the others, ``(B, N - 1, 2, H, W)``; None to have it estimated.
            merged: what merging without training gives, ``(B, 3, sH, sW)``; None: the base frame enlarged.

        Returns:
            ``(B, 3, sH, sW)`` of the dtype of ``frames`` whatever the weights' is.
        """
        if merged is None:
            merged = resize(frames[:, 0, :3], scale=self.scale, phase=self.phase)
        parts = F.pixel_unshuffle((merged - 0.5).to(self.merged.weight.dtype), self.scale)
        fused = self._fuse(frames, flows) + self.merged(parts)
        return merged + self.upsampler(self.trunk(fused)).to(merged.dtype)
