"""Burst super-resolution of RAW frames: demosaicked frames with a note of what the sensor really saw."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from msr.models.burst import BurstModel
from msr.nn.blocks import conv3x3


class RawBurstModel(BurstModel):
    """`BurstModel` over demosaicked RAW frames, which also sees which colour each pixel was measured in, and the noise.

    Frames have seven channels (``msr.pipelines.raw_input.encode_mosaics`` makes them): white-balanced camera RGB under
    the curve of sRGB, the three masks of the mosaic, and the noise. The picture is encoded as the first three are. The
    flows that it is trained for are those of ``msr.pipelines.raw_input.find_motion``; its own network is a stopgap.

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

    def _encode(self, frame: Tensor) -> Tensor:
        return super()._encode(frame[:, :3]) + self.measured(frame[:, 3:].to(self.measured.weight.dtype))
