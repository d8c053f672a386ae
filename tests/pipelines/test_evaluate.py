"""The evaluation protocols on tiny pictures: untrained models are the cubic column, which is computed by hand."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from msr.degradation import degrade_bd, degrade_bi, gaussian_blur, to_tensor
from msr.errors import InputError
from msr.models import VideoModel, build_model, load_model, save_model, self_ensemble
from msr.ops import resize
from msr.pipelines.burst_protocol import handheld, protocol_burst, raw_figures, single_frame
from msr.pipelines.evaluate import evaluate
from msr.pipelines.protocols import PROTOCOLS


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


def table_of(*arguments: Any, **options: Any) -> dict[tuple[str, str], list[float]]:
    """The figures by original and method; what has none is left out."""
    table = evaluate(*arguments, device="cpu", **options)
    assert all(len(row) == len(table.columns) for row in table.rows)
    return {(row[0], row[1]): [float(x) for x in row[2:] if x != "-"] for row in table.rows}


def ssim_by_hand(sr: np.ndarray, hr: np.ndarray, crop: int) -> float:
    """Of Y, by scikit-image. Many a value lies halfway between two levels: it is rounded in float32, as it came."""
    weight = np.array([65.481, 128.553, 24.966]) / 255
    levels = (np.round(np.clip(x, 0, 1) * 255).astype(np.float64) / 255 for x in (sr, hr))
    a, b = (16 / 255 + (x @ weight)[crop:-crop, crop:-crop] for x in levels)
    return float(structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=1.0))  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "phase", "scale"),
    [("sisr-x2-y", "centered", 2), ("sisr-x3-y", "centered", 3), ("sisr-x4-bd-y", "corner", 4)],
)
def test_photos(protocol: str, phase: str, scale: int, photos: Path, weights: Any) -> None:
    table = evaluate(protocol, photos, [weights("image", "plain", scale=scale, phase=phase)], device="cpu")
    assert (table.title, table.columns) == (protocol, ["", "method", "PSNR", "SSIM"])
    assert [row[:2] for row in table.rows] == [[a, b] for a in ("a", "b", "mean") for b in ("cubic", "plain")]
    expected = []
    for seed in (0, 1):
        rgb = picture(seed)
        rgb = rgb[: rgb.shape[0] // scale * scale, : rgb.shape[1] // scale * scale]
        hr = to_tensor(rgb)[None]
        lr = degrade_bd(hr, scale) if "bd" in protocol else degrade_bi(hr, scale)
        lr = torch.round(lr.clamp(0, 1) * 255) / 255
        sr = resize(lr, scale=scale, phase=phase)[0].permute(1, 2, 0).numpy()  # type: ignore[arg-type]
        expected.append([psnr_y_by_hand(sr, rgb / 255.0, scale), ssim_by_hand(sr, rgb / 255.0, scale)])
    expected.append([sum(x) / 2 for x in zip(*expected, strict=True)])
    for (*_, a, b), (*_, c, d), value in zip(table.rows[::2], table.rows[1::2], expected, strict=True):
        assert (float(a), float(b)) == (pytest.approx(value[0], abs=0.006), pytest.approx(value[1], abs=6e-5))
        assert (c, d) == (a, b)  # untrained: the cubic enlargement at its phase


def test_a_model_of_another_phase_is_moved_into_place(photos: Path, weights: Any) -> None:
    # Untrained, a model is the cubic enlargement at its phase: moved, nearly that at the other.
    found = table_of("sisr-x4-bd-y", photos, [weights("image", "other"), weights("image", "same", phase="corner")])
    assert found["mean", "same"] == found["mean", "cubic"]
    assert found["mean", "other, moved"][0] == pytest.approx(found["mean", "cubic"][0], abs=0.2)
    assert found["mean", "other, moved"] != found["mean", "cubic"]


def test_a_clip_model_of_another_phase_is_moved_into_place(clips: Path, weights: Any) -> None:
    found = table_of("vsr-x4-bi-y", clips, [weights("video", "other", phase="corner")])
    assert found["mean", "other, moved"][0] == pytest.approx(found["mean", "cubic"][0], abs=0.2)


@pytest.mark.parametrize("protocol", ["vsr-x4-bd-y", "vsr-x4-bi-rgb"])
def test_clips(protocol: str, clips: Path, weights: Any) -> None:
    phase = "corner" if "bd" in protocol else "centered"
    models = [
        weights("image", "single", phase=phase),
        weights("video", "fused", phase=phase),
        weights("video", "stirred", phase=phase, stir=0.05),
    ]
    table = evaluate(protocol, clips, models, device="cpu")
    assert table.columns == ["", "method", "PSNR", "SSIM", "tOF"]
    methods = ["cubic", "single", "fused", "stirred"]
    assert [row[:2] for row in table.rows] == [[a, b] for a in ("one", "two", "mean") for b in methods]
    found = {(row[0], row[1]): row[2:] for row in table.rows}
    for clip in ("one", "two", "mean"):
        assert found[clip, "cubic"] == found[clip, "single"] == found[clip, "fused"] != found[clip, "stirred"]
    long = picture(2, 40, 80)
    values = []
    for t in range(3):
        rgb = long[:, 2 * t : 2 * t + 48]
        lr = (degrade_bd if "bd" in protocol else degrade_bi)(to_tensor(rgb)[None], 4)
        lr = torch.round(lr.clamp(0, 1) * 255) / 255
        sr = resize(lr, scale=4, phase=phase)[0].permute(1, 2, 0).numpy()  # type: ignore[arg-type]
        error = (np.round(sr.clip(0, 1) * 255) / 255 - rgb / 255.0)[8:-8, 8:-8]
        by_rgb = float(-10 * np.log10(np.mean(error**2)))
        values.append(by_rgb if "rgb" in protocol else psnr_y_by_hand(sr, rgb / 255.0, 8))
    assert float(found["one", "cubic"][0]) == pytest.approx(np.mean(values), abs=0.006)


@pytest.mark.parametrize(("backward_blocks", "counts"), [(0, [2, 2, 2, 1, 1]), (1, [4, 3, 2, 1, 1])])
def test_clip_models_see_the_frames_that_follow(
    backward_blocks: int, counts: list[int], tmp_path: Path, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a pass back in time takes, and the two that stand in for the past of a first frame."""
    for t in range(5):
        save(tmp_path / "clips" / "one" / f"{t}.png", picture(t, 44, 44))
    seen, step = [], VideoModel.step

    def watched(self: Any, frame: torch.Tensor, future: torch.Tensor, state: Any = None) -> Any:
        seen.append((frame[0], future[0]))
        return step(self, frame, future, state)

    monkeypatch.setattr(VideoModel, "step", watched)
    evaluate("vsr-x4-bi-y", tmp_path / "clips", [weights("video", "plain", backward_blocks=backward_blocks)])
    assert [len(future) for _, future in seen] == counts
    frames = [frame for frame, _ in seen]
    for t, (_, future) in enumerate(seen):
        for k, frame in enumerate(future):
            assert torch.equal(frame, frames[min(t + 1 + k, 4)])


