"""Results at the other phase."""

from typing import Any

import numpy as np
import pytest
import torch

from msr.models import BurstModel, ImageModel, VideoModel, at_phase
from msr.models.phase import move
from msr.ops import resize

SMALL: dict[str, Any] = {"channels": 8, "blocks": 1}


@pytest.mark.parametrize("distance", [-1.5, -1.0, 0.0, 0.5, 2.25])
def test_a_smooth_wave_is_sampled_where_it_is_asked_for(distance: float) -> None:
    y, x = np.mgrid[:40, :50].astype(np.float64)

    def wave(dy: float, dx: float) -> torch.Tensor:
        return torch.from_numpy(np.sin(0.9 * (x + dx)) * np.cos(0.7 * (y + dy)))[None, None]

    moved = move(wave(0, 0).repeat(2, 3, 1, 1), distance)
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    expected = wave(distance, distance).repeat(2, 3, 1, 1)
    torch.testing.assert_close(moved[inside], expected[inside], rtol=0, atol=2e-3)


def test_whole_distances_are_exact_and_constants_stay() -> None:
    x = torch.rand(1, 2, 9, 11)
    torch.testing.assert_close(move(x, 2.0)[..., :-2, :-2], x[..., 2:, 2:])
    torch.testing.assert_close(move(torch.full((1, 1, 3, 2), 0.3), -1.5), torch.full((1, 1, 3, 2), 0.3))
    with pytest.raises(ValueError, match="distance must be less than 8 pixels, got 8"):
        move(x, 8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("own", "other"), [("centered", "corner"), ("corner", "centered")])
def test_an_untrained_model_is_moved_to_the_enlargement_at_the_other_phase(scale: int, own: Any, other: Any) -> None:
    y, x = np.mgrid[:24, :26] / 8.0
    picture = torch.from_numpy(np.stack([np.sin(x + y), np.cos(x), np.sin(2 * y)])[None]).float() / 2 + 0.5
    moved = at_phase(ImageModel(scale=scale, phase=own, **SMALL), other)
    assert (moved.kind, moved.scale, moved.phase) == ("image", scale, other)
    with torch.inference_mode():
        found, margin = moved(picture), 6 * scale
    expected = resize(picture, scale=scale, phase=other)
    assert (found - expected)[..., margin:-margin, margin:-margin].abs().max() < 2e-3
    unmoved = resize(picture, scale=scale, phase=own)
    assert (unmoved - expected)[..., margin:-margin, margin:-margin].abs().max() > 2e-2


def test_a_stream_is_its_clip() -> None:
    torch.manual_seed(0)
    model = VideoModel(**SMALL)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    moved: Any = at_phase(model.eval(), "corner")
    assert (moved.kind, moved.lookahead, moved.warm_up, moved.state_type) == ("video", 1, 2, VideoModel.state_type)
    clip, state = torch.rand(1, 3, 3, 8, 9), None
    with torch.inference_mode():
        whole = moved(clip)
        for t in range(3):
            frame, state = moved.step(clip[:, t], clip[:, min(t + 1, 2) :], state)
            torch.testing.assert_close(frame, whole[:, t], rtol=1e-5, atol=1e-5)


def test_what_stays_as_it_is() -> None:
    model = ImageModel(**SMALL)
    assert at_phase(model, "centered") is model
    with pytest.raises(ValueError, match="only image and video models can be at another phase, got one of kind burst"):
        at_phase(BurstModel(**SMALL), "corner")


def test_the_halo_holds_what_the_sampling_sees() -> None:
    torch.manual_seed(0)
    model = ImageModel(scale=2, **SMALL)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for block in model.trunk.blocks:
            block.attention = torch.nn.Identity()
    moved: Any = at_phase(model.eval(), "corner")
    side = 2 * moved.halo + 5
    x = torch.rand(1, 3, side, side)
    changed = x.clone()
    changed[..., 0, :] += 1.0
    with torch.inference_mode():
        differs = (moved(x) - moved(changed)).abs().amax(dim=(0, 1, 3)) > 1e-7
    assert int(differs.nonzero().max()) // 2 <= moved.halo
