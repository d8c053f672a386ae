"""Bursts merged without training, on bursts made here whose motion and truth are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msr.degradation import compress_jpeg
from msr.errors import InputError
from msr.ops.resize import resize
from msr.pipelines.handheld import Shot, merge_shots, sharpest, write_explanation
from msr.pipelines.handheld.noise import estimate_noise, noise_between
from msr.pipelines.handheld.robustness import guide_of

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


def moved_by_itself(count: int, mosaic: str | None) -> tuple[list[Shot], Tensor, tuple[slice, slice]]:
    """A burst with a square that jumps about; its base frame's truth, and where the square was in any frame."""
    other, frames = scene(1), []
    truth = torch.empty(0)
    for index, shift in enumerate(SHIFTS[:count]):
        picture = scene()
        y, x = MARGIN + 60, MARGIN + 70 + 13 * index
        picture[:, y : y + 50, x : x + 50] = other[:, 80:130, 80:130]
        truth = looked_at(picture, shift) if index == 0 else truth
        frames.append(taken(looked_at(picture, shift), index, mosaic))
    return frames, truth, (slice(56, 114), slice(66, 124 + 13 * count))


@pytest.mark.parametrize("mosaic", [None, "rggb"])
def test_what_moves_by_itself_is_no_worse_than_in_the_base(mosaic: str | None) -> None:
    frames, truth, where = moved_by_itself(6, mosaic)
    merged, single = merge_shots(frames, SCALE), merge_shots(frames[:1], SCALE)
    assert psnr(merged.image, truth, where) >= psnr(single.image, truth, where) - 0.05
    assert psnr(merged.image, truth) > psnr(single.image, truth) + 1.0


def test_a_frame_of_something_else_does_not_count() -> None:
    frames = burst("rggb", 5)
    strange = taken(looked_at(scene(7), (0, 0)), 9, "rggb")
    merged = merge_shots([*frames[:2], strange, *frames[2:]], SCALE)
    assert [use.used for use in merged.frames] == [True, True, False, True, True, True]
    assert torch.allclose(merged.image, merge_shots(frames, SCALE).image, atol=1e-5)


@pytest.mark.parametrize("mosaic", [None, "rggb"])
def test_light_of_another_exposure_is_evened_out(mosaic: str | None) -> None:
    frames, truth = burst(mosaic), looked_at(scene(), SHIFTS[0])
    changed = [*frames[:2], frames[2].brightened(0.5), *frames[3:]]
    merged = merge_shots(changed, SCALE)
    assert merged.frames[2].exposure == pytest.approx(0.5, rel=0.03)
    assert psnr(merged.image, truth) > psnr(merge_shots(frames, SCALE).image, truth) - 0.5


def test_a_blurred_frame_does_not_count() -> None:
    frames = burst(None)
    pixels = F.avg_pool2d(F.pad(frames[3].pixels, (3, 3, 3, 3), mode="reflect"), 7, 1)
    blurred = Shot(pixels, noise=frames[3].noise)
    merged = merge_shots([*frames[:3], blurred, *frames[4:]], SCALE)
    assert not merged.frames[3].used
    assert torch.allclose(merged.image, merge_shots([*frames[:3], *frames[4:]], SCALE).image, atol=1e-5)


def test_large_motion_is_found() -> None:
    big = scene(3)
    base, moved = (Shot(F.avg_pool2d(big[None, :, y : y + 180, x : x + 180], 1)) for y, x in ((0, 0), (52, 64)))
    use = merge_shots([base, moved], 1).frames[1]
    assert use.motion is not None
    inside = use.motion.flow[0, :, 5:, 5:]
    assert float((inside - torch.tensor([-64.0, -52.0]).view(2, 1, 1)).abs().max()) < 0.1


@pytest.mark.parametrize(("height", "width"), [(97, 64), (64, 98), (194, 97)])
def test_motion_is_found_at_any_size(height: int, width: int) -> None:
    big = scene(4)[None, :, : height + 3, : width + 2]
    use = merge_shots([Shot(big[..., 3:, :-2]), Shot(big[..., :-3, 2:])], 1).frames[1]
    assert use.motion is not None
    assert float((use.motion.flow[0] - torch.tensor([-2.0, 3.0]).view(2, 1, 1)).abs().mean()) < 0.1


def compressed(picture: Tensor, seed: int, noise: float, quality: int) -> Shot:
    """A frame by a camera that does not tell its noise."""
    return Shot(compress_jpeg(taken(picture, seed, None, noise).pixels, quality))