def published(folder: Path, source: Path, *, roll: int = 0, noise: float = 0.0) -> Path:
    """Copies of all pictures below a folder, moved to the right and noised."""
    rng = np.random.default_rng(0)
    for path in sorted(source.rglob("*.png")):
        bgr = np.roll(cv2.imread(str(path)), roll, axis=1)  # type: ignore[arg-type]
        noisy = np.clip(bgr + noise * rng.standard_normal(bgr.shape), 0, 255).round().astype(np.uint8)
        save(folder / path.relative_to(source), noisy[..., ::-1])
    return folder


def test_results_of_others_are_measured_beside_the_models(photos: Path, clips: Path, tmp_path: Path) -> None:
    noisy = published(tmp_path / "noisy", photos, noise=4.0)
    found = table_of("sisr-x4-y", photos, [], results=[noisy])
    assert set(found) == {(a, b) for a in ("a", "b", "mean") for b in ("cubic", "noisy")}
    rgb = picture(0)[:44, :56]
    sr = cv2.imread(str(noisy / "a.png"))[:44, :56, ::-1] / 255.0  # type: ignore[index]
    assert found["a", "noisy"][0] == pytest.approx(psnr_y_by_hand(sr, rgb / 255.0, 4), abs=0.006)
    # Results of the size that is left once the scale divides it are the usual case.
    save(noisy / "a.png", cv2.imread(str(noisy / "a.png"))[:44, :56, ::-1])  # type: ignore[index]
    assert table_of("sisr-x4-y", photos, [], results=[noisy]) == found
    exact, restless = published(tmp_path / "exact", clips), published(tmp_path / "restless", clips, noise=25.0)
    found = table_of("vsr-x4-bd-y", clips, [], results=[exact, restless])
    assert found["mean", "exact"] == [np.inf, 1.0, 0.0]
    assert found["mean", "restless"][2] > 0.05


