"""Burst super-resolution: several frames of one scene, in any order, to one picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msr.nn.alignment import Doubt, FlowGuidedAlignment, flow_phase
from msr.nn.blocks import ResidualBlock, Trunk, conv3x3, join, leaky
from msr.nn.flow import FlowNetwork, steady_flow
from msr.nn.upsampling import UpsamplerName, add_detail, make_upsampler
from msr.ops.flow_warp import flow_warp
from msr.ops.resize import Phase, resize


class BurstModel(nn.Module):
    """A base frame and any number of others to one picture ``scale`` times as large.

    Each frame's features are aligned to the base frame's, weighed per pixel and channel by a softmax over the frames
    (so that their order does not matter), summed and added to the base frame's; an image model's trunk follows.

    Source: the attention-weighted fusion of Deep Burst Super-Resolution (Bhat et al. 2021), over flow-guided
    deformable alignment.

    Args:
        scale: 2, 3 or 4.
        phase: ``"centered"`` or ``"corner"``.
        channels: width of all features; a multiple of ``offset_groups``.
        blocks: residual blocks of the trunk.
        offset_groups: of the deformable alignment.
        upsampler: ``"subpixel"`` or ``"deconvolution"``.

    Raises:
        ValueError: a scale, phase, width or upsampler that there is not.

    Example:
        >>> import torch
        >>> from msr.models import BurstModel
        >>> BurstModel(channels=8, blocks=1)(torch.rand(1, 3, 3, 16, 24)).shape
        torch.Size([1, 3, 64, 96])
    """

    kind = "burst"
    # Pixels by which a flow may differ from the motion of the whole and still be taken for it (`steady_flow`).
    tolerance = 0.75

    def __init__(
        self,
        scale: int = 4,
        phase: Phase = "centered",
        channels: int = 48,
        blocks: int = 10,
        offset_groups: int = 4,
        upsampler: UpsamplerName = "subpixel",
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        if phase not in ("centered", "corner"):
            raise ValueError(f"phase must be 'centered' or 'corner', got {phase!r}")
        if channels % offset_groups:
            raise ValueError(f"channels must be a multiple of offset_groups, got {channels} and {offset_groups}")
        self.scale = scale
        self.phase: Phase = phase
        self.flow = FlowNetwork()
        self.head = conv3x3(3, channels)
        self.encoder = nn.Sequential(*[ResidualBlock(channels, attention=False) for _ in range(2)])
        self.align = FlowGuidedAlignment(channels, offset_groups)
        self.doubt = Doubt(channels)
        self.value1 = conv3x3(2 * channels + 4, channels)
        self.value2 = conv3x3(channels, channels)
        self.score = conv3x3(channels, channels, gain=0.1)
        self.fuse1 = conv3x3(2 * channels, channels)
        self.fuse2 = conv3x3(channels, channels, gain=0.0)
        self.trunk = Trunk(channels, blocks)
        self.upsampler = make_upsampler(upsampler, channels, scale)

    def flows(self, frames: Tensor) -> Tensor:
        """Flow of the base frame to each of the others, ``(B, N - 1, 2, H, W)``."""
        others = frames[:, 1:, :3]
        if others.shape[1] > 1 and not torch.is_grad_enabled():
            # One after the other: memory does not grow with the number of frames.
            base = self.flow.describe(frames[:, 0, :3])
            return torch.stack([self.flow.between(base, self.flow.describe(other)) for other in others.unbind(1)], 1)
        targets = frames[:, :1, :3].expand_as(others)
        return self.flow(targets.flatten(0, 1), others.flatten(0, 1)).unflatten(0, others.shape[:2])

    def _value(self, frame: Tensor, base: Tensor, encoded_base: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """What one frame says, and the logarithm of its weight: ``(B, C, H, W)`` each."""
        encoded = self.encoder(self._encode(frame))
        aligned = self.align(encoded, encoded_base, flow)
        trust = self.doubt(aligned, encoded_base, (flow_warp(frame[:, :3], flow) - base[:, :3]).abs())
        x = join([aligned, encoded_base, flow_phase(flow).to(aligned.dtype)])
        x = leaky(self.value1(x))
        return leaky(self.value2(x)), self.score(x).float() + torch.log(trust.float() + 1e-4)

    def _encode(self, frame: Tensor) -> Tensor:
        return self.head((frame - 0.5).to(self.head.weight.dtype))

    def forward(self, frames: Tensor, flows: Tensor | None = None) -> Tensor:
        """Merge a burst.

        Args:
            frames: ``(B, N, 3, H, W)`` RGB in [0, 1], N >= 1, the base frame first.
            flows: what `flows` gives for them, ``(B, N - 1, 2, H, W)``; None to have it estimated.

        Returns:
            ``(B, 3, sH, sW)`` of the dtype of ``frames`` whatever the weights' is.

        Raises:
            ValueError: a burst without frames.
        """
        if not frames.shape[1]:
            raise ValueError(f"a burst must have frames, got {tuple(frames.shape)}")
        enlarged = resize(frames[:, 0], scale=self.scale, phase=self.phase)
        return add_detail(enlarged, self.upsampler(self.trunk(self._fuse(frames, flows))))

    def _fuse(self, frames: Tensor, flows: Tensor | None) -> Tensor:
        """What all frames say, in the place of the base frame: ``(B, C, H, W)``."""
        base = frames[:, 0]
        features = self._encode(base)
        encoded_base = self.encoder(features)
        zero = torch.zeros(base.shape[0], 2, *base.shape[-2:], device=base.device)
        if frames.shape[1] > 1:
            flows = self.flows(frames) if flows is None else flows
            flows = steady_flow(flows.flatten(0, 1), self.tolerance).unflatten(0, flows.shape[:2])
        # A running softmax: memory does not grow with the number of frames. `weight` is the logarithm of all so far.
        mean = weight = torch.zeros((), device=base.device)
        for i in range(frames.shape[1]):
            flow = zero if i == 0 or flows is None else flows[:, i - 1]
            value, score = self._value(frames[:, i], base, encoded_base, flow)
            if i == 0:
                mean, weight = value.float(), score
            else:
                mean = torch.lerp(mean, value.float(), torch.sigmoid(score - weight))
                weight = torch.logaddexp(weight, score)
        mean = mean.to(features.dtype)
        return features + self.fuse2(leaky(self.fuse1(join([mean, features]))))
