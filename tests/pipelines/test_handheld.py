"""Bursts merged without training, on bursts made here whose motion and truth are known."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msr.errors import InputError
from msr.ops.resize import resize
from msr.pipelines.handheld import Shot, merge_shots

SCALE, HEIGHT, WIDTH = 2, 96, 128
MARGIN = 24
SHIFTS = ((0, 0), (3, 5), (-7, 2), (6, -9), (-1, -3), (9, 8), (-5, 11), (2, -6))  # in pixels of the original


def scene(seed: int = 0) -> Tensor:
    """Blobs, edges and stripes in colours, ``(3, H, W)`` in [0, 1], with a margin to move in."""
    rng = np.random.default_rng(seed)
    height, width = SCALE * HEIGHT + 2 * MARGIN, SCALE * WIDTH + 2 * MARGIN
    picture = torch.full((3, height, width), 0.4)
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    for _ in range(160):
        cx, cy, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = torch.sigmoid((rng.uniform(4, 20) - u.abs()) * 2) * torch.sigmoid((rng.uniform(4, 20) - v.abs()) * 2)
        light = float(rng.uniform(0.1, 0.8))
        colour = torch.tensor([light + rng.uniform(-0.1, 0.1) for _ in range(3)]).view(3, 1, 1)
        picture = picture * (1 - inside) + colour * inside
    return picture.clamp(0.02, 0.98)


def looked_at(picture: Tensor, shift: tuple[int, int]) -> Tensor:
    """What the camera sees at full resolution when it has moved by ``shift`` (x, y)."""
    x, y = MARGIN + shift[0], MARGIN + shift[1]
    return picture[:, y : y + SCALE * HEIGHT, x : x + SCALE * WIDTH]


def taken(picture: Tensor, seed: int, mosaic: str | None, noise: float = 0.01) -> Shot:
    pixels = F.avg_pool2d(picture[None], SCALE)
    if mosaic is not None:
        cells = torch.tensor(["rgb".index(c) for c in mosaic]).view(2, 2).repeat(HEIGHT // 2, WIDTH // 2)
        pixels = pixels.gather(1, cells[None, None])
    pixels = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return Shot(pixels if mosaic else pixels.clamp(0, 1), mosaic, (1.0, 1.0, 1.0), (0.0, noise**2))


def burst(mosaic: str | None, count: int = len(SHIFTS)) -> list[Shot]:
    return [taken(looked_at(scene(), shift), seed, mosaic) for seed, shift in enumerate(SHIFTS[:count])]


def psnr(image: Tensor, truth: Tensor, where: tuple[slice, slice] = (slice(16, -16), slice(16, -16))) -> float:
    difference = (image[0].clamp(0, 1) - truth)[:, where[0], where[1]]
    return float(-10 * torch.log10(difference.square().mean()))


@pytest.mark.parametrize(("mosaic", "gain"), [(None, 2.0), ("rggb", 4.0), ("gbrg", 4.0)])
def test_a_burst_shows_more_than_its_base(mosaic: str | None, gain: float) -> None:
    frames, truth = burst(mosaic), looked_at(scene(), SHIFTS[0])
    merged = merge_shots(frames, SCALE)
    single = merge_shots(frames[:1], SCALE).image
    assert merged.image.shape == (1, 3, SCALE * HEIGHT, SCALE * WIDTH)
    assert psnr(merged.image, truth) > psnr(single, truth) + gain


@pytest.mark.parametrize("mosaic", [None, "grbg"])
def test_motion_is_found_to_a_tenth_of_a_pixel(mosaic: str | None) -> None:
    uses = merge_shots(burst(mosaic), SCALE).frames
    for use, shift in zip(uses[1:], SHIFTS[1:], strict=True):
        true = -torch.tensor(shift).view(1, 2, 1, 1) / SCALE
        assert use.motion is not None
        assert float((use.motion.flow - true).square().sum(1).sqrt().mean()) < 0.1


def test_one_frame_is_the_frame_enlarged() -> None:
    shot = burst(None, 1)[0]
    merged = merge_shots([shot], 1.5)
    assert torch.equal(merged.image, resize(shot.pixels, scale=1.5))
    assert float(merged.weight.max()) == 0.0


@pytest.mark.parametrize("mosaic", [None, "bggr"])
def test_equal_frames_are_as_one(mosaic: str | None) -> None:
    shot = burst(mosaic, 1)[0]
    assert torch.equal(merge_shots([shot] * 3, SCALE).image, merge_shots([shot], SCALE).image)


def test_frames_of_another_size_or_mosaic_are_refused() -> None:
    shot = burst("rggb", 1)[0]
    with pytest.raises(InputError, match="frame 1 is 128x94, expected 128x96"):
        merge_shots([shot, Shot(shot.pixels[:, :, 2:], "rggb", noise=(0.0, 1e-4))], SCALE)
    with pytest.raises(InputError, match="frame 1: mosaic bggr, expected rggb"):
        merge_shots([shot, Shot(shot.pixels, "bggr", noise=(0.0, 1e-4))], SCALE)
    with pytest.raises(InputError, match="no frames"):
        merge_shots([], SCALE)
