"""kernel_merge: the contract of every op, a direct loop, a mosaic, and what must not count."""

import itertools
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from msr.ops import kernel_merge, kernel_merge_reference
from ops.contract import OpContract, Sample, assert_close

COLOURS = {"r": 0, "g": 1, "b": 2}


def make(
    frames: tuple[int, int, int, int, int], grid: tuple[int, int], scale: float, motion: float = 2.0, **options: Any
) -> Sample:
    """Return frames moved by about `motion` pixels, at positions that stay away from the halves between pixels."""
    generator = torch.Generator().manual_seed(sum(frames) + sum(grid))

    def rand(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator, dtype=torch.float64)

    batch, count = frames[:2]
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    shift = motion * (2 * rand(batch, count, 2, 1, 1) - 1)
    positions = torch.stack([x, y]) + shift + 0.05 * rand(batch, count, 2, *grid)
    xx, yy = 0.2 + rand(batch, count, 1, *grid), 0.2 + rand(batch, count, 1, *grid)
    xy = 0.8 * (2 * rand(batch, count, 1, *grid) - 1) * (xx * yy).sqrt()
    covariance = torch.cat([xx, xy, yy], dim=2)
    weights = 0.1 + rand(batch, count, 1, *grid)
    return Sample((rand(*frames), positions, covariance, weights), {"scale": scale, **options}, (1, 2, 3))


def both(op):
    """The contract wants one tensor: image and weight side by side."""

    def call(*tensors, **options):
        image, weight = op(*tensors, **options)
        return torch.cat([image, weight.to(image.dtype) / 8], dim=1)

    return call


class TestKernelMerge(OpContract):
    op = staticmethod(both(kernel_merge))
    reference = staticmethod(both(kernel_merge_reference))
    name = "kernel_merge"
    takes_autocast = False

    samples: ClassVar = {
        "rgb": make((2, 3, 3, 6, 7), (6, 7), 2.0),
        "gray-1.7": make((1, 2, 1, 5, 9), (5, 9), 1.7),
        "mosaic": make((1, 5, 1, 8, 10), (8, 10), 1.5, mosaic="grbg"),
        "four-channels": make((1, 2, 4, 6, 5), (6, 5), 4.0),
        "other-grid": make((1, 3, 3, 9, 12), (5, 6), 1.0, radius=2),
        "far": make((1, 2, 3, 5, 5), (5, 5), 2.0, motion=9.0),
        "wide": make((1, 2, 1, 5, 280), (5, 280), 2.0, mosaic="rggb"),
        "no-frames": make((1, 0, 3, 5, 5), (5, 5), 2.0),
        "no-pixels": make((1, 2, 3, 0, 5), (4, 5), 2.0),
        "no-batch": make((0, 2, 3, 5, 5), (5, 5), 2.0),
    }

    other_size = make((2, 3, 3, 8, 12), (8, 12), 2.0)

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        return *tensors, options["scale"], options.get("mosaic", ""), options.get("radius", 1)

    def test_elements_past_32_bits(self, device) -> None:  # type: ignore[override]
        """As the contract's, for frames of 5 dimensions."""
        first, *others = self.samples["rgb"].to(device, torch.float16)
        assert first is not None
        batch, count, channels, _, width = first.shape
        step = 2**31 // (batch * count * channels - 1) + 7
        far = torch.empty(2**31 + 2**16, dtype=torch.float16, device=device)
        far = far.as_strided(first.shape, (count * channels * step, channels * step, step, width, 1))
        far.copy_(first)
        got = self.op(far, *others, scale=2.0)
        wide = [t.float() for t in (first, *others) if t is not None]
        assert_close(got, self.reference(*wide, scale=2.0), torch.float16)

    @staticmethod
    def _wrong(**changed: Any) -> Any:
        given: dict[str, Any] = {
            "frames": torch.zeros(1, 2, 3, 5, 5),
            "positions": torch.zeros(1, 2, 2, 4, 4),
            "covariance": torch.ones(1, 2, 3, 4, 4),
            "weights": torch.ones(1, 2, 1, 4, 4),
            "scale": 2,
        }
        return kernel_merge(**{**given, **changed})

    wrong: ClassVar = {
        "frames-4d": lambda: TestKernelMerge._wrong(frames=torch.zeros(2, 3, 5, 5)),
        "five-channels": lambda: TestKernelMerge._wrong(frames=torch.zeros(1, 2, 5, 5, 5)),
        "positions": lambda: TestKernelMerge._wrong(positions=torch.zeros(1, 2, 3, 4, 4)),
        "count": lambda: TestKernelMerge._wrong(positions=torch.zeros(1, 3, 2, 4, 4)),
        "covariance": lambda: TestKernelMerge._wrong(covariance=torch.ones(1, 2, 4, 4, 4)),
        "weights": lambda: TestKernelMerge._wrong(weights=torch.ones(1, 2, 1, 4, 5)),
        "integers": lambda: TestKernelMerge._wrong(weights=torch.ones(1, 2, 1, 4, 4, dtype=torch.int64)),
        "scale-small": lambda: TestKernelMerge._wrong(scale=0.5),
        "scale-large": lambda: TestKernelMerge._wrong(scale=4.5),
        "scale-nan": lambda: TestKernelMerge._wrong(scale=math.nan),
        "mosaic": lambda: TestKernelMerge._wrong(mosaic="rgbg", frames=torch.zeros(1, 2, 1, 5, 5)),
        "mosaic-rgb": lambda: TestKernelMerge._wrong(mosaic="rggb"),
        "radius": lambda: TestKernelMerge._wrong(radius=0),
    }


