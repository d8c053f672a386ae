"""Cuts are found; pans, shakes, flashes, fades and changes of light are none."""

import numpy as np
import pytest
import torch
from made import picture

from msr.pipelines.scenes import judge, thumbnail


def textured(seed: int, height: int = 180, width: int = 640) -> np.ndarray:
    """A picture with detail of all sizes, (H, W) in [0, 1], wider than a frame."""
    rng = np.random.default_rng(seed)
    out = picture(height, width, seed)[..., 0] / 255
    for step in (4, 12, 36):
        patches = rng.uniform(-0.15, 0.15, (-(-height // step), -(-width // step)))
        out = out + np.kron(patches, np.ones((step, step)))[:height, :width]
    return np.clip(out, 0, 1).astype(np.float32)


def pan(seed: int, count: int, speed: int) -> list[np.ndarray]:
    world = textured(seed)
    return [world[:, index * speed : index * speed + 320] for index in range(count)]


def cuts(frames: list[np.ndarray]) -> list[int]:
    """Frames that start a scene; each is judged with as few frames after it as suffice."""
    thumbnails = [thumbnail(frame) for frame in frames]
    scene, found = None, []
    for index in range(len(frames)):
        for seen in range(1, 4):
            verdict = judge(scene, thumbnails[index : index + seen], ended=index + seen >= len(frames))
            if verdict is not None:
                break
        assert verdict is not None
        starts, scene = verdict
        found += [index] if starts else []
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("speed", [0, 5])
def test_a_cut_is_found_where_it_is(seed: int, speed: int) -> None:
    assert cuts(pan(seed, 6, speed) + pan(seed + 50, 6, speed)) == [6]


def test_a_cut_to_a_last_frame_and_short_scenes_count() -> None:
    assert cuts(pan(1, 5, 2) + pan(2, 1, 0)) == [5]
    assert cuts(pan(1, 5, 2) + pan(2, 9, 2) + pan(3, 5, 2)) == [5, 14]


@pytest.mark.parametrize("speed", [0, 3, 10, 20, 32])
def test_a_pan_is_no_cut(speed: int) -> None:
    """The fastest crosses the frame in ten frames."""
    assert cuts(pan(3, 10, speed)) == []


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_flash_is_no_cut(length: int, strength: float) -> None:
    frames = pan(4, 12, 2)
    for index in range(5, 5 + length):
        frames[index] = frames[index] * (1 - strength) + strength
    assert cuts(frames) == []


def test_light_that_changes_is_no_cut() -> None:
    frames = pan(5, 10, 1)
    assert cuts([frame * (1 - 0.09 * index) for index, frame in enumerate(frames)]) == []
    assert cuts([np.clip(frame + 0.3 * (index >= 5), 0, 2) for index, frame in enumerate(frames)]) == []


def test_a_shake_with_noise_is_no_cut() -> None:
    world, rng = textured(6), np.random.default_rng(0)
    frames = []
    for _ in range(15):
        x = int(rng.integers(0, 24))
        frames.append(world[:, x : x + 320] + rng.normal(0, 0.03, (180, 320)).astype(np.float32))
    assert cuts(frames) == []


def test_a_dissolve_and_black_frames() -> None:
    a, b = textured(7)[:, :320], textured(8)[:, :320]
    assert cuts([a + (b - a) * share for share in np.linspace(0, 1, 16, dtype=np.float32)]) == []
    assert cuts([np.zeros((180, 320), np.float32)] * 5) == []


def test_a_thumbnail_is_the_mean_of_blocks() -> None:
    wide = np.arange(360 * 640, dtype=np.uint16).reshape(360, 640)
    small = thumbnail(wide, 65535)
    expected = wide.reshape(36, 10, 64, 10).mean((1, 3)) / 65535
    np.testing.assert_allclose(small.numpy(), expected, rtol=1e-5)
    assert thumbnail(np.full((1, 1), 255, np.uint8), 255).tolist() == [[1.0]]
    assert thumbnail(np.full((7, 5), 0.5, np.float32)).shape == (7, 5)
    assert thumbnail(torch.full((600, 100), 0.5)).mean().item() == pytest.approx(0.5)
