"""local_contrast_norm: the contract of every op, a direct loop over windows, what is left of light and contrast."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from msr.ops import local_contrast_norm, local_contrast_norm_reference
from ops.contract import OpContract, Sample


def make(*shape: int, **options: Any) -> Sample:
    generator = torch.Generator().manual_seed(sum(shape))
    return Sample((torch.randn(shape, generator=generator, dtype=torch.float64),), options)


class TestLocalContrastNorm(OpContract):
    op = staticmethod(local_contrast_norm)
    reference = staticmethod(local_contrast_norm_reference)
    name = "local_contrast_norm"
    takes_autocast = False

    samples: ClassVar = {
        "flow-features": make(2, 12, 9, 11, radius=2),
        "one-channel": make(1, 1, 7, 6, radius=1),
        "24-channels": make(1, 24, 6, 5, radius=2),
        "odd-channels": make(2, 5, 4, 19, radius=3),
        "wider-than-the-picture": make(1, 3, 3, 4, radius=5),
        "one-pixel-high": make(1, 2, 1, 9, radius=2),
        "epsilon": make(1, 3, 6, 7, radius=1, epsilon=0.1),
        "radius-0": make(1, 4, 5, 5, radius=0),
        "no-batch": make(0, 3, 5, 5, radius=1),
        "no-rows": make(1, 3, 0, 5, radius=1),
    }

    other_size = make(2, 12, 8, 14, radius=2)

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        return tensors[0], options["radius"], options.get("epsilon", 1e-5)

    wrong: ClassVar = {
        "3d": lambda: local_contrast_norm(torch.rand(3, 4, 4), 1),
        "integers": lambda: local_contrast_norm(torch.ones(1, 1, 4, 4, dtype=torch.uint8), 1),
        "no-channels": lambda: local_contrast_norm(torch.rand(1, 0, 4, 4), 1),
        "radius-negative": lambda: local_contrast_norm(torch.rand(1, 1, 4, 4), -1),
        "epsilon-0": lambda: local_contrast_norm(torch.rand(1, 1, 4, 4), 1, epsilon=0.0),
        "epsilon-nan": lambda: local_contrast_norm(torch.rand(1, 1, 4, 4), 1, epsilon=float("nan")),
    }


def direct(x: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Window by window, from the definition."""
    batch, _, height, width = x.shape

    def windows(y: int, z: int) -> tuple[slice, slice]:
        return slice(max(y - radius, 0), y + radius + 1), slice(max(z - radius, 0), z + radius + 1)

    difference, out = np.empty_like(x), np.empty_like(x)
    places = [(b, y, z) for b in range(batch) for y in range(height) for z in range(width)]
    for b, y, z in places:
        difference[b, :, y, z] = x[b, :, y, z] - x[b][:, *windows(y, z)].mean(axis=(1, 2))
    for b, y, z in places:
        variance = (difference[b][:, *windows(y, z)] ** 2).mean()
        out[b, :, y, z] = difference[b, :, y, z] / np.sqrt(variance + epsilon)
    return out


@pytest.mark.parametrize(("shape", "radius"), [((2, 3, 8, 9), 2), ((1, 12, 5, 20), 1), ((1, 1, 2, 3), 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
def test_direct(shape: tuple[int, ...], radius: int, layout: torch.memory_format, device) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = local_contrast_norm(x.to(device).contiguous(memory_format=layout), radius, epsilon=1e-3)
    np.testing.assert_allclose(got.cpu().numpy(), direct(x.numpy(), radius, 1e-3), atol=1e-12)


def test_light_and_contrast_leave_no_trace(device) -> None:
    x = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    plain = local_contrast_norm(x, 2, epsilon=1e-12)
    torch.testing.assert_close(local_contrast_norm(3.0 * x + 100.0, 2, epsilon=1e-12), plain, atol=1e-9, rtol=0)
    assert 0.9 < plain.square().mean() < 1.1


def test_one_bad_pixel_harms_its_windows_alone(device) -> None:
    x = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0)).to(device)
    good = local_contrast_norm(x, 2)
    x[0, 1, 3, 3] = float("nan")
    got = local_contrast_norm(x, 2)
    assert got[..., :8, :8].isnan().any()
    far = torch.ones(20, 20, dtype=torch.bool)
    far[:8, :8] = False  # the windows of windows that hold pixel (3, 3)
    torch.testing.assert_close(got[..., far], good[..., far])


def test_a_row_is_the_same_whoever_computes_it(device) -> None:
    """Threads share the rows of a picture; the result must not tell."""
    x = torch.randn(1, 12, 200, 40, generator=torch.Generator().manual_seed(0)).to(device)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(local_contrast_norm(x, 2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
