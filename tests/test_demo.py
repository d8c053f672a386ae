"""The demo and the examples that it runs on."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from msr.degradation import burst_from_photo, degrade_bi, to_tensor
from msr.io import read_image
from msr.metrics import quantize
from msr.models import build_model, save_model

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def untrained(tmp_path: Path) -> list[str]:
    """The demo's options for models that have learned nothing yet: they enlarge by cubic convolution."""
    options = []
    for kind in ("image", "video", "burst"):
        arguments = {"scale": 4, "channels": 8, "blocks": 1}
        save_model(build_model(kind, arguments), kind, arguments, tmp_path / f"{kind}.safetensors")
        options += [f"--{kind}-model", str(tmp_path / f"{kind}.safetensors")]
    return options


def test_demo_measures_untrained_models_as_bicubic(
    demo: ModuleType, untrained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert demo.main(["--out", str(out), "--device", "cpu", *untrained]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:4]}
    assert set(rows) == {"photo.png", "clip.mp4", "burst"}
    for row in rows.values():
        gain = float(next(word for word in row.split() if word[0] in "+-" and word[1:2].isdigit()))
        assert abs(gain) < 0.1  # what rounding and H.264 cost
        assert "conv_pixel_shuffle" in row
    assert "flow_warp" in rows["clip.mp4"]
    assert "flow_warp" in rows["burst"]
    for stem, width in (("photo-x4", 512), ("clip-x4", 512), ("burst-x4", 600)):
        assert read_image(out / f"{stem}-before-after.png").pixels.shape[1] == 3 * width
    with av.open(str(out / "clip-x4.mp4")) as clip:
        assert len(clip.streams.audio) == 1
        assert sum(1 for _ in clip.decode(video=0)) == 30


def test_demo_says_in_one_sentence_which_weights_are_missing(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--out", str(tmp_path), "--image-model", str(tmp_path / "none.safetensors")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("demo: error: ")
    assert len(error.splitlines()) == 1


def test_photo_is_its_original_reduced() -> None:
    original = to_tensor(read_image(EXAMPLES / "photo-original.png").pixels)
    reduced = quantize(degrade_bi(original[None], 4)[0])
    small = to_tensor(read_image(EXAMPLES / "photo.png").pixels)
    assert reduced.shape == small.shape
    # Another processor may add up in another order and round the odd pixel the other way.
    assert float((reduced - small).abs().max()) <= 1.01 / 255
    assert float((reduced != small).float().mean()) < 1e-3


def test_burst_is_simulated_from_its_original() -> None:
    original = read_image(EXAMPLES / "burst-original.png").pixels
    frames, _ = burst_from_photo(original, 8, 4, np.random.default_rng(0))
    files = sorted((EXAMPLES / "burst").glob("*.png"))
    shipped = torch.stack([to_tensor(read_image(path).pixels) for path in files])
    assert shipped.shape == frames.shape
    assert float((frames - shipped).abs().mean()) < 0.2 / 255


def test_clip_is_its_original_reduced() -> None:
    def frames(name: str) -> torch.Tensor:
        with av.open(str(EXAMPLES / name)) as clip:
            return torch.stack([to_tensor(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)])

    small, original = frames("clip.mp4"), frames("clip-original.mp4")
    assert small.shape == (30, 3, 72, 128)
    assert original.shape == (30, 3, 288, 512)
    assert float((degrade_bi(original, 4) - small).abs().mean()) < 2 / 255


def test_examples_are_small() -> None:
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*.*") if "__pycache__" not in path.parts) < 3 << 20
