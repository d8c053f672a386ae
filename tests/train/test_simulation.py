"""Simulated clips and bursts: their true flow warps one frame onto another, at both phases."""

from pathlib import Path

import numpy as np
import pytest
import torch
from originals import photo_folder, save, texture
from torch import Tensor

from msr.degradation import PHASES, degrade, to_tensor
from msr.ops import flow_warp
from msr.train.data import PhotoSet
from msr.train.losses import charbonnier, flow_error, picture_loss, warp_error
from msr.train.simulation import MotionRange, simulate, true_flow

SIZE, SCALE = 96, 4


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    for seed in range(2):  # smooth enough that reduction leaves no aliasing
        save(tmp_path / f"{seed}.png", texture(seed, 240, 240, sigma=8.0))
    return PhotoSet(tmp_path, minimum=200)


def misfit(lr: Tensor, target: int, source: int, flow: Tensor, weight: Tensor | None = None) -> float:
    """Mean absolute difference of a frame and another warped onto it, away from the border."""
    warped = flow_warp(lr[source][None], flow[None], interpolation="bicubic", padding_mode="border")
    error = (warped[0] - lr[target]).abs().mean(dim=0)
    inner = torch.zeros_like(error)
    inner[6:-6, 6:-6] = 1.0
    if weight is not None:
        inner = inner * weight
    assert inner.sum().item() > 20
    return float((error * inner).sum() / inner.sum())


