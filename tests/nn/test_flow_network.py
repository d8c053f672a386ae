"""The flow network: zero before training, any size, the sign of what it learns."""

import pytest
import torch
from torch import Tensor

from msr.nn.flow import FlowNetwork, steady_flow
from msr.ops import flow_warp


@pytest.fixture
def stirred() -> FlowNetwork:
    """A network whose last layer is not silent."""
    torch.manual_seed(0)
    network = FlowNetwork(channels=8, width=8).eval()
    torch.nn.init.normal_(network.delta.weight, std=0.05)
    return network.requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 16), (13, 21)])
def test_zero_before_training_and_the_size_of_the_frame(size: tuple[int, int], stirred: FlowNetwork) -> None:
    a, b = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    flow = FlowNetwork(channels=8, width=8)(a, b)
    assert flow.shape == (2, 2, *size)
    assert flow.dtype == torch.float32
    assert flow.abs().max().item() == 0.0
    moved = stirred(a, b)
    assert moved.shape == (2, 2, *size)
    assert moved.isfinite().all()
    assert moved.abs().max().item() > 0.0


def test_a_batch_is_its_items(stirred: FlowNetwork) -> None:
    a, b = torch.rand(3, 3, 9, 10), torch.rand(3, 3, 9, 10)
    one_by_one = torch.cat([stirred(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(stirred(a, b), one_by_one, rtol=1e-4, atol=1e-5)


def test_frames_described_once_serve_all_flows_between_them(stirred: FlowNetwork) -> None:
    frames = torch.rand(4, 3, 9, 10)
    base, *others = stirred.describe(frames).chunk(4)
    for i, other in enumerate(others, 1):
        flow = stirred(frames[:1], frames[i : i + 1])
        torch.testing.assert_close(stirred.between(base, other), flow, rtol=1e-4, atol=1e-5)
    # Two sources for each of two targets, taken by their numbers.
    index = torch.tensor([1, 2, 3, 0])
    described = stirred.describe(frames)
    both = stirred.between(described.at(index[:2]), described.at(index))
    each = stirred(frames[[1, 2, 1, 2]], frames[index])
    torch.testing.assert_close(both, each, rtol=1e-4, atol=1e-5)


def test_half_precision_weights_give_float32_flow(stirred: FlowNetwork) -> None:
    a, b = torch.rand(1, 3, 9, 10), torch.rand(1, 3, 9, 10)
    full = stirred(a, b)
    half = stirred.to(torch.bfloat16)(a, b)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=0.1 * full.abs().max().item() + 0.02)


def _shifted(picture: Tensor, dx: int, dy: int, size: int = 16) -> Tensor:
    return picture[..., 8 + dy : 8 + dy + size, 8 + dx : 8 + dx + size]


def test_it_learns_the_sign_and_the_order_of_the_components() -> None:
    torch.manual_seed(0)
    network = FlowNetwork(channels=8, width=16, levels=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    picture = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 34, 34), 3, 1)
    # The source is the target moved one pixel right and one up: what was at (x, y) now lies at (x + 1, y - 1).
    target, source = _shifted(picture, 0, 0), _shifted(picture, -1, 1)
    for _ in range(40):
        warped = flow_warp(source, network(target, source), padding_mode="border")
        loss = (warped - target).abs()[..., 4:-4, 4:-4].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
    flow = network(target, source).detach()[0, :, 4:-4, 4:-4]
    assert flow.mean(dim=(1, 2)).tolist() == pytest.approx([1.0, -1.0], abs=0.4)


def test_steady_flow_takes_the_camera_s_motion_and_leaves_what_moves_by_itself() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    truth = torch.stack([1.5 + 0.01 * x - 0.02 * y, -2.0 + 0.02 * x + 0.01 * y])[None]
    flow = truth + 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    flow[..., 10:22, 12:28] += 6.0  # an object with a motion of its own
    steady = steady_flow(flow)
    object_ = torch.zeros(40, 56, dtype=torch.bool)
    object_[10:22, 12:28] = True
    before, after = ((f - truth).norm(dim=1)[0] for f in (flow, steady))
    assert after[~object_].mean() < 0.25 * before[~object_].mean()
    assert torch.allclose(steady[..., object_], flow[..., object_], atol=0.01)


def test_steady_flow_is_fitted_in_float32_under_autocast() -> None:
    flow = 3 * torch.randn(1, 2, 24, 32, generator=torch.Generator().manual_seed(0))
    expected = steady_flow(flow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(steady_flow(flow), expected)


def test_float16_autocast_and_an_empty_batch(stirred: FlowNetwork) -> None:
    frames = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        flow = stirred(frames, frames.flip(0))
    assert (flow - stirred(frames, frames.flip(0))).abs().max() < 0.2
    assert stirred(frames[:0], frames[:0]).shape == (0, 2, 24, 32)


def test_steady_flow_keeps_the_gradient_and_pictures_of_one_pixel() -> None:
    flow = torch.randn(2, 2, 8, 9, requires_grad=True)
    steady_flow(flow).sum().backward()
    assert torch.equal(flow.grad, torch.ones_like(flow))
    assert torch.equal(steady_flow(torch.ones(1, 2, 1, 5)), torch.ones(1, 2, 1, 5))


def test_the_likely_shift_is_the_mean_under_a_softmax(stirred: FlowNetwork) -> None:
    cost = torch.randn(2, 25, 6, 7)
    weight = torch.softmax(stirred.sharpness * cost, dim=1).unflatten(1, (5, 5))
    down = (weight.sum(2) * torch.arange(-2.0, 3.0)[:, None, None]).sum(1)
    right = (weight.sum(1) * torch.arange(-2.0, 3.0)[:, None, None]).sum(1)
    torch.testing.assert_close(stirred._likely_shift(cost), torch.stack([right, down], dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_no_cost_is_too_great_for_the_likely_shift(dtype: torch.dtype, level: float, stirred: FlowNetwork) -> None:
    cost = torch.full((1, 25, 3, 4), level, dtype=dtype)
    cost[:, 13] = 0.0 if level < 0 else level  # one to the right
    shift = stirred.to(dtype)._likely_shift(cost)
    assert shift.dtype == dtype
    torch.testing.assert_close(shift[:, 1], torch.zeros(1, 3, 4, dtype=dtype), rtol=0, atol=1e-2)
    torch.testing.assert_close(shift[:, 0], torch.full((1, 3, 4), float(level < 0), dtype=dtype), rtol=0, atol=1e-2)
