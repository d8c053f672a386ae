"""The pipelines give on a GPU what they give on the CPU: with --device cuda (cpu tries the tests themselves)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made import picture
from pipelines.shots import FRAMES

import msr
from msr.io import read_image, write_image
from msr.models import available_models, load_model
from msr.pipelines import BurstOptions, merge_burst_files

#: What sums in another order may change in a network of some dozen layers.
TOLERANCE = 2e-3


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> str:
    chosen = request.config.getoption("--device")
    if chosen not in ("cpu", "cuda"):
        pytest.skip("without --device")
    return chosen


@pytest.mark.parametrize("name", [card.name for card in available_models() if card.kind != "burst-raw"])
def test_models(name: str, gpu: str) -> None:
    model = load_model(name, device="cpu")
    frame = torch.from_numpy(picture(40, 56)).permute(2, 0, 1)[None] / 255
    given = frame if model.kind == "image" else torch.stack([frame.roll(n, -1) for n in range(4)], 1)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = model(given)
        got = model.to(gpu)(given.to(gpu))
    assert (got.cpu() - expected).abs().max() < TOLERANCE


def test_pictures_and_clips(gpu: str) -> None:
    for one in (msr.upscale_image, lambda x, device: np.stack(list(msr.upscale_frames([x] * 3, device=device)))):
        got, expected = (one(FRAMES[0], device=place).astype(int) for place in (gpu, "cpu"))
        assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("method", ["handheld", "learned"])
@pytest.mark.parametrize("size", [(16, 64), (90, 120)], ids=str)
def test_bursts(method: str, size: tuple[int, int], tmp_path: Path, gpu: str) -> None:
    frames = [tmp_path / f"{n}.png" for n in range(3)]
    for n, frame in enumerate(frames):
        write_image(frame, np.roll(picture(*size), n, 1))
    merged = []
    for place in (gpu, "cpu"):
        merge_burst_files(frames, tmp_path / "out.png", options=BurstOptions(method, "first"), device=place)
        merged.append(read_image(tmp_path / "out.png").pixels.astype(int))
    assert np.abs(merged[0] - merged[1]).mean() < 0.001 * 65535