@pytest.mark.parametrize(("noise", "quality"), [(0.01, 92), (0.03, 92), (0.03, 70)])
def test_the_noise_of_compressed_frames_is_estimated(noise: float, quality: int) -> None:
    shots = [compressed(looked_at(scene(), (0, 0)), seed, noise, quality) for seed in (1, 2)]
    moved = compressed(looked_at(scene(), (4 * SCALE, 0)), 3, noise, quality)
    base, again, other = (guide_of(shot.pixels, None) for shot in (*shots, moved))
    difference = (base - again) / 2**0.5
    found = noise_between(base[..., 2:], other[..., :-2])
    for estimate, noisy in ((found.pixel, difference), (found.mean, F.avg_pool2d(difference, 3, 1))):
        ratio = (estimate / noisy.square().mean((2, 3), keepdim=True)).sqrt()
        assert ratio.min() > 0.6
        assert ratio.max() < 1.3


def test_noisy_compressed_frames_count() -> None:
    frames = [compressed(looked_at(scene(), shift), seed, 0.05, 85) for seed, shift in enumerate(SHIFTS)]
    merged, single = merge_shots(frames, SCALE), merge_shots(frames[:1], SCALE).image
    assert all(use.trust is None or float(use.trust.mean()) > 0.6 for use in merged.frames)
    assert psnr(merged.image, looked_at(scene(), SHIFTS[0])) > psnr(single, looked_at(scene(), SHIFTS[0])) + 4.0


@pytest.mark.parametrize("mosaic", [None, "rggb"])
def test_a_frame_that_is_clipped_all_over_has_no_noise(mosaic: str | None) -> None:
    for value in (0.0, 1.0):
        a, b = estimate_noise(torch.full((1, 1 if mosaic else 3, 96, 128), value), mosaic)
        assert a == 0
        assert 0 < b < 1e-6


def test_noise_is_not_taken_from_a_frame_of_something_else() -> None:
    frames = [compressed(looked_at(scene(), shift), seed, 0.02, 90) for seed, shift in enumerate(SHIFTS)]
    strange = compressed(looked_at(scene(9), (0, 0)), 20, 0.02, 90)
    merged = merge_shots([frames[0], strange, *frames[1:]], SCALE)
    assert [use.used for use in merged.frames] == [True, False] + [True] * (len(frames) - 1)
    assert torch.allclose(merged.image, merge_shots(frames, SCALE).image, atol=1e-2)


@pytest.mark.parametrize(
    ("height", "width", "mosaic"), [(1, 1, None), (1, 5, None), (3, 2, None), (2, 2, "rggb"), (7, 40, "gbrg")]
)
def test_frames_too_small_to_be_aligned_are_enlarged(height: int, width: int, mosaic: str | None) -> None:
    shots = [Shot(torch.rand(1, 1 if mosaic else 3, height, width), mosaic) for _ in range(2)]
    merged = merge_shots(shots, 2)
    assert merged.image.shape == (1, 3, 2 * height, 2 * width)
    assert torch.equal(merged.image, merge_shots(shots[:1], 2).image)


def test_the_sharpest_frame_of_the_same_scene_is_the_base() -> None:
    frames = burst(None, 5)
    soft = [Shot(F.avg_pool2d(F.pad(f.pixels, (1, 1, 1, 1), mode="reflect"), 3, 1)) for f in frames]
    strange = Shot(torch.rand(1, 3, HEIGHT, WIDTH))
    dark = frames[4].brightened(0.25)
    candidates = [soft[0], soft[1], strange, frames[3], dark, soft[4]]
    assert sharpest(len(candidates), candidates.__getitem__) == 3


def test_the_page_explains_each_frame(tmp_path: Path) -> None:
    frames = burst("rggb", 3)
    merged = merge_shots([*frames, frames[0]], SCALE)
    target = tmp_path / "page.html"
    names = ["base.dng", "<one>.dng", "two.dng", "again.dng"]
    write_explanation(target, merged, frames[0], SCALE, names, lambda x: x.clamp(0, 1).sqrt())
    page = target.read_text(encoding="utf-8")
    assert "<one>" not in page
    assert page.count("&lt;one&gt;.dng") >= 2
    assert page.count("<td>merged</td>") == 2
    assert page.count("<td>nothing new</td>") == 1
    assert page.count("class='arrow'") >= 20
    assert "http" not in page.replace("http-equiv", "")


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