@pytest.mark.parametrize("name", ["bi", "bd", "box"])
@pytest.mark.parametrize("smooth", [True, False])
def test_true_flow_brings_one_frame_onto_another(name: str, smooth: bool, photos: PhotoSet) -> None:
    motion = MotionRange(shift=6.0, rotation=2.0, zoom=0.02, layers=False, smooth=smooth)
    better = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        frames, maps, shares = simulate(photos, SIZE, 3, motion, rng)
        assert frames.shape == (3, SIZE, SIZE, 3)
        assert frames.dtype == np.uint8
        assert maps.shape == (3, 3, 3)
        assert shares.min() == 1.0
        lr = degrade(to_tensor(frames), name, SCALE, rng)  # type: ignore[arg-type]
        for target, source in ((0, 1), (1, 0), (1, 2), (0, 2)):
            flow = true_flow(maps, target, source, SIZE // SCALE, SCALE, PHASES[name] == "centered")
            assert flow.shape == (2, SIZE // SCALE, SIZE // SCALE)
            found, nothing = misfit(lr, target, source, flow), misfit(lr, target, source, torch.zeros_like(flow))
            assert found < 0.006
            better.append(found / max(nothing, 1e-9))
    assert float(np.median(better)) < 0.25


@pytest.mark.parametrize("name", ["bi", "bd"])
def test_true_flow_is_that_of_its_phase(name: str, photos: PhotoSet) -> None:
    # A strong turn, so that the place of the low-resolution pixel centres shows.
    motion = MotionRange(shift=0.0, rotation=30.0, zoom=0.0, layers=False, smooth=False)
    right, wrong = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        frames, maps, _ = simulate(photos, SIZE, 2, motion, rng)
        lr = degrade(to_tensor(frames), name, SCALE, rng)  # type: ignore[arg-type]
        centered = PHASES[name] == "centered"
        right.append(misfit(lr, 0, 1, true_flow(maps, 0, 1, SIZE // SCALE, SCALE, centered)))
        wrong.append(misfit(lr, 0, 1, true_flow(maps, 0, 1, SIZE // SCALE, SCALE, not centered)))
    assert np.mean(right) < 0.7 * np.mean(wrong)


def test_a_burst_begins_unmoved_and_a_frame_has_no_flow_to_itself(photos: PhotoSet) -> None:
    motion = MotionRange(shift=8.0, rotation=1.0, zoom=0.0, layers=False, smooth=False)
    _, maps, _ = simulate(photos, SIZE, 3, motion, np.random.default_rng(0))
    np.testing.assert_allclose(maps[0], np.eye(3), atol=1e-12)
    assert true_flow(maps, 2, 2, 24, 4, True).abs().max().item() < 1e-5


def test_true_flow_of_a_known_shift() -> None:
    # Frame 1 looks at the background 8 pixels further right and 4 further up: its content sits 8 to the left, 4 down.
    maps = np.stack([np.eye(3), np.array([[1.0, 0, 8], [0, 1, -4], [0, 0, 1]])])
    flow = true_flow(maps, 0, 1, 5, 4, centered=True)
    assert flow[0].unique().tolist() == [-2.0]
    assert flow[1].unique().tolist() == [1.0]


def test_a_moving_layer_covers_some_and_the_flow_holds_for_the_rest(photos: PhotoSet) -> None:
    motion = MotionRange(shift=4.0, rotation=0.0, zoom=0.0, layers=True, smooth=False)
    covered, held, everywhere = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        frames, maps, shares = simulate(photos, SIZE, 2, motion, rng)
        assert shares.shape == (2, SIZE, SIZE, 1)
        covered.append(1.0 - shares.mean())
        lr = degrade(to_tensor(frames), "bi", SCALE, rng)
        flow = true_flow(maps, 0, 1, SIZE // SCALE, SCALE, True)
        both = torch.from_numpy(np.minimum(shares[0], shares[1])).permute(2, 0, 1)[None]
        # Background in both frames, with a margin for the moves and the reduction.
        background = (-torch.nn.functional.max_pool2d(-both, 33, 1, 16))[0, 0, ::SCALE, ::SCALE] > 0.99
        background[:6], background[-6:], background[:, :6], background[:, -6:] = False, False, False, False
        if background.sum() > 20:
            held.append(misfit(lr, 0, 1, flow, background.float()))
            everywhere.append(misfit(lr, 0, 1, flow))
    assert 0.05 < np.mean(covered) < 0.8
    assert len(held) >= 3
    assert np.mean(held) < 0.5 * np.mean(everywhere)


def test_the_generator_decides_all(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path, 2, 160)
    motion = MotionRange(shift=4.0, rotation=1.0, zoom=0.01, layers=True, smooth=True)
    runs = [simulate(PhotoSet(folder, 144), SIZE, 3, motion, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_losses() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    assert charbonnier(a, a).item() == pytest.approx(1e-3)
    assert picture_loss(a, b, "charbonnier").item() == pytest.approx(0.5, abs=1e-5)
    assert picture_loss(a, b, "mse").item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="got 'l1'"):
        picture_loss(a, b, "l1")  # type: ignore[arg-type]
    truth = torch.zeros(1, 2, 2, 2)
    flow = truth.clone()
    flow[:, 0, 0, 0], flow[:, 1, 0, 0] = 3.0, 4.0
    valid = torch.ones(1, 1, 2, 2)
    assert flow_error(flow, truth, valid).item() == pytest.approx(1.25, abs=1e-2)
    valid[..., 0, 0] = 0.0
    assert flow_error(flow, truth, valid).item() == pytest.approx(1e-3, abs=1e-4)
    assert flow_error(flow, truth, torch.zeros_like(valid)).item() == 0.0


def test_warp_error_is_least_at_the_true_flow() -> None:
    picture = to_tensor(texture(0, 24, 40))[None]
    target, source = picture[..., 4:28], picture[..., 2:26]  # what is at x in the target is at x + 2 in the source
    flow = torch.zeros(1, 2, 24, 24)
    errors = {}
    for x in (-2.0, 0.0, 1.0, 2.0, 3.0):
        flow[:, 0] = x
        errors[x] = warp_error(flow, target, source).item()
    assert min(errors, key=errors.__getitem__) == 2.0
    assert errors[2.0] < 0.5 * errors[0.0]
