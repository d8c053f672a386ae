"""splat: the contract of every op, agreement with a direct loop, holes, overlaps, and flows that point nowhere."""

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from msr.ops import splat, splat_reference
from ops.contract import OpContract, Sample, assert_close

MODES = ("sum", "average", "linear", "soft")


def make(shape: tuple[int, ...], mode: str, reach: float = 2.0) -> Sample:
    """Return features, a flow of about `reach` pixels away from the kinks at integers, and a metric for the mode."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    flow = torch.randn((shape[0], 2, *shape[2:]), generator=generator, dtype=torch.float64) * reach
    flow = flow.floor() + 0.2 + 0.6 * torch.rand(flow.shape, generator=generator, dtype=torch.float64)
    metric = 0.5 + torch.rand((shape[0], 1, *shape[2:]), generator=generator, dtype=torch.float64)
    return Sample((x, flow, metric if mode in ("linear", "soft") else None), {"mode": mode}, coordinates=(1, 2))


def direct(x: Tensor, flow: Tensor, metric: Tensor | None, mode: str) -> Tensor:
    """Add pixel after pixel, with exponentials as they stand in the definition."""
    batch, _, height, width = x.shape
    total, divisor = torch.zeros_like(x), torch.zeros(batch, height, width, dtype=x.dtype)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                across, down = j + float(flow[b, 0, i, j]), i + float(flow[b, 1, i, j])
                m = 0.0 if metric is None else float(metric[b, 0, i, j])
                strength = {"sum": 1.0, "average": 1.0, "linear": m, "soft": math.exp(m)}[mode]
                for v in (math.floor(down), math.floor(down) + 1):
                    for u in (math.floor(across), math.floor(across) + 1):
                        if 0 <= v < height and 0 <= u < width:
                            weight = strength * (1 - abs(across - u)) * (1 - abs(down - v))
                            total[b, :, v, u] += weight * x[b, :, i, j]
                            divisor[b, v, u] += weight
    if mode == "sum":
        return total
    return torch.where(divisor[:, None] == 0, 0, total / divisor[:, None])


class TestSplat(OpContract):
    op = staticmethod(splat)
    reference = staticmethod(splat_reference)
    name = "splat"
    takes_autocast = False
    other_size = make((2, 5, 12, 10), "soft")

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        return (*tensors, options["mode"], False)

    samples: ClassVar = {
        **{mode: make((2, 5, 7, 9), mode) for mode in reversed(MODES)},
        "many-channels": make((1, 37, 5, 6), "soft"),
        "many-pixels": make((1, 2, 23, 31), "average", reach=0.7),
        "far": make((1, 3, 4, 5), "soft", reach=30.0),
        "one-pixel": make((1, 3, 1, 1), "sum", reach=0.5),
        "one-channel": make((3, 1, 6, 2), "linear"),
        "no-batch": make((0, 3, 4, 5), "average"),
        "no-channels": make((2, 0, 4, 5), "soft"),
        "no-rows": make((1, 3, 0, 5), "sum"),
    }
    wrong: ClassVar = {
        "x-3d": lambda: splat(torch.zeros(3, 4, 5), torch.zeros(1, 2, 4, 5)),
        "flow-shape": lambda: splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 6)),
        "integers": lambda: splat(torch.zeros(1, 3, 4, 5).int(), torch.zeros(1, 2, 4, 5)),
        "mode": lambda: splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), mode="softmax"),
        "no-metric": lambda: splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), mode="soft"),
        "needless-metric": lambda: splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), torch.zeros(1, 1, 4, 5)),
        "metric-shape": lambda: splat(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), torch.zeros(1, 3, 4, 5), mode="soft"
        ),
    }


def test_errors_print_shapes_and_dtypes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(1, 3, 4, 5\).*float64"):
        splat(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_a_direct_loop(mode: str, device: torch.device) -> None:
    tensors = make((2, 3, 6, 7), mode).tensors
    expected = direct(*tensors, mode)
    assert (expected == 0).any()  # holes are among it
    for function in (splat, splat_reference):
        got = function(*[None if t is None else t.to(device) for t in tensors], mode=mode)
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_zero_flow_returns_the_image(mode: str, device: torch.device) -> None:
    """Also where the metric jumps by more than an exponential can hold."""
    x = torch.randn(2, 3, 5, 7, device=device)
    metric = None if mode in ("sum", "average") else 1.0 + 500.0 * torch.rand(2, 1, 5, 7, device=device).round()
    torch.testing.assert_close(splat(x, torch.zeros(2, 2, 5, 7, device=device), metric, mode=mode), x)


def test_whole_pixels_shift_the_image(device: torch.device) -> None:
    """Channel 0 is x to the right, channel 1 is y down, from the source to the target."""
    x = torch.randn(1, 2, 6, 8, device=device)
    flow = torch.tensor([2.0, 1.0], device=device).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    for mode in ("sum", "average"):
        out = splat(x, flow, mode=mode)
        assert torch.equal(out[..., 1:, 2:], x[..., :5, :6])
        assert (out[..., 0, :] == 0).all()
        assert (out[..., :2] == 0).all()


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0, 1e25])
def test_soft_lets_the_front_win_whatever_the_metric_s_level(offset: float, device: torch.device) -> None:
    x = torch.tensor([1.0, 5.0], device=device).view(1, 1, 1, 2)
    flow = torch.zeros(1, 2, 1, 2, device=device)
    flow[0, 0, 0, 1] = -1.0  # the second pixel lands on the first
    metric = torch.tensor([0.0, math.log(3.0)], device=device).view(1, 1, 1, 2)
    # 1e25 and log 3 more are the same number: both count alike.
    expected = 3.0 if offset == 1e25 else (1.0 + 3.0 * 5.0) / 4.0
    out = splat(x, flow, metric + offset, mode="soft")
    assert out[0, 0, 0].tolist() == pytest.approx([expected, 0.0], rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_flow_that_points_nowhere_loses_the_pixel(
    bad: float, channels_last: bool, mode: str, device: torch.device
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(1, 3, 6, 8, device=device).contiguous(memory_format=layout).requires_grad_()
    metric = None if mode in ("sum", "average") else torch.rand(1, 1, 6, 8, device=device).add(1).requires_grad_()
    flow = torch.full((1, 2, 6, 8), 0.25, device=device)
    elsewhere = flow.clone()
    flow[0, 0, 2, 3] = flow[0, 1, 4, 5] = bad
    elsewhere[0, :, 2, 3] = elsewhere[0, :, 4, 5] = 100.0
    flow.requires_grad_()
    out = splat(x, flow, metric, mode=mode)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, splat_reference(x, elsewhere, metric, mode))
    leaves = [t for t in (x, flow, metric) if t is not None]
    for grad in torch.autograd.grad(out.square().sum(), leaves):
        assert torch.isfinite(grad).all()
        assert (grad[0, :, 2, 3] == 0).all()
        assert (grad[0, :, 4, 5] == 0).all()


def test_values_that_are_not_finite_stay_where_they_land(device: torch.device) -> None:
    x = torch.rand(1, 2, 5, 6, device=device)
    flow = torch.full((1, 2, 5, 6), 0.5, device=device)
    metric = torch.rand(1, 1, 5, 6, device=device)
    good = splat(x, flow, metric, mode="soft")
    x[0, 1, 1, 2] = float("nan")
    out = splat(x, flow, metric, mode="soft")
    touched = torch.zeros_like(x, dtype=torch.bool)
    touched[0, 1, 1:3, 2:4] = True
    assert torch.equal(torch.isnan(out), touched)
    torch.testing.assert_close(out[~touched], good[~touched])
    x[0, 1, 1, 2] = 0.5
    metric[0, 0, 4, 4], metric[0, 0, 2, 1] = float("inf"), -float("inf")
    assert torch.isfinite(splat(x, flow, metric, mode="soft")).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_deterministic(mode: str, dtype: torch.dtype, device: torch.device) -> None:
    """The same bits again, also where many pixels land on one, and the same result as without."""
    x, flow, metric = make((2, 19, 12, 14), mode, reach=3.0).to(device, dtype)
    flow[:, :, :6] = -flow.new_tensor([0.0, 1.0]).view(2, 1, 1) * torch.arange(6, device=device)[:, None] + 0.3
    loose = splat(x, flow, metric, mode=mode)
    torch.use_deterministic_algorithms(True)
    try:
        leaves = [t.detach().requires_grad_() for t in (x, flow, metric) if t is not None]
        first = splat(*leaves, mode=mode)
        grads = torch.autograd.grad(first.square().sum(), leaves)
        for _ in range(2):
            again = splat(*leaves, mode=mode)
            assert torch.equal(again, first)
            assert all(map(torch.equal, torch.autograd.grad(again.square().sum(), leaves), grads))
        x[0, 3, 2, 2] = float("nan")
        assert torch.isnan(splat(x, flow, metric, mode=mode)[0, 3]).any()
        assert torch.isfinite(splat(x, flow, metric, mode=mode)[0, 4]).all()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_close(first, loose, dtype)


def test_autocast_keeps_positions_and_sums(device: torch.device) -> None:
    tensors = make((1, 4, 6, 7), "soft").to(device, torch.float32)
    with torch.autocast(device.type, torch.bfloat16):
        out = splat(*tensors, mode="soft")
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, splat(*tensors, mode="soft"))


def test_only_the_gradients_asked_for(device: torch.device) -> None:
    tensors = make((1, 3, 5, 6), "soft").to(device, torch.float32)
    every = [t.detach().requires_grad_() for t in tensors]
    splat(*every, mode="soft").square().sum().backward()
    for wanted in range(3):
        leaves = [t.detach().requires_grad_(n == wanted) for n, t in enumerate(tensors)]
        splat(*leaves, mode="soft").square().sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, every[wanted].grad)
        assert [leaf.grad is not None for leaf in leaves] == [n == wanted for n in range(3)]


@pytest.mark.parametrize("mode", ["average", "soft"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_gradient_of_the_flow_is_not_that_of_a_rounded_mean(dtype: torch.dtype, mode: str, device) -> None:
    """Pixels that differ little from their mean: the difference is all that the flow's gradient has."""
    x, flow, metric = make((1, 3, 12, 14), mode).to(device, dtype)
    x = (0.8 + 0.05 * x).to(dtype)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        leaf = flow.detach().requires_grad_()
        weights = torch.linspace(-1, 1, x.numel(), device=device).view(x.shape).to(dtype).to(x.dtype)
        return torch.autograd.grad(splat(x, leaf, metric, mode=mode), leaf, weights)[0]

    expected = gradient(x.double())
    assert (gradient(x).double() - expected).abs().max() < 1e-4 * expected.abs().max()
