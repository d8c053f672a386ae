"""Video super-resolution in constant memory: a recurrent pass over all frames, and one back over those that follow."""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from msr.nn.alignment import Doubt, FlowGuidedAlignment, flow_phase
from msr.nn.backward_pass import BackwardPass
from msr.nn.blocks import ResidualBlock, Trunk, conv3x3, join, leaky, weigh
from msr.nn.flow import FlowNetwork
from msr.nn.upsampling import UpsamplerName, add_detail, make_upsampler
from msr.ops.flow_warp import flow_warp
from msr.ops.resize import Phase, resize

MotionName = Literal["full", "light"]

#: Frames that are served by one pass back in time, and frames beyond them from which on it starts.
SEGMENT, OVERLAP = 10, 5


class VideoState(NamedTuple):
    """What the past leaves to the next frame."""

    frame: Tensor  # the frame before, (B, 3, H, W)
    features: Tensor  # its features after the trunk, (B, C, H, W)
    coming: Tensor  # what is known of k frames to come, in their order, (B, k C, H, W), k >= 0


class VideoModel(nn.Module):
    """Frames in, the same frames ``scale`` times as large out.

    The features of the frame before (which hold all of the past) and of the frame after are aligned to the current
    frame by flow and deformable convolution, doubted where they do not fit, and added to its features; an image model's
    trunk follows. Without them it is an image model: fusion starts from zero. The first frame of a clip, which has no
    past, takes the two after it for that, run through backwards. With ``backward_blocks``, the features of the frame
    after hold those after it, too: a pass back in time serves ten frames and begins five frames after them.

    Source: the recurrence of FRVSR (Sajjadi et al. 2018) and BasicVSR++ (Chan et al. 2022), made causal or, the future
    in overlapping segments, nearly so.

    Args:
        scale: 2, 3 or 4.
        phase: ``"centered"`` or ``"corner"``.
        channels: width of all features; a multiple of ``offset_groups``.
        blocks: residual blocks of the trunk.
        offset_groups: of the deformable alignment.
        upsampler: ``"subpixel"`` or ``"deconvolution"``.
        motion: ``"full"``, or ``"light"`` for half the width in what finds, follows and doubts motion.
        backward_blocks: residual blocks of the pass back in time; 0 for none, and a look-ahead of one frame.

    Raises:
        ValueError: a scale, phase, width, upsampler or motion that there is not.

    Example:
        >>> import torch
        >>> from msr.models import VideoModel
        >>> VideoModel(channels=8, blocks=1)(torch.rand(1, 2, 3, 16, 24)).shape
        torch.Size([1, 2, 3, 64, 96])
    """

    kind = "video"
    lookahead: int  # frames after one that its result may depend on
    warm_up = 2  # frames after the first of a clip that are run through backwards before it, as it has no past
    period: int  # frames that are served by one look ahead
    state_type = VideoState

    def __init__(
        self,
        scale: int = 4,
        phase: Phase = "centered",
        channels: int = 48,
        blocks: int = 10,
        offset_groups: int = 4,
        upsampler: UpsamplerName = "subpixel",
        motion: MotionName = "full",
        backward_blocks: int = 0,
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        if phase not in ("centered", "corner"):
            raise ValueError(f"phase must be 'centered' or 'corner', got {phase!r}")
        if motion not in get_args(MotionName):
            raise ValueError(f"motion must be 'full' or 'light', got {motion!r}")
        if channels % offset_groups:
            raise ValueError(f"channels must be a multiple of offset_groups, got {channels} and {offset_groups}")
        self.scale = scale
        self.phase: Phase = phase
        share = 1 if motion == "full" else 2
        self.flow = FlowNetwork(channels=24 // share, width=32 // share)
        self.head = conv3x3(3, channels)
        self.encoder = ResidualBlock(channels, attention=False)
        self.align_past = FlowGuidedAlignment(channels, offset_groups, width=32 // share)
        self.align_next = FlowGuidedAlignment(channels, offset_groups, width=32 // share)
        self.doubt_past = Doubt(channels, width=16 // share)
        self.doubt_next = Doubt(channels, width=16 // share)
        self.fuse1 = conv3x3(3 * channels + 8 + 2, channels)
        self.fuse2 = conv3x3(channels, channels, gain=0.0)
        self.trunk = Trunk(channels, blocks)
        self.upsampler = make_upsampler(upsampler, channels, scale)
        self.lookahead, self.period = (SEGMENT + OVERLAP, SEGMENT) if backward_blocks else (1, 1)
        self.backward_pass = (
            BackwardPass(channels, backward_blocks, offset_groups, 32 // share) if backward_blocks else None
        )

    def _encode(self, frame: Tensor) -> Tensor:
        return self.head((frame - 0.5).to(self.head.weight.dtype))

    def _look_ahead(self, future: Tensor, flows: Tensor | None) -> Tensor:
        """What is known of frames to come, ``(B, k C, H, W)`` for the first k of ``future (B, n, 3, H, W)``.

        ``flows``, ``(B, n - 1, 2, H, W)``: of each of them to the next; None to have them estimated.
        """
        if self.backward_pass is None:
            return self.encoder(self._encode(future[:, 0]))
        if flows is None:
            described = [self.flow.describe(frame) for frame in future.unbind(1)]
            found = [self.flow.between(a, b) for a, b in itertools.pairwise(described)]
        else:
            found = list(flows.unbind(1))
        coming: list[Tensor] = []
        after: tuple[Tensor, Tensor, Tensor] | None = None
        for i in reversed(range(future.shape[1])):
            frame = future[:, i]
            if coming:
                after = coming[-1], found[i], (flow_warp(future[:, i + 1], found[i]) - frame).abs()
            coming.append(self.backward_pass(self.encoder(self._encode(frame)), after))
        return torch.cat(coming[::-1][: self.period], dim=1)

    def _advance(
        self, frame: Tensor, future: Tensor, past: VideoState, flow_past: Tensor, flow_next: Tensor
    ) -> VideoState:
        """What is known after one frame, its flows found, and what is known of the frames to come in the state."""
        features = self._encode(frame)
        channels = features.shape[1]
        ahead, coming = past.coming[:, :channels], past.coming[:, channels:]
        from_past = self.align_past(past.features, features, flow_past)
        from_next = self.align_next(ahead, features, flow_next)
        trust_past = self.doubt_past(from_past, features, (flow_warp(past.frame, flow_past) - frame).abs())
        trust_next = self.doubt_next(from_next, features, (flow_warp(future, flow_next) - frame).abs())
        phases = torch.cat([flow_phase(flow_past), flow_phase(flow_next)], dim=1).to(features.dtype)
        aligned = weigh(from_past, trust_past), weigh(from_next, trust_next)
        parts = [features, *aligned, phases, trust_past, trust_next]
        fused = self.fuse2(leaky(self.fuse1(join(parts)))).add_(features)
        return VideoState(frame, self.trunk(fused), coming)

    def _enlarge(self, state: VideoState) -> Tensor:
        """The result for the state's frame."""
        base = resize(state.frame, scale=self.scale, phase=self.phase)
        return add_detail(base, self.upsampler(state.features))

    def _find_flows(self, frame: Tensor, past: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        described, count = self.flow.describe(torch.cat([frame, past, future])), frame.shape[0]
        # Both at once, as in a whole clip: a convolution may round otherwise for one picture than for several.
        flows = self.flow.between(described.at(slice(count)), described.at(slice(count, None)))
        flow_past, flow_next = flows.chunk(2)
        return flow_past, flow_next

    def _first_state(self, frame: Tensor) -> VideoState:
        channels = self.head.weight.shape[0]
        shape = (frame.shape[0], channels, *frame.shape[-2:])
        features = torch.zeros(shape, dtype=self.head.weight.dtype, device=frame.device)
        return VideoState(frame, features, features[:, :0])

    def _begin(self, frame: Tensor, future: Tensor) -> VideoState:
        """The state before a first frame: what those after it, run through backwards, know.

        Without it, the first frames of a clip or scene would be less sharp than the rest.
        """
        frames = [frame, *future[:, : self.warm_up].unbind(1)]
        state = self._first_state(frames[-1])
        for after, current in reversed(list(itertools.pairwise(frames))):
            state = state._replace(coming=self._look_ahead(after[:, None], None))
            state = self._advance(current, after, state, *self._find_flows(current, state.frame, after))
        return state

    def step(self, frame: Tensor, future: Tensor, state: VideoState | None = None) -> tuple[Tensor, VideoState]:
        """Super-resolve one frame of a stream.

        Args:
            frame: ``(B, 3, H, W)`` RGB in [0, 1].
            future: ``(B, n, 3, H, W)``, the frames after it: ``lookahead`` of them, at the start of a clip ``warm_up``
                if that is more, or as many as there are; ``frame`` itself where there is none.
            state: what the step before returned; ``None`` at the start of a clip.

        Returns:
            The result ``(B, 3, sH, sW)`` and the state for the next step.
        """
        state = self._begin(frame, future) if state is None else state
        if not state.coming.shape[1]:
            state = state._replace(coming=self._look_ahead(future[:, : self.lookahead], None))
        after = future[:, 0]
        state = self._advance(frame, after, state, *self._find_flows(frame, state.frame, after))
        return self._enlarge(state), state

    def flows(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Flow of each frame to the one before and to the one after (itself at the ends), ``(B, T, 2, H, W)`` each."""
        batch, length = clip.shape[:2]
        described = self.flow.describe(clip.flatten(0, 1))
        number = torch.arange(length, device=clip.device)
        others = torch.stack([(number - 1).clamp(min=0), (number + 1).clamp(max=length - 1)])
        first = length * torch.arange(batch, device=clip.device)
        index = others[:, None] + first[:, None]  # (2, B, T) into the clips' frames
        flow = self.flow.between(described, described.at(index.flatten()))
        past, ahead = flow.unflatten(0, (2, batch, length))
        return past, ahead

    def forward(self, clip: Tensor, flows: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Super-resolve a whole clip: the steps of a stream, their flows found at once.

        While the model is being trained, clips begin without a past.

        Args:
            clip: ``(B, T, 3, H, W)`` RGB in [0, 1], T >= 1.
            flows: what `flows` gives for it; None to have them estimated.

        Returns:
            ``(B, T, 3, sH, sW)`` of the dtype of ``clip`` whatever the weights' is.

        Raises:
            ValueError: a clip without frames.
        """
        if not clip.shape[1]:
            raise ValueError(f"a clip must have frames, got {tuple(clip.shape)}")
        past, ahead = self.flows(clip) if flows is None else flows
        state = self._first_state(clip[:, 0])
        if not self.training:
            state = self._begin(clip[:, 0], clip[:, min(1, clip.shape[1] - 1) :])
            past = torch.cat([ahead[:, :1], past[:, 1:]], dim=1)  # the state is that of the second frame
        out = []
        for t in range(clip.shape[1]):
            first = min(t + 1, clip.shape[1] - 1)
            future = clip[:, first : first + self.lookahead]
            if not state.coming.shape[1]:
                state = state._replace(coming=self._look_ahead(future, ahead[:, first:]))
            state = self._advance(clip[:, t], future[:, 0], state, past[:, t], ahead[:, t])
            out.append(self._enlarge(state))
        return torch.stack(out, dim=1)
