"""flow_warp: the contract of every op, agreement with grid_sample, and flows that point nowhere."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops import flow_warp, flow_warp_reference
from ops.contract import OpContract, Sample

MODES = [(i, p) for i in ("bilinear", "bicubic", "nearest") for p in ("zeros", "border")]


def make(shape: tuple[int, ...], out: tuple[int, int], reach: float = 3.0, **options: str) -> Sample:
    """Return features and a flow of about `reach` pixels that stays away from the kinks at integers and halves."""
    generator = torch.Generator().manual_seed(sum(shape) + sum(out))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    flow = torch.randn((shape[0], 2, *out), generator=generator, dtype=torch.float64) * reach
    fraction = 0.1 + 0.3 * torch.rand(flow.shape, generator=generator, dtype=torch.float64)
    flow = flow.floor() + fraction
    return Sample((x, flow), options, coordinates=(1,))


class TestFlowWarp(OpContract):
    op = staticmethod(flow_warp)
    reference = staticmethod(flow_warp_reference)
    name = "flow_warp"

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        return (*tensors, options.get("interpolation", "bilinear"), options.get("padding_mode", "zeros"))

    samples: ClassVar = {
        **{f"{i}-{p}": make((2, 5, 7, 9), (6, 11), interpolation=i, padding_mode=p) for i, p in MODES},
        "many-channels": make((1, 61, 5, 6), (5, 6)),
        "many-pixels": make((1, 2, 23, 31), (23, 31), reach=1.0, padding_mode="border"),
        "far": make((1, 3, 4, 5), (8, 8), reach=40.0, interpolation="bicubic", padding_mode="border"),
        "one-pixel": make((1, 3, 1, 1), (2, 3), reach=1.0),
        "one-column": make((2, 3, 6, 1), (6, 1), reach=1.0, interpolation="bicubic"),
        "no-batch": make((0, 3, 4, 5), (4, 5)),
        "no-channels": make((2, 0, 4, 5), (4, 5)),
        "no-source": make((1, 3, 0, 5), (4, 5)),
        "no-target": make((1, 3, 4, 5), (0, 5), padding_mode="border"),
    }
    takes_autocast = False
    other_size = make((2, 5, 12, 10), (8, 7), interpolation="bilinear", padding_mode="zeros")
    wrong: ClassVar = {
        "x-3d": lambda: flow_warp(torch.zeros(3, 4, 5), torch.zeros(1, 2, 4, 5)),
        "flow-channels": lambda: flow_warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)),
        "batch": lambda: flow_warp(torch.zeros(1, 3, 4, 5), torch.zeros(2, 2, 4, 5)),
        "dtype": lambda: flow_warp(torch.zeros(1, 3, 4, 5, dtype=torch.int32), torch.zeros(1, 2, 4, 5)),
        "interpolation": lambda: flow_warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), interpolation="cubic"),
        "padding": lambda: flow_warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), padding_mode="reflection"),
        "no-border": lambda: flow_warp(torch.zeros(1, 3, 0, 5), torch.zeros(1, 2, 4, 5), padding_mode="border"),
    }


def test_errors_print_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(1, 3, 6, 7\)"):
        flow_warp(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 6, 7))


@pytest.mark.parametrize(("interpolation", "padding_mode"), MODES)
def test_agrees_with_grid_sample(interpolation: str, padding_mode: str, device: torch.device) -> None:
    x, flow = make((2, 3, 12, 17), (10, 15), reach=6.0).to(device, torch.float64)
    assert x is not None
    assert flow is not None
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(15.0), indexing="ij")
    across, down = columns.to(flow) + flow[:, 0], rows.to(flow) + flow[:, 1]
    grid = torch.stack((2 * across / (17 - 1) - 1, 2 * down / (12 - 1) - 1), dim=-1)
    expected = F.grid_sample(x, grid, interpolation, padding_mode, align_corners=True)
    for function in (flow_warp, flow_warp_reference):
        got = function(x, flow, interpolation=interpolation, padding_mode=padding_mode)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("interpolation", "padding_mode"), MODES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_flow_that_points_nowhere_reads_padding(
    bad: float, channels_last: bool, interpolation: str, padding_mode: str, device: torch.device
) -> None:
    """Also in the middle of a good flow: its neighbours are untouched and every gradient is finite."""
    modes = {"interpolation": interpolation, "padding_mode": padding_mode}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.rand(1, 3, 6, 8, device=device).add(1).contiguous(memory_format=layout).requires_grad_()
    flow = torch.full((1, 2, 6, 8), 0.3, device=device)
    good = flow_warp(x, flow, **modes).detach()
    flow[0, 0, 2, 3] = bad
    flow[0, 1, 4, 5] = bad
    flow.requires_grad_()
    out = flow_warp(x, flow, **modes)
    torch.testing.assert_close(out, flow_warp_reference(x, flow, **modes))
    assert torch.isfinite(out).all()

    def edge(values: Tensor) -> Tensor:
        return values[..., 0] if not bad > 0 else values[..., -1]

    if padding_mode == "zeros":
        assert (out[0, :, 2, 3] == 0).all()
        assert (out[0, :, 4, 5] == 0).all()
    else:
        assert (out[0, :, 2, 3] >= edge(x[0]).amin(1) - 0.2).all()
        assert (out[0, :, 2, 3] <= edge(x[0]).amax(1) + 0.2).all()
        rows = edge(x[0].transpose(1, 2))
        assert (out[0, :, 4, 5] <= rows.amax(1) + 0.2).all()
    untouched = torch.ones(6, 8, dtype=torch.bool, device=device)
    untouched[2, 3] = untouched[4, 5] = False
    assert (out.detach()[..., untouched] == good[..., untouched]).all()

    grad_x, grad_flow = torch.autograd.grad(out.square().sum(), (x, flow))
    assert torch.isfinite(grad_x).all()
    assert torch.isfinite(grad_flow).all()
    assert grad_flow[0, 0, 2, 3] == 0
    assert grad_flow[0, 1, 4, 5] == 0


@pytest.mark.parametrize("channels_last", [False, True])
def test_padding_never_reads_the_edge(channels_last: bool, device: torch.device) -> None:
    """A NaN at the image's edge stays out of the zeros beyond it."""
    x = torch.full((1, 4, 5, 5), float("nan"), device=device)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    out = flow_warp(x, torch.full((1, 2, 5, 5), 20.0, device=device))
    assert (out == 0).all()


