"""The comparison page: what is measured and embedded."""

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import clips
import cv2
import numpy as np
import pytest
import torch
from made import clip, picture
from pipelines.pages import BLUE, CLOSING, EVIL, RED, evil_page, folder, noise, plain, save
from skimage.metrics import peak_signal_noise_ratio

from msr import io
from msr.errors import InputError
from msr.metrics import luma, psnr, ssim
from msr.pipelines import compare as module
from msr.pipelines.compare import compare
from msr.pipelines.yuv import to_rgb


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def decoded(uri: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def test_pictures_are_embedded_as_they_are(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.png", picture()), save(tmp_path / "b.png", picture(96, 128, seed=1))
    result = compare(first, second, tmp_path / "page.html")
    data = data_of(result.path)
    assert (result.frames, result.shown, result.figures) == (1, 1, ())
    assert (data["width"], data["height"]) == (128, 96)
    assert [source["label"] for source in data["sources"]] == ["A: a.png", "B: b.png"]
    np.testing.assert_array_equal(decoded(data["sources"][0]["pictures"][0]), picture())
    np.testing.assert_array_equal(decoded(data["sources"][1]["pictures"][0]), picture(96, 128, seed=1))


def test_depth_gray_and_transparency(tmp_path: Path) -> None:
    deep = save(tmp_path / "deep.png", np.full((20, 20, 3), 257 * 77, np.uint16))
    clear = save(tmp_path / "clear.png", np.dstack([np.zeros((20, 20, 3), np.uint8), np.full((20, 20), 51, np.uint8)]))
    gray = save(tmp_path / "gray.png", np.full((20, 20), 9, np.uint8))
    result = compare(deep, clear, tmp_path / "page.html", gray)
    values = [decoded(source["pictures"][0])[3, 4].tolist() for source in data_of(result.path)["sources"]]
    assert values == [[77] * 3, [204] * 3, [9] * 3]
    assert "Transparent pictures are shown on white." in result.notes


def test_figures_of_pictures(tmp_path: Path) -> None:
    truth = picture()
    noisy = np.clip(truth + np.random.default_rng(3).normal(0, 9, truth.shape), 0, 255).astype(np.uint8)
    paths = [save(tmp_path / f"{name}.png", pixels) for name, pixels in (("noisy", noisy), ("same", truth))]
    result = compare(*paths, tmp_path / "page.html", save(tmp_path / "truth.png", truth))
    y = [luma(torch.from_numpy(p).permute(2, 0, 1)[None] / 255).numpy() for p in (noisy, truth)]
    assert result.figures[0].mean_psnr == pytest.approx(peak_signal_noise_ratio(y[1], y[0], data_range=1), abs=1e-3)
    assert 0 < result.figures[0].mean_ssim < 1
    assert result.figures[1].mean_psnr == math.inf
    assert result.figures[1].mean_ssim == 1
    page = result.path.read_text()
    assert f'<td class="number">{result.figures[0].mean_psnr:.2f}</td>' in page
    assert '<td class="number">equal</td>' in page
    assert "<svg" not in page  # no curve of a single picture


def test_figures_of_clips(tmp_path: Path) -> None:
    truth = clip(tmp_path / "truth.mkv", 6, codec="ffv1")
    other = clip(tmp_path / "other.mp4", 6)
    result = compare(other, truth, tmp_path / "page.html", truth)
    values = []
    with io.open_clip(other) as one, io.open_clip(truth) as two:
        for pair in zip(one, two, strict=True):
            a, b = (luma(to_rgb([torch.from_numpy(p) for p in f.planes], f.format).clamp(0, 1)) for f in pair)
            values.append((psnr(a, b), ssim(a, b)))
    assert result.figures[0].psnr == pytest.approx([value[0] for value in values])
    assert result.figures[0].ssim == pytest.approx([value[1] for value in values])
    assert set(result.figures[1].psnr) == {math.inf}
    page = result.path.read_text()
    assert page.count("<svg") == 2
    assert 'aria-label="PSNR over time, in dB"' in page
    assert len(re.findall(r'<polyline class="curve curve[01]" points="([^"]*)"', page)) == 4
    assert [moment["number"] for moment in data_of(result.path)["moments"]] == list(range(6))


def test_another_size_than_the_reference_is_resized(tmp_path: Path) -> None:
    small, truth = save(tmp_path / "small.png", picture(24, 32)), save(tmp_path / "truth.png", picture())
    result = compare(small, truth, tmp_path / "page.html", truth)
    assert result.figures[0].mean_psnr > 20
    assert "A was resized to 64x48 by cubic convolution before it was measured." in result.notes


def test_too_small_for_ssim(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{seed}.png", picture(9, 9, seed)) for seed in range(3)]
    result = compare(paths[0], paths[1], tmp_path / "page.html", paths[2])
    assert math.isnan(result.figures[0].mean_ssim)
    assert result.figures[0].mean_psnr > 0
    assert '<td class="number">too small</td>' in result.path.read_text()


@pytest.mark.parametrize(("count", "frames", "numbers"), [(7, 3, [0, 3, 6]), (5, 8, [0, 1, 2, 3, 4]), (4, 1, [0])])
def test_frames_shown_are_spread(tmp_path: Path, count: int, frames: int, numbers: list[int]) -> None:
    path = clip(tmp_path / "a.mp4", count)
    result = compare(path, path, tmp_path / "page.html", frames=frames)
    assert [moment["number"] for moment in data_of(result.path)["moments"]] == numbers
    assert (result.frames, result.shown) == (count, len(numbers))


def test_clips_that_do_not_say_their_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More frames come than fit: every other one goes, of those shown and of those still to be measured."""
    monkeypatch.setattr(module, "MEASURED", 4)
    monkeypatch.setattr(module, "MEASURED_ALWAYS", 1)
    opened = module._clip
    monkeypatch.setattr(module, "_clip", lambda *a: dataclasses.replace(opened(*a), count=None))
    path = folder(tmp_path / "a", [(index, index, index) for index in range(0, 220, 20)])
    result = compare(path, path, tmp_path / "page.html", path, frames=4)
    assert [moment["number"] for moment in data_of(result.path)["moments"]] == [0, 4, 8]
    assert len(result.figures[0].psnr) == 8  # 0 to 3, then every other one


def test_clips_of_different_lengths(tmp_path: Path) -> None:
    long, short = clip(tmp_path / "long.mp4", 5), clip(tmp_path / "short.mp4", 3)
    result = compare(long, short, tmp_path / "page.html")
    assert result.frames == 3
    assert "Only the 3 frames that all have are compared: B: short.mp4 ends there." in result.notes


def test_turned_and_anamorphic_clips_are_shown_as_meant(tmp_path: Path) -> None:
    for name in ("rotated", "mirrored"):
        path = clips.make(tmp_path, name)
        data = data_of(compare(path, path, tmp_path / f"{name}.html", frames=1).path)
        with io.open_clip(path) as reader:
            upright = next(iter(reader)).pixels  # by swscale
        shown = decoded(data["sources"][0]["pictures"][0])
        assert (data["height"], data["width"]) == upright.shape[:2] == shown.shape[:2]
        assert np.abs(shown.astype(int) - upright).mean() < 6  # chroma lies elsewhere there
        assert np.abs(shown.astype(int) - upright[:, ::-1]).mean() > 20
    path = clips.make(tmp_path, "anamorphic")
    data = data_of(compare(path, path, tmp_path / "wide.html").path)
    source = data["sources"][0]
    assert data["width"] == round(source["width"] * 32 / 27)
    assert decoded(source["pictures"][0]).shape[:2] == (data["height"], source["width"])


def test_hdr_is_said(tmp_path: Path) -> None:
    path = clips.make(tmp_path, "pq")
    notes = compare(path, path, tmp_path / "page.html").notes
    assert "A is HDR (PQ), shown and measured as coded, without tone mapping." in notes


def test_the_page_is_bounded(tmp_path: Path) -> None:
    a, b = noise(tmp_path / "a.png", 700), noise(tmp_path / "b.png", 700, 1)
    result = compare(a, b, tmp_path / "page.html", megabytes=1)
    assert 0.3e6 < result.path.stat().st_size < 1e6 + 30_000
    assert any("as JPEG of quality" in note for note in result.notes)
    assert compare(a, b, tmp_path / "large.html", megabytes=9).path.stat().st_size > 3e6


def test_the_page_of_clips_is_bounded(tmp_path: Path) -> None:
    """The first frames are flat, so that the later ones hold more than was to be expected."""
    source = tmp_path / "clip"
    source.mkdir()
    for index in range(8):
        (plain(source / f"{index}.png", RED, (400, 400)) if index < 2 else noise(source / f"{index}.png", 400, index))
    result = compare(source, source, tmp_path / "page.html", megabytes=2)
    assert 1 <= result.shown < 8
    assert result.path.stat().st_size < 2e6 + 30_000


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    still, moving = save(tmp_path / "a.png", picture()), clip(tmp_path / "b.mp4", 2)
    page = tmp_path / "page.html"
    for paths, target, options, message in (
        ((still, moving), page, {}, r"a.png is a picture and .*b.mp4 a clip"),
        ((moving, moving, still), page, {}, r"a.png is a picture and .*b.mp4 a clip"),
        ((still, tmp_path / "missing.png"), page, {}, "missing.png"),
        ((still, still), tmp_path / "page.pdf", {}, r"named \.html"),
        ((still, still), tmp_path / "no" / "page.html", {}, "does not exist"),
        ((still, still), page, {"frames": 0}, "at least 1, got 0"),
        ((still, still), page, {"megabytes": 0.5}, "1 to 512 megabytes, got 0.5"),
        (("-", moving), page, {}, "not the standard input"),
    ):
        with pytest.raises(InputError, match=message):
            compare(paths[0], paths[1], target, *paths[2:], **options)
        assert not list(tmp_path.glob("**/*page*"))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_only_text(path: Path) -> None:
    tags = _Tags()
    tags.feed(path.read_text())
    assert [tag for tag, _ in tags.found].count("script") == 2
    assert "img" not in [tag for tag, _ in tags.found]
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]


def test_names_are_text(tmp_path: Path) -> None:
    path = compare(plain(tmp_path / EVIL, RED), plain(tmp_path / "b.png", BLUE), tmp_path / "page.html").path
    assert_only_text(path)
    assert data_of(path)["sources"][0]["label"] == f"A: {EVIL}"
    path = evil_page(tmp_path / "evil.html")
    assert_only_text(path)
    assert [source["label"] for source in data_of(path)["sources"]] == [EVIL, CLOSING]


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a\udcff.png"
    try:
        path.write_bytes(plain(tmp_path / "b.png", BLUE).read_bytes())
    except OSError:
        pytest.skip("this file system holds only names in UTF-8")
    result = compare(path, tmp_path / "b.png", tmp_path / "page.html")
    assert data_of(result.path)["sources"][0]["label"] == "A: a?.png"


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", 3)
    page = compare(source, source, tmp_path / "page.html", source).path.read_text()
    assert not re.search(r"https?:|//[a-z]|\bimport\b|url\(", re.sub(r'"data:[^"]*"', "", page))
