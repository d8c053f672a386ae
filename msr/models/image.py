"""Single-image super-resolution: residual blocks with channel attention over a cubic enlargement."""

from __future__ import annotations

from torch import Tensor, nn

from msr.nn.blocks import Trunk, conv3x3
from msr.nn.upsampling import UpsamplerName, add_detail, make_upsampler
from msr.ops.resize import Phase, resize


class ImageModel(nn.Module):
    """One picture in, the same picture ``scale`` times as large out.

    Source: the residual blocks of EDSR (Lim et al. 2017) with the channel attention of RCAN (Zhang et al. 2018),
    predicting what a cubic enlargement lacks (VDSR, Kim et al. 2016).

    Args:
        scale: 2, 3 or 4.
        phase: where the output pixels lie: ``"centered"`` or ``"corner"`` (see `msr.ops.resize`).
        channels: width of the trunk.
        blocks: residual blocks in the trunk.
        upsampler: ``"subpixel"`` or ``"deconvolution"``.

    Raises:
        ValueError: a scale, phase or upsampler that there is not.

    Example:
        >>> import torch
        >>> from msr.models import ImageModel
        >>> ImageModel(scale=4)(torch.rand(1, 3, 16, 24)).shape
        torch.Size([1, 3, 64, 96])
    """

    kind = "image"

    def __init__(
        self,
        scale: int = 4,
        phase: Phase = "centered",
        channels: int = 48,
        blocks: int = 10,
        upsampler: UpsamplerName = "subpixel",
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        if phase not in ("centered", "corner"):
            raise ValueError(f"phase must be 'centered' or 'corner', got {phase!r}")
        self.scale = scale
        self.phase: Phase = phase
        # Each 3x3 convolution sees one pixel further; past this only the global pooling does.
        self.halo = 2 * blocks + 2 + (1 if upsampler == "subpixel" or scale == 4 else 2)
        self.head = conv3x3(3, channels)
        self.trunk = Trunk(channels, blocks)
        self.upsampler = make_upsampler(upsampler, channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` RGB in [0, 1] to ``(B, 3, sH, sW)``, of ``x``'s dtype whatever the weights' is."""
        base = resize(x, scale=self.scale, phase=self.phase)
        features = self.head((x - 0.5).to(self.head.weight.dtype))
        return add_detail(base, self.upsampler(self.trunk(features)))
