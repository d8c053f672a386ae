"""The architectures: sane before training, streamable, independent of order, and trainable throughout."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msr.models import ARCHITECTURES, BurstModel, ImageModel, VideoModel, build_model
from msr.models.video import OVERLAP, SEGMENT
from msr.nn.flow import steady_flow
from msr.ops import resize

KINDS = ["image", "video", "burst", "burst-raw"]
UPSAMPLERS = ["subpixel", "deconvolution"]
SMALL: dict[str, Any] = {"channels": 8, "blocks": 1}


def make(kind: str, *, stir: bool = True, **arguments: Any) -> Any:
    """A tiny model, its parameters moved off their start unless ``stir`` is false."""
    torch.manual_seed(0)
    model = build_model(kind, {**SMALL, **arguments}).eval()
    if stir:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
    return model


def given(kind: str, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    lead = {"image": (2, 3), "video": (1, 3, 3), "burst": (2, 3, 3), "burst-raw": (2, 3, 7)}[kind]
    return torch.rand(*lead, *size, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", ["centered", "corner"])
@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_an_untrained_model_is_a_cubic_enlargement_at_its_phase(kind: str, phase: str, upsampler: str) -> None:
    for scale in (2, 3, 4):
        model = make(kind, stir=False, scale=scale, phase=phase, upsampler=upsampler)
        assert (model.kind, model.scale, model.phase) == (kind, scale, phase)
        x = given(kind, 6, 5)
        frames = {"image": x, "video": x.flatten(0, 1), "burst": x[:, 0], "burst-raw": x[:, 0, :3]}[kind]
        with torch.inference_mode():
            found = model(x)
        expected = resize(frames, scale=scale, phase=phase)
        torch.testing.assert_close(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (9, 2), (7, 11)])
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    x = given(kind, *size)
    with torch.inference_mode():
        out = make(kind)(x)
    lead = x.shape[:2] if kind == "video" else x.shape[:1]
    assert out.shape == (*lead, 3, 4 * size[0], 4 * size[1])
    assert out.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_items(kind: str) -> None:
    model = make(kind)
    x = torch.cat([given(kind, 6, 7), given(kind, 6, 7).flip(0).flip(-1)])
    with torch.inference_mode():
        one_by_one = torch.cat([model(item[None]) for item in x])
        torch.testing.assert_close(model(x), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "arguments"),
    [
        (1, {}),
        (2, {"motion": "light"}),
        (5, {}),
        (1, {"backward_blocks": 1}),
        (2, {"backward_blocks": 1, "motion": "light"}),
        (SEGMENT, {"backward_blocks": 1}),
        (2 * SEGMENT + OVERLAP + 2, {"backward_blocks": 1}),
    ],
)
def test_video_forward_is_the_loop_of_steps(length: int, arguments: dict[str, Any]) -> None:
    model = make("video", **arguments)
    clip = torch.rand(2, length, 3, 7, 9)
    with torch.inference_mode():
        whole = model(clip)
        state, frames = None, []
        for t in range(length):
            first = min(t + 1, length - 1)
            more = max(model.lookahead, 0 if t else model.warm_up)
            frame, state = model.step(clip[:, t], clip[:, first : first + more], state)
            frames.append(frame)
        # Flows that were found alone or together round otherwise, which two recurrences of random weights carry on.
        tolerance = 3e-5 if "backward_blocks" in arguments else 1e-5
        torch.testing.assert_close(torch.stack(frames, dim=1), whole, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("backward_blocks", [0, 1])
def test_a_clip_s_first_frame_takes_the_two_after_it_for_its_past(backward_blocks: int) -> None:
    model = make("video", backward_blocks=backward_blocks).requires_grad_(False)
    clip = torch.rand(1, 4, 3, 8, 8)
    first = model(clip)[:, 0]
    for changed in (1, 2, 3):
        other = clip.clone()
        other[:, changed] = torch.rand(1, 3, 8, 8)
        # The pass back in time reaches further.
        assert torch.equal(model(other)[:, 0], first) == (changed == 3 and not backward_blocks)
    # Training saves the two steps: its clips begin without a past.
    model.train()
    other = clip.clone()
    other[:, 2] = torch.rand(1, 3, 8, 8)
    assert torch.equal(model(other)[:, 0], model(clip)[:, 0]) == (not backward_blocks)


@pytest.mark.parametrize(("kind", "name"), [("video", "clip"), ("burst", "burst")])
def test_no_frames_are_refused(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"a {name} must have frames, got \(1, 0, 3, 8, 8\)"):
        make(kind)(torch.rand(1, 0, 3, 8, 8))


@pytest.mark.parametrize("backward_blocks", [0, 1])
def test_video_state_is_all_that_a_step_remembers(backward_blocks: int) -> None:
    model = make("video", backward_blocks=backward_blocks)
    clip = torch.rand(1, 3, 3, 6, 6)
    with torch.inference_mode():
        _, state = model.step(clip[:, 0], clip[:, 1:2], None)
        first, _ = model.step(clip[:, 1], clip[:, 2:3], state)
        model.step(clip[:, 2], clip[:, :1], None)  # another stream in between
        again, _ = model.step(clip[:, 1], clip[:, 2:3], state)
        fresh, _ = model.step(clip[:, 1], clip[:, 2:3], None)
    assert torch.equal(first, again)
    assert not torch.allclose(first, fresh)


def test_video_sees_the_past_and_one_frame_of_the_future() -> None:
    assert _differing(make("video"), 5, 3) == [2, 3, 4]


def test_video_with_a_pass_back_sees_what_its_segment_looks_at() -> None:
    length = 2 * SEGMENT + 3
    model = make("video", backward_blocks=1)
    # The first segment's pass begins with the frame SEGMENT + OVERLAP, which the second segment sees, too.
    assert _differing(model, length, SEGMENT + OVERLAP)[0] == 0
    assert _differing(model, length, SEGMENT + OVERLAP + 1)[0] == SEGMENT


def _differing(model: Any, length: int, changed: int) -> list[int]:
    """The frames of a result that depend on one frame of the clip."""
    clip = torch.rand(1, length, 3, 6, 6, dtype=torch.float64)
    for parameter in model.flow.delta.parameters():
        parameter.data.zero_()  # no motion, which might point out of the picture, where all is forgotten
    with torch.inference_mode():
        model = model.double()
        before = model(clip)
        clip[:, changed] = torch.rand(1, 3, 6, 6)
        after = model(clip)
    return [t for t in range(length) if not torch.equal(before[:, t], after[:, t])]


def test_before_training_a_pass_back_changes_nothing() -> None:
    clip = torch.rand(1, 4, 3, 6, 7)
    plain = make("video")
    model = make("video", stir=False, backward_blocks=2)
    model.load_state_dict(plain.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(model(clip), plain(clip))


def test_burst_does_not_depend_on_the_order_of_the_other_frames() -> None:
    model = make("burst")
    frames = torch.rand(1, 5, 3, 7, 8)
    with torch.inference_mode():
        merged = model(frames)
        torch.testing.assert_close(model(frames[:, [0, 3, 1, 4, 2]]), merged, rtol=1e-5, atol=1e-5)
        # The base frame is another matter, and each frame counts.
        assert not torch.allclose(model(frames[:, [1, 0, 2, 3, 4]]), merged, atol=1e-4)
        assert not torch.allclose(model(frames[:, :4]), merged, atol=1e-5)


def test_burst_of_one_frame() -> None:
    frames = torch.rand(2, 1, 3, 6, 5)
    with torch.inference_mode():
        assert make("burst")(frames).shape == (2, 3, 24, 20)


def test_raw_burst_starts_from_the_merged_picture() -> None:
    frames, merged = given("burst-raw", 5, 6), torch.rand(2, 3, 20, 24)
    flows = torch.zeros(2, 2, 2, 5, 6)
    with torch.inference_mode():
        torch.testing.assert_close(make("burst-raw", stir=False)(frames, flows, merged), merged)
        model = make("burst-raw")
        added = model(frames, flows, merged) - merged
        assert not torch.allclose(model(frames, flows, merged.flip(-1)) - merged.flip(-1), added, atol=1e-3)


def test_raw_burst_sees_the_mosaic_and_the_noise() -> None:
    model, frames = make("burst-raw"), given("burst-raw", 8, 9)
    with torch.inference_mode():
        before = model(frames)
        for channel in (3, 4, 5, 6):
            changed = frames.clone()
            changed[:, :, channel] += 0.5
            assert (model(changed) - before).abs().max() > 1e-4


@pytest.mark.parametrize("strength", [1.0, 200.0])
def test_burst_running_softmax_is_the_softmax_over_all_frames(strength: float) -> None:
    model: BurstModel = make("burst")
    frames = torch.rand(1, 4, 3, 6, 5)
    with torch.inference_mode():
        model.score.weight.mul_(strength)  # scores whose exponential overflows unless the highest is taken off
        base, zero = frames[:, 0], torch.zeros(1, 1, 2, 6, 5)
        features = model._encode(base)
        flows = torch.cat([zero, steady_flow(model.flows(frames)[0])[None]], dim=1)
        said = [model._value(frames[:, i], base, model.encoder(features), flows[:, i]) for i in range(4)]
        weights = torch.softmax(torch.stack([score for _, score in said]), dim=0)
        mean = (torch.stack([value for value, _ in said]) * weights).sum(dim=0)
        fused = features + model.fuse2(F.leaky_relu(model.fuse1(torch.cat([mean, features], dim=1)), 0.1))
        expected = resize(base, scale=4) + model.upsampler(model.trunk(fused))
        torch.testing.assert_close(model(frames), expected, rtol=1e-4, atol=1e-5)


def test_burst_ignores_a_frame_that_it_doubts() -> None:
    # A frame with a far lower score than the others hardly counts.
    model = make("burst")
    frames = torch.rand(1, 3, 3, 6, 5)
    original = model._value

    def doubtful(frame: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        value, score = original(frame, *rest)
        return value, score - 50.0 if torch.equal(frame, frames[:, 2]) else score

    with torch.inference_mode():
        model._value = doubtful
        torch.testing.assert_close(model(frames), model(frames[:, :2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_on_float32_pictures(kind: str, dtype: torch.dtype) -> None:
    x = given(kind, 7, 6)
    with torch.inference_mode():
        full = make(kind)(x)
        half = make(kind).to(dtype)(x)
    assert half.dtype == torch.float32
    detail = full - make(kind, stir=False)(x).detach()
    # Relative to what the network adds, for the enlargement below it is float32 either way. A recurrent network whose
    # flow is random carries the rounding of bfloat16 on; one that lost its features would be off by about 1.
    error = (half - full).square().mean().sqrt() / detail.square().mean().sqrt()
    assert error.item() < (0.3 if dtype == torch.bfloat16 else 0.05)


@pytest.mark.parametrize(
    ("kind", "more"),
    [*((kind, {"upsampler": name}) for kind in KINDS for name in UPSAMPLERS), ("video", {"backward_blocks": 2})],
)
def test_gradients_reach_every_parameter(kind: str, more: dict[str, Any]) -> None:
    model = make(kind, **more).train()
    loss = (model(given(kind, 8, 8)) - 0.5).square().mean()
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max().item() > 0.0]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_halo_of_the_image_model_is_how_far_a_pixel_is_seen(upsampler: str, scale: int) -> None:
    model = make("image", scale=scale, upsampler=upsampler)
    for block in model.trunk.blocks:
        block.attention = nn.Identity()  # its global pooling sees everything
    x = torch.rand(1, 3, 1, 25, dtype=torch.float32)
    changed = x.clone()
    changed[..., 12] += 0.5
    with torch.inference_mode():
        seen = (model(x) - model(changed)).abs().sum(dim=(0, 1, 2)).nonzero().flatten() // scale
    reach = max(12 - int(seen.min()), int(seen.max()) - 12)
    assert reach == model.halo


@pytest.mark.parametrize("cls", [ImageModel, VideoModel, BurstModel])
def test_arguments_that_there_are_not(cls: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4, got 5"):
        cls(scale=5, **SMALL)
    with pytest.raises(ValueError, match="phase must be"):
        cls(phase="middle", **SMALL)
    with pytest.raises(ValueError, match="upsampler must be"):
        cls(upsampler="bilinear", **SMALL)


def test_light_motion_has_half_the_width() -> None:
    full, light = make("video").state_dict(), make("video", motion="light").state_dict()
    for name in ("flow.encode1", "flow.decode3", "align_past.inner", "doubt_next.inner"):
        assert len(full[f"{name}.bias"]) == 2 * len(light[f"{name}.bias"])
    with pytest.raises(ValueError, match="motion must be 'full' or 'light', got 'none'"):
        make("video", motion="none")


@pytest.mark.parametrize("kind", ["video", "burst", "burst-raw"])
def test_channels_must_divide(kind: str) -> None:
    with pytest.raises(ValueError, match="multiple of offset_groups, got 6 and 4"):
        build_model(kind, {"channels": 6, "blocks": 1})


def test_build_model_names_what_it_cannot_build() -> None:
    assert list(ARCHITECTURES) == KINDS
    with pytest.raises(ValueError, match="kind must be one of image, video, burst, burst-raw, got 'audio'"):
        build_model("audio", {})
    with pytest.raises(ValueError, match="does not take"):
        build_model("image", {"depth": 3})
    for wrong in (0, 513, True, 8.0, "8"):
        with pytest.raises(ValueError, match="channels must be a whole number from 1 to 512"):
            build_model("image", {"channels": wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_whole_models_compile_without_a_break_and_export(kind: str) -> None:
    model = make(kind).to(memory_format=torch.channels_last).requires_grad_(False)
    for name, weight in model.named_parameters():
        if ".delta." in name:
            weight.mul_(0.1)  # shifts of some pixels: at 40, the rounding of compiled interpolation alone is 1e-5
    x = given(kind, 9, 12)
    expected = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(model, (x,)).module()(x)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-5)