@pytest.mark.parametrize("kind", ["photo", "clip"])
def test_what_lies_one_pixel_off_is_refused(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "originals" / "one" / "0.png" if kind == "clip" else tmp_path / "originals" / "0.png"
    save(place, picture(5, 96, 128))
    moved = published(tmp_path / "moved", tmp_path / "originals", roll=1, noise=2.0)
    protocol = "vsr-x4-bi-y" if kind == "clip" else "sisr-x4-y"
    said = refusal(protocol, tmp_path / "originals", [], results=[moved])
    assert str(moved / "one" if kind == "clip" else moved / "0.png") in said
    assert "+1.0 pixels in x" in said or "+0.9 pixels in x" in said or "+1.1 pixels in x" in said
    placed = published(tmp_path / "placed", tmp_path / "originals", noise=2.0)
    assert len(table_of(protocol, tmp_path / "originals", [], results=[placed])) == 4


def test_small_results_in_place_are_taken_and_larger_ones_out_of_place_are_not(tmp_path: Path) -> None:
    photo = cv2.imread(str(Path(__file__).parents[2] / "examples" / "photo-original.png"))
    assert photo is not None

    def cubic(bgr: np.ndarray) -> np.ndarray:
        lr = torch.round(degrade_bi(to_tensor(np.ascontiguousarray(bgr[..., ::-1]))[None], 4).clamp(0, 1) * 255) / 255
        return resize(lr, scale=4)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()

    for side in (48, 64, 96):
        originals, results = tmp_path / f"{side}", tmp_path / f"{side}-cubic"
        for y in range(side, 400, 128):
            for x in range(side, 400, 128):
                crop = photo[y : y + side, x : x + side]
                save(originals / f"{y}-{x}.png", crop[..., ::-1])
                save(results / f"{y}-{x}.png", cubic(crop))
        found = table_of("sisr-x4-y", originals, [], results=[results])
        assert found["mean", f"{side}-cubic"] == found["mean", "cubic"]
    for crop, moved in ((photo[200:296, 200:296], photo[200:296, 199:295]), (photo[:256, :256], photo[1:257, :256])):
        save(tmp_path / "one" / "a.png", crop[..., ::-1])
        save(tmp_path / "moved" / "a.png", cubic(moved))
        assert "a.png lies" in refusal("sisr-x4-y", tmp_path / "one", [], results=[tmp_path / "moved"])
    lr = torch.round(degrade_bd(to_tensor(np.ascontiguousarray(photo[..., ::-1]))[None], 4).clamp(0, 1) * 255) / 255
    save(tmp_path / "one" / "a.png", photo[..., ::-1])
    save(tmp_path / "moved" / "a.png", (resize(lr, scale=4)[0] * 255).byte().permute(1, 2, 0).numpy())
    assert "it is of another phase" in refusal("sisr-x4-y", tmp_path / "one", [], results=[tmp_path / "moved"])


def test_a_clip_of_one_frame_has_no_steadiness(tmp_path: Path) -> None:
    save(tmp_path / "clips" / "one" / "0.png", picture(0))
    table = evaluate("vsr-x4-bi-y", tmp_path / "clips", [], results=[published(tmp_path / "r", tmp_path / "clips")])
    assert [row[-1] for row in table.rows] == ["-"] * 4


def test_results_that_do_not_serve(photos: Path, clips: Path, tmp_path: Path) -> None:
    results = published(tmp_path / "results", photos)
    save(results / "c.png", picture(0))
    assert "c.png has no original of its name" in refusal("sisr-x4-y", photos, [], results=[results])
    (results / "c.png").rename(results / "a.bmp")
    assert "two results for a" in refusal("sisr-x4-y", photos, [], results=[results])
    (results / "a.bmp").unlink()
    (results / "b.png").unlink()
    assert "lacks a result for b" in refusal("sisr-x4-y", photos, [], results=[results])
    save(results / "b.png", picture(0, 46, 64))
    said = refusal("sisr-x4-y", photos, [], results=[results])
    assert "b.png is 64x46, the original is 57x46, or 56x44 without what the scale does not divide" in said
    save(results / "b.png", picture(1, 46, 59))  # less than the scale too much, and of no original's size
    assert "b.png is 59x46, the original is 57x46" in refusal("sisr-x4-y", photos, [], results=[results])
    films = published(tmp_path / "films", clips)
    (films / "one" / "2.png").unlink()
    assert "lacks a result for 2" in refusal("vsr-x4-bi-y", clips, [], results=[films])
    (films / "two").rename(films / "three")
    assert "lacks the clip two" in refusal("vsr-x4-bi-y", clips, [], results=[films])
    (films / "three").rename(films / "two")
    (films / "three").mkdir()
    assert "three has no original clip" in refusal("vsr-x4-bi-y", clips, [], results=[films])
    assert "no such folder of results" in refusal("vsr-x4-bi-y", clips, [], results=[tmp_path / "none"])
    assert "none" in refusal("sisr-x4-y", photos, [], results=[tmp_path / "none"])
    assert "takes no folders of results" in refusal("burst-raw-x4", photos, [], results=[results])


def test_originals_of_one_name(photos: Path, clips: Path) -> None:
    save(photos / "a.bmp", picture(2))
    for protocol, models in (("sisr-x4-y", ["image-x4"]), ("burst", ["image-x4"]), ("burst-raw-x4", [])):
        assert "holds two originals named a" in refusal(protocol, photos, models)
    save(clips / "two" / "1.bmp", picture(2, 40, 48))
    assert "two holds two originals named 1" in refusal("vsr-x4-bi-y", clips, [], results=[clips])


def test_hidden_folders_are_no_clips(clips: Path, tmp_path: Path) -> None:
    results = published(tmp_path / "results", clips)
    (clips / ".ipynb_checkpoints").mkdir()
    (results / ".cache").mkdir()
    assert ("mean", "results") in table_of("vsr-x4-bi-y", clips, [], results=[results])


def test_bursts(photos: Path, weights: Any) -> None:
    models = [weights("image", "single"), weights("burst", "merged"), weights("burst", "stirred", stir=0.05)]
    found = table_of("burst", photos, models)
    counts = ["1 frame", "2 frames", "4 frames", "8 frames"]
    methods = ["cubic", "single", *(f"{m}, {n}" for m in ("merged", "stirred") for n in counts)]
    assert list(found) == [(a, b) for a in ("a", "b", "mean") for b in methods]
    for name in ("a", "b", "mean"):
        values = [found[name, method][0] for method in methods]
        assert len(set(values[:6])) == 1
        assert len(set(values[6:])) > 1  # the number of frames counts
    assert table_of("burst", photos, models) == found  # the shake is the same each time


def test_limit_dtype_and_json(photos: Path, weights: Any) -> None:
    model = weights("image", "stirred", stir=0.02)
    full = evaluate("sisr-x4-y", photos, [model], device="cpu", limit=1)
    assert [row[0] for row in full.rows] == ["a", "a", "mean", "mean"]
    half = evaluate("sisr-x4-y", photos, [model], device="cpu", dtype="bfloat16", limit=1)
    assert float(half.rows[1][2]) == pytest.approx(float(full.rows[1][2]), abs=0.3)
    assert json.loads(full.as_json()) == {"title": "sisr-x4-y", "columns": full.columns, "rows": full.rows}


def test_an_ensemble_is_the_model_on_turned_pictures(photos: Path, weights: Any) -> None:
    path = weights("image", "stirred", stir=0.05)
    table = evaluate("sisr-x4-y", photos, [path], device="cpu", limit=1, ensemble=True)
    assert table.rows[1][:2] == ["a", "stirred, ensemble"]
    rgb = picture(0)[:44, :56]
    lr = torch.round(degrade_bi(to_tensor(rgb)[None], 4).clamp(0, 1) * 255) / 255
    with torch.inference_mode():
        sr = self_ensemble(load_model(path))(lr)[0].permute(1, 2, 0).numpy()
    assert float(table.rows[1][2]) == pytest.approx(psnr_y_by_hand(sr, rgb / 255.0, 4), abs=0.006)
    alone = evaluate("sisr-x4-y", photos, [path], device="cpu", limit=1)
    assert alone.rows[1][2] != table.rows[1][2]


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        evaluate(*arguments, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_errors(photos: Path, clips: Path, tmp_path: Path, weights: Any) -> None:
    image, video = weights("image", "image"), weights("video", "video")
    unknown = refusal("photo", photos, [image])
    assert all(name in unknown for name in PROTOCOLS)
    assert "no such folder" in refusal("sisr-x4-y", tmp_path / "none", [image])
    assert "no model to evaluate" in refusal("sisr-x4-y", photos, [])
    assert "unknown model" in refusal("sisr-x4-y", photos, ["no-such-model"])
    assert "kind video" in refusal("sisr-x4-y", photos, [video])
    assert "enlarges 2 times, not 4" in refusal("sisr-x4-y", photos, [image, weights("image", "two", scale=2)])
    corner = weights("image", "corner", phase="corner")
    assert "corner.safetensors: only image models of the phase 'centered'" in refusal(
        "sisr-x4-bd-y", photos, [corner], ensemble=True
    )
    assert "limit must be at least 1" in refusal("sisr-x4-y", photos, [image], limit=0)
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refusal("sisr-x4-y", tmp_path / "empty", [image])
    assert "holds no folders of frames" in refusal("vsr-x4-bd-y", photos, [video])
    save(clips / "one" / "3.png", picture(0, 44, 48))
    assert "differ in size" in refusal("vsr-x4-bd-y", clips, [video])
    for protocol in ("sisr-x4-y", "burst"):
        save(tmp_path / "small" / "dot.png", picture(0, 3, 9))
        assert "too small" in refusal(protocol, tmp_path / "small", [image])


def test_raw_bursts_of_originals_too_small_for_libraw(tmp_path: Path) -> None:
    save(tmp_path / "small" / "a.png", picture(0, 80, 144))
    said = refusal("burst-raw-x4", tmp_path / "small", [])
    assert said.endswith("a.png is too small for this protocol: it needs 88 pixels a side")
    save(tmp_path / "small" / "a.png", picture(0, 88, 88))
    assert ("a", "single") in table_of("burst-raw-x4", tmp_path / "small", [])


def test_raw_bursts_in_both_spaces(tmp_path: Path, weights: Any) -> None:
    for seed in range(2):
        save(tmp_path / "large" / f"{seed}.png", picture(seed, 136, 144))
    found = table_of("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "mine")])
    assert list(found) == [(a, b) for a in ("0", "1", "mean") for b in ("single", "handheld", "mine")]
    # Untrained, the network gives what it starts from: the burst merged without training.
    photo = protocol_burst(picture(0, 136, 144), 0, 15, 4)
    assert found["0", "handheld"] == pytest.approx(raw_figures(handheld(photo, 4), photo), abs=0.011)
    assert found["0", "mine"] == pytest.approx(found["0", "handheld"], abs=0.011)
    assert found["0", "single"] == pytest.approx(raw_figures(single_frame(photo, 4), photo), abs=0.011)
    for method in ("single", "mine"):
        mean = np.mean([found[name, method] for name in ("0", "1")], axis=0)
        assert found["mean", method] == pytest.approx(mean, abs=0.011)
    assert table_of("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "mine")]) == found
    alone = table_of("burst-raw-x4", tmp_path / "large", [], limit=1)
    assert alone["0", "handheld"] == alone["mean", "handheld"] == found["0", "handheld"]
    with pytest.raises(InputError, match="enlarges 2 times, not 4"):
        evaluate("burst-raw-x4", tmp_path / "large", [weights("burst-raw", "other", scale=2)])
