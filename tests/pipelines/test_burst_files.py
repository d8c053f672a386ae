"""Bursts of picture files, and clips, merge to one picture."""

import dataclasses
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made import clip, picture, weights
from PIL import Image
from pipelines.networks import Weighted
from pipelines.shots import FIRST, FRAMES, HANDHELD, LEARNED, Notes, raw_shots, shots

import msr
from msr.errors import InputError
from msr.io import convert_depth, read_image, write_image
from msr.ops import resize
from msr.pipelines import BurstOptions, merge_burst_files


def test_when_memory_is_out_tiles_are_halved(tmp_path: Path) -> None:
    class Small(Weighted):
        """Takes at most 64 columns at a time."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] > 64:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return super().forward(x)

    frames = [np.roll(picture(48, 200), i, 1) for i in range(3)]
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"{index}.png", frame)
    report = Notes()
    merge_burst_files([tmp_path], tmp_path / "out.tif", model=Small(), tile=200, options=FIRST, progress=report)
    assert len(report.notes) > 1
    assert all(note.startswith("out of memory: going on with tiles of ") for note in report.notes)
    expected = msr.merge_burst([convert_depth(frame, "uint16") for frame in frames], model=Weighted()).astype(int)
    assert np.abs(read_image(tmp_path / "out.tif").pixels - expected).max() <= 1


def test_a_folder_and_a_list_of_files_are_the_same_burst(tmp_path: Path) -> None:
    model = weights(tmp_path, "burst", scale=2, offset_groups=2)
    (tmp_path / "shots").mkdir()
    paths = [tmp_path / "shots" / f"{name}.png" for name in ("2", "10", "11")]
    for path, frame in zip(paths, FRAMES, strict=False):
        write_image(path, frame)
    merge_burst_files(paths, tmp_path / "a.png", model=model, options=FIRST)
    written = merge_burst_files([tmp_path / "shots"], tmp_path / "b.png", model=model, options=FIRST)
    assert (written.width, written.height, written.frames) == (128, 96, 3)
    expected = msr.merge_burst([convert_depth(frame, "uint16") for frame in FRAMES[:3]], model=model)
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name).pixels, expected)


@pytest.mark.parametrize(
    ("scale", "model", "options", "size"),
    [
        (None, None, BurstOptions(), (256, 192)),  # burst-x4-real ships
        (4, None, BurstOptions(), (256, 192)),
        (2, None, BurstOptions(), (128, 96)),
        (1.37, None, BurstOptions(), (88, 66)),
        (None, None, BurstOptions("handheld"), (128, 96)),
        (4, None, BurstOptions("handheld"), (256, 192)),
    ],
)
def test_the_method_follows_the_scale(
    tmp_path: Path, scale: float | None, model: None, options: BurstOptions, size: tuple[int, int]
) -> None:
    report = Notes()
    written = merge_burst_files(
        shots(tmp_path / "shots", 3),
        tmp_path / "a.png",
        scale,
        model,
        options=dataclasses.replace(options, base="first"),
        progress=report,
    )
    assert (written.width, written.height) == size
    back = read_image(tmp_path / "a.png").pixels
    assert (back.shape, back.dtype) == ((size[1], size[0], 3), np.uint16)
    learned = options.method is None and scale in (None, 4)
    assert (report.steps[-1], report.done) == (("reading" if learned else "merging", 3, 0), 3)
    # A smooth picture stays what it is.
    small = resize(torch.from_numpy(back / 65535.0).permute(2, 0, 1)[None].float(), size=(48, 64))[0].permute(1, 2, 0)
    assert np.abs(small.numpy() - picture() / 255).mean() < 0.02


def test_a_wish_that_no_method_grants_is_named(tmp_path: Path) -> None:
    paths, out = shots(tmp_path / "shots", 2), tmp_path / "a.png"
    cases: list[tuple[str, dict[str, object]]] = [
        ("no burst weights for scale 3", {"scale": 3, "options": LEARNED}),
        ("whole number, not 2.5", {"scale": 2.5, "options": LEARNED}),
        ("1 to 4 times, not 6", {"scale": 6}),
        ("number from 1", {"scale": 0.5}),
        ("number from 1", {"scale": float("nan")}),
        ("model is for the method learned", {"model": "burst-x4", "options": HANDHELD}),
        ("handheld or learned", {"options": BurstOptions("magic")}),
        ("number from 0 to 1", {"options": BurstOptions("handheld", 2)}),
        ("number from 0 to 1", {"options": BurstOptions("handheld", "best")}),
        ("learned has none", {"options": BurstOptions("learned", confidence=tmp_path / "w.png")}),
        ("two outputs", {"options": BurstOptions(confidence=out)}),
        ("also an input", {"options": BurstOptions(confidence=paths[1])}),
        ("must end in", {"options": BurstOptions(confidence=tmp_path / "w.doc")}),
        (r"must end in \.html", {"options": BurstOptions(explain=tmp_path / "page.png")}),
    ]
    for says, arguments in cases:
        with pytest.raises(InputError, match=says):
            merge_burst_files(paths, out, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="DNG is for RAW frames"):
        merge_burst_files(paths, tmp_path / "a.dng", 2)
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize("options", [HANDHELD, FIRST], ids=["handheld", "learned"])
def test_what_the_base_says_of_itself_is_kept(tmp_path: Path, name: str, options: BurstOptions) -> None:
    paths = shots(tmp_path / "shots", 2)
    for index, path in enumerate(paths):
        exif = Image.Exif()
        exif[271], exif[274] = f"Maker {index}", 6
        Image.fromarray(np.asarray(read_image(path).pixels)).save(path.with_suffix(".jpg"), exif=exif)
    model = weights(tmp_path, "burst", scale=2) if options is FIRST else None
    options = dataclasses.replace(options, base=1)
    merge_burst_files([path.with_suffix(".jpg") for path in paths], tmp_path / name, 2, model, options=options)
    with Image.open(tmp_path / name) as back:
        assert (back.getexif()[271], back.getexif().get(274), back.size) == ("Maker 1", 1, (96, 128))


@pytest.mark.parametrize("kind", ["gray", "alpha", "deep"])
def test_gray_alpha_and_depth_are_kept(tmp_path: Path, kind: str) -> None:
    alpha = np.full((48, 64, 1), 77, np.uint8)
    for index in range(3):
        pixels = np.roll(picture(), index, 1)
        pixels = {"gray": pixels[..., 0], "alpha": np.concatenate([pixels, alpha], 2), "deep": pixels}[kind]
        write_image(tmp_path / f"{index}.png", convert_depth(pixels, "uint16") if kind == "deep" else pixels)
    merge_burst_files([tmp_path], tmp_path / "out.tif", 2, options=HANDHELD)
    back = read_image(tmp_path / "out.tif").pixels
    assert back.dtype == np.uint16
    assert back.shape == {"gray": (96, 128), "alpha": (96, 128, 4), "deep": (96, 128, 3)}[kind]
    if kind == "alpha":
        assert (back[..., 3] == 77 * 257).all()


def test_the_sharpest_frame_is_the_base(tmp_path: Path) -> None:
    detail = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    blurred = cv2.blur(detail, (3, 3))
    for name, pixels in (("0.png", blurred), ("1.png", detail), ("2.png", cv2.blur(detail, (5, 1)))):
        write_image(tmp_path / name, pixels)
    for scale, model in ((1, None), (None, weights(tmp_path, "burst", scale=2))):
        results = {}
        for base in ("sharpest", 0, 1, 2):
            merge_burst_files([tmp_path / f"{i}.png" for i in range(3)], tmp_path / "o.tif", scale, model,
                              options=BurstOptions(base=base))  # fmt: skip
            results[base] = read_image(tmp_path / "o.tif").pixels
        np.testing.assert_array_equal(results["sharpest"], results[1])
        assert not np.array_equal(results[1], results[0])


def test_the_base_is_counted_with_the_copies(tmp_path: Path) -> None:
    paths = shots(tmp_path, 3)
    named = [paths[0], shutil.copy(paths[0], tmp_path / "copy.png"), *paths[1:]]
    for base, same in ((1, 0), (2, 1), (3, 2)):
        merge_burst_files(named, tmp_path / "a.png", 1, options=BurstOptions("handheld", base))
        merge_burst_files(paths, tmp_path / "b.png", 1, options=BurstOptions("handheld", same))
        np.testing.assert_array_equal(*(read_image(tmp_path / name).pixels for name in ("a.png", "b.png")))
    with pytest.raises(InputError, match="from 0 to 3, got 4"):
        merge_burst_files(named, tmp_path / "a.png", 1, options=BurstOptions("handheld", 4))


@pytest.mark.parametrize("options", [BurstOptions(), HANDHELD, LEARNED])
@pytest.mark.parametrize("count", [1, 2])
def test_alpha_for_jpeg_is_refused_before_the_work(tmp_path: Path, options: BurstOptions, count: int) -> None:
    for index in range(count):
        write_image(tmp_path / f"{index}.png", np.roll(np.repeat(picture()[..., :1], 4, 2), index, 1))
    report = Notes()
    with pytest.raises(InputError, match=r"a\.jpg: JPEG holds no alpha"):
        merge_burst_files([tmp_path], tmp_path / "a.jpg", options=options, progress=report)
    assert report.done == 0


@pytest.mark.parametrize("options", [HANDHELD, LEARNED])
def test_a_gray_frame_among_colours_is_named(tmp_path: Path, options: BurstOptions) -> None:
    paths = shots(tmp_path, 3)
    write_image(paths[1], picture()[..., 0])
    with pytest.raises(InputError, match=r"1\.png has 1 channels, expected 3 channels as .*0\.png"):
        merge_burst_files(paths, tmp_path / "a.png", options=options)


def test_one_frame_is_a_single_picture(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", picture())
    for scale, factor in ((None, 4), (2, 2), (1.5, 1.5)):
        report = Notes()
        written = merge_burst_files([tmp_path / "0.png"], tmp_path / "a.png", scale, progress=report)
        assert (written.width, written.height, written.frames) == (64 * factor, 48 * factor, 1)
        assert report.notes == [f"{tmp_path / '0.png'} is the only frame: it is enlarged as a single picture"]
    merge_burst_files([tmp_path / "0.png"], tmp_path / "a.png", 4)
    expected = msr.upscale_image(convert_depth(picture(), "float32"), 4)
    np.testing.assert_allclose(read_image(tmp_path / "a.png").pixels / 65535, expected, atol=1e-4)


@pytest.mark.parametrize("options", [BurstOptions(), HANDHELD])
def test_equal_frames_are_the_same_as_one(tmp_path: Path, options: BurstOptions) -> None:
    write_image(tmp_path / "0.png", picture())
    for index in (1, 2):
        (tmp_path / f"{index}.png").write_bytes((tmp_path / "0.png").read_bytes())
    write_image(tmp_path / "3.tif", picture())  # another file, the same pixels
    merge_burst_files([tmp_path / "0.png"], tmp_path / "one.tif", 2, options=options)
    report = Notes()
    merge_burst_files(
        [tmp_path / f"{i}.png" for i in range(3)], tmp_path / "a.tif", 2, options=options, progress=report
    )
    one = read_image(tmp_path / "one.tif").pixels
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, one)
    assert "1.png is a copy" in report.notes[0]
    if options is HANDHELD:
        merge_burst_files([tmp_path / "0.png", tmp_path / "3.tif"], tmp_path / "b.tif", 2, options=options)
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif").pixels, one)


def test_confidence_is_bright_where_the_other_frames_count(tmp_path: Path) -> None:
    detail = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), (0, 0), 1.5)
    for index in range(4):
        frame = np.roll(detail, index, 1)
        if index:
            frame[30:70, 40:90] = 255 - frame[30:70, 40:90]  # what moves
        write_image(tmp_path / f"{index}.png", frame)
    options = dataclasses.replace(HANDHELD, confidence=tmp_path / "w.png")
    merge_burst_files([tmp_path / f"{i}.png" for i in range(4)], tmp_path / "a.png", 2, options=options)
    weight = read_image(tmp_path / "w.png").pixels / 65535
    assert weight.shape == (192, 256)
    assert weight[80:120, 100:160].mean() < 0.1
    assert weight[10:40, 30:220].mean() > 0.5


@pytest.mark.parametrize("kind", ["raw", "pictures"])
def test_a_page_explains_the_merge(tmp_path: Path, kind: str) -> None:
    paths = raw_shots(tmp_path / "shots", 3, 6)[0] if kind == "raw" else shots(tmp_path / "shots", 3)
    options = dataclasses.replace(HANDHELD, explain=tmp_path / "page.html")
    merge_burst_files(paths, tmp_path / "a.png", 2, options=options)
    page = (tmp_path / "page.html").read_text()
    assert all(path.name in page for path in paths)
    assert "data:image/" in page


def test_a_page_names_files_in_any_bytes(tmp_path: Path) -> None:
    paths = [path.rename(tmp_path / os.fsdecode(b"caf\xe9" + path.name.encode())) for path in shots(tmp_path, 2)]
    merge_burst_files(
        paths, tmp_path / "a.png", 2, options=dataclasses.replace(HANDHELD, explain=tmp_path / "page.html")
    )
    assert "caf?0.png" in (tmp_path / "page.html").read_text("utf-8")


def test_a_clip_is_a_burst(tmp_path: Path) -> None:
    written = merge_burst_files([clip(tmp_path / "a.mp4", 4)], tmp_path / "a.png", 2)
    assert (written.width, written.height, written.frames) == (128, 96, 4)


def test_a_burst_of_two_hundred(tmp_path: Path) -> None:
    for index in range(200):
        write_image(tmp_path / f"{index}.png", np.roll(picture(16, 16), index % 7, 1) // 2 + index % 100)
    report = Notes()
    written = merge_burst_files([tmp_path], tmp_path / "out.tif", 2, options=HANDHELD, progress=report)
    assert (written.frames, report.done) == (200, 200)
    (tmp_path / "out.tif").unlink()
    merge_burst_files([tmp_path], tmp_path / "b.tif", model=Weighted(), progress=report)
    assert "200 frames: the first 30 are used, which is what the network takes" in report.notes


@pytest.mark.parametrize(("size", "options"), [((1, 1), FIRST), ((1, 5), FIRST), ((3, 2), FIRST), ((3, 2), HANDHELD)])
def test_the_smallest_frames(tmp_path: Path, size: tuple[int, int], options: BurstOptions) -> None:
    for index in range(3):
        write_image(tmp_path / f"{index}.png", np.full((*size, 3), 100 + index, np.uint8))
    model = weights(tmp_path, "burst", scale=2) if options is FIRST else None
    merge_burst_files([tmp_path], tmp_path / "out.tif", 2, model, options=options)
    back = read_image(tmp_path / "out.tif").pixels
    assert back.shape == (2 * size[0], 2 * size[1], 3)
    assert np.abs(back / 257.0 - 101).max() < 3


def test_files_of_different_sizes_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    write_image(tmp_path / "b.png", picture(20, 30))
    model, frames = weights(tmp_path, "burst"), [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(InputError, match=r"b\.png is 30x20, expected 64x48"):
        merge_burst_files(frames, tmp_path / "c.png", model=model)
    assert not (tmp_path / "c.png").exists()
