"""The evaluation protocols on tiny pictures: untrained models are the cubic column, which is computed by hand."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from msr.degradation import degrade_bd, degrade_bi, gaussian_blur, to_tensor
from msr.errors import InputError
from msr.models import build_model, save_model
from msr.ops import resize
from msr.pipelines.burst_protocol import handheld, protocol_burst, raw_figures, single_frame
from msr.pipelines.evaluate import PROTOCOLS, evaluate


def picture(seed: int, height: int = 46, width: int = 57) -> np.ndarray:
    noise = torch.from_numpy(np.random.default_rng(seed).random((1, 3, height, width), dtype=np.float32))
    soft = gaussian_blur(noise, 1.5)
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    return (soft[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()


def save(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, seed in (("a", 0), ("b", 1)):
        save(tmp_path / "photos" / f"{name}.png", picture(seed))
    return tmp_path / "photos"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name, seed in (("one", 2), ("two", 3)):
        long = picture(seed, 40, 80)
        for t in range(3):
            save(tmp_path / "clips" / name / f"{t}.png", long[:, 2 * t : 2 * t + 48])
    return tmp_path / "clips"


@pytest.fixture
def weights(tmp_path: Path) -> Any:
    """Save an untrained or a stirred model and give its path."""

    def make(kind: str, name: str, *, stir: float = 0.0, **arguments: Any) -> str:
        torch.manual_seed(0)
        arguments = {"channels": 8, "blocks": 1, **arguments}
        model = build_model(kind, arguments)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(stir * torch.randn_like(p))
        path = tmp_path / f"{name}.safetensors"
        save_model(model, kind, arguments, path)
        return str(path)

    return make


def psnr_y_by_hand(sr: np.ndarray, hr: np.ndarray, crop: int) -> float:
    """Both (H, W, 3) in [0, 1]; the result is rounded to 8 bits first."""
    sr = np.round(np.clip(sr, 0, 1) * 255) / 255
    weight = np.array([65.481, 128.553, 24.966]) / 255
    error = ((sr - hr) @ weight)[crop:-crop, crop:-crop]
    return float(-10 * np.log10(np.mean(error**2)))


@pytest.mark.parametrize(("protocol", "phase", "scale"), [("image-bi", "centered", 2), ("image-bd", "corner", 4)])
def test_photos(protocol: str, phase: str, scale: int, photos: Path, weights: Any) -> None:
    model = weights("image", "plain", scale=scale, phase=phase)
    table = evaluate(protocol, photos, [model], device="cpu")
    assert table.columns == ["", "cubic", "plain"]
    assert [row[0] for row in table.rows] == ["a", "b", "mean"]
    expected = []
    for seed in (0, 1):
        rgb = picture(seed)
        rgb = rgb[: rgb.shape[0] // scale * scale, : rgb.shape[1] // scale * scale]
        hr = to_tensor(rgb)[None]
        lr = degrade_bi(hr, scale) if protocol == "image-bi" else degrade_bd(hr, scale)
        lr = torch.round(lr.clamp(0, 1) * 255) / 255
        sr = resize(lr, scale=scale, phase=phase)[0].permute(1, 2, 0)  # type: ignore[arg-type]
        expected.append(psnr_y_by_hand(sr.double().numpy(), rgb / 255.0, scale))
    expected.append(sum(expected) / 2)
    for row, value in zip(table.rows, expected, strict=True):
        assert float(row[1]) == pytest.approx(value, abs=0.011)
        assert row[2] == row[1]  # untrained: the cubic enlargement at its phase


def test_a_model_at_the_wrong_phase_falls_below_cubic(photos: Path, weights: Any) -> None:
    table = evaluate("image-bd", photos, [weights("image", "wrong", scale=2)], device="cpu")
    assert float(table.rows[-1][2]) < float(table.rows[-1][1]) - 0.5


@pytest.mark.parametrize("protocol", ["video-bd", "video-bi"])
def test_clips(protocol: str, clips: Path, weights: Any) -> None:
    phase = "corner" if protocol == "video-bd" else "centered"
    models = [
        weights("image", "single", phase=phase),
        weights("video", "fused", phase=phase),
        weights("video", "stirred", phase=phase, stir=0.05),
    ]
    table = evaluate(protocol, clips, models, device="cpu")
    assert table.columns == ["", "cubic", "single", "fused", "stirred"]
    assert [row[0] for row in table.rows] == ["one", "two", "mean"]
    for row in table.rows:
        assert row[1] == row[2] == row[3] != row[4]
        assert 5.0 < float(row[1]) < 60.0


def test_bursts(photos: Path, weights: Any) -> None:
    models = [weights("image", "single"), weights("burst", "merged"), weights("burst", "stirred", stir=0.05)]
    table = evaluate("burst", photos, models, device="cpu")
    counts = ["1 frame", "2 frames", "4 frames", "8 frames"]
    assert table.columns == ["", "cubic", "single", *(f"{m}, {n}" for m in ("merged", "stirred") for n in counts)]
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert len(set(row[1:7])) == 1
        assert len(set(row[7:])) > 1  # the number of frames counts
    assert evaluate("burst", photos, models, device="cpu") == table  # the shake is the same each time


def test_limit_dtype_and_json(photos: Path, weights: Any) -> None:
    model = weights("image", "stirred", stir=0.02)
    full = evaluate("image-bi", photos, [model], device="cpu", limit=1)
    assert [row[0] for row in full.rows] == ["a", "mean"]
    half = evaluate("image-bi", photos, [model], device="cpu", dtype="bfloat16", limit=1)
    assert float(half.rows[0][2]) == pytest.approx(float(full.rows[0][2]), abs=0.3)
    found = json.loads(full.as_json())
    assert found == {"title": "image-bi x4, PSNR-Y (dB)", "columns": full.columns, "rows": full.rows}


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        evaluate(*arguments, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_errors(photos: Path, clips: Path, tmp_path: Path, weights: Any) -> None:
    image, video = weights("image", "image"), weights("video", "video")
    unknown = refusal("photo", photos, [image])
    assert all(name in unknown for name in PROTOCOLS)
    assert "no such folder" in refusal("image-bi", tmp_path / "none", [image])
    assert "no model to evaluate" in refusal("image-bi", photos, [])
    assert "unknown model" in refusal("image-bi", photos, ["no-such-model"])
    assert "kind video" in refusal("image-bi", photos, [video])
    assert "enlarges 2 times, not 4" in refusal("image-bi", photos, [image, weights("image", "two", scale=2)])
    assert "limit must be at least 1" in refusal("image-bi", photos, [image], limit=0)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refusal("image-bi", tmp_path / "empty", [image])
    assert "holds no folders of frames" in refusal("video-bd", photos, [video])
    save(clips / "one" / "3.png", picture(0, 44, 48))
    assert "differ in size" in refusal("video-bd", clips, [video])
    for protocol in ("image-bi", "burst"):
        save(tmp_path / "small" / "dot.png", picture(0, 3, 9))
        assert "too small" in refusal(protocol, tmp_path / "small", [image])


def test_raw_bursts_in_both_spaces(tmp_path: Path, weights: Any) -> None:
    for seed in range(2):
        save(tmp_path / "large" / f"{seed}.png", picture(seed, 136, 144))
    table = evaluate("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "mine")])
    assert table.columns == ["", "single, sRGB", "single, linear", "mine, sRGB", "mine, linear"]
    assert [row[0] for row in table.rows] == ["0", "1", "mean"]
    figures = np.array([[float(x) for x in row[1:]] for row in table.rows])
    # Untrained, the network gives what it starts from: the burst merged without training.
    photo = protocol_burst(picture(0, 136, 144), 0, 15, 4)
    assert np.allclose(figures[0, 2:], raw_figures(handheld(photo, 4), photo), atol=0.011)
    assert np.allclose(figures[0, :2], raw_figures(single_frame(photo, 4), photo), atol=0.011)
    assert np.allclose(figures[2], figures[:2].mean(axis=0), atol=0.011)
    assert evaluate("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "mine")]).rows == table.rows
    with pytest.raises(InputError, match="enlarges 2 times, not 4"):
        evaluate("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "other", scale=2)])
