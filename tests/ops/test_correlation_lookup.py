"""correlation_lookup: the contract of every op, agreement with the volume of all pairs, and places that are nowhere."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops import correlation, correlation_lookup, correlation_lookup_reference
from ops.contract import OpContract, Sample, assert_close


def make(shape: tuple[int, ...], size: tuple[int, int], radius: int, reach: float = 2.0) -> Sample:
    """Return features and coordinates that stay away from the kinks at integers, some outside of b."""
    generator = torch.Generator().manual_seed(sum(shape) + sum(size))
    a = torch.randn(shape, generator=generator, dtype=torch.float64)
    b = torch.randn((*shape[:2], *size), generator=generator, dtype=torch.float64)
    coords = torch.rand((shape[0], 2, *shape[2:]), generator=generator, dtype=torch.float64)
    coords = coords * torch.tensor([size[1], size[0]]).view(2, 1, 1) + reach * torch.randn(
        coords.shape, generator=generator, dtype=torch.float64
    )
    fraction = 0.1 + 0.3 * torch.rand(coords.shape, generator=generator, dtype=torch.float64)
    return Sample((a, b, coords.floor() + fraction), {"radius": radius}, coordinates=(2,))


def through_all_pairs(a: Tensor, b: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Build the volume of all pairs and sample it, as RAFT's own lookup does."""
    batch, channels, height, width = a.shape
    volume = torch.einsum("bcij,bcuv->bijuv", a, b).reshape(-1, 1, *b.shape[2:]) / channels
    steps = torch.arange(-radius, radius + 1, dtype=coords.dtype, device=coords.device)
    found = []
    for dy in steps:
        for dx in steps:
            x, y = (coords.flatten(2).transpose(0, 1).flatten(1) + torch.stack([dx, dy])[:, None]).unbind()
            grid = torch.stack((2 * x / (b.shape[3] - 1) - 1, 2 * y / (b.shape[2] - 1) - 1), -1)[:, None, None]
            found.append(F.grid_sample(volume, grid, align_corners=True).reshape(batch, height, width))
    return torch.stack(found, 1)


class TestCorrelationLookup(OpContract):
    op = staticmethod(correlation_lookup)
    reference = staticmethod(correlation_lookup_reference)
    name = "correlation_lookup"
    turns_planes = True
    other_size = make((2, 5, 9, 12), (10, 11), 2)

    samples: ClassVar = {
        "radius-2": make((2, 5, 4, 6), (7, 8), 2),
        "radius-0": make((1, 3, 4, 5), (4, 5), 0),
        "radius-4": make((1, 21, 5, 6), (7, 9), 4),
        "far": make((1, 3, 4, 5), (3, 4), 1, reach=30.0),
        "one-pixel": make((1, 3, 1, 1), (1, 1), 1, reach=0.5),
        "one-channel": make((2, 1, 3, 4), (5, 2), 1),
        "no-batch": make((0, 3, 4, 5), (4, 5), 1),
        "no-channels": make((2, 0, 4, 5), (4, 5), 1),
        "no-pixels": make((1, 3, 0, 5), (4, 5), 1),
        "nothing-to-look-at": make((1, 3, 4, 5), (0, 5), 1),
    }
    wrong: ClassVar = {
        "a-3d": lambda: correlation_lookup(torch.zeros(3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), 1),
        "channels": lambda: correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5), 1
        ),
        "coords": lambda: correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 4), 1
        ),
        "dtypes": lambda: correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5).half(), torch.zeros(1, 2, 4, 5), 1
        ),
        "integers": lambda: correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5).int(), 1
        ),
        "radius": lambda: correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5), -1
        ),
    }


def test_errors_print_shapes_and_dtypes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(1, 2, 6, 7\).*float64"):
        correlation_lookup(
            torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 6, 7, dtype=torch.float64), torch.zeros(1, 2, 4, 5), 1
        )


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_agrees_with_the_volume_of_all_pairs(radius: int, device: torch.device) -> None:
    a, b, coords = make((2, 4, 5, 6), (7, 8), radius).to(device, torch.float64)
    expected = through_all_pairs(a, b, coords, radius)
    for function in (correlation_lookup, correlation_lookup_reference):
        torch.testing.assert_close(function(a, b, coords, radius), expected, rtol=0, atol=1e-12)


def test_at_its_own_place_it_is_the_correlation(device: torch.device) -> None:
    a, b = (torch.randn(2, 5, 6, 7, dtype=torch.float64, device=device) for _ in range(2))
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    coords = torch.stack((columns, rows)).expand(2, -1, -1, -1).to(device)
    torch.testing.assert_close(correlation_lookup(a, b, coords, 2), correlation(a, b, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_coordinates_that_are_nowhere_give_zero(bad: float, device: torch.device) -> None:
    a, b, coords = make((1, 4, 5, 6), (6, 7), 2).to(device, torch.float32)
    good = correlation_lookup(a, b, coords, 2)
    coords[0, 0, 1, 2] = coords[0, 1, 3, 4] = bad
    leaves = [t.requires_grad_() for t in (a, b, coords)]
    out = correlation_lookup(*leaves, 2)
    untouched = torch.ones(5, 6, dtype=torch.bool, device=device)
    untouched[1, 2] = untouched[3, 4] = False
    assert (out[..., ~untouched] == 0).all()
    assert torch.equal(out[..., untouched], good[..., untouched])
    grads = torch.autograd.grad(out.square().sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[2][..., ~untouched] == 0).all()


def test_what_is_outside_is_not_read(device: torch.device) -> None:
    """A NaN in a corner of b stays out of windows beyond it."""
    a, b, coords = make((1, 4, 5, 6), (6, 7), 1).to(device, torch.float32)
    b[0, 0, 0, 0] = float("nan")
    coords[:] = 3.5
    assert torch.isfinite(correlation_lookup(a, b, coords, 1)).all()
    coords[:] = -20.0
    assert (correlation_lookup(a, b, coords, 1) == 0).all()


def test_only_the_gradients_asked_for(device: torch.device) -> None:
    tensors = make((1, 3, 4, 5), (5, 6), 1).to(device, torch.float32)
    every = [t.detach().requires_grad_() for t in tensors]
    correlation_lookup(*every, 1).square().sum().backward()
    for wanted in range(3):
        leaves = [t.detach().requires_grad_(n == wanted) for n, t in enumerate(tensors)]
        correlation_lookup(*leaves, 1).square().sum().backward()
        assert_close(leaves[wanted].grad, every[wanted].grad, torch.float32)
        assert [leaf.grad is not None for leaf in leaves] == [n == wanted for n in range(3)]
