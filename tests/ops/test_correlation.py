"""correlation: the contract of every op, agreement with a direct loop, and what lies outside of the image."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from msr.ops import correlation, correlation_reference
from ops.contract import OpContract, Sample, arrange, assert_close


def make(shape: tuple[int, ...], **options: int) -> Sample:
    generator = torch.Generator().manual_seed(sum(shape))
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return Sample((a, b), options)


def direct(a: Tensor, b: Tensor, radius: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Compute the definition value by value."""
    batch, channels, height, width = a.shape
    side = 2 * radius + 1
    rows, columns = range(0, height, stride), range(0, width, stride)
    out = torch.zeros(batch, side * side, len(rows), len(columns), dtype=a.dtype)
    for n in range(batch):
        for i, y in enumerate(rows):
            for j, x in enumerate(columns):
                for k in range(side * side):
                    v = y + dilation * (k // side - radius)
                    u = x + dilation * (k % side - radius)
                    if 0 <= v < height and 0 <= u < width:
                        out[n, k, i, j] = float(sum(a[n, c, y, x] * b[n, c, v, u] for c in range(channels))) / channels
    return out


class TestCorrelation(OpContract):
    op = staticmethod(correlation)
    reference = staticmethod(correlation_reference)
    name = "correlation"
    other_size = make((2, 5, 12, 10), radius=2)

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        return (*tensors, options["radius"], options.get("stride", 1), options.get("dilation", 1))

    samples: ClassVar = {
        "radius-2": make((2, 5, 7, 9), radius=2),
        "radius-0": make((2, 3, 4, 5), radius=0),
        "radius-4": make((1, 20, 9, 35), radius=4),
        "radius-5": make((1, 3, 6, 7), radius=5),
        "stride": make((2, 3, 8, 11), radius=1, stride=2),
        "dilation": make((1, 4, 9, 8), radius=2, dilation=3),
        "stride-and-dilation": make((2, 3, 10, 13), radius=2, stride=3, dilation=2),
        "farther-than-the-image": make((1, 3, 3, 4), radius=2, stride=2, dilation=5),
        "one-pixel": make((1, 3, 1, 1), radius=1),
        "one-channel": make((2, 1, 5, 6), radius=1),
        "no-batch": make((0, 3, 4, 5), radius=1),
        "no-channels": make((2, 0, 4, 5), radius=1),
        "no-rows": make((1, 3, 0, 5), radius=1, stride=2),
    }
    wrong: ClassVar = {
        "a-3d": lambda: correlation(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5), 1),
        "shapes": lambda: correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 6), 1),
        "dtypes": lambda: correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5).half(), 1),
        "integers": lambda: correlation(torch.zeros(1, 3, 4, 5).int(), torch.zeros(1, 3, 4, 5).int(), 1),
        "radius": lambda: correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), -1),
        "stride": lambda: correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), 1, stride=0),
        "dilation": lambda: correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), 1, dilation=0),
    }


def test_errors_print_shapes_and_dtypes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(1, 2, 4, 5\).*float64"):
        correlation(torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5, dtype=torch.float64), 1)


@pytest.mark.parametrize("numbers", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 3), (1, 3, 2)])
def test_agrees_with_a_direct_loop(numbers: tuple[int, int, int], device: torch.device) -> None:
    radius, stride, dilation = numbers
    a, b = make((2, 3, 6, 7)).tensors
    expected = direct(a, b, *numbers)
    for function in (correlation, correlation_reference):
        got = function(a.to(device), b.to(device), radius, stride=stride, dilation=dilation)
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 64, 65, 300])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_any_width(width: int, layout: str, device: torch.device) -> None:
    """Tiles and whole vectors end anywhere in a row."""
    a, b = (arrange(t, layout) for t in make((1, 40, 5, width)).to(device, torch.float32))
    assert_close(correlation(a, b, 4), correlation_reference(a, b, 4), torch.float32)


def test_wide_rows_of_many_channels(device: torch.device) -> None:
    """More than the cache of a processor holds: several tiles, each with its own packed rows."""
    a, b = (t.requires_grad_() for t in make((1, 130, 12, 150)).to(device, torch.float32))
    got, expected = correlation(a, b, 4), correlation_reference(a, b, 4)
    assert_close(got, expected, torch.float32)
    weights = torch.linspace(-1, 1, got.numel(), device=device).reshape(got.shape)
    pairs = zip(*(torch.autograd.grad(out, (a, b), weights) for out in (got, expected)), strict=True)
    for one, other in pairs:
        assert_close(one, other, torch.float32)


def test_a_shifted_picture_matches_at_its_shift(device: torch.device) -> None:
    """The channel that is largest says how far right (dx) and down (dy) of `a` its content lies in `b`."""
    picture = torch.nn.functional.normalize(torch.randn(1, 16, 20, 20), dim=1).to(device)
    a, b = picture[..., 4:16, 4:16], picture[..., 4 - 1 : 16 - 1, 4 - 2 : 16 - 2]
    best = correlation(a, b, 3).argmax(1)[0, 3:-3, 3:-3]
    assert (best == (1 + 3) * 7 + 2 + 3).all()


def test_values_that_are_not_finite_stay_within_their_reach(device: torch.device) -> None:
    a, b = make((1, 3, 9, 20)).to(device, torch.float32)
    good = correlation(a, b, 1)
    b[0, 1, 4, 10] = float("nan")
    a[0, 0, 7, 2] = float("inf")
    out = correlation(a, b, 1)
    touched = ~torch.isfinite(out)
    assert touched[0, :, 3:6, 9:12].sum() == 9
    assert touched.sum() == 18
    assert touched[0, :, 7, 2].all()
    assert torch.equal(out[~touched], good[~touched])


def test_autocast(device: torch.device) -> None:
    a, b = (t.requires_grad_() for t in make((1, 8, 6, 7)).to(device, torch.float32))
    with torch.autocast(device.type, torch.bfloat16):
        out = correlation(a, b.bfloat16(), 2)
    assert out.dtype == torch.bfloat16
    assert_close(out, correlation_reference(a, b, 2), torch.bfloat16)
    out.float().sum().backward()
    assert a.grad.dtype == b.grad.dtype == torch.float32
    with torch.autocast(device.type, torch.bfloat16):
        assert correlation(a.double(), b.double(), 2).dtype == torch.float64


def test_only_the_gradient_asked_for(device: torch.device) -> None:
    a, b = make((1, 3, 5, 6)).to(device, torch.float32)
    both = torch.autograd.grad(correlation(a.requires_grad_(), b.requires_grad_(), 1).sum(), (a, b))
    for wanted, grad in enumerate(both):
        leaves = [t.detach().requires_grad_(n == wanted) for n, t in enumerate((a, b))]
        correlation(*leaves, 1).sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, grad)
        assert leaves[1 - wanted].grad is None