def test_zero_flow_returns_the_image(device: torch.device) -> None:
    x = torch.randn(2, 3, 5, 7, device=device)
    for interpolation, padding_mode in MODES:
        out = flow_warp(
            x, torch.zeros(2, 2, 5, 7, device=device), interpolation=interpolation, padding_mode=padding_mode
        )
        assert torch.equal(out, x)


def test_whole_pixels_shift_the_image(device: torch.device) -> None:
    """Channel 0 is x to the right, channel 1 is y down, from the target to the source."""
    x = torch.randn(1, 1, 6, 8, device=device)
    flow = torch.tensor([2.0, 1.0], device=device).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    out = flow_warp(x, flow)
    assert torch.equal(out[..., :5, :6], x[..., 1:, 2:])
    assert (out[..., 5, :] == 0).all()
    assert (out[..., :, 6:] == 0).all()


def test_only_the_gradient_asked_for(device: torch.device) -> None:
    x, flow = make((1, 3, 5, 6), (5, 6)).to(device, torch.float32)
    assert x is not None
    assert flow is not None
    x.requires_grad_()
    flow_warp(x, flow).sum().backward()
    both = x.grad.clone()
    x.grad = None
    flow.requires_grad_()
    flow_warp(x, flow).sum().backward()
    torch.testing.assert_close(x.grad, both)
    assert flow.grad is not None
