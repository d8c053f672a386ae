"""What the future has to say: a recurrence that runs from the last frame back."""

from __future__ import annotations

from torch import Tensor, nn

from msr.nn.alignment import Doubt, FlowGuidedAlignment, flow_phase
from msr.nn.blocks import Trunk, conv3x3, join, leaky, weigh


class BackwardPass(nn.Module):
    """One step back in time: features of a frame, and what the frames after it left, to what it leaves.

    Source: the backward branch of BasicVSR (Chan et al. 2021), aligned as in BasicVSR++ (Chan et al. 2022). Before
    training, features come back as they are.

    Args:
        channels: C, of all features; a multiple of ``offset_groups``.
        blocks: residual blocks.
        offset_groups: of the deformable alignment.
        width: of what follows motion; half of it, of what doubts it.

    Example:
        >>> import torch
        >>> from msr.nn.backward_pass import BackwardPass
        >>> x = torch.rand(1, 8, 5, 6)
        >>> torch.equal(BackwardPass(8, blocks=1)(x), x)
        True
    """

    def __init__(self, channels: int, blocks: int, offset_groups: int = 4, width: int = 32) -> None:
        super().__init__()
        self.align = FlowGuidedAlignment(channels, offset_groups, width=width)
        self.doubt = Doubt(channels, width=width // 2)
        self.fuse1 = conv3x3(2 * channels + 4 + 1, channels)
        self.fuse2 = conv3x3(channels, channels, gain=0.0)
        self.trunk = Trunk(channels, blocks, attention=False)
        nn.init.zeros_(self.trunk.last.weight)

    def forward(self, features: Tensor, after: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """``(B, C, H, W)`` from the features of a frame.

        Args:
            features: ``(B, C, H, W)``.
            after: what the frame after it left, ``(B, C, H, W)``; the flow to that frame, ``(B, 2, H, W)`` in pixels;
                how much that frame, warped, differs from this one, ``(B, 3, H, W)``. None for the last frame.
        """
        if after is None:
            return self.trunk(features)
        left, flow, difference = after
        aligned = self.align(left, features, flow)
        trust = self.doubt(aligned, features, difference)
        parts = [features, weigh(aligned, trust), flow_phase(flow).to(features.dtype), trust]
        return self.trunk(features + self.fuse2(leaky(self.fuse1(join(parts)))))