def direct_loop(sample: Sample) -> tuple[Tensor, Tensor]:
    """The definition, pixel by pixel, sharing nothing with the reference."""
    frames, positions, covariance, weights = (t.detach().numpy() for t in sample.tensors if t is not None)
    scale, mosaic = sample.options["scale"], sample.options.get("mosaic")
    radius = sample.options.get("radius", 1)
    batch, count, channels, height, width = frames.shape
    rows, columns = positions.shape[3:]
    shape = (batch, 3 if mosaic else channels, math.ceil(rows * scale), math.ceil(columns * scale))
    image, weight = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)

    def read(guide, y: float, x: float) -> float:
        y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
        top, left = math.floor(y), math.floor(x)
        low, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        fy, fx = y - top, x - left
        upper = guide[top, left] * (1 - fx) + guide[top, right] * fx
        return float(upper * (1 - fy) + (guide[low, left] * (1 - fx) + guide[low, right] * fx) * fy)

    for b, i, j, n in itertools.product(range(batch), range(shape[2]), range(shape[3]), range(count)):
        place = (i + 0.5) / scale - 0.5, (j + 0.5) / scale - 0.5
        x, y = (read(positions[b, n, k], *place) for k in range(2))
        xx, xy, yy = (read(covariance[b, n, k], *place) for k in range(3))
        inverse = torch.linalg.inv(torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64))
        trust = read(weights[b, n, 0], *place)
        for v, u in itertools.product(range(height), range(width)):
            if abs(v - round(y)) <= radius and abs(u - round(x)) <= radius:
                d = torch.tensor([u - x, v - y], dtype=torch.float64)
                mass = trust * math.exp(-0.5 * float(d @ inverse @ d))
                for c in range(channels):
                    channel = COLOURS[mosaic[2 * (v % 2) + u % 2]] if mosaic else c
                    image[b, channel, i, j] += mass * float(frames[b, n, c, v, u])
                    weight[b, channel, i, j] += mass
    return torch.where(weight > 0, image / weight, 0), weight


@pytest.mark.parametrize("name", ["rgb", "mosaic", "other-grid", "far"])
def test_agrees_with_a_direct_loop(name: str, device: torch.device) -> None:
    sample = TestKernelMerge.samples[name]
    expected = direct_loop(sample)
    for op in (kernel_merge, kernel_merge_reference):
        for got, wanted in zip(op(*sample.to(device, torch.float64), **sample.options), expected, strict=True):
            assert_close(got, wanted.to(device), torch.float64)


@pytest.mark.parametrize("mosaic", ["rggb", "bggr", "grbg", "gbrg"])
def test_a_mosaic_of_flat_colours_is_that_colour(mosaic: str, device: torch.device) -> None:
    colour = torch.tensor([0.2, 0.5, 0.9], device=device)
    pattern = torch.stack([colour[COLOURS[letter]] for letter in mosaic]).view(2, 2)
    sample = make((1, 3, 1, 8, 8), (8, 8), 2.0, motion=1.0)
    _, positions, covariance, weights = sample.to(device, torch.float32)
    frames = pattern.repeat(4, 4).expand(1, 3, 1, 8, 8)
    image, weight = kernel_merge(frames, positions, covariance, weights, 2.0, mosaic=mosaic)
    assert (weight > 0).all()
    assert_close(image, colour.view(1, 3, 1, 1).expand_as(image), torch.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_positions_that_lie_nowhere_do_not_count(bad: float, device: torch.device) -> None:
    frames, positions, covariance, weights = make((1, 3, 3, 6, 6), (6, 6), 2.0).to(device, torch.float32)
    assert positions is not None
    expected = kernel_merge(frames[:, :2], positions[:, :2], covariance[:, :2], weights[:, :2], 2.0)
    positions[:, 2] = bad
    leaves = [t.detach().requires_grad_() for t in (frames, positions, covariance, weights)]
    got = kernel_merge(*leaves, 2.0)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, torch.float32)
    grads = torch.autograd.grad(got[0].square().sum() + got[1].sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("entries", [(1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, 0.0, -1.0), (math.nan, 0.0, 1.0)])
def test_covariances_that_are_none_do_not_count(entries: tuple[float, ...], device: torch.device) -> None:
    frames, positions, _, weights = make((1, 1, 3, 6, 6), (6, 6), 1.0).to(device, torch.float32)
    covariance = torch.tensor(entries, device=device).view(1, 1, 3, 1, 1).expand(1, 1, 3, 6, 6)
    image, weight = kernel_merge(frames, positions, covariance, weights, 1.0)
    assert (image == 0).all()
    assert (weight == 0).all()


def test_where_nothing_is_near_the_picture_is_zero(device: torch.device) -> None:
    """Not a mean of weights that are too small to be told apart."""
    frames, positions, _, weights = make((1, 1, 3, 6, 6), (6, 6), 1.0).to(device, torch.float32)
    grid = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="xy")).to(device)
    positions[:, 0] = grid + 0.45
    covariance = torch.tensor([0.001, 0.0, 0.001], device=device).view(1, 1, 3, 1, 1).expand(1, 1, 3, 6, 6)
    arguments = (frames, positions, covariance, weights, 1.0)
    image, weight = kernel_merge(*arguments)
    assert (weight == 0).all()
    assert (image == 0).all()
    for one, other in zip((image, weight), kernel_merge_reference(*arguments), strict=True):
        assert torch.equal(one, other)
